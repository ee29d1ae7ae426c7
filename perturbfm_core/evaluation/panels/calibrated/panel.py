"""Panel `calibrated`: scores on a scale from a mean prediction (0) to a replicate of the experiment (1).

Raw metrics are computed against the observed mean. Calibration needs a replicate: the test cells of each condition
are cut in two fixed halves. The first is the truth of all calibrated scores, the second is the technical duplicate
from which the positive control is interpolated. All values are deltas, so that the mean of perturbed conditions is
the train mean added to the condition's own control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison, TrainSide
from perturbfm_core.evaluation.metric import NO_TARGET, Applies, MetricFunction, metric, target_measured
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.calibrated import calibration
from perturbfm_core.evaluation.panels.calibrated.halves import Halves, halves_of
from perturbfm_core.evaluation.panels.calibrated.scores import (
    KINDS,
    Kind,
    Sides,
    all_scores,
    of_flat_predictions,
)
from perturbfm_core.evaluation.singles import Singles, parts_of
from perturbfm_core.schema import BoolArray, FloatArray

PANEL = "calibrated"
# WMSE keeps the perturbed genes: without them, doubling a prediction that is shrunk too much would improve the score.
HEADLINE = ("wmse", "pearson_centered_no_target")
_SOURCE = "Mejia et al. 2025 (arXiv 2506.22641)"
_RANGE_SOURCE = "Miller et al. 2025 (bioRxiv 10.1101/2025.10.20.683304)"
_OWN = "PerturbFM, after Miller et al. 2025"
_NARROW = (
    "dynamic range fraction below 0.1, or the prediction has no value: duplicates tell no more than the mean"
)
_HALVES = "one of the controls has no value"

Scores = dict[str, FloatArray]


@dataclass(frozen=True, eq=False)
class Controls:
    """Scores of the controls on the first half, by metric.

    Attributes
    ----------
    negative, positive, duplicate
        {metric: float64 [C]} of the negative control, of the positive control (interpolated duplicate), and of the
        mean of the second half.
    saturation
        float64 [C], share of the range that simple baselines cover (see `calibration.saturation`).
    """

    negative: Scores
    positive: Scores
    duplicate: Scores
    saturation: FloatArray


def _halves(c: Comparison) -> Halves | None:
    """Return the halves of the observed cells, None without cells; computed once for a split."""

    def compute() -> Halves | None:
        if c.cells is None or c.control is None:
            return None
        return halves_of(c.cells, c.control, c.contexts, c.genes)

    return c.once_per_observed("calibrated.halves", compute)


def _sides(c: Comparison, truth: FloatArray, halves: Halves | None) -> Sides:
    return Sides(
        truth=truth,
        control=np.zeros_like(truth),
        center=np.broadcast_to(c.train_mean, truth.shape),
        contexts=c.contexts,
        weights=None if halves is None else halves.weights,
        degs=None if halves is None else halves.degs,
        keep=c.without_target,
        offset=c.control,
        as_peer=False,
    )


def _raw(c: Comparison) -> Scores:
    return c.once("calibrated.raw", lambda: _of_prediction(c, _sides(c, c.observed, _halves(c))))


def _of_prediction(c: Comparison, sides: Sides) -> Scores:
    return of_flat_predictions(sides, c.predicted, all_scores(sides, c.predicted))


def _controls(c: Comparison) -> Controls:
    """Return the scores of negative and positive controls; computed once for a split."""

    def compute() -> Controls:
        halves = _halves(c)
        if halves is None:
            none = dict.fromkeys(KINDS, np.full(len(c), np.nan))
            return Controls(none, none, none, np.full(len(c), np.nan))
        sides = _sides(c, halves.truth, halves)
        lacking: BoolArray = np.asarray(np.isnan(halves.duplicate).any(axis=1), dtype=np.bool_)
        duplicate = np.where(lacking[:, None], 0.0, halves.duplicate)
        positive = _unless(lacking, sides, calibration.interpolated(duplicate, c.train_mean, halves.p))
        train = all_scores(sides, np.array(sides.center))
        control = all_scores(sides, np.zeros_like(sides.truth))
        negative = {name: control[name] if kind.centered else train[name] for name, kind in KINDS.items()}
        baselines = [train["wmse"]]
        if c.train is not None:
            for guess in _simple(c, c.train):
                known = np.asarray(np.isfinite(guess).all(axis=1), dtype=np.bool_)
                scored = all_scores(sides, np.where(known[:, None], guess, 0.0))["wmse"]
                baselines.append(np.where(known, scored, np.nan))
        share = calibration.saturation(control["wmse"], np.vstack(baselines), positive["wmse"])
        return Controls(negative, positive, _unless(lacking, sides, duplicate), share)

    return c.once_per_observed("calibrated.controls", compute)


def _unless(lacking: BoolArray, sides: Sides, predicted: FloatArray) -> Scores:
    scores = all_scores(sides, predicted)
    return {name: np.where(lacking, np.nan, value) for name, value in scores.items()}


def _simple(c: Comparison, train: TrainSide) -> tuple[FloatArray, FloatArray]:
    """Return the deltas [C, G] of the matching mean and of the sum of singles (NaN where train lacks a part)."""
    singles = Singles(train.conditions)
    matching, additive = np.empty(c.observed.shape), np.empty(c.observed.shape)
    missing = np.full(c.observed.shape[1], np.nan)
    means: dict[tuple[int, ...], FloatArray] = {}

    def mean_of(rows: list[int], fallback: FloatArray) -> FloatArray:
        if not rows:
            return fallback
        key = tuple(rows)
        if key not in means:
            means[key] = train.delta[rows].mean(axis=0)
        return means[key]

    for i, (name, parts) in enumerate(zip(c.contexts, parts_of(c.conditions), strict=True)):
        context = str(name)
        guesses, terms = [], []
        for part in parts:
            # A perturbation that the context lacks is taken from the other contexts.
            known = singles.rows(part, context) or singles.rows(part)
            near = singles.rows(part, context) or singles.rows(part, context, any_dose=True)
            guesses.append(mean_of(near or known or singles.rows(part, any_dose=True), c.train_mean))
            terms.append(mean_of(known, missing))
        matching[i] = np.mean(guesses, axis=0) if parts else c.train_mean
        # The mean over the parts times their number is their sum.
        additive[i] = np.mean(terms, axis=0) * len(parts) if parts else missing
    return matching, additive


def _entry(c: Comparison) -> Scores:
    """Return the scores of the prediction on the first half."""

    def compute() -> Scores:
        halves = _halves(c)
        if halves is None:
            return dict.fromkeys(KINDS, np.full(len(c), np.nan))
        return _of_prediction(c, _sides(c, halves.truth, halves))

    return c.once("calibrated.entry", compute)


def _parts(c: Comparison, name: str) -> tuple[FloatArray, FloatArray]:
    controls = _controls(c)
    return calibration.calibrated_parts(
        name, _entry(c)[name], controls.negative[name], controls.positive[name]
    )


def _applies(name: str) -> Applies | None:
    """Return where a metric applies: without perturbed genes only where one is measured."""
    return target_measured if name.endswith("_no_target") else None


def _register_raw(name: str, kind: Kind) -> None:
    metric(
        PANEL,
        name,
        kind.description,
        direction=kind.direction,
        bounds=(kind.low, 1.0 if kind.direction == "max" else None),
        version="1",
        source=_SOURCE,
        undefined=kind.undefined,
        needs="cells" if kind.needs_cells else "conditions",
        applies=_applies(name),
        inapplicable=NO_TARGET,
    )(lambda c: _raw(c)[name])


def _register_range(name: str) -> None:
    text = f"Dynamic range fraction of {name}: from negative to positive control on the way to perfection."

    @describe(f"drf_{name}", (-1.0, 1.0), _RANGE_SOURCE, _HALVES, text)
    def fraction(c: Comparison) -> FloatArray:
        controls = _controls(c)
        return calibration.dynamic_range(name, controls.negative[name], controls.positive[name])


def describe(
    name: str,
    bounds: tuple[float | None, float | None],
    source: str,
    undefined: str,
    description: str | None = None,
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a metric that describes the data: the same for every prediction, so without a best value.

    Parameters
    ----------
    name
        Name of the metric in this panel.
    bounds
        Smallest and largest possible value, None for unbounded.
    source
        Paper or project that defines it.
    undefined
        Why a value can be NaN.
    description
        One line that says what it measures; by default the first line of the function's docstring.
    """
    return metric(
        PANEL,
        name,
        description,
        direction="target",
        bounds=bounds,
        version="1",
        source=source,
        undefined=undefined,
        needs="cells",
        applies=_applies(name),
        inapplicable=NO_TARGET,
    )


