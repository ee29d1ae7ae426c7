"""Perturbation masks: the target genes of perturbations that are not genes, such as drugs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

_PERTURBATION_KEYS = ("perturbations", "pert")


@dataclass(frozen=True, eq=False)
class PertMasks:
    """Weights of the target genes of perturbations.

    Attributes
    ----------
    perturbations
        Perturbation ids [P], unique, each with at least one target.
    genes
        Gene ids [K], unique; they need not be measured.
    mask
        float32 [P, K], weights of the targets: zero for genes that are not targets, with opposite signs for
        opposite effects.
    """

    perturbations: StrArray
    genes: StrArray
    mask: FloatArray

    def __post_init__(self) -> None:
        names = self.perturbations.tolist()
        problem = None
        if self.mask.shape != (len(names), len(self.genes)) or not self.mask.size:
            problem = (
                f"have a mask {self.mask.shape} for {len(names)} perturbations and {len(self.genes)} genes; "
                "it must be [perturbations, genes]"
            )
        elif len(set(names)) != len(names) or len(set(self.genes.tolist())) != len(self.genes):
            problem = "name a perturbation or a gene twice"
        elif not np.isfinite(self.mask).all():
            problem = "hold weights that are not finite"
        elif not self.mask.any(axis=1).all():
            problem = f"give {names[int(np.argmin(self.mask.any(axis=1)))]!r} no gene; leave it out"
        if problem is not None:
            msg = f"perturbation masks {problem}"
            raise GraphError(msg)

    @cached_property
    def position(self) -> dict[str, int]:
        """Return {perturbation: row of the mask}."""
        return {str(p): i for i, p in enumerate(self.perturbations)}

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of ids and weights."""
        digest = hashlib.sha256()
        for names in (self.perturbations, self.genes):
            digest.update(("\n".join(names.tolist()) + "\n\n").encode())
        digest.update(np.ascontiguousarray(self.mask, dtype="<f4").tobytes())
        return digest.hexdigest()

    def mean(self, rows: FloatArray, known: BoolArray) -> tuple[FloatArray, BoolArray]:
        """Return (float32 [P, F] weighted mean features of targets, bool [P] whether a target is known).

        `rows` are features of the genes [K, F], `known` (bool [K]) is whether a gene has any. A perturbation
        without a known target has zeros.
        """
        # Divided by absolute weights, so that opposite signs cancel in the features but not in the divisor.
        weights = self.mask * known
        size = np.abs(weights).sum(axis=1, keepdims=True)
        out = (weights @ rows) / np.where(size > 0, size, 1.0)
        return out.astype(np.float32), np.asarray(size[:, 0] > 0)

    def extend(self, table: GeneFeatures) -> GeneFeatures:
        """Return the table with a row for each perturbation as well: the weighted mean of its targets."""
        rows, found = self.mean(*table.rows(self.genes.tolist()))
        kept = ~np.isin(table.genes, self.perturbations[found])
        return GeneFeatures(
            table.name,
            np.concatenate([table.genes[kept], self.perturbations[found]]),
            np.concatenate([table.matrix[kept], rows[found]]),
        )

    def sources(self, names: Sequence[str]) -> tuple[list[str], sp.csr_array]:
        """Return (target genes of the named perturbations, CSR float64 [names, targets] of the weights).

        A name without a mask is taken to be a gene that is its own target.
        """
        targets: dict[str, int] = {}
        row, column, weight = [], [], []
        for i, name in enumerate(names):
            at = self.position.get(name)
            acts = [(name, 1.0)]
            if at is not None:
                acts = [(str(self.genes[k]), float(self.mask[at, k])) for k in np.flatnonzero(self.mask[at])]
            for gene, value in acts:
                row.append(i)
                column.append(targets.setdefault(gene, len(targets)))
                weight.append(value)
        shape = (len(names), len(targets))
        return list(targets), sp.csr_array((np.asarray(weight), (row, column)), shape=shape)


def read_masks(path: Path) -> PertMasks:
    """Read masks from an npz file with ``perturbations`` [P] (or ``pert``), ``genes`` [K], ``mask`` [P, K].

    Raises
    ------
    GraphError
        If the file is missing or has another form.
    """
    if not path.is_file():
        msg = f"perturbation masks {path} do not exist; give the path of an npz with perturbations, genes and mask"
        raise GraphError(msg)
    arrays = read_npz(path, GraphError)
    key = next((k for k in _PERTURBATION_KEYS if k in arrays), None)
    if key is None or "genes" not in arrays or "mask" not in arrays:
        msg = f"{path} has arrays {sorted(arrays)}; masks need 'perturbations' [P], 'genes' [K] and 'mask' [P, K]"
        raise GraphError(msg)
    if arrays["mask"].dtype.kind not in "fiub":
        msg = f"{path}: 'mask' is {arrays['mask'].dtype}, not numbers"
        raise GraphError(msg)
    return PertMasks(
        arrays[key].astype(np.str_), arrays["genes"].astype(np.str_), arrays["mask"].astype(np.float32)
    )
