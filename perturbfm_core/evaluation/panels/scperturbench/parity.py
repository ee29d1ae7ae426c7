"""Parity check with scPerturBench: metrics, DEG tables, common DEGs, scores and ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from perturbfm_core.evaluation.panels.scperturbench import degs, ranking
from perturbfm_core.evaluation.panels.scperturbench.pipeline import Groups, Pipeline, prepare, rounded, score
from perturbfm_core.evaluation.parity import (
    ILL_CONDITIONED,
    Record,
    compared,
    known_form,
    not_compared,
    number,
    register_case,
)
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

_EXPECTED = "expected.json"
_INPUTS = "inputs.h5ad"
_PEER = "scPerturBench"
_CONTEXT_PIPELINE = "cellular_context_ood"
_MAIN = ("mse", "pearson_distance", "edistance", "sym_kldiv", "wasserstein")
# The peer rounds its values to 4 decimals.
_LAST_DECIMAL = 1e-4
# Share of a mean product of cells that is rounding in single precision, of a difference of three such means.
_PRODUCT = 1e-6
# The same of a mean distance, in single precision, and of the distance of equal cells in double precision.
_SINGLE_ROOT, _ROOT = 4e-7, 1e-7
_RETURNS_NONE = "skipped_returns_None"
_SAME_CELLS = f"{ILL_CONDITIONED}: all cells are the same, so that rounding decides the peer's transport cost"
_ILL = f"{ILL_CONDITIONED}: rounding decides the value, by the case's own flag"


def _matches(folder: Path) -> bool:
    try:
        expected = json.loads((folder / _EXPECTED).read_text())
    except (OSError, ValueError):
        return False
    return (folder / _INPUTS).is_file() and _PEER in str(expected.get("peer", ""))


class _Case:
    """Cells of a case and the peer's numbers for them."""

    def __init__(self, folder: Path) -> None:
        data = anndata.read_h5ad(folder / _INPUTS)
        self.expected: dict[str, Any] = json.loads((folder / _EXPECTED).read_text())
        self.X: FloatArray = np.asarray(data.X.toarray() if hasattr(data.X, "toarray") else data.X)
        self.obs: pd.DataFrame = data.obs.astype(str)
        self.genes = np.asarray(data.var_names, dtype=np.str_)
        self.position = {str(g): i for i, g in enumerate(self.genes)}
        self.by_context = "condition1" in self.obs
        # Genes that the peer's prediction files lacked: known to the DEG tables only.
        dropped = {str(g) for g in self.expected.get("dropped_genes") or []}
        self.kept = np.asarray([str(g) not in dropped for g in self.genes], dtype=np.bool_)
        self._groups: dict[tuple[str, str, str], Groups] = {}

    @property
    def pipeline(self) -> Pipeline:
        return "context" if self.by_context else "perturbation"

    @cached_property
    def degs(self) -> dict[tuple[str, str], dict[str, list[Any]]]:
        """Return the peer's DEG tables by (context or "", perturbation)."""
        table = self.expected["deg"]
        if self.by_context:
            return {(c, p): t for c, by_pert in table.items() for p, t in by_pert.items()}
        return {("", p): t for p, t in table.items()}

    def groups(self, context: str, pert: str, method: str) -> Groups:
        """Return the cells of one evaluation, in file order."""
        key = (context, pert, method)
        if key not in self._groups:
            mine, observed, imputed, control, this = self._masks(*key)
            rows = (mine & imputed & this, mine & observed & this, mine & control)
            imputed_cells, stimulated, controls = (self.X[r] for r in rows)
            self._groups[key] = Groups(imputed_cells, stimulated, controls, self.genes)
        return self._groups[key]

    def predicted(self, context: str, pert: str, method: str) -> Groups:
        """Return the cells of one evaluation on the genes that the prediction file has."""
        groups = self.groups(context, pert, method)
        return groups if self.kept.all() else groups.map(lambda X: X[:, self.kept], groups.genes[self.kept])

    def _masks(self, context: str, pert: str, method: str) -> tuple[BoolArray, ...]:
        obs = self.obs
        by = (obs["method"] == method).to_numpy()
        if self.by_context:
            mine, name = (obs["condition1"] == context).to_numpy(), obs["condition2"]
            observed = (obs["kind"] == "observed").to_numpy()
            control = observed & (name == "control").to_numpy()
            return mine, observed, ~observed & by, control, (name == pert).to_numpy()
        kind, name = obs["Expcategory"], obs["perturbation"]
        stimulated, imputed = (kind == "stimulated").to_numpy(), (kind == "imputed").to_numpy() & by
        everything = np.ones(len(obs), dtype=np.bool_)
        return everything, stimulated, imputed, (kind == "control").to_numpy(), (name == pert).to_numpy()

    def order(self, X: FloatArray, control: FloatArray) -> tuple[FloatArray, IntArray]:
        scores = degs.welch_scores(degs.moments(X), degs.moments(control))
        return scores, degs.deg_order(scores)


