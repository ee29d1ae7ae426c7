"""Parity check with cell-eval2 0.20.0: values, statistics, tables, baseline, replicate anchor and scores.

A case is a folder with ``real.h5ad``, predictions ``pred_NAME.h5ad`` of counts, tables ``de_SIDE_NAME.parquet``, and
``expected.json`` with runs ``PROFILE/pred_NAME`` and the scale of one submission.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.anchor import SplitValue, anchor_means, anchor_splits
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, PROFILES
from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells, row_totals
from perturbfm_core.evaluation.panels.cell_eval2.differential import (
    DifferentialExpression,
    differential_expression,
)
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import (
    Truth,
    Values,
    compare_cells,
    evaluate,
    values_of,
)
from perturbfm_core.evaluation.panels.cell_eval2.files import read_cells
from perturbfm_core.evaluation.panels.cell_eval2.parity_options import read_options
from perturbfm_core.evaluation.panels.cell_eval2.parity_ties import Bounds, statistic_bounds, tie_bounds
from perturbfm_core.evaluation.panels.cell_eval2.scores import is_of_challenge, score_table
from perturbfm_core.evaluation.panels.virtual_cell.parity_files import find_tables, read_table, stem
from perturbfm_core.evaluation.parity import (
    UNKNOWN,
    Record,
    compared,
    known_form,
    not_compared,
    register_case,
)
from perturbfm_core.schema import StrArray

# (absolute, relative) tolerance. Expected values are rounded to 16 decimals.
EXACT = (0.0, 0.0)
ROUNDED = (1e-15, 1e-12)
FLOAT64 = (1e-15, 1e-9)
FLOAT32 = (1e-12, 1e-6)
# p-values, down to 1e-300.
P_VALUE = (1e-300, 1e-9)
# Metrics whose values are no ratios of counts.
_CONTINUOUS = ("expr_", "delta_", "de_wilcoxon_lfc_nmae", "de_wilcoxon_pr_auc", "de_wilcoxon_roc_auc")
# Column of a table: (attribute, tolerance).
_COLUMNS = {"log2_fold_change": ("lfc", FLOAT64), "p_value": ("p", P_VALUE), "p_adj": ("p_adj", P_VALUE)}
_TIES = "ties come in an arbitrary order in the peer's sort"


@dataclass(eq=False)
class Case:
    """The files of a case, read and compared when first asked for."""

    folder: Path
    expected: dict[str, Any]
    _cells: dict[tuple[str, str], tuple[LabelledCells, StrArray]] = field(default_factory=dict)
    _truths: dict[tuple[str, str], Truth] = field(default_factory=dict)

    def cells(self, name: str, scale: str) -> tuple[LabelledCells, StrArray]:
        """Return one file's cells in a scale (``counts``, or a depth of which log1p is taken), and its labels."""
        if (name, scale) not in self._cells:
            column, control = self.expected["pert_col"], self.expected["control"]
            cells, order = read_cells(self.folder / f"{name}.h5ad", column, control, whole=False)
            if scale != "counts":
                cells = _as_lognorm(cells, float(scale))
            self._cells[name, scale] = cells, order
        return self._cells[name, scale]

    def truth(self, scale: str = "counts", targets: Mapping[str, str | None] | None = None) -> Truth:
        """Return the measured cells in a scale, with the target genes of labels that are no gene names."""
        key = scale, json.dumps(targets, sort_keys=True)
        if key not in self._truths:
            self._truths[key] = Truth(self.cells("real", scale)[0], target_genes=targets)
        return self._truths[key]


def _as_lognorm(cells: LabelledCells, depth: float) -> LabelledCells:
    """Return log1p of counts scaled to a depth, in single precision; other values are log1p as they are."""
    if not cells.whole:
        return replace(cells, input_type="lognorm")
    X = cells.X.astype(np.float32)
    # One factor per cell, in single precision throughout, as the case was made: its ties depend on it.
    factor = np.divide(depth, cells.totals, out=np.zeros_like(cells.totals), where=cells.totals > 0)
    X.data = np.log1p(X.data * np.repeat(factor.astype(np.float32), np.diff(X.indptr)))
    return replace(cells, X=X, input_type="lognorm", totals=row_totals(X))


def _matches(folder: Path) -> bool:
    path = folder / "expected.json"
    if not path.is_file() or not (folder / "real.h5ad").is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("kind") == "cell_eval2")


@register_case("cell_eval2", _matches)
def compare(folder: Path) -> Iterable[Record]:
    """Yield every record of a case of cell-eval2."""
    case = Case(folder, json.loads((folder / "expected.json").read_text(encoding="utf-8")))
    for path in find_tables(folder, "de_*"):
        yield from known_form("de", stem(path), _table(case, path))
    for name, run in case.expected.get("runs", {}).items():
        yield from known_form("run", name, _run(case, name, run))
    if case.expected.get("score"):
        yield from known_form("score", "score", _scale(case, case.expected["score"]))


