"""Parity check with PerturBench: every aggregation, metric and rank, in both versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.perturbench import aggregate, clouds, components, differential
from perturbfm_core.evaluation.panels.perturbench.components import Basis
from perturbfm_core.evaluation.panels.perturbench.parity_ties import over_choices, rank_bounds, recall_bounds
from perturbfm_core.evaluation.panels.perturbench.population import (
    Matrix,
    Population,
    dense,
    table_population,
)
from perturbfm_core.evaluation.panels.perturbench.rank import Denominator, ranks
from perturbfm_core.evaluation.panels.perturbench.vector import TOP_K, VECTOR_METRICS
from perturbfm_core.evaluation.parity import Record, register_case
from perturbfm_core.schema import FloatArray, IntArray, StrArray

_REFERENCE = "ref"
_VERSIONS: dict[str, aggregate.Version] = {
    "expected.json": "V1",
    "expected_upstream_cafe4c9.json": "V2",
}
# PerturBench's names for (covariates, perturbation); without covariates V2 adds the covariate "1".
_NO_COVARIATE: dict[aggregate.Version, str] = {"V1": "", "V2": "1"}
_CLOUD_METRICS = ("mmd",)
_PEER_FAILS = "the peer's V2 raises on ranks where there are no covariates"
_DEGS = 10
# V1 computes and stores means in single precision, and V2 its tests and components.
_TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
# PerturBench computes its principal axes in single precision.
_COMPONENT_TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
# Its distances are in single precision too: that of a cell to itself is about 1e-3 instead of 0.
_CLOUD_TOLERANCE = {"rtol": 0.0, "atol": 5e-4}

Reach = tuple[float, float]
Score = Callable[[FloatArray, FloatArray], FloatArray]


def _matches(folder: Path) -> bool:
    settings = folder / "settings.json"
    return (
        settings.is_file()
        and (folder / "reference.h5ad").is_file()
        and (folder / "expected.json").is_file()
        and "altoslabs/perturbench" in (folder / "expected.json").read_text()[:200]
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """The reference or one model: groups (covariate, perturbation) and their cells, log1p and not."""

    labels: list[tuple[str, str]]
    genes: Any
    cells: Population
    raw: Population

    def take(self, values: FloatArray, labels: list[tuple[str, str]]) -> FloatArray:
        position = {label: i for i, label in enumerate(self.labels)}
        return np.asarray(values[[position[label] for label in labels]])


def _side(
    X: Matrix,
    genes: Any,
    covariates: StrArray,
    perturbations: StrArray,
    ctrl: str,
    levels: StrArray,
    reference: _Side | None,
) -> _Side:
    pairs = list(zip(covariates.tolist(), perturbations.tolist(), strict=True))
    labels = sorted({pair for pair in pairs if pair[1] != ctrl})
    number = {label: i for i, label in enumerate(labels)}
    group: IntArray = np.asarray([number.get(pair, -1) for pair in pairs], dtype=np.int64)
    codes = np.searchsorted(levels, covariates)
    raw = X.expm1() if hasattr(X, "expm1") else np.expm1(X)
    cells = [
        table_population(A, group, codes, len(labels), controls)
        for A, controls in (
            (X, reference.cells.controls if reference else None),
            (raw, reference.raw.controls if reference else None),
        )
    ]
    return _Side(labels, genes, cells[0], cells[1])


def _read(folder: Path, settings: dict[str, Any]) -> dict[str, _Side]:
    """Return the reference and the models by name, genes in the reference's order."""
    import anndata

    table = anndata.read_h5ad(folder / "reference.h5ad")
    genes = table.var_names.astype(str).tolist()
    ctrl = str(settings["ctrl"])

    def joined(column: dict[str, Any], n: int) -> StrArray:
        parts = [np.asarray(column[name], dtype=np.str_) for name in settings["cov_cols"]]
        return np.asarray(["_".join(row) for row in zip(*parts, strict=True)] or [""] * n, dtype=np.str_)

    covariates = joined(dict(table.obs.items()), table.n_obs)
    levels = np.unique(covariates)
    perturbations = np.asarray(table.obs[settings["pert_col"]], dtype=np.str_)
    out = {_REFERENCE: _side(table.X, table.var_names, covariates, perturbations, ctrl, levels, None)}
    appended = out[_REFERENCE] if settings["append_reference_controls"] else None
    for path in sorted(folder.glob("predictions_*.npz")):
        with np.load(path, allow_pickle=False) as file:
            X, names = file["X"], file["var_names"].tolist()
            columns = {str(c): file[f"obs__{c}"] for c in file["obs_columns"]}
        X = X[:, [names.index(g) for g in genes]]
        out[path.stem.removeprefix("predictions_")] = _side(
            X,
            table.var_names,
            joined(columns, len(X)),
            np.asarray(columns[settings["pert_col"]], dtype=np.str_),
            ctrl,
            levels,
            appended,
        )
    return out


