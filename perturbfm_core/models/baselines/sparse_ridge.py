"""Ridge regression with an intercept on sparse indicator columns and a few dense ones.

The normal equations are solved by blocks. Indicator columns that never meet in one row, as those of genes that were only
perturbed alone, have no product with each other: their part of the matrix is diagonal up to small dense blocks, and is
eliminated first. What is left has a row for each dense column and one for the intercept. Outcomes are visited a block of
columns at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.schema import FloatArray, IntArray, StrArray

_BLOCK = 512


class Outcomes(Protocol):
    """What is regressed, read some genes at a time, e.g. the deltas of a `TrainView`."""

    @property
    def genes(self) -> StrArray:
        """Gene ids [G]."""

    def __len__(self) -> int: ...

    def delta_columns(self, columns: slice) -> FloatArray:
        """Return float [n, k], the values of some genes."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a regression.

    Attributes
    ----------
    sparse
        CSR float64 [n, p].
    dense
        float64 [n, k].
    """

    sparse: Any
    dense: FloatArray

    def product(self, coef: FloatArray, intercept: FloatArray) -> FloatArray:
        """Return float [n, G], the columns times their coefficients [p + k, G] plus the intercept [G]."""
        p = self.sparse.shape[1]
        out: FloatArray = np.empty((self.sparse.shape[0], coef.shape[1]))
        # A sparse product of two precisions copies its other factor to the higher one.
        for genes in row_blocks(coef.shape[1], _BLOCK):
            part = coef[:, genes]
            out[:, genes] = self.sparse @ part[:p] + self.dense @ part[p:] + intercept[genes]
        return out

    @cached_property
    def _gram(self) -> Any:
        return (self.sparse.T @ self.sparse).tocsr()

    @cached_property
    def _blocks(self) -> list[IntArray]:
        """Return the groups of more than one sparse column that meet in rows, directly or by others."""
        from scipy.sparse.csgraph import connected_components

        n, label = connected_components(self._gram, directed=False)
        order = np.argsort(label, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(label, minlength=n))[:-1]) if n else []
        return [g for g in groups if len(g) > 1]


@dataclass(frozen=True, eq=False)
class _Inverse:
    """The inverse of (sparse columns' products + penalty), applied to right-hand sides [p, m]."""

    diagonal: FloatArray
    blocks: list[tuple[IntArray, Any]]

    def __call__(self, right: FloatArray) -> FloatArray:
        from scipy.linalg import cho_solve

        out: FloatArray = right / self.diagonal[:, None]
        for rows, factor in self.blocks:
            out[rows] = cho_solve(factor, right[rows], check_finite=False)
        return out


def fit_ridge(
    columns: Columns, outcomes: FloatArray | Outcomes, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Return (float32 [p + k, G] coefficients, float64 [G] intercept) of a ridge regression.

    They minimise the squared error plus `penalty` times the squares of the coefficients; the intercept is free.

    Parameters
    ----------
    columns
        Inputs of n rows.
    outcomes
        float [n, G], or e.g. a view whose deltas they are; a part of a view is then not copied as a whole.
    penalty
        Above 0.
    """
    from scipy.linalg import cho_factor

    M, n = columns.sparse, len(outcomes)
    n_genes = outcomes.shape[1] if isinstance(outcomes, np.ndarray) else len(outcomes.genes)
    p, k = M.shape[1], columns.dense.shape[1]
    mean = columns.dense.mean(axis=0) if k else np.zeros(0)
    Z = np.column_stack([columns.dense - mean, np.ones(n)])
    gram = columns._gram
    inverse = _Inverse(
        gram.diagonal() + penalty,
        [
            (
                rows,
                cho_factor(gram[rows][:, rows].toarray() + penalty * np.eye(len(rows)), check_finite=False),
            )
            for rows in columns._blocks
        ],
    )
    MZ = np.asarray(M.T @ Z)
    eliminated = inverse(MZ)
    # The Schur complement of the sparse columns: a row for each dense column and the intercept.
    small = Z.T @ Z + np.diag(np.r_[np.full(k, penalty), 0.0]) - MZ.T @ eliminated
    coef = np.empty((p + k, n_genes), dtype=np.float32)
    intercept = np.empty(n_genes)
    Mt = M.T.tocsr()
    for genes in row_blocks(n_genes, _BLOCK):
        picked = outcomes[:, genes] if isinstance(outcomes, np.ndarray) else outcomes.delta_columns(genes)
        Y = picked.astype(np.float64)
        MY = np.asarray(Mt @ Y)
        z = np.linalg.solve(small, Z.T @ Y - eliminated.T @ MY)
        coef[:p, genes] = inverse(MY) - eliminated @ z
        coef[p:, genes] = z[:k]
        intercept[genes] = z[k] - mean @ z[:k]
    return coef, intercept
