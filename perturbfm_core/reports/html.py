"""Template environment of the HTML pages, their inlined scripts and data, and formatting of numbers.

All values are escaped, and pages load nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

DASH = "\N{EN DASH}"

# What would end a script or begin markup, inside JSON strings.
_IN_SCRIPT = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the environment of the packaged templates, with autoescape on."""
    made = Environment(
        loader=PackageLoader("perturbfm_core.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"asset": asset, "script_hash": script_hash}
    return made


def render(template: str, **values: Any) -> str:
    """Render one packaged template."""
    return environment().get_template(template).render(**values)


@lru_cache(maxsize=16)
def asset(name: str) -> Markup:
    """Return the text of a file of ``assets/``, a style sheet or a script, to be inlined as it is."""
    return Markup((files("perturbfm_core.reports") / "assets" / name).read_text(encoding="utf-8"))  # noqa: S704


@lru_cache(maxsize=16)
def script_hash(name: str) -> str:
    """Return the source expression that lets a page's policy run this script of ``assets/``, and no other."""
    digest = hashlib.sha256(asset(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def embedded_json(value: Any) -> Markup:
    """Return JSON to stand in a ``<script type="application/json">``: no text in it can end the script.

    NaN and infinity are refused with a `ValueError`.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character, escaped in _IN_SCRIPT:
        text = text.replace(character, escaped)
    return Markup(text)  # noqa: S704


def number(value: Any, digits: int = 3) -> str:
    """Return a number formatted for a table, a dash if it is None or NaN; one that is not 0 is not shown as 0."""
    if value is None or value != value:
        return DASH
    if abs(float(value)) >= 1e5:
        return f"{float(value):.3g}"
    text = f"{float(value):.{digits}f}"
    if float(text) != 0:
        return text
    # Of a small number two digits are left; what the last bits of a sum leave is none.
    return f"{float(value):.2g}" if abs(float(value)) > 1e-9 else text.lstrip("-")


def interval(low: Any, high: Any) -> str:
    """Return an interval formatted for a table, a dash if an end is None or NaN."""
    missing = low is None or high is None or low != low or high != high
    return DASH if missing else f"{number(low)} to {number(high)}"
