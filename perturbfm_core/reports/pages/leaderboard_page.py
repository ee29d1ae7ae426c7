"""HTML page of the leaderboard: one file with its scripts and data, which loads nothing from elsewhere."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from perturbfm_core.catalog.loading import Catalog
from perturbfm_core.leaderboard.headline import HEADLINE, HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.leaderboard.page_data import page_data
from perturbfm_core.reports.html import DASH, asset, embedded_json, environment, interval, number, script_hash

# Of the whole file, in bytes.
LIMIT = 5_000_000
SCRIPTS = (
    "charts.js",
    "page.js",
    "leaderboard_data.js",
    "leaderboard_charts.js",
    "leaderboard_details.js",
    "leaderboard.js",
)
# Room for the markup around styles, scripts and data.
_SHELL = 40_000
_PLAIN_ROWS = 2000


def leaderboard_page(
    con: Any, catalog: Catalog, *, runs: str = "", links: Sequence[tuple[str, str]] = (), limit: int = LIMIT
) -> str:
    """Return the HTML page of a leaderboard database.

    Parameters
    ----------
    con
        Connection of `database.connect`.
    catalog
        The catalog, for what it says of entries and data sets.
    runs
        Address of the folder of the runs as seen from the page, empty or with a slash at its end.
    links
        (name, address) of further pages.
    limit
        Size of the page in bytes that is kept to: the least important data are left out, and the page says which.
    """
    rows = plain_rows(con)
    fixed = _SHELL + fixed_size() + sum(len(cell.encode()) + 20 for row in rows for cell in row)
    parts, left_out = page_data(con, catalog, attacks_on_metrics(), limit - fixed)
    template = environment().get_template("leaderboard_page.html")
    return template.render(
        made=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        n_runs=con.execute("SELECT count(*) FROM runs").fetchone()[0],
        links=links,
        left_out=left_out,
        headline=HEADLINE,
        rows=rows,
        limit=limit / 1e6,
        settings=embedded_json({"runs": runs}),
        # Base64 holds nothing that markup could be taken for.
        parts={name: Markup(text) for name, text in parts.items()},  # noqa: S704
        scripts=SCRIPTS,
        sources=" ".join(script_hash(name) for name in SCRIPTS),
    )


def plain_rows(con: Any) -> list[list[str]]:
    """Return board, rank, entry, headline and interval as text, for readers without scripts."""
    found = con.execute(
        "SELECT board, rank, entry, value, ci_low, ci_high FROM leaderboard WHERE panel = ? AND metric = ? "
        "ORDER BY board, rank NULLS LAST, n_undefined, value DESC, entry LIMIT ?",
        [HEADLINE_PANEL, HEADLINE_METRIC, _PLAIN_ROWS],
    ).fetchall()
    return [
        [board, DASH if rank is None else str(rank), entry, number(value, 4), interval(low, high)]
        for board, rank, entry, value, low, high in found
    ]


def fixed_size() -> int:
    """Return the bytes of the styles and scripts of a page."""
    return sum(len(asset(name).encode()) for name in (*SCRIPTS, "page.css", "leaderboard.css"))


def attacks_on_metrics() -> list[dict[str, str]]:
    """Return what is on record of attacks that improve a metric in most cases.

    Rows of attack, panel, metric, cases, of (how many cases there were), entry (empty: several), before, after.
    """
    text = (files("perturbfm_core.reports") / "assets" / "gaming.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
