"""Parity check with PerturBench: every aggregation, metric and rank, in both versions."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.perturbench import aggregate, components, differential
from perturbfm_core.evaluation.panels.perturbench.components import Basis
from perturbfm_core.evaluation.panels.perturbench.parity_moments import as_tested, in_precision
from perturbfm_core.evaluation.panels.perturbench.parity_records import (
    TOLERANCE,
    Reach,
    Sides,
    pair_of,
    pair_records,
    unless_noise,
    within,
)
from perturbfm_core.evaluation.panels.perturbench.parity_records import label_name as _name
from perturbfm_core.evaluation.panels.perturbench.parity_sections import error_records, summary_records
from perturbfm_core.evaluation.panels.perturbench.parity_ties import over_choices
from perturbfm_core.evaluation.panels.perturbench.parity_versions import as_scored, in_version
from perturbfm_core.evaluation.panels.perturbench.population import (
    Matrix,
    Population,
    dense,
    table_population,
)
from perturbfm_core.evaluation.parity import Record, known_form, register_case
from perturbfm_core.schema import FloatArray, IntArray, StrArray

_REFERENCE = "ref"
_VERSIONS: dict[str, aggregate.Version] = {
    "expected.json": "V1",
    "expected_upstream_cafe4c9.json": "V2",
}
_DEGS = 10
_WITH_CONTROL_ROWS = ("average", "scaled", "var")


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
    levels: list[str]
    n_covariates: int
    ctrl: str
    dtype: Any
    # All cells once, where some groups are controls.
    whole: Population | None = None

    def as_in(self, version: aggregate.Version, method: str, listed: Container[str]) -> _Side:
        """Return the side with the groups that a version scores.

        V1 reads covariates and perturbation back from a row's name at its underscores. Where one is within a name, the
        controls are not recognised as such and stay, in the aggregations that make a row of them.

        Parameters
        ----------
        version, method
            PerturBench's version, and the method of the aggregation.
        listed
            Names of the rows that the case has of it: of the controls none is expected that is not there.
        """
        if version != "V1" or method not in _WITH_CONTROL_ROWS:
            return self
        kept = [k for k, label in enumerate(self.labels) if self._read(label)[1] != self.ctrl]
        own = [
            v
            for v, level in enumerate(self.levels)
            if self._read((level, self.ctrl))[1] != self.ctrl
            and _name((level, self.ctrl), version) in listed
            and self.cells.controls.moments.n[v]
        ]
        groups = [*((False, k) for k in kept), *((True, v) for v in own)]

        def block(i: int) -> Matrix:
            is_control, at = groups[i]
            return self.cells.controls.block(at) if is_control else self.cells.block(at)

        covariate = np.asarray([*self.cells.covariate[kept], *own], dtype=np.int64)
        labels = [*(self.labels[k] for k in kept), *((self.levels[v], self.ctrl) for v in own)]
        cells = Population(block, covariate, self.cells.controls)
        return replace(self, labels=labels, cells=cells, whole=self.cells)

    def scope(self, label: tuple[str, str], version: aggregate.Version) -> str:
        """Return the covariates that a group is ranked in."""
        return self._read(label)[0] if version == "V1" else label[0]

    def _read(self, label: tuple[str, str]) -> tuple[str, str]:
        """Return (covariates, perturbation) as V1 reads them from the name of a row."""
        parts = _name(label, "V1").split("_")
        return "_".join(parts[: self.n_covariates]), parts[self.n_covariates]

    def take(self, values: FloatArray, labels: list[tuple[str, str]]) -> FloatArray:
        position = {label: i for i, label in enumerate(self.labels)}
        return np.asarray(values[[position[label] for label in labels]])


@np.errstate(over="ignore", invalid="ignore")
def _side(
    X: Matrix,
    genes: Any,
    covariates: StrArray,
    perturbations: StrArray,
    settings: dict[str, Any],
    levels: StrArray,
    reference: _Side | None,
) -> _Side:
    ctrl = str(settings["ctrl"])
    if reference:
        # The peer joins the controls to the predictions, in the wider of their types.
        X = X.astype(np.result_type(X.dtype, reference.dtype), copy=False)
    pairs = list(zip(covariates.tolist(), perturbations.tolist(), strict=True))
    labels = sorted({pair for pair in pairs if pair[1] != ctrl})
    number = {label: i for i, label in enumerate(labels)}
    group: IntArray = np.asarray([number.get(pair, -1) for pair in pairs], dtype=np.int64)
    codes = np.searchsorted(levels, covariates)
    raw = X.expm1() if hasattr(X, "expm1") else np.expm1(X)
    cells = [
        table_population(A, group, codes, len(labels), controls)
        for A, controls in (
            (X, in_precision(reference.cells.controls, X.dtype) if reference else None),
            (raw, in_precision(reference.raw.controls, raw.dtype) if reference else None),
        )
    ]
    n_covariates = len(settings["cov_cols"])
    return _Side(labels, genes, cells[0], cells[1], levels.tolist(), n_covariates, ctrl, X.dtype)


def _read(folder: Path, settings: dict[str, Any]) -> dict[str, _Side]:
    """Return the reference and the models by name, genes in the reference's order."""
    import anndata

    table = anndata.read_h5ad(folder / "reference.h5ad")
    genes = table.var_names.astype(str).tolist()

    def joined(column: dict[str, Any], n: int) -> StrArray:
        parts = [np.asarray(column[name], dtype=np.str_) for name in settings["cov_cols"]]
        return np.asarray(["_".join(row) for row in zip(*parts, strict=True)] or [""] * n, dtype=np.str_)

    covariates = joined(dict(table.obs.items()), table.n_obs)
    levels = np.unique(covariates)
    perturbations = np.asarray(table.obs[settings["pert_col"]], dtype=np.str_)
    out = {_REFERENCE: _side(table.X, table.var_names, covariates, perturbations, settings, levels, None)}
    appended = out[_REFERENCE] if settings["append_reference_controls"] else None
    for path in sorted(folder.glob("predictions_*.npz")):
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            X, names = file["X"], file["var_names"].tolist()
            columns = {str(c): file[f"obs__{c}"] for c in file["obs_columns"]}
        X = X[:, [names.index(g) for g in genes]]
        out[path.stem.removeprefix("predictions_")] = _side(
            X,
            table.var_names,
            joined(columns, len(X)),
            np.asarray(columns[settings["pert_col"]], dtype=np.str_),
            settings,
            levels,
            appended,
        )
    return out