@dataclass(frozen=True, eq=False)
class _Aggregate:
    """One aggregation of all sides: vectors [K, G] by side, or clouds."""

    vectors: dict[str, FloatArray]
    clouds: dict[str, list[FloatArray]]


def _aggregate(how: dict[str, Any], sides: dict[str, _Side], version: aggregate.Version) -> _Aggregate:
    reference = sides[_REFERENCE].cells
    if how["aggr_method"] == "none":
        return _Aggregate(
            {}, {m: [dense(s.cells.block(k)) for k in range(len(s.cells))] for m, s in sides.items()}
        )
    basis = components.fit(reference, how["n_comps"]) if "n_comps" in how else None
    if how["aggr_method"] == "pca" and basis is not None:
        return _Aggregate({}, {m: components.project(s.cells, basis) for m, s in sides.items()})
    return _Aggregate({m: _vectors(how, s, version, m == _REFERENCE, basis) for m, s in sides.items()}, {})


def _vectors(
    how: dict[str, Any], side: _Side, version: aggregate.Version, reference: bool, basis: Basis | None
) -> FloatArray:
    """Return [K, G], one aggregation of a side."""
    cells, method = side.cells, how["aggr_method"]
    if method == "average":
        return aggregate.average(cells.moments.mean, version)
    if method == "scaled":
        return aggregate.scaled(cells, version)
    if method == "logfc":
        source = side.raw if how.get("exp") else cells
        control = source.controls.moments.mean[source.covariate]
        return aggregate.logfc(source.moments.mean, control, how.get("pseudocount", aggregate.PSEUDOCOUNT))
    if method == "var":
        return aggregate.dispersion(cells.moments, adjust=how["adjust_var"])
    if method == "scores":
        # The controls' variance is for models only; the reference keeps its own.
        return differential.scores(
            cells, control_variance=bool(how.get("use_control_variance")) and not reference
        )
    if method == "pvals":
        return differential.pvals(cells)
    if method == "logp" and version == "V2":
        return differential.logp(cells)
    if method == "logp":
        return differential.logp_v1(cells, "wilcoxon" if how["de_method"] == "wilcoxon" else "t")
    if method == "pca_average" and basis is not None:
        return components.pca_average(cells.moments.mean, basis)
    msg = f"this case has an aggregation {method!r} that is not known"
    raise MetricError(msg)


@dataclass(frozen=True, eq=False)
class _Pair:
    """A metric of one aggregation between one model and the reference."""

    labels: list[tuple[str, str]]
    values: FloatArray
    matrices: dict[str, FloatArray]
    similarity: bool
    low: dict[str, FloatArray] = field(default_factory=dict)
    high: dict[str, FloatArray] = field(default_factory=dict)

    def rows(self, covariate: str) -> IntArray:
        return np.asarray([i for i, label in enumerate(self.labels) if label[0] == covariate])


def _pair(metric: str, made: _Aggregate, sides: dict[str, _Side], model: str) -> _Pair:
    """Return the metric's values, and by covariate the matrix of all predictions and observations."""
    shared = [x for x in sides[model].labels if x in set(sides[_REFERENCE].labels)]
    by_covariate: dict[str, list[int]] = {}
    for i, (covariate, _) in enumerate(shared):
        by_covariate.setdefault(covariate, []).append(i)
    if metric in _CLOUD_METRICS:
        P, R = ([made.clouds[m][sides[m].labels.index(x)] for x in shared] for m in (model, _REFERENCE))
        matrices = {
            c: clouds.mmd_matrix([P[i] for i in rows], [R[i] for i in rows])
            for c, rows in by_covariate.items()
        }
        return _Pair(shared, clouds.mmd(P, R), matrices, False)
    kind = VECTOR_METRICS[metric]
    p, r = (sides[m].take(made.vectors[m], shared) for m in (model, _REFERENCE))
    matrices = {c: kind.all_pairs(p[rows], r[rows]) for c, rows in by_covariate.items()}
    if metric != "top_k_recall":
        return _Pair(shared, kind.score(p, r), matrices, kind.similarity)
    bounds = {c: recall_bounds(p[rows], r[rows], TOP_K) for c, rows in by_covariate.items()}
    low, high = ({c: b[i] for c, b in bounds.items()} for i in (0, 1))
    return _Pair(shared, kind.score(p, r), matrices, kind.similarity, low, high)


