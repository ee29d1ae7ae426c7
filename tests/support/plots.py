"""A stand-in for the plots of reports, and what draws them in the package."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

from perturbfm_core.reports.plots import condition

MODULES = ("condition", "calibration")
# One grey pixel.
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGOoBwAAgQCAWvMnwQAAAABJRU5ErkJggg=="


def _blank(n: int, width: float, height: float) -> Any:
    """Return what takes every call that a figure takes and draws nothing."""
    return MagicMock(name=f"figure of {n} panels, {width} by {height} inches")


# {function of the plot modules: (as the package has it, what stands in for it)}
FIGURES: dict[str, tuple[Any, Any]] = {
    "row_of_panels": (condition.row_of_panels, _blank),
    "image": (condition.image, lambda _figure: PIXEL),
}