@dataclass(frozen=True, eq=False)
class _Aggregate:
    """One aggregation of all sides: vectors [K, G] by side, or clouds."""

    vectors: dict[str, FloatArray]
    clouds: dict[str, list[FloatArray]]


@np.errstate(over="ignore", invalid="ignore")
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
        return aggregate.scaled(cells, version, by=side.whole)
    if method == "logfc":
        source = side.raw if how.get("exp") else cells
        control = source.controls.moments.mean[source.covariate]
        pseudocount = how.get("pseudocount", aggregate.PSEUDOCOUNT)
        return aggregate.logfc(source.moments.mean, control, pseudocount)
    if method == "var":
        return aggregate.dispersion(cells.moments, adjust=how["adjust_var"])
    if method == "scores":
        # The controls' variance is for models only; the reference keeps its own.
        return differential.scores(
            as_tested(cells), control_variance=bool(how.get("use_control_variance")) and not reference
        )
    if method == "pvals":
        return differential.pvals(as_tested(cells))
    if method == "logp" and version == "V2":
        return differential.logp(as_tested(cells))
    if method == "logp":
        return differential.logp_v1(as_tested(cells), "wilcoxon" if how["de_method"] == "wilcoxon" else "t")
    if method == "pca_average" and basis is not None:
        return components.pca_average(cells.moments.mean, basis)
    msg = f"this case has an aggregation {method!r} that is not known"
    raise MetricError(msg)


@register_case("perturbench", _matches)
def compare(folder: Path) -> Iterator[Record]:
    """Yield every record of both versions."""
    settings = json.loads((folder / "settings.json").read_text())
    sides = _read(folder, settings)
    for file, version in _VERSIONS.items():
        if (folder / file).is_file():
            yield from _version(json.loads((folder / file).read_text()), sides, version)


