"""One module per panel; importing this package registers them in the order that reports show."""

from perturbfm_core.evaluation.panels import (
    delta,
    scperturbench,
    perturbench,
    virtual_cell,
    virtual_cell_scores,
    systema,
    calibrated,
    linear_paper,
    openproblems,
    uncertainty,
)

__all__ = [
    "calibrated",
    "delta",
    "linear_paper",
    "openproblems",
    "perturbench",
    "scperturbench",
    "systema",
    "uncertainty",
    "virtual_cell",
    "virtual_cell_scores",
]
