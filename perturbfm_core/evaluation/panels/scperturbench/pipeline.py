"""scPerturBench's two evaluation pipelines, from groups of cells to one number.

`context` evaluates generalisation over cellular contexts, `perturbation` over genetic or chemical perturbations. They
differ in the treatment of missing genes, of cells with NaN and of empty groups. Precision and orders of summation are
those of scPerturBench, because rounding decides some of its numbers: the correlation of a delta that is zero up to
rounding, and the divergence of a constant gene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.scperturbench import cellwise, pseudobulk
from perturbfm_core.evaluation.panels.scperturbench.sinkhorn import regularised_cost
from perturbfm_core.schema import FloatArray, IntArray, StrArray

Pipeline = Literal["context", "perturbation"]
SUBSAMPLE_SEED = 42
SUBSAMPLE_CELLS = 2000
# These metrics use the subsample of cells, all others use all cells.
SUBSAMPLED = ("edistance", "sym_kldiv", "wasserstein")
METRICS = ("pearson_distance", *pseudobulk.PROFILES, *SUBSAMPLED)


@dataclass(frozen=True, eq=False)
class Groups:
    """The cells of one evaluation.

    Attributes
    ----------
    imputed, stimulated, control
        Predicted, true and control cells, float [n, G] each, log1p units.
    genes
        Names [G].
    """

    imputed: FloatArray
    stimulated: FloatArray
    control: FloatArray
    genes: StrArray

    def map(self, function: Callable[[FloatArray], FloatArray], genes: StrArray) -> Groups:
        """Return the groups with their cells changed, on `genes`."""
        return Groups(function(self.imputed), function(self.stimulated), function(self.control), genes)


def prepare(groups: Groups, genes: Sequence[str], pipeline: Pipeline) -> Groups | None:
    """Return the groups on some genes, with cells that hold NaN replaced; None if there is nothing to score.

    Parameters
    ----------
    groups
        All cells and genes.
    genes
        The subset, in the order of the DEG table.
    pipeline
        ``context``: cells with NaN are repaired on all genes, and every gene of the subset must exist.
        ``perturbation``: genes that do not exist are left out, cells are repaired on the subset, and None is
        returned without true or without predicted cells.

    Raises
    ------
    MetricError
        If a gene of the subset is missing in the context pipeline.
    """
    position = {str(g): i for i, g in enumerate(groups.genes)}
    missing = [g for g in genes if g not in position]
    if pipeline == "perturbation":
        if not len(groups.imputed) or not len(groups.stimulated):
            return None
        return repair_nan(_select(groups, [position[g] for g in genes if g in position]))
    if missing:
        msg = f"the cells lack {len(missing)} of {len(genes)} genes, e.g. {missing[:3]}; the context pipeline needs all"
        raise MetricError(msg)
    return _select(repair_nan(groups), [position[g] for g in genes])


def _select(groups: Groups, columns: Sequence[int]) -> Groups:
    idx = np.asarray(columns, dtype=np.int64)
    return groups.map(lambda X: np.ascontiguousarray(X[:, idx]), groups.genes[idx])


def repair_nan(groups: Groups) -> Groups:
    """Return the groups with every cell that has a NaN replaced, in all genes, by the mean of the control cells."""
    if not any(np.isnan(X).any() for X in (groups.imputed, groups.stimulated, groups.control)):
        return groups
    mean = groups.control.mean(axis=0)

    def repaired(X: FloatArray) -> FloatArray:
        return np.where(np.isnan(X).any(axis=1, keepdims=True), mean, X).astype(X.dtype)

    return groups.map(repaired, groups.genes)


def subsample_rows(*sizes: int) -> list[IntArray]:
    """Return the rows to keep of groups of the given sizes: imputed, stimulated and control, in this order.

    A group of more than 2,000 cells is replaced by 2,000 of them in the order drawn; smaller groups are kept and use
    no random numbers. One generator with seed 42 is used for all groups, as in scPerturBench.
    """
    if max(sizes) <= SUBSAMPLE_CELLS:
        return [np.arange(n) for n in sizes]
    # scPerturBench uses numpy's legacy generator, whose numbers differ from those of `default_rng`.
    rng = np.random.RandomState(SUBSAMPLE_SEED)
    return [
        rng.choice(n, SUBSAMPLE_CELLS, replace=False) if n > SUBSAMPLE_CELLS else np.arange(n) for n in sizes
    ]


def score(groups: Groups, metric: str) -> float:
    """Return one metric of prepared groups, not rounded.

    Raises
    ------
    MetricError
        If scPerturBench has no metric of that name.
    """
    if metric == "pearson_distance":
        # The mean of differences, not the difference of means: they differ by rounding.
        c = groups.control.mean(axis=0)
        S, P = ((X - c).mean(axis=0) for X in (groups.stimulated, groups.imputed))
        return float(pseudobulk.pearson_distance(S, P))
    if metric in pseudobulk.PROFILES:
        S, P = groups.stimulated.mean(axis=0), groups.imputed.mean(axis=0)
        found = float(pseudobulk.PROFILES[metric](S, P))
        # A profile of zeros has no direction; scPerturBench's distance to it is 0.
        zero = metric == "cosine_distance" and not (S.any() and P.any())
        return 0.0 if zero else found
    if metric not in SUBSAMPLED:
        msg = f"scPerturBench has no metric {metric!r}; known: {', '.join(METRICS)}"
        raise MetricError(msg)
    rows = subsample_rows(len(groups.imputed), len(groups.stimulated))
    P, S = groups.imputed[rows[0]], groups.stimulated[rows[1]]
    if metric == "sym_kldiv":
        return cellwise.sym_kldiv(cellwise.spread(S), cellwise.spread(P))
    S, P = S.astype(np.float64), P.astype(np.float64)
    if metric == "wasserstein":
        return regularised_cost(cellwise.squared_distances(S, P)).cost
    return cellwise.edistance(
        *(cellwise.mean_distance(cellwise.squared_distances(X, Y)) for X, Y in ((S, P), (S, S), (P, P)))
    )


def rounded(value: float, metric: str) -> float:
    """Return a value rounded as by scPerturBench: to 4 decimals, for `sym_kldiv` before the logarithm."""
    if metric == "sym_kldiv":
        return float(np.log2(round(2.0**value - 1.0, 4) + 1.0))
    return round(value, 4)