@register_case("scperturbench", _matches)
def compare(folder: Path) -> Iterator[Record]:
    """Yield every number of a case: rounded and unrounded metrics, DEG tables, common DEGs, scores and ranks."""
    case = _Case(folder)
    parts: dict[str, tuple[str, Iterable[Record]]] = {
        "records": ("record", _metrics(case)),
        "deg": ("DEG", _deg_tables(case)),
        "common_degs_reconstructed": ("common_degs (reconstructed)", _common(case)),
        "published_style_scores": ("score", _scores(case.expected)),
    }
    for part, (metric, records) in parts.items():
        if case.expected.get(part) is None:
            yield not_compared(metric, part, f"the case has no {part}")
        else:
            yield from known_form(metric, part, records)


def _metrics(case: _Case) -> Iterator[Record]:
    for i, record in enumerate(case.expected["records"]):
        given = record if isinstance(record, dict) else {}
        names = (str(given.get(name, "")) for name in ("method", "outSample", "perturb"))
        key = "|".join([x for x in names if x] + [f"top{given.get('DEG', '?')}"])
        yield from known_form(
            str(given.get("metric", "record")), key if given else str(i), _metric(case, record, key)
        )


def _metric(case: _Case, record: dict[str, Any], key: str) -> Iterator[Record]:
    """Yield the records of one number of the peer."""
    context, pert, metric = record.get("outSample", ""), record["perturb"], record["metric"]
    wanted = case.degs[context, pert]["genes"][: record["DEG"]]
    if "unrounded" not in record and record.get("status", "ok") != "ok":
        yield from _without_value(case, record, key, wanted)
        return
    groups = prepare(case.predicted(context, pert, record["method"]), wanted, case.pipeline)
    got = float("nan") if groups is None else score(groups, metric)
    rtol, atol = _tolerance(case.X.dtype, metric)
    if groups is not None:
        atol += _cancelled(groups, metric, single=case.X.dtype == np.float32)
    ill = _ILL if record.get("ill_conditioned") else None
    written = got if np.isnan(got) else rounded(got, metric)
    for name, field, ours, absolute in (
        (metric, "unrounded", got, atol),
        (f"{metric} as written", "performance", written, 1.01 * _LAST_DECIMAL),
    ):
        made = compared(name, key, record[field], partial(_made, name, key, ours, absolute, rtol))
        # Where rounding decides the value it is compared only if this machine rounds as the peer's did.
        reason = ill or (_SAME_CELLS if metric == "wasserstein" and _noise_for_nan(made, atol) else None)
        yield replace(made, skipped=reason) if reason and made.skipped is None and not made.ok else made
    if groups is not None:
        for name, X in (
            ("Ncontrol", groups.control),
            ("Nimputed", groups.imputed),
            ("Nstimulated", groups.stimulated),
        ):
            yield Record("cells", f"{key}|{name}", number(record[name]), len(X))
        yield Record("genes", key, number(record["n_genes"]), len(groups.genes))


