"""The leakage audit: named findings that say how a split, or a run on it, would fool its reader.

A check of a split is one registered function (data set, split) -> findings, in `CHECKS`; a check of a run
also takes what the run says of itself, in `RUN_CHECKS`. Blocking findings refuse a fit. A check that the data
cannot answer raises `NotApplicable` with the reason. Importing this package registers all checks.
"""

# The order of the checks: a split that does not fit its data is told first.
# isort: off
from perturbfm_core.splits.audit import folds as _folds  # noqa: F401
from perturbfm_core.splits.audit import units as _units  # noqa: F401
from perturbfm_core.splits.audit import cells as _cells  # noqa: F401
from perturbfm_core.splits.audit import records as _records  # noqa: F401
from perturbfm_core.splits.audit import predictions as _predictions  # noqa: F401
# isort: on

from perturbfm_core.splits.audit.core import (
    CHECKS,
    RUN_CHECKS,
    Check,
    Finding,
    NotApplicable,
    Outcome,
    audit,
    report,
    require_clean,
)
from perturbfm_core.splits.audit.own import fit_records, query_reads
from perturbfm_core.splits.audit.permutation import PermutationControl, permutation_control
from perturbfm_core.splits.audit.run import FitRecord, RunEvidence, RunRecords, read_run, rows_record

__all__ = [
    "CHECKS",
    "RUN_CHECKS",
    "Check",
    "Finding",
    "FitRecord",
    "NotApplicable",
    "Outcome",
    "PermutationControl",
    "RunEvidence",
    "RunRecords",
    "audit",
    "fit_records",
    "permutation_control",
    "query_reads",
    "read_run",
    "report",
    "require_clean",
    "rows_record",
]
