"""Runs scored by few panels, for tests that do not look at all of them."""

from __future__ import annotations

import pytest

from perturbfm_core.evaluation.panel import PANELS, Panel
from perturbfm_core.pipeline import metric_panel
from perturbfm_core.registry.members import Registry


def score_only(patch: pytest.MonkeyPatch, *panels: str) -> None:
    """Leave all panels out of runs but these and `uncertainty`.

    Parameters
    ----------
    patch
        Undoes it.
    panels
        Names of panels.
    """
    kept: Registry[Panel] = Registry("panel")
    for name, panel in PANELS.items():
        if name in {*panels, metric_panel.CALIBRATION_PANEL}:
            kept.add(name, panel)
    patch.setattr(metric_panel, "PANELS", kept)