@register_case("perturbench", _matches)
def compare(folder: Path) -> Iterator[Record]:
    """Yield every record of both versions."""
    settings = json.loads((folder / "settings.json").read_text())
    sides = _read(folder, settings)
    for file, version in _VERSIONS.items():
        if not (folder / file).is_file():
            continue
        expected = json.loads((folder / file).read_text())
        means: dict[str, dict[str, float]] = {}
        for name, metrics in expected["values"].items():
            made = _aggregate(expected["aggregate_settings"][name], sides, version)
            for metric, records in metrics.items():
                for model in records["per_perturbation"]:
                    pair = _pair(metric, made, sides, model)
                    for record in _records(f"{version}.{metric}", name, model, pair, records, version):
                        if record.key == f"{model}|mean":
                            means.setdefault(model, {})[record.metric] = record.got
                        yield record
        yield from _summary(expected.get("evaluator_summary", {}), means, version)
        yield from _deg(expected, sides, version)
        for key in expected["errors"]:
            name, metric, what = key.split("/")
            title = f"{version}.{metric}_{what}_{name}"
            yield Record(title, key, float("nan"), float("nan"), skipped=_PEER_FAILS)


def _name(label: tuple[str, str], version: aggregate.Version) -> str:
    return "_".join(part for part in (label[0] or _NO_COVARIATE[version], label[1]) if part)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: FloatArray) -> float:
    """Return the mean of defined values, as the peer's tables do."""
    good = values[~np.isnan(values)]
    return float(good.mean()) if len(good) else float("nan")


def _records(
    title: str, name: str, model: str, pair: _Pair, records: dict[str, Any], version: aggregate.Version
) -> Iterator[Record]:
    """Yield values, mean, pairs and ranks of one metric, aggregation and model."""
    metric, rank_metric = f"{title}_{name}", f"{title}_rank_{name}"
    names = [_name(label, version) for label in pair.labels]
    got = dict(zip(names, pair.values, strict=True))
    tolerance = _tolerance(metric)
    reach: dict[str, Reach] = {}
    for covariate, least in pair.low.items():
        own = np.diag(least), np.diag(pair.high[covariate])
        for i, a, b in zip(pair.rows(covariate), *own, strict=True):
            reach[names[i]] = (float(a), float(b))
    for key, value in records["per_perturbation"][model].items():
        ours = float(got.get(key, np.nan))
        yield _within(metric, f"{model}|{key}", _number(value), ours, reach.get(key), tolerance)
    mean_reach = _mean_reach(list(reach.values()))
    mean = _number(records["mean"][model])
    yield _within(metric, f"{model}|mean", mean, _mean(pair.values), mean_reach, tolerance)
    for covariate, pairs in records.get("pairwise_rows_pred_cols_ref", {}).get(model, {}).items():
        got_pairs = pair.matrices[covariate]
        order = [_place(label, covariate, pair.labels) for label in pairs["labels"]]
        for i, row in enumerate(pairs["matrix"]):
            for j, value in enumerate(row):
                key = f"{model}|{covariate}|{pairs['labels'][i]}|{pairs['labels'][j]}"
                ours = float(got_pairs[order[i], order[j]])
                yield _within(f"{metric}_pairs", key, _number(value), ours, None, tolerance)
    if "rank" not in records:
        return
    denominator: Denominator = "n" if version == "V1" else "n-1"
    position = np.empty(len(names))
    allowed = {key: (float(a), float(b)) for key, (a, b) in records["rank_bounds"][model].items()}
    for covariate, matrix in pair.matrices.items():
        rows = pair.rows(covariate)
        position[rows] = ranks(matrix, similarity=pair.similarity, denominator=denominator)
        if covariate in pair.low:
            N = len(rows)
            by = max(N if denominator == "n" else N - 1, 1)
            least, most = rank_bounds(pair.low[covariate], pair.high[covariate])
            for i, a, b in zip(rows, least / by, most / by, strict=True):
                was = allowed[names[i]]
                allowed[names[i]] = (min(was[0], float(a)), max(was[1], float(b)))
    placed = dict(zip(names, position, strict=True))
    exact = {"atol": 1e-12, "rtol": 0.0}
    for key, value in records["rank"][model].items():
        ours = float(placed.get(key, np.nan))
        yield _within(rank_metric, f"{model}|{key}", _number(value), ours, allowed[key], exact)
    reach_mean = _mean_reach(list(allowed.values()))
    mean = _number(records["rank_mean"][model])
    yield _within(rank_metric, f"{model}|mean", mean, _mean(position), reach_mean, exact)