def _noise_for_nan(made: Record, atol: float) -> bool:
    """Return whether the peer's value is a rounding error where it is undefined here."""
    return bool(np.isnan(made.got) and abs(made.expected) <= atol)


def _made(metric: str, key: str, got: float, atol: float, rtol: float, expected: float) -> Record:
    return Record(metric, key, expected, got, atol=atol, rtol=rtol)


def _without_value(case: _Case, record: dict[str, Any], key: str, wanted: list[str]) -> Iterator[Record]:
    """Yield a record of a number that the peer does not compute: compared where it returns nothing, for lack of cells."""
    metric, status = record["metric"], str(record["status"])
    if status != _RETURNS_NONE:
        yield not_compared(metric, key, f"the peer gives no number ({status})")
        return
    groups = prepare(
        case.groups(record.get("outSample", ""), record["perturb"], record["method"]), wanted, case.pipeline
    )
    yield Record(f"{metric} without a number", key, 1.0, float(groups is None))


def _tolerance(dtype: np.dtype[Any], metric: str) -> tuple[float, float]:
    """Return (relative, absolute) tolerance: the peer keeps single precision, and always runs Sinkhorn in it."""
    if dtype != np.float32:
        return (1e-6, 0.0) if metric == "wasserstein" else (1e-12, 1e-12)
    # A distance near 0 is a difference of almost equal numbers, accurate to single precision only.
    return (2e-5, 1e-6 if metric == "edistance" else 2e-7) if metric in _MAIN else (1e-4, 1e-6)


def _cancelled(groups: Groups, metric: str, *, single: bool) -> float:
    """Return what rounding leaves of a metric that the peer computes as a difference of large numbers.

    Parameters
    ----------
    groups, metric
        The cells and the metric.
    single
        Whether the cells are in single precision; the peer's transport cost always is.
    """
    if not (metric in ("wasserstein", "edistance") or (single and metric == "mmd")):
        return 0.0
    sides = (groups.stimulated, groups.imputed)
    size = max(float(np.square(X, dtype=np.float64).sum(axis=1).mean()) for X in sides)
    if metric == "edistance":
        # Distances of equal cells, of squares that cancel, are roots of rounding errors.
        return float((_SINGLE_ROOT if single else _ROOT) * np.sqrt(size))
    return _PRODUCT * size


def _deg_tables(case: _Case) -> Iterator[Record]:
    for (context, pert), table in case.degs.items():
        yield from known_form(
            "DEG", "|".join(x for x in (context, pert) if x), _deg_table(case, context, pert, table)
        )


def _deg_table(case: _Case, context: str, pert: str, table: dict[str, list[Any]]) -> Iterator[Record]:
    key = "|".join(x for x in (context, pert) if x)
    groups = case.groups(context, pert, "")
    group, control = degs.moments(groups.stimulated), degs.moments(groups.control)
    columns = [case.position[g] for g in table["genes"]]
    scores = degs.welch_scores(group, control)
    values = {
        "scores": (scores, 1e-6),
        "pvals_adj": (degs.welch_pvalues(group, control), 1e-9),
        "foldchanges": (degs.fold_changes(group, control), 2e-6),
    }
    for name, (got, rtol) in values.items():
        for gene, expected, mine in zip(table["genes"], table[name], got[columns], strict=True):
            yield Record(f"DEG {name}", f"{key}|{gene}", number(expected), float(mine), rtol=rtol)
    ours = degs.deg_order(scores)
    for top in degs.TOPS:
        yield _same_top(f"{key}|top{top}", table["genes"], np.abs(scores[columns]), case.genes[ours], top)


