"""Parity check with PerturBench: every aggregation, metric and rank, in both versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.perturbench import aggregate, components, differential
from perturbfm_core.evaluation.panels.perturbench.components import Basis
from perturbfm_core.evaluation.panels.perturbench.parity_aggregates import aggregate_records
from perturbfm_core.evaluation.panels.perturbench.parity_moments import (
    as_scaled,
    as_tested,
    rounding_in_scaling,
    rounding_in_tests,
)
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
from perturbfm_core.evaluation.panels.perturbench.parity_sides import REFERENCE, Side, read_sides
from perturbfm_core.evaluation.panels.perturbench.parity_ties import over_choices
from perturbfm_core.evaluation.panels.perturbench.parity_versions import as_scored, in_version
from perturbfm_core.evaluation.panels.perturbench.population import dense
from perturbfm_core.evaluation.parity import Record, known_form, register_case
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

_VERSIONS: dict[str, aggregate.Version] = {
    "expected.json": "V1",
    "expected_upstream_cafe4c9.json": "V2",
}
_DEGS = 10
# The commit whose V2 takes controls of the same covariates, numbers among them.
_OWN_CONTROLS = "cafe4c9"
_TESTED = {"scores": differential.scores, "pvals": differential.pvals, "logp": differential.logp}


def _matches(folder: Path) -> bool:
    settings = folder / "settings.json"
    return (
        settings.is_file()
        and (folder / "reference.h5ad").is_file()
        and (folder / "expected.json").is_file()
        and "altoslabs/perturbench" in (folder / "expected.json").read_text()[:200]
    )


@dataclass(frozen=True, eq=False)
class _Aggregate:
    """One aggregation of all sides: vectors [K, G] by side, or clouds; groups whose vector has rounding errors of the peer."""

    vectors: dict[str, FloatArray]
    clouds: dict[str, list[FloatArray]]
    noisy: dict[str, BoolArray] = field(default_factory=dict)


@np.errstate(over="ignore", invalid="ignore")
def _aggregate(how: dict[str, Any], sides: dict[str, Side], version: aggregate.Version) -> _Aggregate:
    reference = sides[REFERENCE].cells
    if how["aggr_method"] == "none":
        return _Aggregate(
            {}, {m: [dense(s.cells.block(k)) for k in range(len(s.cells))] for m, s in sides.items()}
        )
    basis = components.fit(reference, how["n_comps"]) if "n_comps" in how else None
    if how["aggr_method"] == "pca" and basis is not None:
        return _Aggregate({}, {m: components.project(s.cells, basis) for m, s in sides.items()})
    vectors = {m: _vectors(how, s, version, m == REFERENCE, basis) for m, s in sides.items()}
    return _Aggregate(vectors, {}, {m: _noisy(how["aggr_method"], s, version) for m, s in sides.items()})


def _vectors_and_noise(
    how: dict[str, Any], sides: dict[str, Side], version: aggregate.Version
) -> tuple[dict[str, FloatArray], dict[str, BoolArray]]:
    made = _aggregate(how, sides, version)
    return made.vectors, made.noisy


def _noisy(method: str, side: Side, version: aggregate.Version) -> BoolArray:
    """Return bool [K], whether an entry of a group's vector is left to the peer's rounding."""
    if method == "scaled":
        return rounding_in_scaling(side.cells, side.whole, version)
    if method in _TESTED:
        return rounding_in_tests(side.cells if version == "V1" else side.matched)
    return np.zeros(len(side.labels), dtype=np.bool_)


def _test(how: dict[str, Any], version: aggregate.Version) -> differential.Test:
    """Return the test of an aggregation, by default that of the version."""
    name = how.get("de_method", "wilcoxon" if version == "V1" else "t-test_overestim_var")
    for test in differential.TESTS:
        if test == name:
            return test
    msg = f"this case has a test {name!r} that is not known"
    raise MetricError(msg)


def _vectors(
    how: dict[str, Any], side: Side, version: aggregate.Version, reference: bool, basis: Basis | None
) -> FloatArray:
    """Return [K, G], one aggregation of a side."""
    cells, method = side.cells, how["aggr_method"]
    # V2 may take the controls of any dose or time.
    raw, matched = (side.raw, cells) if version == "V1" else (side.matched_raw, side.matched)
    if method == "average":
        size = cells.moments.n[:, None] if how.get("mode") == "sum" else 1
        return aggregate.average(cells.moments.mean * size, version)
    if method == "scaled":
        most = float(how.get("max_scale", aggregate.MAX_SCALED))
        return as_scaled(cells, side.whole, version, most)
    if method == "logfc":
        source = raw if how.get("exp") else matched
        control = source.controls.moments.mean[source.covariate]
        pseudocount = how.get("pseudocount", aggregate.PSEUDOCOUNT)
        return aggregate.logfc(source.moments.mean, control, pseudocount)
    if method == "var":
        return aggregate.dispersion(cells.moments, adjust=how["adjust_var"])
    if method in ("scores", "pvals", "logp"):
        test = _test(how, version)
        if version == "V1":
            return differential.logp_v1(as_tested(matched), test)
        # The controls' variance is for models only; the reference keeps its own.
        own = bool(how.get("use_control_variance")) and not reference
        return _TESTED[method](as_tested(matched), test, control_variance=own)
    if method == "pca_average" and basis is not None:
        return components.pca_average(cells.moments.mean, basis)
    msg = f"this case has an aggregation {method!r} that is not known"
    raise MetricError(msg)


@register_case("perturbench", _matches)
def compare(folder: Path) -> Iterator[Record]:
    """Yield every record of both versions."""
    settings = json.loads((folder / "settings.json").read_text())
    sides = read_sides(folder, settings)
    for file, version in _VERSIONS.items():
        if (folder / file).is_file():
            expected = json.loads((folder / file).read_text())
            those = _matched(sides, expected, version)
            yield from _version(expected, those, version)
            ways = expected["aggregate_settings"]
            stored = aggregate_records(folder, ways, those, version, _vectors_and_noise)
            yield from known_form(f"{version}.aggregates", "aggregates", stored)


def _matched(sides: dict[str, Side], expected: dict[str, Any], version: aggregate.Version) -> dict[str, Side]:
    """Return the sides with the controls that a version compares with; later commits of V2 take those of any dose or time."""
    own = str(expected.get("peer_commit", "")).startswith(_OWN_CONTROLS)
    if version == "V1" or not own or not all(side.has_own_controls for side in sides.values()):
        return sides
    return {name: side.with_own_controls() for name, side in sides.items()}


def _version(
    expected: dict[str, Any], sides: dict[str, Side], version: aggregate.Version
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
    sides: dict[str, Side],
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
    sides: dict[str, Side],
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


def _shared(made: _Aggregate, sides: dict[str, Side], model: str, version: aggregate.Version) -> Sides:
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
    known = set(sides[REFERENCE].labels)
    labels = [x for x in sides[model].labels if x in known]
    scopes = [sides[model].scope(x, version) for x in labels]
    if made.clouds:
        P, R = ([made.clouds[m][sides[m].labels.index(x)] for x in labels] for m in (model, REFERENCE))
        return Sides(labels, P, R, scopes)
    p, r = (sides[m].take(made.vectors[m], labels) for m in (model, REFERENCE))
    noisy = [sides[m].take(made.noisy[m], labels) for m in (model, REFERENCE)]
    return Sides(labels, p, r, scopes, noisy[0] | noisy[1])


def _deg(expected: dict[str, Any], sides: dict[str, Side], version: aggregate.Version) -> Iterator[Record]:
    """Yield log fold change metrics over 10 genes of each group: listed by the case in V1, of largest |t| in V2."""
    section = expected.get("deg10_logfc") or expected.get("top10_deg_logfc")
    if section is None:
        return
    reference = sides[REFERENCE]
    made = _aggregate({"aggr_method": "logfc"}, sides, version)
    given = {name: reference.genes.get_indexer(x) for name, x in section.get("deg_genes", {}).items()}
    # V2 sorts the tested genes by name and then uses positions in that order as positions in `var`.
    observed = differential.scores(as_tested(reference.matched))[
        :, np.argsort(reference.genes.to_numpy().astype(str))
    ]
    for metric, models in section["values"].items():
        for model, values in models.items():
            for label in sides[model].labels:
                key = _name(label, version)
                if key not in values:
                    continue
                both = (sides[m].take(made.vectors[m], [label]) for m in (model, REFERENCE))
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
