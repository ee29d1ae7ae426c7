"""Panel `uncertainty`: calibration of the predicted variance and of the prediction intervals.

Metrics named ``conformal_*`` are about the calibrated intervals that come with a prediction, all others about the
Gaussian with the predicted mean and variance. Curves are in ``calibration.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import MetricDirection, SetFunction, SetStatistic, metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.uncertainty import coverage, gaussian, novelty, selective
from perturbfm_core.evaluation.panels.uncertainty.report import calibration_report
from perturbfm_core.schema import COVERAGE_LEVELS, FloatArray, IntArray

PANEL = "uncertainty"
PIT_BINS = 20
_OWN = "PerturbFM"
_NO_INTERVAL = "the prediction has no calibrated interval of this level"
_NO_GENES = "no gene changes beyond sampling noise, or the sampling variance is unknown"
_FEW = "fewer than 3 conditions, or their errors do not differ"
_NO_NOVELTY = "fewer than 5 perturbations on a side: held-out conditions hardly differ in novelty"


# ---- one value per condition --------------------------------------------------------------------------------


def _undefined(c: Comparison) -> FloatArray:
    return np.full(len(c), np.nan)


def covered(c: Comparison, level: float, *, conformal: bool, significant: bool = False) -> FloatArray:
    """Return [C], the share of genes whose observed delta is inside its interval; NaN without an interval or gene.

    Parameters
    ----------
    c
        The comparison.
    level
        Nominal coverage of the interval, between 0 and 1.
    conformal
        Use the calibrated interval of the prediction instead of the Gaussian one.
    significant
        Use only the genes that change significantly in the condition.
    """

    def compute() -> FloatArray:
        half = coverage.interval_half_width(c, level) if conformal else coverage.gaussian_half_width(c, level)
        if half is None:
            return _undefined(c)
        return coverage.inside(c, half, coverage.significant(c) if significant else None)

    return c.once(f"uncertainty.covered.{level:g}.{conformal}.{significant}", compute)


def width(c: Comparison, level: float) -> FloatArray:
    """Return [C], the mean width of the calibrated interval over genes."""
    half = coverage.interval_half_width(c, level)
    return _undefined(c) if half is None else np.asarray(2 * half.mean(axis=1))


def _register_coverage(
    stem: str, text: str, level: float, undefined: str, *, conformal: bool, significant: bool = False
) -> None:
    metric(
        PANEL,
        f"{stem}_{level:g}",
        text,
        direction="target",
        target=level,
        bounds=(0.0, 1.0),
        version="1",
        source=_OWN,
        undefined=undefined,
        needs="variance",
    )(lambda c: covered(c, level, conformal=conformal, significant=significant))


def _register_level(level: float) -> None:
    gaussian_interval = f"central {level:.0%} Gaussian interval"
    calibrated_interval = f"calibrated {level:.0%} interval"
    share = "Share of genes whose observed delta lies in the"
    de = "Share of significantly changed genes in the"
    _register_coverage("coverage", f"{share} {gaussian_interval}.", level, "never undefined", conformal=False)
    _register_coverage(
        "conformal_coverage", f"{share} {calibrated_interval}.", level, _NO_INTERVAL, conformal=True
    )
    _register_coverage(
        "coverage_de", f"{de} {gaussian_interval}.", level, _NO_GENES, conformal=False, significant=True
    )
    _register_coverage(
        "conformal_coverage_de",
        f"{de} {calibrated_interval}.",
        level,
        f"{_NO_INTERVAL}, or {_NO_GENES}",
        conformal=True,
        significant=True,
    )
    metric(
        PANEL,
        f"conformal_width_{level:g}",
        f"Mean over genes of the width of the {calibrated_interval}, in log1p units.",
        direction="min",
        bounds=(0.0, None),
        version="1",
        source=_OWN,
        undefined=_NO_INTERVAL,
        needs="variance",
    )(lambda c: width(c, level))


for _level in COVERAGE_LEVELS:
    _register_level(_level)


@metric(
    PANEL,
    "nll",
    direction="min",
    bounds=(None, None),
    version="1",
    source=_OWN,
    undefined="never undefined",
    needs="variance",
)
def nll(c: Comparison) -> FloatArray:
    """Mean over genes of the Gaussian negative log likelihood of the observed delta, in nats; a variance near 0 pays up to 13 for each gene without change."""
    return np.asarray(gaussian.nll(c.observed, c.predicted, c.predicted_var).mean(axis=1))


@metric(
    PANEL,
    "crps",
    direction="min",
    bounds=(0.0, None),
    version="1",
    source="Gneiting and Raftery 2007",
    undefined="never undefined",
    needs="variance",
)
def crps(c: Comparison) -> FloatArray:
    """Mean over genes of the Gaussian continuous ranked probability score, in log1p units."""
    return np.asarray(gaussian.crps(c.observed, c.predicted, c.predicted_var).mean(axis=1))


@metric(
    PANEL,
    "interval_width",
    direction="min",
    bounds=(0.0, None),
    version="1",
    source=_OWN,
    undefined="never undefined",
    needs="variance",
)
def interval_width(c: Comparison) -> FloatArray:
    """Mean over genes of the width of the central 90 % Gaussian interval, in log1p units."""
    return np.asarray(2 * coverage.gaussian_half_width(c, 0.9).mean(axis=1))


@metric(
    PANEL,
    "spearman_genes",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_OWN,
    undefined="predicted variance or error is constant over genes",
    needs="variance",
)
def spearman_genes(c: Comparison) -> FloatArray:
    """Rank correlation over genes of absolute error and predicted standard deviation."""
    return rowwise.spearman(np.abs(c.observed - c.predicted), c.predicted_var)


# ---- one value for several conditions together ----------------------------------------------------------------


def risk(c: Comparison) -> FloatArray:
    """Return [C], the root mean squared error of each condition."""
    return c.once("uncertainty.risk", lambda: np.sqrt(((c.observed - c.predicted) ** 2).mean(axis=1)))


def _set_metric(
    name: str,
    text: str | None = None,
    *,
    direction: MetricDirection = "min",
    bounds: tuple[float | None, float | None] = (0.0, 1.0),
    undefined: str,
    source: str = _OWN,
) -> Callable[[SetFunction], SetFunction]:
    return metric(
        PANEL,
        name,
        text,
        direction=direction,
        bounds=bounds,
        version="1",
        source=source,
        undefined=undefined,
        needs="variance",
        aggregate="set",
    )


def _by_sigma(function: Callable[[FloatArray, FloatArray], float]) -> SetFunction:
    """Return a function of errors and predicted standard deviations, as a set metric."""

    def statistic(c: Comparison) -> SetStatistic:
        error, sigma = risk(c), novelty.sigma(c)
        return lambda positions: function(error[positions], sigma[positions])

    return statistic


_set_metric(
    "aurc",
    "Mean error of the least uncertain conditions, averaged over how many are kept.",
    bounds=(0.0, None),
    undefined="fewer than 2 conditions",
    source="Geifman et al. 2019",
)(_by_sigma(selective.aurc))
_set_metric(
    "excess_aurc",
    "Area under the risk-coverage curve above the oracle's, as a share of what a random order has above it.",
    bounds=(0.0, None),
    undefined=_FEW,
    source="PerturbFM, after Geifman et al. 2019",
)(_by_sigma(selective.excess_aurc))
_set_metric(
    "error_detection_auroc",
    "AUROC of the predicted standard deviation for the third of the conditions with the largest error.",
    direction="max",
    undefined=_FEW,
)(_by_sigma(selective.error_detection))
_set_metric(
    "spearman_conditions",
    "Rank correlation over conditions of error and predicted standard deviation.",
    direction="max",
    bounds=(-1.0, 1.0),
    undefined="fewer than 3 conditions, or error or predicted variance does not differ between them",
)(_by_sigma(selective.spearman))


def _largest_gap(*, conformal: bool, terciles: bool = False) -> SetFunction:
    """Return the largest gap of mean coverage from its level, overall or in the worst effect tercile, as a set metric."""

    def statistic(c: Comparison) -> SetStatistic:
        values = [covered(c, level, conformal=conformal) for level in COVERAGE_LEVELS]

        def largest(positions: IntArray) -> float:
            if not terciles:
                return coverage.gap(values, COVERAGE_LEVELS, positions)
            tercile = coverage.predicted_effect(c, positions)
            names = np.asarray([tercile.get(str(k), "") for k in c.conditions.index[positions]])
            gaps = [
                coverage.gap(values, COVERAGE_LEVELS, positions[names == g])
                for g in sorted(set(tercile.values()))
            ]
            return max(gaps) if gaps else float("nan")

        return largest

    return statistic


_set_metric(
    "coverage_gap",
    "Largest distance of mean Gaussian coverage from its level, over levels.",
    undefined="never undefined",
)(_largest_gap(conformal=False))
_set_metric(
    "conformal_coverage_gap",
    "Largest distance of mean calibrated coverage from its level, over levels.",
    undefined=_NO_INTERVAL,
)(_largest_gap(conformal=True))
_set_metric(
    "conformal_coverage_gap_by_effect",
    "The same in the worst tercile of predicted effect size.",
    undefined=f"{_NO_INTERVAL}; or predicted effect sizes do not differ, or of fewer than 3 conditions",
)(_largest_gap(conformal=True, terciles=True))


@_set_metric("pit_deviation", undefined="never undefined")
def pit_deviation(c: Comparison) -> SetStatistic:
    """Total variation distance of the histogram of Gaussian PIT values (20 bins) from uniform."""
    shares = c.once("uncertainty.pit", lambda: pit_shares(c))
    return lambda positions: float(0.5 * np.abs(shares[positions].mean(axis=0) - 1 / PIT_BINS).sum())


def pit_shares(c: Comparison) -> FloatArray:
    """Return [C, 20], the share of each condition's PIT values in equal bins."""
    return gaussian.histogram(gaussian.pit(c.observed, c.predicted, c.predicted_var), PIT_BINS)