def saturation_strata(c: Comparison) -> dict[str, dict[str, str]]:
    """Return {"saturation": {condition: ``resistant`` or ``saturated``}}, by how much simple baselines cover."""
    labels = calibration.saturation_stratum(_controls(c).saturation)
    return {"saturation": {str(k): v for k, v in zip(c.conditions.index, labels, strict=True) if v}}


@metric(
    PANEL,
    "headline",
    direction="max",
    bounds=(None, None),
    version="1",
    source=_OWN,
    undefined=_NARROW,
    needs="cells",
    aggregate="ratio",
    ratio_of=tuple((f"calibrated_{n}_gain", f"calibrated_{n}_range") for n in HEADLINE),
)
def headline(c: Comparison) -> tuple[FloatArray, FloatArray]:
    """Mean of the calibrated WMSE and the calibrated centred Pearson without the perturbed genes.

    0 at the negative controls, 1 at the interpolated duplicate, signed and unclipped. A group is the mean of
    its two ratios of means.
    """
    above, below = zip(*(_parts(c, name) for name in HEADLINE), strict=True)
    return np.stack(above, axis=1), np.stack(below, axis=1)


def _register_calibrated(name: str) -> None:
    metric(
        PANEL,
        f"calibrated_{name}",
        f"Calibrated {name}: 0 at the negative control, 1 at the interpolated duplicate, unclipped.",
        direction="max",
        bounds=(None, None),
        version="1",
        source=_RANGE_SOURCE,
        undefined=_NARROW,
        needs="cells",
        aggregate="ratio",
        ratio_of=((f"calibrated_{name}_gain", f"calibrated_{name}_range"),),
        applies=_applies(name),
        inapplicable=NO_TARGET,
    )(lambda c: _parts(c, name))


