"""Effects of perturbations in another data set, on the genes of the data set that borrows them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_parts
from perturbfm_core.graphs.direction import direction_of
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray
from perturbfm_core.splits.audit.run import FitRecord

# Leading components of the effects that the table of gene features has at most.
COMPONENTS = 30


@dataclass(frozen=True, eq=False)
class DonorEffects:
    """Mean effects of the perturbations of a donor.

    Attributes
    ----------
    name
        The donor as the model names it: ``DATASET`` or ``DATASET:CONTEXT``.
    content_sha256
        Content hash of the donor.
    perts
        Perturbation ids [n], singles and combinations.
    direction
        int8 [n], whether each was switched off or on (see `perturbfm_core.graphs.direction`).
    effects
        float32 [n, G], mean deltas in log1p units; zero where the donor does not measure the gene.
    measured
        bool [G], genes that the donor measures.
    record
        What the leakage audit reads of it, None if it was not compared with a split.
    directions
        Directions in which the borrowing data set perturbs.
    by_gene
        The same for each of its perturbed genes, where there are several.
    """

    name: str
    content_sha256: str
    perts: tuple[str, ...]
    direction: IntArray
    effects: FloatArray
    measured: BoolArray
    record: FitRecord | None = None
    directions: frozenset[int] = frozenset()
    by_gene: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @cached_property
    def position(self) -> dict[tuple[str, int], int]:
        """Return {(perturbation id, direction): row of `effects`}."""
        return {(p, int(d)): i for i, (p, d) in enumerate(zip(self.perts, self.direction, strict=True))}

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of the donor's content, its effects, and the features made of them."""
        digest = hashlib.sha256(self.content_sha256.encode())
        digest.update("\x00".join(self.perts).encode())
        digest.update(np.ascontiguousarray(self.direction, dtype="<i1").tobytes())
        digest.update(np.ascontiguousarray(self.effects, dtype="<f4").tobytes())
        digest.update(np.packbits(self.measured).tobytes())
        digest.update(self.features.sha256.encode())
        return digest.hexdigest()

    def of(self, conditions: pd.DataFrame) -> tuple[FloatArray, BoolArray]:
        """Return (float32 [C, G] effects of the same direction, bool [C] whether they are known).

        A combination that the donor lacks has the sum of its parts' effects, if the donor has all of them.
        """
        chosen = [
            rows_of(self.position, str(p), direction_of(str(m)))
            for p, m in zip(conditions[schema.PERT_ID], conditions[schema.MODALITY], strict=True)
        ]
        owner = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
        column = np.asarray([i for c in chosen for i in c], dtype=np.int64)
        members = sp.csr_array(
            (np.ones(len(column), dtype=np.float32), (owner, column)), shape=(len(chosen), len(self.perts))
        )
        known = np.asarray([bool(c) for c in chosen], dtype=np.bool_)
        return np.asarray(members @ self.effects, dtype=np.float32), known

    @cached_property
    def features(self) -> GeneFeatures:
        """Return the leading components of the effects of singles, one row per perturbed gene.

        Effects are of the direction in which the borrowing data set perturbs the gene; where it does both, a table of
        genes cannot tell them apart, and the gene is left out.
        """
        rows, names = [], []
        for i, (pert, direction) in enumerate(zip(self.perts, self.direction, strict=True)):
            if len(pert_parts(pert)) == 1 and self._directions_of(pert) == {int(direction)}:
                rows.append(i)
                names.append(pert)
        genes: StrArray = np.asarray(names, dtype=np.str_)
        if not rows:
            return GeneFeatures(
                self.name, np.asarray([""], dtype=np.str_), np.zeros((1, 1), dtype=np.float32)
            )
        return GeneFeatures(self.name, genes, leading(self.effects[rows][:, self.measured]))

    def _directions_of(self, gene: str) -> frozenset[int]:
        return self.by_gene.get(gene, self.directions)


def rows_of(position: dict[tuple[str, int], int], pert: str, direction: int) -> list[int]:
    """Return the rows whose sum is the effect of a perturbation: its own, else those of its parts, else none.

    Parameters
    ----------
    position
        {(perturbation id, direction): row}.
    pert
        Perturbation id.
    direction
        Its direction.
    """
    if (pert, direction) in position:
        return [position[pert, direction]]
    found = [position.get((part, direction), -1) for part in pert_parts(pert)]
    return [] if -1 in found else found


def leading(effects: FloatArray, k: int = COMPONENTS) -> FloatArray:
    """Return float32 [n, <= k], principal component scores of effects [n, G]; one column of zeros where all are equal."""
    from sklearn.decomposition import PCA

    n = min(k, len(effects) - 1, effects.shape[1])
    if n < 1 or not np.ptp(effects, axis=0).any():
        return np.zeros((len(effects), 1), dtype=np.float32)
    scores = PCA(n_components=n, svd_solver="auto", random_state=0).fit_transform(effects.astype(np.float64))
    return np.asarray(scores, dtype=np.float32)


def directions_of(conditions: pd.DataFrame) -> tuple[frozenset[int], dict[str, frozenset[int]]]:
    """Return (all directions of conditions, {perturbed gene: its directions} where there are several in all)."""
    found: dict[str, set[int]] = {}
    pairs: Iterable[tuple[str, str]] = zip(
        conditions[schema.PERT_ID].astype(str), conditions[schema.MODALITY].astype(str), strict=True
    )
    for pert, modality in set(pairs):
        for part in pert_parts(pert):
            found.setdefault(part, set()).add(direction_of(modality))
    every = frozenset(d for ds in found.values() for d in ds)
    return every, {} if len(every) == 1 else {g: frozenset(d) for g, d in found.items()}
