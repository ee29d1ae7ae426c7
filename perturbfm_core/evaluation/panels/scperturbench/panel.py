"""Panel `scperturbench`: the metrics of scPerturBench on its subsets of differentially expressed genes.

Subsets are the first 20, 50, 100 and 5000 genes (all, if there are fewer) of Welch's t-test of the condition's
true cells against all control cells of its context; a gene that does not differ at all is in no smaller subset, and
genes that differ equally are taken by name. Values are raw: neither rounded nor scaled between methods.
Data sets have no missing values and predictions are finite, so scPerturBench's repair of missing values is not
needed. Means are in double precision, so that the order of cells does not matter; they differ from those of
scPerturBench by its single-precision rounding. Distances among cells are in double precision up to 2e8 multiplications
a pair, and above it in single precision, to about 1e-6 of the mean distance (see `single_distances`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from threadpoolctl import ThreadpoolController

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import Comparison, without_rounding
from perturbfm_core.evaluation.metric import MetricFunction, Places, metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.scperturbench import pseudobulk
from perturbfm_core.evaluation.panels.scperturbench.degs import TOPS
from perturbfm_core.evaluation.panels.scperturbench.sides import TRANSPORT_TOPS, Pair, TrueSides, pair
from perturbfm_core.schema import FloatArray, IntArray

PANEL = "scperturbench"
_SOURCE = "scPerturBench (bm2-lab/scPerturBench), pertpy 0.7"
_NO_TEST = "fewer than two true or control cells to choose genes by, or no gene differs"
# Undefined where a mean is constant over genes.
_RELATIVE = ("spearman_distance", "cosine_distance", "r2_distance")

add_panel(PANEL, source=_SOURCE, headline=f"pearson_distance_top{max(TOPS)}", order=20)

Bounds = tuple[float | None, float | None]
Values = dict[str, FloatArray]


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _values(c: Comparison) -> Values:
    """Return every metric of the panel, float64 [C] each."""
    return c.once("scperturbench.values", lambda: _compute(c))


def _compute(c: Comparison) -> Values:
    cells = c.cells
    if cells is None:
        return {}
    sides = c.once_per_observed("scperturbench.truth", lambda: TrueSides(c.genes))
    # One thread: sharing blocks of some hundred cells among threads takes longer than multiplying them.
    with _threads().limit(limits=1, user_api="blas"):
        pairs = [pair(cells, i, sides) for i in range(len(cells))]
    control = np.stack([sides.control(cells, context).mean for context in cells.contexts])
    genes = len(c.genes)
    out: Values = {}
    for top in TOPS:
        out |= {f"{name}_top{top}": x for name, x in _profiles(c, pairs, control, top).items()}
        k = min(top, genes)
        for name in ("edistance", "sym_kldiv", "wasserstein"):
            values = [getattr(x, name).get(k, np.nan) for x in pairs]
            out[f"{name}_top{top}"] = np.asarray(values, dtype=np.float64)
        out[f"common_degs_top{top}"], shared = _common(pairs, top, genes)
        out[f"shared_places_top{top}"] = shared.astype(np.float64)
        out[f"places_top{top}"] = np.asarray([x.true.places(top, genes) for x in pairs], dtype=np.float64)
    return out


def _profiles(c: Comparison, pairs: list[Pair], control: FloatArray, top: int) -> Values:
    """Return the distances between mean profiles on one subset, NaN where it is unknown."""
    genes = control.shape[1]
    columns = [x.true.columns(top, genes) for x in pairs]
    names = ("pearson_distance", *pseudobulk.PROFILES)
    out = {name: np.full(len(pairs), np.nan) for name in names}
    sizes = np.asarray([0 if x is None else genes if isinstance(x, slice) else len(x) for x in columns])
    # Generated cells of a delta of zero differ from the controls by the draw alone.
    still = rowwise.constant(c.predicted)
    for size in np.unique(sizes[sizes > 0]):
        # Rows of one size, so that each distance is one call for all of them.
        at = np.flatnonzero(sizes == size)
        S, P, C = (
            np.stack([rows[i][columns[i]] for i in at])
            for rows in ([x.true.mean for x in pairs], [x.mean for x in pairs], control)
        )
        flat = rowwise.constant(S) | rowwise.constant(P)
        for name, distance in pseudobulk.PROFILES.items():
            found = distance(S, P)
            out[name][at] = np.where(flat, np.nan, found) if name in _RELATIVE else found
        true, predicted = without_rounding(S - C, C), without_rounding(P - C, C)
        flat = rowwise.constant(true) | rowwise.constant(predicted) | still[at]
        out["pearson_distance"][at] = np.where(flat, np.nan, pseudobulk.pearson_distance(S - C, P - C))
    return out


def _common(pairs: list[Pair], top: int, genes: int) -> tuple[FloatArray, IntArray]:
    """Return (share of the true DEGs among as many predicted ones, ties shared; how many they are), each [C]."""
    share, places = np.full(len(pairs), np.nan), np.full(len(pairs), top)
    both = [(i, x.true.scores, x.scores) for i, x in enumerate(pairs)]
    known = [(i, true, found) for i, true, found in both if true is not None and found is not None]
    if known and top < genes:
        at = [i for i, _, _ in known]
        true, found = (np.stack([row[side] for row in known]) for side in (1, 2))
        share[at], places[at] = rowwise.top_overlap(found, true, top)
    return share, places


def _register(
    stem: str,
    text: str,
    *,
    undefined: str,
    bounds: Bounds = (0.0, None),
    direction: Literal["max", "min"] = "min",
    tops: tuple[int, ...] = TOPS,
) -> None:
    for top in tops:
        name = f"{stem}_top{top}"
        metric(
            PANEL,
            name,
            f"{text}, on the top {top} true DEGs.",
            direction=direction,
            bounds=bounds,
            version="1",
            source=_SOURCE,
            undefined=f"{_NO_TEST}{undefined}",
            needs="cells",
            k=top,
            places=_places_of(f"{'shared_' if stem == 'common_degs' else ''}places_top{top}"),
        )(_value_of(name))


def _value_of(name: str) -> MetricFunction:
    def value(c: Comparison) -> FloatArray:
        return _values(c)[name]

    return value


def _places_of(name: str) -> Places:
    def places(c: Comparison) -> IntArray:
        return _values(c)[name].astype(np.int64)

    return places


_register("mse", "Squared distance of true and predicted mean divided by the number of genes", undefined="")
_register(
    "pearson_distance",
    "1 minus the Pearson correlation of true and predicted delta from all controls (PCC-delta)",
    bounds=(0.0, 2.0),
    undefined=", or a delta is constant over genes",
)
_register("edistance", "E-distance of true and predicted cells, Euclidean, V-statistics", undefined="")
_register(
    "sym_kldiv",
    "Symmetric KL divergence of Gaussians, 1e-8 on deviations, mean over genes, as log2(d + 1)",
    undefined="",
)
_register(
    "wasserstein",
    "Entropic transport cost of true and predicted cells, squared Euclidean, epsilon 0.05 x mean cost",
    tops=TRANSPORT_TOPS,
    undefined=", or all cells are one point",
)
_register(
    "common_degs",
    "Share of the true DEGs among as many predicted ones, ties shared (a reconstruction, the peer shows no code)",
    direction="max",
    bounds=(0.0, 1.0),
    tops=TRANSPORT_TOPS,
    undefined=", or there are no more genes than the subset has",
)
_register("euclidean", "Euclidean distance of true and predicted mean", undefined="")
_register(
    "root_mean_squared_error",
    "Euclidean distance of the means (the peer's name for it, no mean)",
    undefined="",
)
_register("mean_absolute_error", "Mean absolute difference of true and predicted mean", undefined="")
_register(
    "spearman_distance",
    "1 minus the Spearman correlation of true and predicted mean",
    bounds=(0.0, 2.0),
    undefined=", or a mean is constant over genes",
)
_register(
    "cosine_distance",
    "1 minus the cosine of true and predicted mean",
    bounds=(0.0, 2.0),
    undefined=", or a mean is constant over genes",
)
_register(
    "r2_distance",
    "1 minus R² of the predicted mean over genes",
    undefined=", or a mean is constant over genes",
)
_register("mmd", "Squared maximum mean discrepancy with a linear kernel (V-statistic)", undefined="")
