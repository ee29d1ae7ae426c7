"""Runs scored by few panels, for tests that do not look at all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from perturbfm_core.evaluation.panel import PANELS, Panel
from perturbfm_core.pipeline import metric_panel, report
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


@contextmanager
def brief(*panels: str) -> Iterator[None]:
    """Leave out of runs what a test does not look at: their report's page, and all panels but these and `uncertainty`."""
    with pytest.MonkeyPatch.context() as patch:
        score_only(patch, *panels)
        patch.setattr(report, "run_report", lambda *_: "")
        yield
