"""A stand-in for the plots of reports, and the modules that draw them."""

from __future__ import annotations

from perturbfm_core.reports.plots import condition

# As the package draws, taken before anything stands in for it.
DRAW = condition.image
PLOTS = ("condition", "calibration")
# One grey pixel.
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGOoBwAAgQCAWvMnwQAAAABJRU5ErkJggg=="
