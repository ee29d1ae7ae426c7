"""Parity check with cell-eval 0.8.2: per-perturbation values, summaries, mean baseline, scores and ceilings.

As in cell-eval, the predicted file's own controls are used, and operations are in its order and in the precision of the
cells.
Baseline metrics are computed from the vector of the case (which is compared, too). Average scores include the case's
values of what is not compared: ``clustering_agreement``, which is not computed here, and the correlation of E-distances
where they are rounding errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perturbfm_core.evaluation.panels.systema.parity import systema_records
from perturbfm_core.evaluation.panels.virtual_cell import aggregate, de_metrics
from perturbfm_core.evaluation.panels.virtual_cell.differential import DifferentialExpression
from perturbfm_core.evaluation.panels.virtual_cell.edistance import energy_distances
from perturbfm_core.evaluation.panels.virtual_cell.means import discrimination_bounds
from perturbfm_core.evaluation.panels.virtual_cell.parity_case import Case, read_case, section
from perturbfm_core.evaluation.panels.virtual_cell.parity_files import (
    PREDICTION,
    TABLE_FORMS,
    find_tables,
    read_table,
)
from perturbfm_core.evaluation.panels.virtual_cell.parity_scale import LOG1P
from perturbfm_core.evaluation.panels.virtual_cell.profiles import (
    DISCRIMINATION,
    EDISTANCE,
    FULL,
    SHARED,
    VCC,
    Sample,
    pearson_of_edistances,
    profile,
)
from perturbfm_core.evaluation.parity import (
    ILL_CONDITIONED,
    UNKNOWN,
    Record,
    compared,
    known_form,
    not_compared,
    number,
    register_case,
)
from perturbfm_core.schema import FloatArray

# (absolute, relative) tolerance. The peer's single precision is relative to the size of a number.
FLOAT32 = (2e-6, 1e-5)
FLOAT64 = (1e-15, 1e-12)
EXACT = (0.0, 0.0)
# Metrics that cell-eval computes in single precision, and averages that contain them.
SINGLE = ("pearson_delta", "mse", "mae", "mse_delta", "mae_delta", "pearson_edistance", "avg_score")
CLUSTERING = "clustering_agreement"
_CLUSTERING_REASON = "informational: Leiden clusters depend on random seed and library versions, and need packages beyond this project's"
_TIES = "ties come in an arbitrary order in the peer's sort"
_NOISE = f"{ILL_CONDITIONED}: E-distances of a constant prediction are equal up to rounding"
# The mean baseline of one perturbation has half of its change.
_PERFECT = f"{ILL_CONDITIONED}: the baseline is perfect up to rounding, by which the score is divided"
_NO_MEANS = "the average contains a metric that is not compared, of which the case has no mean"
CORRELATION = "pearson_delta"
AVERAGE = "avg_score"
_CEILINGS = re.compile(r"ceiling_0_8_2_disjoint_spearman_brown_seed(\d+)")
_HALVES = re.compile(r"ceiling_raw_self_split_mean(?:_seed(\d+))?")
# Column of a differential-expression table: (attribute of `DifferentialExpression`, tolerance).
_COLUMNS = {
    "statistic": ("statistic", EXACT),
    "p_value": ("p", FLOAT64),
    "fdr": ("fdr", FLOAT64),
    "log2_fold_change": ("lfc", FLOAT32),
    "target_mean": ("target_mean", FLOAT32),
    "ref_mean": ("control_mean", FLOAT32),
}


def _matches(folder: Path) -> bool:
    path = folder / "expected.json"
    return (
        path.is_file()
        and any((folder / name).is_file() for name in (PREDICTION, "pred.h5ad"))
        and '"cell_eval"' in path.read_text(encoding="utf-8")
    )


@register_case("cell_eval", _matches)
def compare(folder: Path) -> Iterable[Record]:
    """Yield every record of a case of cell-eval 0.8.2, and of Systema, whose numbers are in the same case.

    Where the last digits of log1p decide, those are taken that give more of the peer's numbers.
    """
    yield from _best(_compare(folder, read_case(folder, log1p)) for log1p in LOG1P)


def _best(ways: Iterable[Iterable[Record]]) -> list[Record]:
    """Return the records of the first way in which none fails, else of the one in which the fewest do."""
    tried: list[list[Record]] = []
    for records in ways:
        tried.append(list(records))
        if not _failed(tried[-1]):
            break
    return min(tried, key=_failed)


def _failed(records: Iterable[Record]) -> int:
    return sum(record.skipped is None and not record.ok for record in records)


def _compare(folder: Path, case: Case) -> Iterator[Record]:
    real = case.sample(case.X, case.labels)
    pred = case.sample(case.predicted, case.pred_labels)
    for side, sample in {"real": real, "pred": pred}.items():
        yield from known_form("de", side, _table(folder, case, side, sample))
    yield from known_form("values", "values", _values(case, real, pred))
    yield from known_form("ceiling", "ceilings", _ceilings(case))
    if {"systema", "definitional_not_upstream_code"} & case.expected.keys():
        yield from known_form("systema", "systema", systema_records(folder))


def _table(folder: Path, case: Case, side: str, sample: Sample) -> Iterator[Record]:
    found = find_tables(folder, f"de_{side}")
    if not found:
        reason = f"the case has no table de_{side} ({', '.join(TABLE_FORMS)})"
        yield not_compared("de", side, reason)
        return
    table = read_table(found[0])
    column = {str(g): j for j, g in enumerate(case.genes)}
    row = {str(n): i for i, n in enumerate(case.names)}
    rows, genes = (
        np.asarray([places[str(v)] for v in table[name]], dtype=np.int64)
        for name, places in (("target", row), ("feature", column))
    )
    for name, (attribute, tolerance) in _COLUMNS.items():
        if name not in table:
            yield not_compared(f"de.{name}", side, f"{found[0].name} has no column {name}")
            continue
        single = FLOAT32 if table[name].dtype == np.float32 else tolerance
        got = _column(sample.de, attribute)[rows, genes]
        for i, expected in enumerate(table[name]):
            key = f"{side}/{_entry(case, rows[i], genes[i])}"
            yield Record(f"de.{name}", key, float(expected), float(got[i]), *single)


def _entry(case: Case, row: int, gene: int) -> str:
    """Return the name of one entry of a differential-expression table."""
    return f"{case.names[row]}/{case.genes[gene]}"


def _column(de: DifferentialExpression, attribute: str) -> FloatArray:
    return np.broadcast_to(getattr(de, attribute), de.p.shape)


def _values(case: Case, real: Sample, pred: Sample) -> Iterator[Record]:
    entry = _Outcome.of(case, real, pred)
    doubt = _ill_conditioned(real, pred)
    yield from _per_perturbation("", case, entry, ("cell_eval", "per_perturbation"), doubt)
    yield from known_form("describe", "aggregate_describe", _summaries(case, entry, doubt))
    yield from known_form("baseline", "baseline", _baseline(case, real, entry, doubt))


def _summaries(case: Case, entry: _Outcome, doubt: Mapping[str, str]) -> Iterator[Record]:
    summaries = [aggregate.describe(values) for values in entry]
    names = "cell_eval", "aggregate_describe"
    yield from _absent(case, "describe", *names)
    for statistic, by_metric in (section(case.expected, *names) or {}).items():
        mine = _Numbers(*({m: s[m][statistic] if m in s else np.nan for m in FULL} for s in summaries))
        prefix = "describe.counts." if statistic in ("count", "null_count") else "describe."
        unclear = dict.fromkeys(entry.tied, _TIES) if statistic == "std" else {}
        yield from _records(prefix, statistic, by_metric, mine, {**doubt, **unclear})


class _Numbers(NamedTuple):
    """{metric: number}, and the least and the most that it can be where ties come in any order."""

    here: dict[str, float]
    least: dict[str, float]
    most: dict[str, float]


class _Outcome(NamedTuple):
    """{metric: values [P]}, and the least and the most that they can be where ties come in any order."""

    here: dict[str, FloatArray]
    least: dict[str, FloatArray]
    most: dict[str, FloatArray]

    @classmethod
    def of(cls, case: Case, real: Sample, pred: Sample, *metrics: Any) -> _Outcome:
        """Return the values of a prediction."""
        here = profile(real, pred, case.names, case.genes, *metrics)
        bounds = {
            name: discrimination_bounds(pred.delta, real.delta, case.names, case.genes, distance)
            for name, distance in DISCRIMINATION.items()
            if name in here
        }
        bounds |= {
            name: de_metrics.overlap_bounds(real.de, pred.de, k, of_predicted=of_predicted)
            for name, (k, of_predicted) in SHARED.items()
            if name in here
        }
        least, most = ({**here, **{name: b[i] for name, b in bounds.items()}} for i in (0, 1))
        return cls(dict(here), least, most)

    @property
    def tied(self) -> list[str]:
        """Return the metrics that depend on the order of ties."""
        return [m for m in self.here if (self.least[m] < self.most[m]).any()]

    def means(self) -> _Numbers:
        """Return the means over perturbations."""
        return _Numbers(*(_means(values) for values in self))


def _absent(case: Case, metric: str, *names: str) -> Iterator[Record]:
    if section(case.expected, *names) is None:
        yield not_compared(metric, names[-1], f"the case has no {'.'.join(names)}")


def _baseline(case: Case, real: Sample, entry: _Outcome, doubt: Mapping[str, str]) -> Iterator[Record]:
    """Yield the mean baseline and the scores of the entry against it."""
    name = "cell_eval_baseline"
    theirs = section(case.expected, name) or {}
    for part in ("vector", "mean"):
        yield from _absent(case, f"baseline.{part}", name, part)
    vector = case.mean_vector(real)
    for j, value in enumerate(theirs.get("vector", [])):
        yield _one("baseline.vector", str(case.genes[j]), value, float(vector[j]), FLOAT32)
    baseline = case.baseline(real)
    base = _Outcome.of(case, real, baseline)
    base_doubt = _ill_conditioned(real, baseline)
    yield from _per_perturbation("baseline.", case, base, (name, "per_perturbation"), base_doubt)
    base_means = base.means()
    yield from _records("baseline.", "mean", theirs.get("mean", {}), base_means, base_doubt)
    if base_means.here.get(CORRELATION, 0.0) > 1.0 - FLOAT32[0]:
        base_doubt = {**base_doubt, CORRELATION: _PERFECT}
    for key, metrics in (("cell_eval_score_vs_mean_baseline", FULL), ("cell_eval_score_vcc_profile", VCC)):
        yield from _absent(case, "score", key)
        if section(case.expected, key) is not None:
            made = _scores(case, (key, metrics), entry.means(), base_means, {**doubt, **base_doubt})
            yield from known_form("score", key, made)


def _scores(
    case: Case,
    of: tuple[str, Iterable[str]],
    means: _Numbers,
    base_means: _Numbers,
    doubt: Mapping[str, str],
) -> Iterator[Record]:
    """Yield the scores of the entry, `of` (name in the case, metrics), by the means of both sides."""
    key, metrics = of
    theirs = case.expected[key]
    given = section(case.expected, "cell_eval", "aggregate_describe", "mean") or {}
    base_given = section(case.expected, "cell_eval_baseline", "mean") or {}
    # The peer has no column of a metric that it cannot compute, as that of E-distances of one perturbation.
    listed = given or theirs
    means = _Numbers(*({m: v for m, v in each.items() if m in metrics and m in listed} for each in means))
    base_means = _Numbers(*(dict(each) for each in base_means))
    # The average contains metrics that are not compared: the peer's numbers of these are taken for it.
    taken = {*doubt} & listed.keys()
    taken |= {CLUSTERING} if listed.get(CLUSTERING) is not None else set()
    for name in taken if metrics is FULL else ():
        if name not in given or name not in base_given:
            doubt = {**doubt, AVERAGE: _NO_MEANS}
            continue
        for each in means:
            each[name] = number(given[name])
        for each in base_means:
            each[name] = number(base_given[name])
    # A score grows with the entry's mean, and falls with the baseline's.
    sides = ((0, 0), (1, 2), (2, 1))
    scores = _Numbers(*(aggregate.normalised_scores(means[i], base_means[j]) for i, j in sides))
    yield from _records("score.", key, theirs, scores, doubt)


def _ill_conditioned(real: Sample, pred: Sample) -> dict[str, str]:
    """Return {metric: reason} of the metrics whose values are rounding errors of the peer.

    E-distances of a constant prediction are equal; in the single precision of the peer they are not quite, so that
    it gives a correlation of rounding errors.
    """
    theirs, ours = (energy_distances(x.groups, x.control.distances()) for x in (real, pred))
    return {EDISTANCE: _NOISE} if np.isnan(pearson_of_edistances(theirs, ours)) else {}


def _means(values: Mapping[str, FloatArray]) -> dict[str, float]:
    return {name: summary["mean"] for name, summary in aggregate.describe(values).items()}


def _ceilings(case: Case) -> Iterator[Record]:
    theirs = case.expected["cell_eval"]
    corrected = {int(found[1]): theirs[key] for key in theirs if (found := _CEILINGS.fullmatch(key))}
    halves = {
        int(found[1] or min(corrected, default=0)): theirs[key]
        for key in theirs
        if (found := _HALVES.fullmatch(key))
    }
    for seed in sorted(corrected.keys() | halves.keys()):
        # AnnData makes categories of labels when it writes them, after which the peer draws in their order.
        orders = [case.categories, None] if case.categories else [None]
        given = halves.get(seed, {}), corrected.get(seed, {})
        yield from _best(_ceiling(case, seed, order, *given) for order in orders)


def _ceiling(
    case: Case,
    seed: int,
    order: Sequence[str] | None,
    halves: Mapping[str, Any],
    corrected: Mapping[str, Any],
) -> Iterator[Record]:
    """Yield the records of one split of the measured cells, by the peer's {metric: mean of the halves or ceiling}."""
    first, second, names = aggregate.disjoint_halves(case.labels, seed, order)
    halved = replace(case, names=names[names != case.expected["control"]])
    sides = [halved.sample(case.X[rows], case.labels[rows]) for rows in (first, second)]
    known = tuple(metric for metric in {**halves, **corrected} if metric in FULL)
    values = _Outcome.of(halved, sides[0], sides[1], known)
    doubt = _ill_conditioned(*sides) if EDISTANCE in known else {}
    yield from _records("ceiling.", "halves", halves, values.means(), doubt)
    ceilings = _Numbers(*(aggregate.split_half_ceiling(each) for each in values))
    yield from _records("ceiling.", "corrected", corrected, ceilings, doubt)


