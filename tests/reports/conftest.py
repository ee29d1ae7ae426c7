"""Reports are drawn here as they are for users."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.plots import FIGURES, MODULES


@pytest.fixture(scope="package", autouse=True)
def drawn_plots(undrawn_plots: None) -> Iterator[None]:
    """Draw the plots."""
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            for name, (own, _) in FIGURES.items():
                patch.setattr(f"perturbfm_core.reports.plots.{module}.{name}", own)
        yield
