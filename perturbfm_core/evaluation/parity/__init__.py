"""Parity: the peers' own numbers, record by record. Importing this package registers every kind of case."""

from perturbfm_core.evaluation.parity import calibrated as _calibrated  # noqa: F401
from perturbfm_core.evaluation.parity import cell_eval as _cell_eval  # noqa: F401
from perturbfm_core.evaluation.parity import perturbench as _perturbench  # noqa: F401
from perturbfm_core.evaluation.parity import perturbench_splits as _perturbench_splits  # noqa: F401
from perturbfm_core.evaluation.parity import scperturbench as _scperturbench  # noqa: F401
from perturbfm_core.evaluation.parity.harness import KINDS, run_case

__all__ = ["KINDS", "run_case"]