def _novelty_auroc(score: Callable[[Comparison], FloatArray | None]) -> SetFunction:
    """Return the AUROC of a score for the more novel held-out conditions, as a set metric."""

    def statistic(c: Comparison) -> SetStatistic:
        _, label = novelty.labels(c)
        found = score(c)

        def area(positions: IntArray) -> float:
            if found is None or not novelty.enough(c, label, positions):
                return float("nan")
            mine = positions[np.isfinite(label[positions])]
            return selective.auroc(label[mine] > 0, found[mine])

        return area

    return statistic


_set_metric(
    "ood_auroc",
    "AUROC of the predicted (epistemic) uncertainty for the more novel of the held-out conditions.",
    direction="max",
    undefined=_NO_NOVELTY,
)(_novelty_auroc(novelty.model_score))
# For comparison with `ood_auroc` only, so that they have no best value.
_set_metric(
    "ood_auroc_membership",
    "What a look-up table reaches: AUROC of the number of parts that train lacks, for comparison.",
    direction="target",
    undefined=_NO_NOVELTY,
)(_novelty_auroc(novelty.lacking))
_set_metric(
    "ood_auroc_distance",
    "What the distance of the predicted delta to the nearest train delta reaches, for comparison.",
    direction="target",
    undefined=_NO_NOVELTY,
)(_novelty_auroc(novelty.distance))


def _summary(values: Mapping[str, float | None], _: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the panel's values as ``metrics.json`` groups them."""
    selective = ("aurc", "excess_aurc", "error_detection_auroc")
    return {
        **{name: values.get(name) for name in ("nll", "crps", "ood_auroc")},
        "risk_coverage": {name: values.get(name) for name in selective},
        "conformal": {k: v for k, v in values.items() if k.startswith("conformal_")},
    }


add_panel(PANEL, source=_OWN, headline="nll", order=100, summary=_summary, report=calibration_report)
