"""Records of PerturBench's parity cases: values, means, pairs and ranks of one metric, aggregation and model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.panels.perturbench import aggregate, clouds
from perturbfm_core.evaluation.panels.perturbench.parity_clouds import mmd_noise
from perturbfm_core.evaluation.panels.perturbench.parity_ties import (
    near_rank_bounds,
    rank_bounds,
    recall_bounds,
)
from perturbfm_core.evaluation.panels.perturbench.parity_versions import as_scored, in_version
from perturbfm_core.evaluation.panels.perturbench.rank import Denominator, ranks
from perturbfm_core.evaluation.panels.perturbench.vector import TOP_K
from perturbfm_core.evaluation.parity import ILL_CONDITIONED, Record, compared
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# PerturBench's names for (covariates, perturbation); without covariates V2 adds the covariate "1".
_NO_COVARIATE: dict[aggregate.Version, str] = {"V1": "", "V2": "1"}
_CLOUD_METRICS = ("mmd",)
_RELATIVE = ("pearson", "r2_score", "cosine")
NOISE = f"{ILL_CONDITIONED}: a vector, or a gene in all cells, is constant up to rounding, so that the peer's value is a ratio of rounding errors"
NOISE_BESIDE = f"{ILL_CONDITIONED}: a value of the peer that is a ratio of rounding errors takes part"
# V1 computes and stores means in single precision, and V2 its tests and components.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
# PerturBench computes its principal axes in single precision.
COMPONENT_TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
# Its distances are in single precision too.
_CLOUD_TOLERANCE = {"rtol": 0.0, "atol": 5e-4}
_EXACT = {"atol": 1e-12, "rtol": 0.0}

Reach = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Pair:
    """A metric of one aggregation between one model and the reference."""

    labels: list[tuple[str, str]]
    values: FloatArray
    scopes: list[str]
    matrices: dict[str, FloatArray]
    similarity: bool
    degenerate: BoolArray | None = None
    low: dict[str, FloatArray] = field(default_factory=dict)
    high: dict[str, FloatArray] = field(default_factory=dict)

    def reach(self, scope: str, at: tuple[int, int]) -> Reach | None:
        """Return the least and the most that the value of one prediction and one observation of a scope can be."""
        return (float(self.low[scope][at]), float(self.high[scope][at])) if scope in self.low else None

    def rows(self, scope: str) -> IntArray:
        """Return the positions of the groups that are ranked together."""
        return np.asarray([i for i, mine in enumerate(self.scopes) if mine == scope])


@dataclass(frozen=True, eq=False)
class Sides:
    """Predicted and observed vectors [K, G], or clouds of cells, of the groups that a model and the reference share.

    Groups of one scope are ranked together.
    """

    labels: list[tuple[str, str]]
    predicted: Any
    observed: Any
    scopes: list[str]
    # bool [K], whether the peer's vector of a group, predicted or observed, has an entry left to rounding.
    noisy: BoolArray | None = None


@np.errstate(invalid="ignore", over="ignore")
def pair_of(metric: str, sides: Sides, version: aggregate.Version = "V2") -> Pair:
    """Return the metric's values, and by covariate the matrix of all predictions and observations.

    Parameters
    ----------
    metric
        The metric.
    sides
        Predictions and observations.
    version
        PerturBench's version.
    """
    shared, scopes, p, r = sides.labels, sides.scopes, sides.predicted, sides.observed
    by_covariate: dict[str, list[int]] = {}
    for i, scope in enumerate(scopes):
        by_covariate.setdefault(scope, []).append(i)
    if metric in _CLOUD_METRICS:
        own = {c: ([p[i] for i in rows], [r[i] for i in rows]) for c, rows in by_covariate.items()}
        matrices = {c: clouds.mmd_matrix(*both) for c, both in own.items()}
        reach = {c: (M - mmd_noise(*own[c]), M + mmd_noise(*own[c])) for c, M in matrices.items()}
        low, high = _ends(reach)
        return Pair(shared, clouds.mmd(p, r), scopes, matrices, False, None, low, high)
    kind = in_version(metric, version)
    matrices = {c: kind.all_pairs(p[rows], r[rows]) for c, rows in by_covariate.items()}
    p, r = as_scored(p, version), as_scored(r, version)
    flat = _no_direction(p) | _no_direction(r) if metric in _RELATIVE else None
    if sides.noisy is not None:
        flat = sides.noisy if flat is None else flat | sides.noisy
    if metric != "top_k_recall":
        return Pair(shared, kind.score(p, r), scopes, matrices, kind.similarity, flat)
    low, high = _ends({c: recall_bounds(p[rows], r[rows], TOP_K) for c, rows in by_covariate.items()})
    return Pair(shared, kind.score(p, r), scopes, matrices, kind.similarity, flat, low, high)


def _ends(
    reach: Mapping[str, tuple[FloatArray, FloatArray]],
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    return {c: low for c, (low, _) in reach.items()}, {c: high for c, (_, high) in reach.items()}


def _no_direction(A: FloatArray) -> BoolArray:
    """Return bool [K], whether rounding is all that vectors [K, G] differ by over genes, or all that they are."""
    small = np.abs(A).max(axis=1, initial=0.0) <= TOLERANCE["atol"]
    return np.asarray(rowwise.constant(A) | small)


def unless_noise(record: Record, metric: str, p: FloatArray, r: FloatArray) -> Record:
    """Return the record; where it differs and is a ratio of rounding errors of the peer, as one that is not compared.

    Parameters
    ----------
    record
        The record.
    metric
        Its metric.
    p, r
        The predicted and the observed vector [1, G] that it is made of.
    """
    doubt = metric in _RELATIVE and record.skipped is None and not record.ok
    return replace(record, skipped=NOISE) if doubt and (_no_direction(p) | _no_direction(r))[0] else record


def label_name(label: tuple[str, str], version: aggregate.Version) -> str:
    """Return PerturBench's name of a group (covariates, perturbation)."""
    return "_".join(part for part in (label[0] or _NO_COVARIATE[version], label[1]) if part)


