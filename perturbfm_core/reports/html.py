"""Template environment of the HTML pages, and formatting of numbers.

All values are escaped, and pages load nothing from elsewhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

DASH = "\N{EN DASH}"


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the environment of the packaged templates, with autoescape on."""
    return Environment(
        loader=PackageLoader("perturbfm_core.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """Render one packaged template."""
    return environment().get_template(template).render(**values)


def number(value: Any, digits: int = 3) -> str:
    """Return a number formatted for a table, a dash if it is None or NaN."""
    if value is None or value != value:
        return DASH
    return f"{float(value):.{digits}f}" if abs(float(value)) < 1e5 else f"{float(value):.3g}"


def interval(low: Any, high: Any) -> str:
    """Return an interval formatted for a table, a dash if an end is None or NaN."""
    missing = low is None or high is None or low != low or high != high
    return DASH if missing else f"{number(low)} to {number(high)}"
