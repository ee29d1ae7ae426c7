"""Panel `vcc2026`: the metrics of the 2026 Virtual Cell Challenge, as cell-eval2 0.20.0 computes them.

Each context is evaluated by itself, on counts of its cells: the measured controls on both sides, the measured cells of
every test condition, and as many predicted ones (see `samples`). A point prediction gets counts from the generator that
the run names. Of data without counts log1p expression is scored instead, which the challenge would refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, SOURCE, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.registration import MASS, PROJECT, register
from perturbfm_core.evaluation.panels.cell_eval2.scale import scale_of_contexts

PANEL = "vcc2026"


def _read_from(values: Mapping[str, float | None], made: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the cells of both sides were read as, and how counts of point predictions were drawn, if any were."""
    if values.get(MASS) is None:
        return {"version": SOURCE, "comparator": "lognorm"}
    names = {"generator": "counts", "version": "counts_version", "seed": "seed"}
    drawn = None if made is None else {name: made[field] for name, field in names.items()}
    return {"version": SOURCE, "comparator": "bulk_lognorm", "counts_of_point_predictions": drawn}


add_panel(
    PANEL,
    source=f"{PROJECT}, Virtual Cell Challenge 2026",
    headline="vcc2026_score",
    order=41,
    summary=_read_from,
    scale=scale_of_contexts,
)
# The six that are scored come first.
register(PANEL, sorted(VCC2026, key=lambda name: not METRICS[name].scored))