def _mean(values: FloatArray) -> float:
    """Return the mean of defined values, as the peer's tables do."""
    good = values[~np.isnan(values)]
    return float(good.mean()) if len(good) else float("nan")


def pair_records(
    title: str, name: str, model: str, pair: Pair, records: dict[str, Any], version: aggregate.Version
) -> Iterator[Record]:
    """Yield values, mean, pairs and ranks of one metric, aggregation and model.

    Parameters
    ----------
    title
        Version and metric.
    name, model
        Aggregation and model.
    pair
        This project's values.
    records
        The peer's numbers.
    version
        PerturBench's version.
    """
    metric = f"{title}_{name}"
    names = [label_name(label, version) for label in pair.labels]
    got = dict(zip(names, pair.values, strict=True))
    tolerance = _tolerance(metric)
    reach: dict[str, Reach] = {}
    for covariate, least in pair.low.items():
        own = np.diag(least), np.diag(pair.high[covariate])
        for i, a, b in zip(pair.rows(covariate), *own, strict=True):
            reach[names[i]] = (float(a), float(b))
    flat = {} if pair.degenerate is None else dict(zip(names, pair.degenerate, strict=True))
    noise: set[str] = set()
    for key, value in records["per_perturbation"][model].items():
        ours = float(got.get(key, np.nan))
        record = within(metric, f"{model}|{key}", value, ours, reach.get(key), tolerance)
        if flat.get(key, False) and record.skipped is None and not record.ok:
            noise.add(key)
            record = replace(record, skipped=NOISE)
        yield record
    record = within(
        metric,
        f"{model}|mean",
        records["mean"][model],
        _mean(pair.values),
        _mean_reach(list(reach.values())),
        tolerance,
    )
    yield replace(record, skipped=NOISE_BESIDE) if noise else record
    noisy = {scope for scope, name in zip(pair.scopes, names, strict=True) if flat.get(name, False)}
    for covariate, pairs in records.get("pairwise_rows_pred_cols_ref", {}).get(model, {}).items():
        got_pairs = pair.matrices[covariate]
        order = [_place(label, covariate, pair, names) for label in pairs["labels"]]
        for i, row in enumerate(pairs["matrix"]):
            for j, value in enumerate(row):
                key = f"{model}|{covariate}|{pairs['labels'][i]}|{pairs['labels'][j]}"
                at = order[i], order[j]
                record = within(
                    f"{metric}_pairs", key, value, float(got_pairs[at]), pair.reach(covariate, at), tolerance
                )
                yield _beside(record, covariate in noisy)
    if "rank" in records:
        yield from _ranks(f"{title}_rank_{name}", model, pair, records, names, noisy)


