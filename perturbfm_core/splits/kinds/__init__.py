"""One module per family of split kinds; importing this package registers them all."""

from perturbfm_core.splits.kinds import (
    batch,
    combo,
    context,
    context_perturbation,
    covariate,
    explicit,
    iid,
    ordered,
    perturbation,
)

__all__ = [
    "batch",
    "combo",
    "context",
    "context_perturbation",
    "covariate",
    "explicit",
    "iid",
    "ordered",
    "perturbation",
]