# ---- tables ----------------------------------------------------------------------------------------------------


def _table(case: Case, path: Path) -> Iterator[Record]:
    _, side, name = stem(path).split("_", 2)
    truth = case.truth()
    cells = case.cells(f"pred_{name}", "counts")[0]
    mine = truth.table if side == "real" else differential_expression(cells, truth.reference)
    theirs = read_table(path)
    for target, rows in theirs.groupby("target"):
        i = int(np.searchsorted(mine.names, str(target)))
        column = pd.Index(mine.genes).get_indexer(rows["feature"])
        tested = set(mine.genes[mine.tested])
        key = f"{stem(path)}/{target}"
        differing = tested.symmetric_difference(rows["feature"])
        yield Record("de.gate", key, 0.0, float(len(differing)), *EXACT)
        yield from _entries(mine, i, column, rows, key)


def _entries(
    mine: DifferentialExpression, i: int, column: Any, rows: pd.DataFrame, key: str
) -> Iterator[Record]:
    for name, (attribute, tolerance) in _COLUMNS.items():
        got = getattr(mine, attribute)[i, column]
        for gene, expected, value in zip(rows["feature"], rows[name], got, strict=True):
            yield Record(f"de.{name}", f"{key}/{gene}", float(expected), float(value), *tolerance)


# ---- runs ------------------------------------------------------------------------------------------------------


def _run(case: Case, name: str, run: Mapping[str, Any]) -> Iterator[Record]:
    try:
        options, targets = read_options(run.get("args", []))
    except MetricError as error:
        yield not_compared("run", name, f"{UNKNOWN}: {error}")
        return
    scale = "counts"
    if options.get("--input-type") == "lognorm":
        depth = re.search(r"per ([\d,_]+)", str(run.get("input", "")))
        scale = depth[1].replace(",", "").replace("_", "") if depth else "10000"
    prediction = name.rpartition("/")[2]
    results, summaries = (run.get(part) or {} for part in ("results", "agg_results"))
    for part, given in (("results", results), ("agg_results", summaries)):
        if not given:
            yield not_compared("run", f"{name}/{part}", f"the case has no {part} of this run")
    theirs = {m for values in (*results.values(), *summaries.values()) for m in values}
    known = [m for m in METRICS if m in theirs]
    truth = case.truth(scale, targets)
    inputs = compare_cells(truth, case.cells(prediction, scale)[0], known)
    values = values_of(truth.cells.perturbations, inputs, known)
    bounds = {} if inputs.tables is None else tie_bounds(inputs.tables)
    bounds = {metric: pair for metric, pair in bounds.items() if metric in known}
    for metric in sorted(theirs - set(known)):
        yield not_compared(metric, name, f"{UNKNOWN}: no metric of this name here")
    for target, expected in results.items():
        yield from known_form("run", f"{name}/{target}", _row(values, target, expected, name, scale, bounds))
    statistics, limits = aggregates(values), statistic_bounds(values, bounds)
    yield from _statistics("agg", name, summaries, statistics, scale, limits)


def _row(
    values: Values, target: str, expected: Mapping[str, Any], run: str, scale: str, bounds: Bounds
) -> Iterator[Record]:
    i = int(np.flatnonzero(values.names == target)[0])
    rows = {m for m in values.values if values.present[m][i]}
    key = f"{run}/{target}"
    yield Record("rows", key, 0.0, float(len(rows.symmetric_difference(m for m in expected if m in METRICS))))
    for metric, value in expected.items():
        if metric in rows:
            limits = tuple(float(side[i]) for side in bounds[metric]) if metric in bounds else None
            yield _one(metric, key, value, float(values.values[metric][i]), _tolerance(metric, scale), limits)