def _beside(record: Record, noisy: bool) -> Record:
    """Return the record; where it differs and a rounding error of the peer takes part, as one that is not compared."""
    doubt = noisy and record.skipped is None and not record.ok
    return replace(record, skipped=NOISE_BESIDE) if doubt else record


def _ranks(
    metric: str, model: str, pair: Pair, records: dict[str, Any], names: list[str], noisy: set[str]
) -> Iterator[Record]:
    """Yield the ranks of one model and their mean; `noisy` covariates have rounding errors among the peer's values."""
    denominator: Denominator = "n" if metric.startswith("V1") else "n-1"
    position = np.empty(len(names))
    given = records.get("rank_bounds", {}).get(model, {})
    allowed = {key: (float(a), float(b)) for key, (a, b) in given.items()}
    for covariate, matrix in pair.matrices.items():
        rows = pair.rows(covariate)
        position[rows] = ranks(matrix, similarity=pair.similarity, denominator=denominator)
        if covariate in pair.low:
            low, high = pair.low[covariate], pair.high[covariate]
            least, most = rank_bounds(low, high) if pair.similarity else rank_bounds(-high, -low)
        else:
            least, most = near_rank_bounds(matrix, similarity=pair.similarity)
        by = max(len(rows) if denominator == "n" else len(rows) - 1, 1)
        for i, a, b in zip(rows, least / by, most / by, strict=True):
            if a < b:
                was = allowed.get(names[i], (float(a), float(b)))
                allowed[names[i]] = (min(was[0], float(a)), max(was[1], float(b)))
    placed = dict(zip(names, position, strict=True))
    scopes = dict(zip(names, pair.scopes, strict=True))
    for key, value in records["rank"][model].items():
        ours = float(placed.get(key, np.nan))
        record = within(metric, f"{model}|{key}", value, ours, allowed.get(key), _EXACT)
        yield _beside(record, scopes.get(key) in noisy)
    every = [allowed.get(key, (ours, ours)) for key, ours in placed.items()] if allowed else []
    reach = _mean_reach(every)
    record = within(metric, f"{model}|mean", records["rank_mean"][model], _mean(position), reach, _EXACT)
    yield _beside(record, bool(noisy))


def _tolerance(metric: str) -> dict[str, float]:
    if metric.partition(".")[2].startswith("mmd"):
        return _CLOUD_TOLERANCE
    return COMPONENT_TOLERANCE if metric.endswith("pca_average") else TOLERANCE


def _mean_reach(reach: list[Reach]) -> Reach | None:
    if not reach:
        return None
    return float(np.mean([a for a, _ in reach])), float(np.mean([b for _, b in reach]))


def within(
    metric: str, key: str, value: Any, got: float, reach: Reach | None, tolerance: dict[str, float]
) -> Record:
    """Return a record; where the peer breaks ties at random, both numbers must be possible outcomes.

    Parameters
    ----------
    metric, key
        See `Record`.
    value, got
        The peer's value, null for undefined, and this project's.
    reach
        Smallest and largest outcome over tie orders, None without ties.
    tolerance
        `atol` and `rtol` of the record.
    """

    def made(expected: float) -> Record:
        low, high = reach or (None, None)
        slack = tolerance["atol"] + tolerance["rtol"] * abs(expected)
        if reach is not None and not reach[0] - slack <= expected <= reach[1] + slack:
            low, high = None, None
        return Record(metric, key, expected, got, tolerance["atol"], tolerance["rtol"], low=low, high=high)

    return compared(metric, key, value, made)


def _place(label: str, scope: str, pair: Pair, names: list[str]) -> int:
    """Return the place of a perturbation among those that it is ranked with; V1 writes the covariate in front.

    Parameters
    ----------
    label, scope
        The perturbation, and the covariates that it is ranked in.
    pair, names
        The groups, and the peer's names of them.
    """
    rows = pair.rows(scope)
    by_pert = [pair.labels[i][1] for i in rows]
    return by_pert.index(label) if label in by_pert else [names[i] for i in rows].index(label)
