"""PerturbFM: honest benchmarks of perturbation-response prediction.

The library behind the Dagster code location ``perturbfm_assets`` and the command line ``perturbfm``. From Python::

    import perturbfm_core as pfm

    ds = pfm.read_h5ad("screen.h5ad", pert_col="condition", control_label="control")
    split = pfm.freeze(ds, "perturbation_ood", folds=5, fold=0)
    print(pfm.run(ds, split, "ridge"))
    print(pfm.leaderboard("delta.pearson_centered"))

`perturbfm_core.pipeline` is the map: one file per stage, from a data set to the leaderboard.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.data.importing import from_anndata, read_h5ad
    from perturbfm_core.pipeline.python_api import Run, freeze, leaderboard, run, score
    from perturbfm_core.pipeline.python_suites import rescore, run_suite, scorecard, suite_status

__version__ = "0.1.0"

# Imported when they are first used: `import perturbfm_core` alone costs nothing.
_HOME = {
    "PerturbDataset": "perturbfm_core.data.dataset",
    "Run": "perturbfm_core.pipeline.python_api",
    "freeze": "perturbfm_core.pipeline.python_api",
    "from_anndata": "perturbfm_core.data.importing",
    "leaderboard": "perturbfm_core.pipeline.python_api",
    "read_h5ad": "perturbfm_core.data.importing",
    "rescore": "perturbfm_core.pipeline.python_suites",
    "run": "perturbfm_core.pipeline.python_api",
    "run_suite": "perturbfm_core.pipeline.python_suites",
    "score": "perturbfm_core.pipeline.python_api",
    "scorecard": "perturbfm_core.pipeline.python_suites",
    "suite_status": "perturbfm_core.pipeline.python_suites",
}

__all__ = [
    "PerturbDataset",
    "Run",
    "__version__",
    "freeze",
    "from_anndata",
    "leaderboard",
    "read_h5ad",
    "rescore",
    "run",
    "run_suite",
    "score",
    "scorecard",
    "suite_status",
]


def __getattr__(name: str) -> Any:
    """Return a part of the public interface, imported now."""
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}; it offers: {', '.join(sorted(_HOME))}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOME[name]), name)


class _Package(ModuleType):
    """The package, in which `leaderboard` is the function and not the sub-package of the same name."""

    @property
    def leaderboard(self) -> Any:
        """Return the function that gives the leaderboard as a data frame."""
        return __getattr__("leaderboard")

    @leaderboard.setter
    def leaderboard(self, module: ModuleType) -> None:
        """Ignore that importing the sub-package sets it here: it is found by its dotted name."""


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