def _statistics(
    prefix: str,
    key: str,
    expected: Mapping[str, Mapping[str, Any]],
    got: Mapping[str, Mapping[str, float]],
    scale: str = "counts",
    bounds: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Iterator[Record]:
    tied = {metric for row in (bounds or {}).values() for metric in row}
    for statistic, row in expected.items():
        limits = (bounds or {}).get(statistic, {})
        for metric, value in row.items():
            if metric in got.get(statistic, {}):
                tolerance = EXACT if statistic.endswith("count") else _mean_tolerance(metric, scale)
                mine = got[statistic][metric]
                record = _one(
                    *(f"{prefix}.{statistic}", f"{key}/{metric}", value, mine, tolerance, limits.get(metric))
                )
                # A spread has no bounds that the values' bounds say.
                doubt = metric in tied and metric not in limits and record.skipped is None and not record.ok
                yield replace(record, skipped=_TIES) if doubt else record
            elif metric in METRICS:
                reason = f"{UNKNOWN}: no statistic of this name here"
                yield not_compared(f"{prefix}.{statistic}", f"{key}/{metric}", reason)


def _tolerance(metric: str, scale: str = "counts") -> tuple[float, float]:
    if metric.startswith(_CONTINUOUS):
        return FLOAT64 if scale == "counts" else FLOAT32
    return EXACT if "nsig_counts" in metric else ROUNDED


def _mean_tolerance(metric: str, scale: str) -> tuple[float, float]:
    """Return the tolerance of a statistic, which of whole numbers is none."""
    tolerance = _tolerance(metric, scale)
    return ROUNDED if tolerance == EXACT else tolerance


def _one(
    metric: str,
    key: str,
    value: object,
    got: float,
    tolerance: tuple[float, float],
    bounds: tuple[float, ...] | None = None,
) -> Record:
    """Return the record of one number; `bounds` are what it can be where the peer's order of ties is arbitrary."""

    def made(expected: float) -> Record:
        slack = tolerance[0] + tolerance[1] * abs(expected)
        if bounds is None or not bounds[0] - slack <= expected <= bounds[1] + slack:
            return Record(metric, key, expected, got, *tolerance)
        return Record(metric, key, expected, got, *tolerance, low=bounds[0], high=bounds[1])

    return compared(metric, key, value, made)


# ---- the scale ---------------------------------------------------------------------------------------------------


def _scale(case: Case, score: Mapping[str, Any]) -> Iterator[Record]:
    bundle = score.get("bundle", {})
    truth = case.truth()
    table = list(csv.DictReader(io.StringIO(bundle["baseline_agg.csv"])))
    metrics = [m for m in table[0] if m in METRICS] if table else list(PROFILES["vcc2026"])
    base = aggregates(evaluate(truth, case.cells(score["baseline"], "counts")[0], metrics))
    expected = {r["statistic"]: {m: _number(r[m]) for m in metrics} for r in table}
    yield from _statistics("baseline", score["baseline"], expected, base)
    meta = bundle.get("anchor_meta.json", {})
    splits = anchor_splits(
        truth,
        metrics,
        order=case.cells("real", "counts")[1],
        base_seed=int(meta.get("base_seed", 0)),
        n_splits=int(meta.get("n_splits", 5)),
    )
    for i, seed in enumerate(meta.get("derived_seeds", [])):
        got = next((s.seed for s in splits if s.split == i), -1)
        yield _one("anchor.seed", str(i), seed, float(got), EXACT)
    yield from known_form("anchor", "splits", _splits(splits, bundle.get("anchor_splits.parquet", [])))
    yield from known_form("anchor", "means", _anchor(splits, bundle.get("anchor_agg.parquet", [])))
    submission = aggregates(evaluate(truth, case.cells(score["submission"], "counts")[0], metrics))["mean"]
    own = is_of_challenge(case.expected["control"])
    rows = score_table(submission, base["mean"], anchor_means(splits), of_challenge=own)
    got_rows = {s.metric: s for s in rows}
    for row in csv.DictReader(io.StringIO(score["csv"])):
        for column in ("from_baseline", "from_replicate"):
            found = got_rows.get(row["metric"])
            got_value = None if found is None else getattr(found, column)
            yield _one(
                f"score.{column}",
                row["metric"],
                _number(row[column]),
                np.nan if got_value is None else got_value,
                FLOAT64,
            )


def _splits(splits: Iterable[SplitValue], expected: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    mine = {(s.split, s.metric): s for s in splits}
    for row in expected:
        metric, key = row["metric"], f"split {row['split_index']}/{row['metric']}"
        found = mine.get((int(row["split_index"]), metric))
        if found is None:
            yield not_compared("anchor.split", key, f"{UNKNOWN}: no metric or split of this name here")
            continue
        yield _one("anchor.split", key, row["value"], found.value, _tolerance(metric))
        n = np.nan if found.n_perturbations is None else float(found.n_perturbations)
        yield _one("anchor.split.n", key, row["n_perturbations"], n, EXACT)


def _anchor(splits: list[SplitValue], expected: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    for row in expected:
        values = np.asarray([s.value for s in splits if s.metric == row["metric"]])
        counts = [
            s.n_perturbations for s in splits if s.metric == row["metric"] and s.n_perturbations is not None
        ]
        if not len(values):
            yield not_compared("anchor", row["metric"], f"{UNKNOWN}: no metric of this name here")
            continue
        n = [float(f(counts)) if counts else np.nan for f in (min, max)]
        got = {
            "replicate": values.mean(),
            "replicate_sd": values.std(),
            "replicate_min": values.min(),
            "replicate_max": values.max(),
            "n_perturbations_min": n[0],
            "n_perturbations_max": n[1],
        }
        for column, value in got.items():
            if column in row:
                tolerance = EXACT if column.startswith("n_") else FLOAT64
                yield _one(f"anchor.{column}", row["metric"], row[column], float(value), tolerance)


def _number(text: str) -> float:
    """Return a number of a table, NaN where it is empty.

    Raises
    ------
    MetricError
        If it is other text.
    """
    try:
        return float(text) if text else float("nan")
    except ValueError:
        msg = f"{text!r} where a number is expected"
        raise MetricError(msg) from None