def _per_perturbation(
    prefix: str, case: Case, got: _Outcome, names: tuple[str, ...], doubt: Mapping[str, str]
) -> Iterator[Record]:
    """Yield the records of every perturbation; `names` lead to the peer's values."""
    form = f"{prefix}values"
    yield from _absent(case, form, *names)
    expected = section(case.expected, *names) or {}
    for i, name in enumerate(case.names.tolist()):
        if name in expected:
            mine = _Numbers(*({metric: float(values[i]) for metric, values in each.items()} for each in got))
            yield from known_form(form, name, _records(prefix, name, expected[name], mine, doubt))
        elif expected:
            yield not_compared(form, name, "the case has no values of this perturbation")
    for name in expected.keys() - set(case.names.tolist()):
        yield not_compared(form, name, "the case has no cells of this perturbation")


def _records(
    prefix: str, key: str, expected: Mapping[str, Any], got: _Numbers, doubt: Mapping[str, str]
) -> Iterator[Record]:
    """Yield the records of {metric: number}; those in `doubt` {metric: reason} are not compared."""
    here, least, most = got
    for metric, value in expected.items():
        if metric == CLUSTERING:
            yield not_compared(prefix + metric, key, _CLUSTERING_REASON)
        elif metric in doubt:
            yield not_compared(prefix + metric, key, doubt[metric])
        elif metric not in here:
            yield not_compared(prefix + metric, key, f"{UNKNOWN}: no metric of this name here")
        else:
            bounds = least[metric], most[metric]
            yield _one(prefix + metric, key, value, here[metric], _tolerance(prefix, metric), bounds)


def _one(
    metric: str,
    key: str,
    value: object,
    got: float,
    tolerance: tuple[float, float],
    bounds: tuple[float, float] | None = None,
) -> Record:
    """Return the record of one number; `bounds` are what it can be where the peer's order of ties is arbitrary."""

    def made(expected: float) -> Record:
        slack = tolerance[0] + tolerance[1] * abs(expected) + 1e-12
        low, high = bounds or (None, None)
        if low is None or high is None or not low - slack <= expected <= high + slack:
            low, high = None, None
        return Record(metric, key, expected, got, *tolerance, low=low, high=high)

    return compared(metric, key, value, made)


def _tolerance(prefix: str, metric: str) -> tuple[float, float]:
    if prefix == "describe.counts.":
        return EXACT
    if metric in SINGLE:
        return FLOAT32
    ranked = metric.startswith(("overlap_at", "precision_at", "discrimination", "de_nsig"))
    return EXACT if ranked and not prefix else FLOAT64