def _register_terms(name: str) -> None:
    """Register numerator and denominator, so that the ratio of means follows for any group of conditions."""
    metric(
        PANEL,
        f"calibrated_{name}_gain",
        f"Numerator of calibrated {name}: gain on the negative control.",
        direction="max",
        bounds=(None, None),
        version="1",
        source=_OWN,
        undefined=_NARROW,
        needs="cells",
    )(lambda c: _parts(c, name)[0])
    text = f"Denominator of calibrated {name}: gain of the positive on the negative control."
    describe(f"calibrated_{name}_range", (0.0, None), _OWN, _NARROW, text)(lambda c: _parts(c, name)[1])


def _register_ceiling(name: str, *, halves: bool) -> None:
    how = "the second half of the cells" if halves else "a duplicate of full size (Spearman-Brown)"
    text = f"Split-half ceiling of {name}: the score of {how}, with the same controls."

    @describe(f"ceiling_{name}", (0.0, None if halves else 1.0), _OWN, _HALVES, text)
    def ceiling(c: Comparison) -> FloatArray:
        value = _controls(c).duplicate[name]
        return value if halves else calibration.duplicated(value)


for _name in HEADLINE:
    _register_calibrated(_name)
for _name, _kind in KINDS.items():
    _register_raw(_name, _kind)
for _name in KINDS:
    if _name not in HEADLINE:
        _register_calibrated(_name)
for _name in KINDS:
    _register_terms(_name)
for _name in KINDS:
    _register_range(_name)
_register_ceiling("wmse", halves=True)
for _name in ("pearson_deltactrl", "pearson_deltapert", "pearson_centered_no_target"):
    _register_ceiling(_name, halves=False)


@describe(
    "baseline_saturation", (0.0, None), "openreview U5Gq071xcI", "no range between control mean and duplicate"
)
def baseline_saturation(c: Comparison) -> FloatArray:
    """Share of the WMSE range from control mean to positive control that the best simple baseline covers.

    Baselines: control mean, train mean, matching mean, sum of singles. Below one half a condition is
    resistant, else saturated.
    """
    return _controls(c).saturation


def _collapse(c: Comparison) -> tuple[FloatArray, FloatArray]:
    return c.once("calibrated.collapse", lambda: calibration.collapse(c.observed, c.predicted, c.contexts))


@metric(
    PANEL,
    "variance_ratio",
    direction="target",
    target=1.0,
    bounds=(0.0, None),
    version="1",
    source=_SOURCE,
    undefined="only one condition in this context is tested, or its conditions do not differ",
)
def variance_ratio(c: Comparison) -> FloatArray:
    """Variance between predicted conditions of the context over that of the observed: 0 is mode collapse."""
    return _collapse(c)[0]


@metric(
    PANEL,
    "effective_rank_ratio",
    direction="target",
    target=1.0,
    bounds=(0.0, None),
    version="1",
    source=_SOURCE,
    undefined="only one condition in this context is tested, or its conditions do not differ",
)
def effective_rank_ratio(c: Comparison) -> FloatArray:
    """Effective rank of the context's predicted deltas over that of the observed: near 0 is mode collapse."""
    return _collapse(c)[1]


add_panel(
    PANEL, source=f"{_SOURCE}; {_RANGE_SOURCE}", headline="headline", order=70, strata=saturation_strata
)
