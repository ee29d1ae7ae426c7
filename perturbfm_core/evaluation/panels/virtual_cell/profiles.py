"""Metrics of cell-eval by name, and their evaluation on observed and predicted cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.panels.virtual_cell import de_metrics, means
from perturbfm_core.evaluation.panels.virtual_cell.differential import (
    Controls,
    DifferentialExpression,
    differential_expression,
    log2_ratio,
    prepare_controls,
    single_precision_means,
)
from perturbfm_core.evaluation.panels.virtual_cell.edistance import (
    ControlDistances,
    energy_distances,
    literal_energy_distances,
)
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups, as_dense
from perturbfm_core.schema import FloatArray, StrArray

DEPair = Callable[[DifferentialExpression, DifferentialExpression], FloatArray | float]
MeanPair = Callable[[FloatArray, FloatArray], FloatArray]

ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class ControlCells:
    """Control cells [n, G] (CSR or dense, log1p), with results that are shared by all comparisons with them."""

    X: Any

    @cached_property
    def ranked(self) -> Controls:
        """Return the cells prepared for rank sums."""
        return prepare_controls(self.X)

    @cached_property
    def _within(self) -> list[float]:
        return []

    def distances(self) -> ControlDistances:
        """Return the cells prepared for distances; the mean distance among them is computed once."""
        out = ControlDistances(as_dense(self.X), within=self._within[0] if self._within else None)
        self._within[:] = [out.within]
        return out


@dataclass(frozen=True, eq=False)
class Sample:
    """Observed or predicted cells of every perturbation, with the controls that they are compared with.

    Attributes
    ----------
    groups
        Cells of each perturbation [P].
    control
        Controls of this side: the same object on both sides, or a model's own controls for predicted cells.
    literal
        Follow cell-eval's order of operations in the precision of the cells for means, fold changes and E-distances,
        and rank equal fold changes in the order of the genes. It decides values that are rounding noise, e.g. the
        E-distances of a constant prediction; slower and less accurate.
    known
        Its differential expression where that is known, as for groups with the same cells; None: computed when needed.
    """

    groups: CellGroups
    control: ControlCells
    literal: bool = False
    known: DifferentialExpression | None = None

    @cached_property
    def de(self) -> DifferentialExpression:
        """Return the differential expression against the controls."""
        out = self.known or differential_expression(self.groups, self.control.ranked)
        if not self.literal:
            return out
        target, control = single_precision_means(self.groups, self.control.X)
        return replace(
            out,
            lfc=log2_ratio(target, control),
            target_mean=target,
            control_mean=control,
            ties_in_order=True,
        )

    @cached_property
    def edistance(self) -> FloatArray:
        """Return [P], the E-distances from the controls."""
        if self.literal:
            return literal_energy_distances(self.groups, self.control.X)
        return energy_distances(self.groups, self.control.distances())

    @property
    def mean(self) -> FloatArray:
        """Return [P, G], mean expression."""
        return self._rounded(self.de.mean).astype(np.float64)

    @property
    def delta(self) -> FloatArray:
        """Return [P, G], mean expression minus that of the controls."""
        delta = self._rounded(self.de.mean) - self._rounded(self.control.ranked.mean)
        return np.asarray(delta, dtype=np.float64)

    def _rounded(self, mean: FloatArray) -> FloatArray:
        """Return means as they are or, if literal, as cell-eval keeps them: in the precision of the cells."""
        return mean.astype(self.control.X.dtype) if self.literal else mean


def _suffix(k: int | None) -> str:
    return "N" if k is None else str(k)


DE_METRICS: dict[str, DEPair] = {
    **{f"overlap_at_{_suffix(k)}": partial(de_metrics.overlap_at, k=k) for k in de_metrics.CUTOFFS},
    **{f"precision_at_{_suffix(k)}": partial(de_metrics.precision_at, k=k) for k in de_metrics.CUTOFFS},
    "de_spearman_sig": de_metrics.spearman_of_counts,
    "de_direction_match": de_metrics.direction_match,
    "de_spearman_lfc_sig": de_metrics.spearman_of_changes,
    "de_sig_genes_recall": de_metrics.recall,
    "de_nsig_counts_real": lambda real, pred: real.significant.sum(axis=1),
    "de_nsig_counts_pred": lambda real, pred: pred.significant.sum(axis=1),
    "pr_auc": lambda real, pred: de_metrics.areas(real, pred)[0],
    "roc_auc": lambda real, pred: de_metrics.areas(real, pred)[1],
}
# Metrics that count shared genes, with their cutoffs and whether these are limited by the predicted DE genes.
SHARED = {
    f"{name}_at_{_suffix(k)}": (k, of_predicted)
    for name, of_predicted in (("overlap", False), ("precision", True))
    for k in de_metrics.CUTOFFS
}
DELTA_METRICS: dict[str, MeanPair] = {
    "pearson_delta": means.pearson,
    "mse_delta": means.mse,
    "mae_delta": means.mae,
}
MEAN_METRICS: dict[str, MeanPair] = {"mse": means.mse, "mae": means.mae}
DISCRIMINATION = {f"discrimination_score_{d}": d for d in means.DISTANCES}
EDISTANCE = "pearson_edistance"

FULL = (*DE_METRICS, *DELTA_METRICS, *MEAN_METRICS, *DISCRIMINATION, EDISTANCE)
VCC = ("mae", "discrimination_score_l1", "overlap_at_N")
SCORED_BY_ZERO = ("mse", "mae", "mse_delta", "mae_delta")
NOT_SCORED = ("de_nsig_counts_real", "de_nsig_counts_pred")


def pearson_of_edistances(real: FloatArray, pred: FloatArray, rounding: float = ROUNDING) -> float:
    """Return the Pearson correlation over perturbations of observed and predicted E-distances.

    NaN for a single perturbation, and where one side is constant up to rounding.

    Parameters
    ----------
    real, pred
        Observed and predicted E-distances from the controls [P].
    rounding
        A side is constant if its range is at most this share of its largest value.
    """
    if len(real) < 2 or any(np.ptp(x) <= rounding * np.abs(x).max() for x in (real, pred)):
        return np.nan
    return float(rowwise.pearson(pred[None, :], real[None, :])[0])


def profile(
    real: Sample, pred: Sample, names: StrArray, genes: StrArray, metrics: Sequence[str] = FULL
) -> dict[str, FloatArray]:
    """Return {metric: float64 [P]}; a metric that is one number for all perturbations is repeated.

    Parameters
    ----------
    real, pred
        Observed and predicted cells of the same perturbations, in the same order.
    names, genes
        Names of perturbations [P] and genes [G]; a gene with the name of a perturbation is left out of that
        perturbation's discrimination scores.
    metrics
        Names of metrics, from `FULL` or `VCC`.
    """
    return {name: np.broadcast_to(_value(name, real, pred, names, genes), len(names)) for name in metrics}


def _value(name: str, real: Sample, pred: Sample, names: StrArray, genes: StrArray) -> FloatArray | float:
    if name in DE_METRICS:
        return DE_METRICS[name](real.de, pred.de)
    if name in MEAN_METRICS:
        return MEAN_METRICS[name](pred.mean, real.mean)
    if name in DELTA_METRICS:
        return DELTA_METRICS[name](pred.delta, real.delta)
    if name in DISCRIMINATION:
        return means.discrimination(pred.delta, real.delta, names, genes, DISCRIMINATION[name])
    rounding = 0.0 if real.literal or pred.literal else ROUNDING
    return pearson_of_edistances(real.edistance, pred.edistance, rounding)