def _tolerance(metric: str) -> dict[str, float]:
    if metric.partition(".")[2].startswith("mmd"):
        return _CLOUD_TOLERANCE
    return _COMPONENT_TOLERANCE if metric.endswith("pca_average") else _TOLERANCE


def _mean_reach(reach: list[Reach]) -> Reach | None:
    if not reach:
        return None
    return float(np.mean([a for a, _ in reach])), float(np.mean([b for _, b in reach]))


def _within(
    metric: str, key: str, expected: float, got: float, reach: Reach | None, tolerance: dict[str, float]
) -> Record:
    """Return a record; where the peer breaks ties at random, both numbers must be possible outcomes."""
    low, high = reach or (None, None)
    slack = tolerance["atol"] + tolerance["rtol"] * abs(expected)
    if reach is not None and not reach[0] - slack <= expected <= reach[1] + slack:
        low, high = None, None
    atol, rtol = tolerance["atol"], tolerance["rtol"]
    return Record(metric, key, expected, got, atol=atol, rtol=rtol, low=low, high=high)


def _place(label: str, covariate: str, labels: list[tuple[str, str]]) -> int:
    """Return the place of a perturbation among those of its covariate; V1 writes the covariate in front."""
    mine = [pert for cov, pert in labels if cov == covariate]
    return mine.index(label if label in mine else label.removeprefix(f"{covariate}_"))


def _summary(
    summary: dict[str, dict[str, float]], means: dict[str, dict[str, float]], version: aggregate.Version
) -> Iterator[Record]:
    """Yield the peer's summary table, which has four significant digits."""
    for model, row in summary.items():
        for metric, value in row.items():
            ours = float(f"{means[model][f'{version}.{metric}']:.4g}")
            yield Record(f"{version}.summary", f"{model}|{metric}", value, ours, rtol=1e-9)


def _deg(expected: dict[str, Any], sides: dict[str, _Side], version: aggregate.Version) -> Iterator[Record]:
    """Yield log fold change metrics over 10 genes of each group: listed by the case in V1, of largest |t| in V2."""
    section = expected.get("deg10_logfc") or expected.get("top10_deg_logfc")
    if section is None:
        return
    reference = sides[_REFERENCE]
    made = _aggregate({"aggr_method": "logfc"}, sides, version)
    given = {name: reference.genes.get_indexer(x) for name, x in section.get("deg_genes", {}).items()}
    # V2 sorts the tested genes by name and then uses positions in that order as positions in `var`.
    observed = differential.scores(reference.cells)[:, np.argsort(reference.genes.to_numpy().astype(str))]
    for metric, models in section["values"].items():
        for model, values in models.items():
            for label in sides[model].labels:
                key = _name(label, version)
                if key not in values:
                    continue
                p, r = (sides[m].take(made.vectors[m], [label]) for m in (model, _REFERENCE))
                score = VECTOR_METRICS[metric].score

                def restricted(
                    columns: IntArray, p: FloatArray = p, r: FloatArray = r, score: Score = score
                ) -> float:
                    return float(score(p[:, columns], r[:, columns])[0])

                reach: Reach | None = None
                if key in given:
                    columns = given[key]
                else:
                    i = reference.labels.index(label)
                    columns, low, high = over_choices(observed[i], _DEGS, restricted)
                    reach = None if low is None or high is None else (low, high)
                title = f"{version}.{metric}_logfc_deg{_DEGS}"
                ours = restricted(columns)
                yield _within(title, f"{model}|{key}", _number(values[key]), ours, reach, _TOLERANCE)
