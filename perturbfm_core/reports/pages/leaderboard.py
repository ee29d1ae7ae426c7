"""HTML page of the leaderboard."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.reports.html import DASH, interval, number, render


def leaderboard_page(board: pd.DataFrame, n_runs: int) -> str:
    """Return the HTML page of the view ``leaderboard``: one table per split or cross-validation."""
    headlines = [(name, panel.headline) for name, panel in PANELS.items()]
    boards = [_board(str(name), part, headlines) for name, part in board.groupby("board", sort=True)]
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return render("leaderboard.html", boards=boards, made=made, n_runs=n_runs)


def _board(name: str, part: pd.DataFrame, headlines: list[tuple[str, str]]) -> dict[str, Any]:
    panel, metric = headlines[0]
    main = part[(part["panel"] == panel) & (part["metric"] == metric)]
    extra = [(panel, m) for m in ("pearson_centered_no_target", "rmse", "retrieval_rank")] + headlines[1:]
    extra = [(p, m) for p, m in extra if ((part["panel"] == p) & (part["metric"] == m)).any()]
    rows = []
    for row in main.sort_values(["rank", "entry"], na_position="last").itertuples(index=False):
        others = [_value(part, p, m, row.entry) for p, m in extra]
        rows.append(
            [
                DASH if pd.isna(row.rank) else str(int(row.rank)),
                row.entry,
                row.family,
                number(row.value) + ("*" if row.n_undefined else ""),
                interval(row.ci_low, row.ci_high),
                number(row.diff_best_baseline),
                interval(row.diff_low, row.diff_high),
                *others,
            ]
        )
    first = main.iloc[0]
    flags = []
    if bool(first["no_signal"]):
        flags.append("no_signal: two halves of the same condition hardly agree; nothing is ranked.")
    if bool(first["shared_control"]):
        flags.append(
            "shared_control: truth and models use the same control cells; correlations are inflated."
        )
    if (main["n_undefined"] > 0).any():
        flags.append("* undefined in some conditions; ranked behind entries that are defined in all.")
    return {
        "name": name,
        "metric": f"{panel}.{metric}",
        "ceiling": number(first["ceiling"]),
        "noise_free": number(first["ceiling_noise_free"]),
        "train_mean": number(first["train_mean_floor"]),
        "control_mean": number(first["control_mean_floor"]),
        "null": number(first["null_floor"]),
        "n_conditions": int(main["n_conditions"].max()),
        "n_units": int(first["n_units"]),
        "extra": [m for _, m in extra],
        "rows": rows,
        "flags": flags,
    }


def _value(part: pd.DataFrame, panel: str, metric: str, entry: str) -> str:
    hit = part[(part["panel"] == panel) & (part["metric"] == metric) & (part["entry"] == entry)]
    return number(hit["value"].iloc[0]) if len(hit) else DASH
