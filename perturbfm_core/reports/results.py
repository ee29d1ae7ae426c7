"""Markdown tables of the README: results by board, and a comparison of the models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL, MARKS
from perturbfm_core.leaderboard.run_marks import without_signal
from perturbfm_core.reports.footnotes import Footnotes
from perturbfm_core.reports.html import DASH, number
from perturbfm_core.store.atomic import write_atomic

METRIC = (HEADLINE_PANEL, HEADLINE_METRIC)
# {column of view `leaderboard`: label of the row below the entries}: all but the floor of no effect.
MARK_ROWS = {column: label for column, label in MARKS.items() if column != "null_floor"}
# Characters of what an entry is warned of that a footnote has.
_LONGEST = 200
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
        The view ``leaderboard``, and ``warned_of`` where predictions are warned of.
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
    notes = Footnotes()
    best = {board: best_entries(rows) for board, rows in main.groupby("board")}
    rows = []
    for entry in _order(main):
        cells = [f"`{entry}`"]
        for board in boards:
            hit = main[(main["board"] == board) & (main["entry"] == entry)]
            if hit.empty:
                cells.append(notes.markdown(DASH, "not run on this board"))
                continue
            row = hit.iloc[0]
            text = notes.markdown(number(row["value"]), text_of(row, "reason") or reasons.UNDEFINED)
            if pd.notna(row["value"]):
                older = text_of(row, "reason") == reasons.OTHER_VERSION
                text = notes.note(text, reasons.OTHER_VERSION if older else _partly(row))
                text = notes.note(text, _warned(row))
            folds = _folds(main[main["board"] == board], row)
            cells.append((f"**{text}**" if entry in best[board] else text) + folds)
        rows.append(cells)
    first = [main[main["board"] == b].iloc[0] for b in boards]
    rows += [
        [f"*{label}*", *(notes.markdown(number(r.get(column)), mark_reason(r, column)) for r in first)]
        for column, label in MARK_ROWS.items()
    ]
    text = (
        "Mean Pearson correlation of the centred delta (`delta.pearson_centered`) over the test conditions of each "
        "board; the best in bold, below them the floors and what noise allows."
    )
    heads = [f"{title}{_said_of(main[main['board'] == board])}" for board, title in boards.items()]
    return [text, "", *markdown_table(["entry", *heads], rows), *notes.markdown_line()]


def best_entries(rows: pd.DataFrame) -> set[str]:
    """Return the best entries of one metric on a board: first in rank, else so far; none without signal.

    Parameters
    ----------
    rows
        Rows of view ``leaderboard`` of one board and metric.
    """
    for column in ("rank", "rank_so_far"):
        if column in rows and rows[column].notna().any():
            return set(rows.loc[rows[column] == rows[column].min(), "entry"])
    known = rows[rows["value"].notna()]
    direction = str(known["direction"].iloc[0]) if "direction" in known and len(known) else "max"
    if known.empty or direction not in ("max", "min") or bool(without_signal(known).all()):
        return set()
    if "folds_done" in known:
        known = known[known["folds_done"] == known["folds_done"].max()]
    top = known["value"].max() if direction == "max" else known["value"].min()
    return set(known.loc[known["value"] == top, "entry"])


def _said_of(rows: pd.DataFrame) -> str:
    """Return what the head of a board's column says: that its data have no signal, or how many folds have run."""
    return " (no signal)" if bool(without_signal(rows).all()) else _folds(rows)


def _folds(rows: pd.DataFrame, row: pd.Series | None = None) -> str:
    """Return how many folds of a board have run, or how many an entry has that has fewer; nothing where all have.

    Parameters
    ----------
    rows
        Rows of the board.
    row
        Row of an entry, None for the board.
    """
    if "folds_done" not in rows:
        return ""
    done, total = int(rows["folds_done"].max()), int(rows["folds_total"].max())
    mine = done if row is None else int(row["folds_done"])
    is_said = done == total if row is None else mine == done
    return "" if is_said else f" ({reasons.of_folds(mine, total)})"


def _partly(row: pd.Series) -> str | None:
    """Return in how many conditions an entry has no value, None if it has one in all."""
    n = row.get("n_undefined")
    if n is None or pd.isna(n) or not n:
        return None
    return f"undefined in {int(n)} of {int(row['n_conditions'])} conditions, ranked behind entries with fewer"


def _warned(row: pd.Series) -> str | None:
    """Return what the predictions of an entry are warned of, as far as a footnote has room; None if of nothing."""
    said = text_of(row, "warned_of")
    return said and f"warned of: {said if len(said) <= _LONGEST else said[:_LONGEST].rstrip() + ' ...'}"