def _version(
    expected: dict[str, Any], sides: dict[str, _Side], version: aggregate.Version
) -> Iterator[Record]:
    """Yield every record of one version."""
    means: dict[str, dict[str, Record]] = {}
    doubtful: set[tuple[str, str]] = set()
    settings = expected["aggregate_settings"]
    for name, metrics in expected["values"].items():
        for record in known_form(f"{version}.{name}", name, _values(name, metrics, settings, sides, version)):
            model = record.key.removesuffix("|mean")
            if record.key != model and record.skipped is None:
                means.setdefault(model, {})[record.metric] = record
            elif record.key != model:
                doubtful.add((model, record.metric))
            yield record
    summary = summary_records(expected.get("evaluator_summary", {}), means, version, doubtful)
    yield from known_form(f"{version}.summary", "summary", summary)
    yield from known_form(f"{version}.deg{_DEGS}", "deg", _deg(expected, sides, version))
    yield from error_records(expected.get("errors", {}), version)


def _values(
    name: str,
    metrics: dict[str, Any],
    settings: dict[str, Any],
    sides: dict[str, _Side],
    version: aggregate.Version,
) -> Iterator[Record]:
    """Yield the records of one aggregation."""
    listed = {key for m in metrics.values() for rows in m["per_perturbation"].values() for key in rows}
    method = settings[name]["aggr_method"]
    sides = {m: side.as_in(version, method, listed) for m, side in sides.items()}
    made = _aggregate(settings[name], sides, version)
    for metric, records in metrics.items():
        of_models = _models(metric, made, sides, records, name, version)
        yield from known_form(f"{version}.{metric}_{name}", name, of_models)


def _models(
    metric: str,
    made: _Aggregate,
    sides: dict[str, _Side],
    records: dict[str, Any],
    name: str,
    version: aggregate.Version,
) -> Iterator[Record]:
    """Yield the records of one metric of one aggregation, of all models."""
    for model in records["per_perturbation"]:
        yield from pair_records(
            *(f"{version}.{metric}", name, model),
            pair_of(metric, _shared(made, sides, model, version), version),
            *(records, version),
        )


def _shared(made: _Aggregate, sides: dict[str, _Side], model: str, version: aggregate.Version) -> Sides:
    """Return predictions and observations of the groups that a model and the reference share.

    Parameters
    ----------
    made
        One aggregation.
    sides
        The reference and the models.
    model, version
        The model, and PerturBench's version.
    """
    known = set(sides[_REFERENCE].labels)
    labels = [x for x in sides[model].labels if x in known]
    scopes = [sides[model].scope(x, version) for x in labels]
    if made.clouds:
        P, R = ([made.clouds[m][sides[m].labels.index(x)] for x in labels] for m in (model, _REFERENCE))
        return Sides(labels, P, R, scopes)
    p, r = (sides[m].take(made.vectors[m], labels) for m in (model, _REFERENCE))
    return Sides(labels, p, r, scopes)


def _deg(expected: dict[str, Any], sides: dict[str, _Side], version: aggregate.Version) -> Iterator[Record]:
    """Yield log fold change metrics over 10 genes of each group: listed by the case in V1, of largest |t| in V2."""
    section = expected.get("deg10_logfc") or expected.get("top10_deg_logfc")
    if section is None:
        return
    reference = sides[_REFERENCE]
    made = _aggregate({"aggr_method": "logfc"}, sides, version)
    given = {name: reference.genes.get_indexer(x) for name, x in section.get("deg_genes", {}).items()}
    # V2 sorts the tested genes by name and then uses positions in that order as positions in `var`.
    observed = differential.scores(as_tested(reference.cells))[
        :, np.argsort(reference.genes.to_numpy().astype(str))
    ]
    for metric, models in section["values"].items():
        for model, values in models.items():
            for label in sides[model].labels:
                key = _name(label, version)
                if key not in values:
                    continue
                both = (sides[m].take(made.vectors[m], [label]) for m in (model, _REFERENCE))
                p, r = (as_scored(x, version) for x in both)
                score = in_version(metric, version).score

                def restricted(
                    columns: IntArray, p: FloatArray = p, r: FloatArray = r, score: Any = score
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
                record = within(title, f"{model}|{key}", values[key], ours, reach, TOLERANCE)
                yield unless_noise(record, metric, p[:, columns], r[:, columns])
