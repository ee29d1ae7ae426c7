"""Panel `cell_eval2`: the metrics of cell-eval2 0.20.0 that are not those of the challenge, in its own conventions.

They are computed from what panel `vcc2026` is computed from. Where a perturbation has nothing to compare, most have the
worst value, where `virtual_cell` has the values of cell-eval 0.8.
"""

from __future__ import annotations

from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.registration import PROJECT, register

PANEL = "cell_eval2"

add_panel(PANEL, source=PROJECT, headline="delta_pearson", order=42)
register(PANEL, (name for name in METRICS if name not in VCC2026))