def mark_reason(row: pd.Series, column: str) -> str:
    """Return why a floor or ceiling in a row of view ``leaderboard`` is unknown.

    Parameters
    ----------
    row
        The row.
    column
        One of `MARK_ROWS`.
    """
    is_ceiling = column.startswith("ceiling")
    others = [c for c in MARKS if c != column and c.startswith("ceiling") == is_ceiling]
    if any(pd.notna(row.get(c)) for c in others):
        return reasons.NO_NOISE_FREE if is_ceiling else reasons.of_itself(MARK_ROWS[column])
    said = text_of(row, "ceiling_reason" if is_ceiling else "floor_reason")
    return said or (reasons.NO_CEILING if is_ceiling else reasons.NO_FLOOR)


def text_of(row: pd.Series, column: str) -> str | None:
    """Return the text in a column of a row, None where there is none."""
    value = row.get(column)
    return value if isinstance(value, str) and value else None


def _models(main: pd.DataFrame, compared: pd.DataFrame, ideas: Mapping[str, EntrySummary]) -> list[str]:
    # Means over boards are comparable only over the boards that every entry has run on, by one version of the metric.
    signal = main[~without_signal(main)]
    n = signal["entry"].nunique()
    if "folds_done" in signal:
        # On fewer folds than others an entry has been asked other conditions.
        most = signal.groupby("board")["folds_done"].transform("max")
        alike = signal[signal["folds_done"] == most]
    else:
        alike = signal
    if "reason" in alike:
        alike = alike[alike["reason"] != reasons.OTHER_VERSION]
    shared = alike.groupby("board")["entry"].nunique()
    whole = signal[signal["board"].isin(shared[shared == n].index)]
    means = whole.groupby("entry")["value"].agg(["mean", "count"])
    boards = whole["board"].nunique()
    notes = Footnotes()
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
                notes.markdown(idea.text.rstrip(".") or DASH, "not in the catalog of models"),
                ", ".join(inputs) or "none",
                ", ".join(idea.graphs) or "none",
                uncertainty,
                notes.markdown(
                    _skill(means, entry, boards), "undefined on every board, or no board that all have run on"
                ),
                notes.markdown(
                    _verdicts(compared[compared["entry"] == entry]), _not_compared(str(first["family"]))
                ),
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
    return [text, "", *markdown_table(header, rows), *notes.markdown_line()]


def _not_compared(family: str) -> str:
    if family == "baseline":
        return "a baseline: the others are compared with it"
    return "no board where it and the chosen baseline have a value"


def _skill(means: pd.DataFrame, entry: str, boards: int) -> str:
    if entry not in means.index or not means.loc[entry, "count"]:
        return DASH
    mean, n = means.loc[entry]
    return number(mean) if n == boards else f"{number(mean)} (on {int(n)})"


def _verdicts(rows: pd.DataFrame) -> str:
    rows = rows[~rows["verdict"].isin(["no signal", "other version"])]
    tested = rows[rows["verdict"] != "too few units"]
    if rows.empty:
        return DASH
    counts = [int((tested["verdict"] == v).sum()) for v in ("better", "worse", "not told apart")]
    few = len(rows) - len(tested)
    return " / ".join(map(str, counts)) + (f" (+ {few} of too few units)" if few else "")


def _names(main: pd.DataFrame) -> dict[str, str]:
    """Return {board: title}: data set and kind, with the end of the board's name where titles would be equal."""
    first = main.drop_duplicates("board").sort_values("board")
    return board_titles({r.board: (r.dataset, str(r.split_kind)) for r in first.itertuples(index=False)})


def board_titles(boards: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return {board: title}, of {board: (data set, kind)}: both, with the end of the board's name where they are shared."""
    titles = {board: f"{dataset}, {kind}" for board, (dataset, kind) in boards.items()}
    count = Counter(titles.values())
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
        If the file does not exist, is no text, or does not have exactly one pair of markers, in order.
    """
    begin, stop = markers(suite)
    if not path.is_file():
        msg = f"{path} does not exist; give the file that has {begin} and {stop}"
        raise StoreError(msg)
    try:
        # Of bytes, so that line ends stay what they are.
        old = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        msg = f"{path} is no text in UTF-8; give the file that has {begin} and {stop}"
        raise StoreError(msg) from error
    start, end = old.find(begin), old.find(stop)
    if old.count(begin) != 1 or old.count(stop) != 1 or end < start:
        msg = f"{path} must have one {begin} and one {stop} behind it; found {old.count(begin)} and {old.count(stop)}"
        raise StoreError(msg)
    write_atomic(path, f"{old[: start + len(begin)]}\n{text}\n{old[end:]}")
