"""Attacks on predicted cells: counts that hold no more than a point prediction, laid out to please a metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.matrix import normalize_log1p
from perturbfm_core.evaluation.cells import Cells
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.control_profile import ControlProfile
from perturbfm_core.evaluation.count_generators import MAX_COUNTS
from perturbfm_core.evaluation.probes_attacks import NOISE_SEED, attack, with_prediction
from perturbfm_core.schema import FloatArray, IntArray

# Counts of a copied profile, so many that rounding does not matter.
_TILE_DEPTH = 100_000
_POOLED = 4
_DEPTH_FACTOR = 10
# A spiked gene gets this many times its share in the controls, and at least so large a share.
_SPIKE, _SMALLEST_SPIKE = 4.0, 1e-3
# The gate of the 2026 challenge in counts per million, the share of genes that are low at any rate, and how far beyond
# the largest low level they are raised.
_GATE_CPM, _LOW_SHARE, _RAISED = 5.0, 0.1, 10.0
_NO_COUNTS = "the data set keeps no counts; import it with --space counts"

MadeCounts = Callable[[Cells, int], Any]


def with_counts(c: Comparison, made: MadeCounts) -> Comparison | None:
    """Return the comparison of a submission of cells, None for data without counts.

    As of any such file, the predicted delta is the mean of its log1p expression minus that of the input controls.

    Parameters
    ----------
    c
        The comparison.
    made
        (cells, condition) -> counts of the predicted cells of that condition, CSR [n, G].
    """
    cells = c.cells
    if cells is None or cells.counts is None:
        return None
    parts = [sp.csr_array(made(cells, i)) for i in range(len(cells))]
    counts = sp.csr_array(sp.vstack(parts, format="csr")).astype(np.int32)
    expression = normalize_log1p(counts, cells.target_sum)
    ends = np.cumsum([0, *(p.shape[0] for p in parts)])
    rows: list[IntArray | None] = [np.arange(a, b) for a, b in pairwise(ends)]
    control = {context: _mean(cells.X[r]) for context, r in cells.input_rows.items()}
    delta = np.stack(
        [_mean(expression[r]) - control[context] for r, context in zip(rows, cells.contexts, strict=True)]
    )
    own = replace(cells, delta=delta, own=expression, own_rows=rows, own_counts=counts, reads=Counter[str]())
    return replace(c, predicted=delta, cells=own, shared={})


def _mean(X: Any) -> FloatArray:
    return np.asarray(X.mean(axis=0, dtype=np.float64)).reshape(-1)


def _rng(cells: Cells, i: int) -> np.random.Generator:
    return np.random.default_rng([NOISE_SEED, *(cells.keys[i] if cells.keys else str(i)).encode()])


def _drawn(c: Comparison, cells: Cells, i: int) -> Any:
    """Return the counts of the honest prediction, CSR [n, G], drawn once for all attacks."""
    return c.once(f"probes.drawn.{i}", lambda: sp.csr_array(cells.predicted_counts(i)))


def _profile(c: Comparison, cells: Cells, context: str) -> ControlProfile:
    def made() -> ControlProfile:
        rows = cells.input_rows[context]
        return ControlProfile(cells.counts[rows], _mean(cells.X[rows]), cells.target_sum)

    return c.once(f"probes.profile.{context}", made)


def _predicted_share(c: Comparison, cells: Cells, i: int) -> FloatArray:
    """Return float64 [G], the share of each gene in the counts that the prediction implies."""
    return _profile(c, cells, cells.contexts[i]).composition(cells.delta[i].astype(np.float64))


def _with_more(counts: Any, share: FloatArray, rng: np.random.Generator) -> Any:
    """Return the counts with Poisson counts added, at shares of each cell's depth.

    Parameters
    ----------
    counts
        CSR [n, G].
    share
        Share of each gene that is added, 0 for most [G].
    rng
        Random numbers.
    """
    genes = np.flatnonzero(share > 0)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1)
    more = sp.csr_array(rng.poisson(depth[:, None] * share[genes]))
    place = sp.csr_array((more.data, genes[more.indices], more.indptr), shape=counts.shape)
    return counts + place


# ---- attacks -----------------------------------------------------------------------------------------------


@attack("cells_drawn", _NO_COUNTS)
def cells_drawn(c: Comparison) -> Comparison | None:
    """Hand in the drawn cells unchanged: no attack, but what the others on cells begin with."""
    return with_counts(c, lambda cells, i: _drawn(c, cells, i))


@attack("noise_free_tiles", _NO_COUNTS)
def noise_free_tiles(c: Comparison) -> Comparison | None:
    """Give every cell of a condition the predicted mean."""

    def tiles(cells: Cells, i: int) -> Any:
        one = np.rint(_predicted_share(c, cells, i) * _TILE_DEPTH).astype(np.int32)
        return sp.csr_array(np.repeat(one[None], cells.n_predicted(i), axis=0))

    return with_counts(c, tiles)


@attack("exact_mean", _NO_COUNTS)
def exact_mean(c: Comparison) -> Comparison | None:
    """Move counts between cells so that their sum is the predicted mean exactly, though each cell has its noise."""

    def exact(cells: Cells, i: int) -> Any:
        share = _predicted_share(c, cells, i)
        return _summing_to(_drawn(c, cells, i), share, _rng(cells, i)) if share.any() else _drawn(c, cells, i)

    return with_counts(c, exact)


def _summing_to(counts: Any, share: FloatArray, rng: np.random.Generator) -> Any:
    """Return counts whose sums over cells are of given shares, with as few of them moved as possible."""
    summed = np.asarray(counts.sum(axis=0), dtype=np.int64).reshape(-1)
    surplus = summed - np.rint(share * float(summed.sum())).astype(np.int64)
    entry = np.repeat(np.arange(counts.nnz), counts.data)
    entry = entry[surplus[counts.indices[entry]] > 0]
    gene = counts.indices[entry]
    order = np.lexsort((rng.random(len(entry)), gene))
    entry, gene = entry[order], gene[order]
    # The first units of each gene, in random order, are taken away.
    rank = np.arange(len(gene)) - np.searchsorted(gene, gene, side="left")
    taken = np.bincount(entry[rank < surplus[gene]], minlength=counts.nnz)
    left = sp.csr_array((counts.data - taken, counts.indices, counts.indptr), shape=counts.shape)
    genes = np.repeat(np.arange(len(share)), np.maximum(-surplus, 0))
    cells = rng.integers(0, counts.shape[0], size=len(genes))
    return left + sp.csr_array((np.ones(len(genes), dtype=np.int64), (cells, genes)), shape=counts.shape)


@attack("inflated_dispersion", _NO_COUNTS)
def inflated_dispersion(c: Comparison) -> Comparison | None:
    """Give the counts of four cells to one of them, for each gene anew: the sum stays, the dispersion grows."""

    def inflated(cells: Cells, i: int) -> Any:
        counts, rng = _drawn(c, cells, i), _rng(cells, i)
        n, G = counts.shape
        order = rng.permutation(n)
        block = np.empty(n, dtype=np.int64)
        block[order] = np.arange(n) // _POOLED
        sizes = np.bincount(block)
        owner = (rng.random((len(sizes), G)) * sizes[:, None]).astype(np.int64)
        held = block[np.repeat(np.arange(n), np.diff(counts.indptr))]
        row = order[held * _POOLED + owner[held, counts.indices]]
        return sp.csr_array((counts.data, (row, counts.indices)), shape=counts.shape)

    return with_counts(c, inflated)


@attack("spiked_targets", _NO_COUNTS)
def spiked_targets(c: Comparison) -> Comparison | None:
    """Raise the genes that the other conditions perturb."""
    position = {str(g): j for j, g in enumerate(c.genes)}
    own = [[position[g] for g in pert_genes(str(p)) if g in position] for p in c.perturbations]
    everything = np.unique([j for genes in own for j in genes]).astype(np.int64)

    def spiked(cells: Cells, i: int) -> Any:
        others = np.setdiff1d(everything, own[i])
        share = np.zeros(len(c.genes))
        level = _profile(c, cells, cells.contexts[i]).share[others]
        share[others] = np.maximum((_SPIKE - 1.0) * level, _SMALLEST_SPIKE)
        return _with_more(_drawn(c, cells, i), share, _rng(cells, i))

    return with_counts(c, spiked)


@attack("low_genes_raised", _NO_COUNTS)
def low_genes_raised(c: Comparison) -> Comparison | None:
    """Raise every gene that the controls hardly express."""

    def raised(cells: Cells, i: int) -> Any:
        level = _profile(c, cells, cells.contexts[i]).share
        bound = max(_GATE_CPM / 1e6, float(np.quantile(level, _LOW_SHARE)))
        return _with_more(_drawn(c, cells, i), np.where(level <= bound, _RAISED * bound, 0.0), _rng(cells, i))

    return with_counts(c, raised)


@attack("all_tied", _NO_COUNTS)
def all_tied(c: Comparison) -> Comparison | None:
    """Predict all measured controls for every condition: no effect, exactly, so that all conditions are tied."""
    return with_counts(c, lambda cells, i: cells.counts[cells.control_rows[cells.contexts[i]]])


@attack("controls_pasted", _NO_COUNTS)
def controls_pasted(c: Comparison) -> Comparison | None:
    """Predict drawn control cells, other ones for each condition."""
    return with_counts(c, lambda cells, i: cells.counts[cells.template_rows[i]])


@attack("genes_left_out", _NO_COUNTS)
def genes_left_out(c: Comparison) -> Comparison | None:
    """Leave out the half of the genes that are predicted to change least, as a file with zeros there does."""
    size = np.abs(c.predicted).mean(axis=0)
    kept = np.zeros(len(size), dtype=np.int32)
    kept[np.argsort(-size, kind="stable")[: (len(size) + 1) // 2]] = 1

    def without(cells: Cells, i: int) -> Any:
        counts = _drawn(c, cells, i).copy()
        counts.data *= kept[counts.indices]
        counts.eliminate_zeros()
        return counts

    return with_counts(c, without)


@attack("perturbations_left_out", "one condition cannot be left out")
def perturbations_left_out(c: Comparison) -> Comparison | None:
    """Leave out the half of the conditions with the smallest predicted change."""
    if len(c) < 2:
        return None
    size = np.square(c.predicted).sum(axis=1)
    left_out = np.argsort(size, kind="stable")[: len(size) // 2]
    mean = c.predicted.copy()
    mean[left_out] = 0.0
    absent = np.zeros(len(c), dtype=np.bool_)
    absent[left_out] = True
    return replace(with_prediction(c, mean), not_predicted=absent)


@attack("depth_multiplied", _NO_COUNTS)
def depth_multiplied(c: Comparison) -> Comparison | None:
    """Multiply all counts by ten."""

    def multiplied(cells: Cells, i: int) -> Any:
        counts = _drawn(c, cells, i)
        deepest = max(int(np.asarray(counts.sum(axis=1)).max(initial=0)), 1)
        return counts * max(min(_DEPTH_FACTOR, MAX_COUNTS // deepest), 1)

    return with_counts(c, multiplied)


@attack("depth_thinned", _NO_COUNTS)
def depth_thinned(c: Comparison) -> Comparison | None:
    """Keep each count with probability one tenth."""

    def thinned(cells: Cells, i: int) -> Any:
        counts = _drawn(c, cells, i)
        out = counts.copy()
        out.data[:] = _rng(cells, i).binomial(counts.data, 1.0 / _DEPTH_FACTOR)
        out.eliminate_zeros()
        return out

    return with_counts(c, thinned)
