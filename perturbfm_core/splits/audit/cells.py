"""Audit checks of rows: duplicated cells, gene selection on test rows, confounded batches."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import matrix_blocks
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.audit.core import CHECKS, Finding, NotApplicable, finding, fold_codes, in_folds
from perturbfm_core.splits.split import FrozenSplit

# Two different cells can have equal profiles by chance if these have fewer non-zero values.
MIN_NONZERO = 10
N_PERMUTATIONS = 199
MAX_ROWS = 20_000
MIN_ASSOCIATION = 0.5
MAX_P = 0.01

_PROFILES: WeakKeyDictionary[PerturbDataset, tuple[IntArray, BoolArray]] = WeakKeyDictionary()


def profile_hashes(ds: PerturbDataset) -> tuple[IntArray, BoolArray]:
    """Return (uint64 [N] hash of each row's values, bool [N] whether they suffice to identify a cell).

    The hash combines two random projections of a row's values in float64, summed in the order of genes: equal
    rows have equal bits, and a collision of unequal rows is very improbable. It is computed once per data
    set.
    """
    if ds not in _PROFILES:
        values = ds.streamed
        X = next(m for m in (values.counts, values.expression, values.delta) if m is not None)
        hashes = np.empty(ds.n_obs, dtype=np.uint64)
        nonzero = np.empty(ds.n_obs, dtype=np.int64)
        weights = np.random.default_rng(0).standard_normal((ds.n_genes, 2))
        for block, rows in matrix_blocks(X):
            # A sparse product sums each row on its own; a dense one may round by the row's place in the
            # block.
            part = sp.csr_array(rows)
            seen = [(part @ weights[:, i]).view(np.uint64) for i in (0, 1)]
            # Multiplied by an odd constant (2^64 over the golden ratio) before the exclusive or.
            hashes[block] = seen[0] ^ (seen[1] * np.uint64(0x9E3779B97F4A7C15))
            nonzero[block] = np.diff(part.indptr)
        whole = values.counts is not None
        _PROFILES[ds] = (hashes, nonzero >= (MIN_NONZERO if whole else min(MIN_NONZERO, ds.n_genes)))
    return _PROFILES[ds]


@CHECKS.register("identical_profiles", order=30)
def identical_profiles(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find test rows whose values equal those of a training, validation, calibration or control row.

    Raises
    ------
    NotApplicable
        If no row has enough non-zero values.
    """
    codes = fold_codes(ds, split)
    hashes, telling = profile_hashes(ds)
    if not telling.any():
        msg = f"no row has {MIN_NONZERO} non-zero values, so equal ones prove nothing"
        raise NotApplicable(msg)
    test = np.flatnonzero(in_folds(codes, "test") & telling)
    seen = np.flatnonzero((in_folds(codes, "train", "val", "calib") | ds.is_control) & telling)
    # A binary search of each test hash among the sorted hashes of the other rows.
    order = np.argsort(hashes[seen], kind="stable")
    seen = seen[order]
    if not len(seen):
        return []
    place = np.minimum(np.searchsorted(hashes[seen], hashes[test]), len(seen) - 1)
    same = hashes[seen[place]] == hashes[test]
    ids = ds.row_ids
    twins = [f"{ids[t]} = {ids[s]}" for t, s in zip(test[same], seen[place[same]], strict=True)]
    return finding(
        "identical_profiles",
        twins,
        f"{len(twins)} test rows have exactly the values of a row outside test, e.g. {twins[:1]}; "
        "remove the duplicates and import again",
    )


@CHECKS.register("gene_selection", order=30)
def gene_selection(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find a selection of genes that was made on rows that include test rows.

    Raises
    ------
    NotApplicable
        If the data set declares no selection of genes.
    """
    chosen = ds.metadata.gene_selection
    if chosen.method == "none":
        msg = "the data set declares no selection of genes"
        raise NotApplicable(msg)
    if chosen.rows == "train":
        return []
    return finding(
        "gene_selection",
        [f"{chosen.method} on {chosen.rows} rows"],
        f"the {ds.n_genes} genes were selected ({chosen.method}) on {chosen.rows} rows, test among them; "
        "select them without the test rows",
        "warning",
    )


@CHECKS.register("transductive", order=30)
def transductive(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Warn of a transductive split, in which controls of held-out contexts may be read in fitting."""
    if not split.definition.transductive:
        return []
    codes = fold_codes(ds, split)
    context = ds.obs[schema.CONTEXT_ID].astype(str).to_numpy()
    fitted = set(context[in_folds(codes, *split.fit_folds)])
    held = sorted(set(context[in_folds(codes, "test")]) - fitted) or ["all contexts"]
    return finding(
        "transductive",
        held,
        "the split is transductive: input controls of held-out contexts may be read in fitting",
        "warning",
    )


@CHECKS.register("batch_confounding", order=30)
def batch_confounding(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find perturbations confounded with batches, where a batch effect would look like a perturbation effect.

    The association of perturbation and batch within contexts (bias-corrected Cramer's V, weighted by rows) is
    compared with permutations of the batches within contexts.

    Raises
    ------
    NotApplicable
        If no context has several batches and several perturbations with rows to compare.
    """
    codes = fold_codes(ds, split)
    rows = np.flatnonzero(in_folds(codes, "train", "val", "calib", "test"))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_ROWS, replace=False))
    context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()[rows].astype(np.int64)
    batch = ds.obs[schema.BATCH_ID].cat.codes.to_numpy()[rows].astype(np.int64)
    pert = ds.obs[schema.PERT_ID].cat.codes.to_numpy()[rows].astype(np.int64)
    groups = []
    for c in np.unique(context):
        mine = context == c
        b = np.unique(batch[mine], return_inverse=True)[1]
        p = np.unique(pert[mine], return_inverse=True)[1]
        # Several batches and perturbations, but not a batch or perturbation of its own for every row.
        if 1 < b.max() + 1 < len(b) and 1 < p.max() + 1 < len(p):
            groups.append((p, b))
    if not groups:
        msg = "no context has several batches and several perturbations with rows to compare"
        raise NotApplicable(msg)
    observed = _association(groups)
    if observed < MIN_ASSOCIATION:
        return []
    rng = np.random.default_rng(0)
    shuffled = [_association([(p, rng.permutation(b)) for p, b in groups]) for _ in range(N_PERMUTATIONS)]
    p_value = (1 + sum(s >= observed for s in shuffled)) / (1 + N_PERMUTATIONS)
    if p_value > MAX_P:
        return []
    return finding(
        "batch_confounding",
        [f"V = {observed:.2f}, p = {p_value:.3g}"],
        f"perturbations and batches are confounded within contexts (Cramer's V {observed:.2f}, permutation "
        f"p = {p_value:.3g}); a batch effect would count as an effect, compare with batch_ood",
        "warning",
        count=len(groups),
    )


def _association(groups: Sequence[tuple[IntArray, IntArray]]) -> float:
    """Return the bias-corrected Cramer's V of (perturbation, batch) codes, averaged over groups by rows."""
    total, weight = 0.0, 0
    for p, b in groups:
        n, r, k = len(p), int(p.max()) + 1, int(b.max()) + 1
        table: FloatArray = np.bincount(p * k + b, minlength=r * k).reshape(r, k).astype(np.float64)
        expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
        phi2 = float(((table - expected) ** 2 / expected).sum() / n)
        # Bias correction: the expectation of phi^2 under independence is subtracted, table sizes are reduced.
        phi2 = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
        smaller = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
        total += n * float(np.sqrt(phi2 / smaller)) if smaller > 0 else 0.0
        weight += n
    return total / weight
