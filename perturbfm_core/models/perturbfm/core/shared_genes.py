"""Sparse part of the kernel: perturbed genes that few train conditions share.

Most genes of a large screen are perturbed in few conditions (one for each context or dose). What such conditions have in
common no small set of inducing conditions describes, but it is a matrix with few entries, in small blocks.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.models.perturbfm.core.described import (
    Described,
    context_of_pairs,
    same_covariates_of_pairs,
)
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.schema import FloatArray, IntArray

# A gene in more conditions than this is left to the inducing conditions, and so are genes that tie more conditions
# together, through combinations, than the second number.
_FEW = 32
_BLOCK = 512


class SharedGenes:
    """The kernel of rare perturbed genes, between any conditions and those of train.

    Parameters
    ----------
    space, kernel
        The components of the kernel, and their weights.
    train
        The train conditions [n].
    """

    def __init__(self, space: SimilarityKernel, kernel: Kernel, train: Described) -> None:
        from scipy.sparse.csgraph import connected_components

        self.space, self.kernel, self.train = space, kernel, train
        self._columns: dict[str, int] = {}
        labels = train.parts.labels
        count = Counter(labels)
        rare = sorted(x for x, n in count.items() if n <= _FEW)
        self._columns = {x: i for i, x in enumerate(rare)}
        S = self._incidence(train)
        _, block = connected_components(S @ S.T, directed=False)
        size = np.bincount(block)
        tied = {x for x, i in zip(labels, train.parts.owner, strict=True) if size[block[i]] > _BLOCK}
        self._columns = {x: i for i, x in enumerate(y for y in rare if y not in tied)}
        self.common = frozenset(count) - frozenset(self._columns)
        self._members = self._incidence(train)

    def cross(self, a: Described) -> Any:
        """Return CSR float64 [q, n], the kernel of conditions with train through rare genes."""
        out = sp.coo_array(self._incidence(a) @ self._members.T) * self.kernel.identity
        pairs = (out.row, out.col)
        if self.kernel.context and out.nnz:
            alike = context_of_pairs(a, self.train, pairs, self.space.context_width)
            out.data *= (1.0 - self.kernel.context) + self.kernel.context * alike
        if self.kernel.covariates and out.nnz:
            same = same_covariates_of_pairs(a, self.train, pairs)
            out.data *= np.where(same, 1.0, 1.0 - self.kernel.covariates)
        return sp.csr_array(out)

    def blocks(self, among: Any) -> list[tuple[IntArray, FloatArray]]:
        """Return ([blocks, size] positions, [blocks, size, size] kernel) of train, by size of the blocks."""
        from scipy.sparse.csgraph import connected_components

        n = among.shape[0]
        _, block = connected_components(among, directed=False)
        size = np.bincount(block, minlength=n)[block]
        out: list[tuple[IntArray, FloatArray]] = []
        for s in np.unique(size):
            at = np.flatnonzero(size == s)
            members: IntArray = at[np.argsort(block[at], kind="stable")].reshape(-1, s)
            if s == 1:
                out.append((members, among.diagonal()[members][:, :, None]))
                continue
            out.append((members, np.stack([among[rows][:, rows].toarray() for rows in members])))
        return out

    def _incidence(self, a: Described) -> Any:
        column = np.asarray([self._columns.get(x, -1) for x in a.parts.labels], dtype=np.int64)
        at = np.flatnonzero(column >= 0)
        shape = (a.parts.n, len(self._columns))
        return sp.csr_array((a.parts.amount[at], (a.parts.owner[at], column[at])), shape=shape)