def _same_top(key: str, theirs: list[str], size: FloatArray, ours: Iterable[str], top: int) -> Record:
    """Return how many of the first `top` genes are the same; genes tied with the last one may differ."""
    n = min(top, len(theirs))
    shared = len(set(theirs[:n]) & {str(g) for g in list(ours)[:n]})
    sure = int((size > size[n - 1]).sum())
    return Record("DEG subset", key, n, shared, low=min(sure, n), high=n)


def _common(case: _Case) -> Iterator[Record]:
    for name, by_top in case.expected["common_degs_reconstructed"].items():
        yield from known_form("common_degs (reconstructed)", name, _common_of(case, name, by_top))


def _common_of(case: _Case, name: str, by_top: dict[str, Any]) -> Iterator[Record]:
    method, *rest = name.split("|")
    context, pert = rest if case.by_context else ("", rest[0])
    groups = case.groups(context, pert, method)
    true, true_order = case.order(groups.stimulated, groups.control)
    predicted, predicted_order = case.order(groups.imputed, groups.control)
    for top, expected in by_top.items():
        if top == "error":
            yield not_compared("common_degs (reconstructed)", name, f"the peer gives no number ({expected})")
            continue
        if top.startswith("pred_top"):
            n = int(top.removeprefix("pred_top"))
            size = np.abs(predicted[predicted_order])
            shared = len(set(expected) & {str(g) for g in case.genes[predicted_order[:n]]})
            sure = int((size > size[min(n, len(size)) - 1]).sum())
            yield Record("predicted DEGs", f"{name}|{top}", len(expected), shared, low=sure, high=n)
            continue
        got = degs.common_degs(true_order, predicted_order, int(top))
        low, high = _tied_overlap(true, predicted, int(top))
        tied = low - 1e-12 <= expected["score"] <= high + 1e-12
        yield Record(
            "common_degs (reconstructed)",
            f"{name}|top{top}",
            expected["score"],
            got,
            atol=1e-12,
            low=low if tied else None,
            high=high if tied else None,
        )


def _tied_overlap(true: FloatArray, predicted: FloatArray, top: int) -> tuple[float, float]:
    """Return the least and the largest share over all ways to break the ties at both cut-offs."""
    sides = []
    for scores in (true, predicted):
        size = np.abs(scores)
        last = np.sort(size)[::-1][min(top, len(size)) - 1]
        sides.append((size > last, size == last, min(top, len(size)) - int((size > last).sum())))
    (a, ta, na), (b, tb, nb) = sides
    sure = int((a & b).sum())
    only_a, only_b, both = int((ta & b).sum()), int((a & tb).sum()), int((ta & tb).sum())
    # Most overlap: tied genes are chosen from the other side's genes first; least: from the rest first.
    high = sure + min(only_a, na) + min(only_b, nb) + min(both, na, nb)
    room_a, room_b = int(ta.sum()) - only_a, int(tb.sum()) - only_b
    low = sure + max(0, na - room_a) + max(0, nb - room_b)
    return low / top, min(high, top) / top


def _scores(expected: dict[str, Any]) -> Iterator[Record]:
    """Yield the published scores and ranks, computed from the peer's rounded values."""
    records = pd.DataFrame(expected.get("records", []))
    for entry in expected["published_style_scores"]:
        group, methods = entry["group"], sorted(entry["methods"])
        mine = records
        for column, value in group.items():
            mine = mine[mine[column] == value]
        raw = {
            metric: part.set_index("method")["performance"].reindex(methods).to_numpy()
            for metric, part in mine.groupby("metric")
            if metric in _MAIN
        }
        got = ranking.published_scores(raw)
        key = "|".join(str(v) for v in group.values())
        for i, method in enumerate(methods):
            for column, value in entry["methods"][method].items():
                yield Record(
                    "rank" if "ank" in column else "score",
                    f"{key}|{method}|{column}",
                    number(value),
                    float(got[column][i]),
                    atol=1e-12,
                )
