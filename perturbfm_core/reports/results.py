"""Markdown tables of the README: results by board, and a comparison of the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.leaderboard.standings import without_signal
from perturbfm_core.reports.html import DASH, number
from perturbfm_core.store.atomic import write_atomic

METRIC = (HEADLINE_PANEL, HEADLINE_METRIC)
# Origin of the predicted uncertainty, by model (or the beginning of its name), else by the model's family.
_UNCERTAINTY = {
    "baseline": "each gene's error on inner folds",
    **dict.fromkeys(
        ("linear_additive", "latent_additive", "decoder_only"), "each gene's error on inner folds"
    ),
    "perturbfm": "learned on inner folds: size of effect, distance to train, gene",
    **dict.fromkeys(
        (f"external-{name}" for name in ("gears", "scgen", "cpa", "state", "worker")),
        "each gene's error on calibration or validation conditions, else a constant",
    ),
    "external": "as handed in",
    "ensemble": "members' variance and disagreement",
}


@dataclass(frozen=True)
class EntrySummary:
    """Summary of a catalog entry.

    Attributes
    ----------
    text
        Its description.
    inputs
        Further inputs, in words.
    graphs, features
        Names of its graphs and of its tables of gene features.
    """

    text: str
    inputs: str = ""
    graphs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


def results_markdown(board: pd.DataFrame, compared: pd.DataFrame, ideas: Mapping[str, EntrySummary]) -> str:
    """Return the table of results and the comparison of models, as Markdown.

    Parameters
    ----------
    board
        The view ``leaderboard``.
    compared
        `leaderboard.significance.against_baseline` on the same runs.
    ideas
        {entry: its summary} for entries of the catalog.

    Raises
    ------
    StoreError
        If no run is ranked.
    """
    panel, metric = METRIC
    main = board[(board["panel"] == panel) & (board["metric"] == metric)]
    if main.empty:
        msg = f"the leaderboard has no {panel}.{metric}; run a suite first, e.g. `perturbfm demo --suite perturbfm`"
        raise StoreError(msg)
    return "\n".join([*_results(main), "", *_models(main, compared, ideas)])


def _results(main: pd.DataFrame) -> list[str]:
    boards = _names(main)
    best = main[main["rank"] == 1].groupby("board")["entry"].agg(set).to_dict()
    rows = []
    for entry in _order(main):
        cells = [f"`{entry}`"]
        for board in boards:
            hit = main[(main["board"] == board) & (main["entry"] == entry)]
            text = number(hit["value"].iloc[0]) if len(hit) else DASH
            cells.append(f"**{text}**" if entry in best.get(board, ()) else text)
        rows.append(cells)
    for label, column in (("ceiling, noise-free", "ceiling_noise_free"), ("train mean", "train_mean_floor")):
        values = main.groupby("board")[column].first()
        rows.append([f"*{label}*", *(number(values.get(b)) for b in boards)])
    text = (
        "Mean Pearson correlation of the centred delta (`delta.pearson_centered`) over the test conditions of each "
        "board; the best in bold, below them what noise allows and the floor."
    )
    return [text, "", *markdown_table(["entry", *boards.values()], rows)]


def _models(main: pd.DataFrame, compared: pd.DataFrame, ideas: Mapping[str, EntrySummary]) -> list[str]:
    # Means over boards are comparable only over the boards that every entry has run on.
    signal = main[~without_signal(main)]
    n = signal["entry"].nunique()
    shared = signal.groupby("board")["entry"].nunique()
    whole = signal[signal["board"].isin(shared[shared == n].index)]
    means = whole.groupby("entry")["value"].agg(["mean", "count"])
    boards = whole["board"].nunique()
    rows = []
    for entry in _order(main):
        idea = ideas.get(entry, EntrySummary(""))
        first = main[main["entry"] == entry].iloc[0]
        model = str(first.get("model", entry))
        names = (model, model.partition("-")[0], str(first["family"]))
        uncertainty = next((_UNCERTAINTY[n] for n in names if n in _UNCERTAINTY), "as the model says")
        inputs = [x for x in (idea.inputs, *idea.features) if x]
        rows.append(
            [
                f"`{entry}`",
                idea.text.rstrip(".") or DASH,
                ", ".join(inputs) or DASH,
                ", ".join(idea.graphs) or DASH,
                uncertainty,
                _skill(means, entry, boards),
                _verdicts(compared[compared["entry"] == entry]),
            ]
        )
    text = (
        f"Skill is the mean of the table above over the {boards} boards with a signal that every "
        "entry has run on; the mean of an entry that is undefined on some covers the number of boards in brackets and "
        "is not comparable. "
        "The last column counts boards where an entry differs from the baseline that inner folds "
        "chose (paired bootstrap over units, Holm over all)."
    )
    header = ["entry", "idea", "inputs", "graph", "uncertainty", "skill", "better / worse / not told apart"]
    return [text, "", *markdown_table(header, rows)]


def _skill(means: pd.DataFrame, entry: str, boards: int) -> str:
    if entry not in means.index or not means.loc[entry, "count"]:
        return DASH
    mean, n = means.loc[entry]
    return number(mean) if n == boards else f"{number(mean)} (on {int(n)})"


def _verdicts(rows: pd.DataFrame) -> str:
    tested = rows[rows["verdict"] != "too few units"]
    if rows.empty:
        return DASH
    counts = [int((tested["verdict"] == v).sum()) for v in ("better", "worse", "not told apart")]
    few = len(rows) - len(tested)
    return " / ".join(map(str, counts)) + (f" (+ {few} of too few units)" if few else "")


def _names(main: pd.DataFrame) -> dict[str, str]:
    """Return {board: title}: data set and kind, with the end of the board's name where titles would be equal."""
    first = main.drop_duplicates("board").sort_values("board")
    titles = {r.board: f"{r.dataset}, {r.split_kind!s}" for r in first.itertuples(index=False)}
    count = pd.Series(list(titles.values())).value_counts()
    return {b: t if count[t] == 1 else f"{t}, {b.rsplit('.', 1)[-1][:7]}" for b, t in titles.items()}


def _order(main: pd.DataFrame) -> list[str]:
    """Return the entries: baselines first, each family by name."""
    first = main.drop_duplicates("entry")
    keys = {r.entry: (r.family != "baseline", r.family, r.entry) for r in first.itertuples(index=False)}
    return sorted(keys, key=lambda e: keys[e])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(r) for r in rows)]


def markers(suite: str | None = None) -> tuple[str, str]:
    """Return the markers that a file has around the results, or around those of one suite."""
    name = "results" if suite is None else f"results of {suite}"
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def replace_between(path: Path, text: str, suite: str | None = None) -> None:
    """Put `text` between the markers of a file, atomically.

    Parameters
    ----------
    path
        The file.
    text
        What stands between its markers.
    suite
        The suite whose markers they are, None for those of all results.

    Raises
    ------
    StoreError
        If the file does not exist, or does not have exactly one pair of markers, in order.
    """
    begin, stop = markers(suite)
    if not path.is_file():
        msg = f"{path} does not exist; give the file that has {begin} and {stop}"
        raise StoreError(msg)
    old = path.read_text(encoding="utf-8")
    start, end = old.find(begin), old.find(stop)
    if old.count(begin) != 1 or old.count(stop) != 1 or end < start:
        msg = f"{path} must have one {begin} and one {stop} behind it; found {old.count(begin)} and {old.count(stop)}"
        raise StoreError(msg)
    write_atomic(path, f"{old[: start + len(begin)]}\n{text}\n{old[end:]}")
