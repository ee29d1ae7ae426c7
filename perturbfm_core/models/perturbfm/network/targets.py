"""Covariates of the target genes of a condition, as predictors of how large its error will be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

# Larger numbers of perturbed genes are set to this.
_MOST = 3.0


class Targets:
    """Covariates of a condition's perturbed genes: number, control expression and out-degree in graphs."""

    def __init__(self) -> None:
        self._genes: dict[str, int] = {}
        self._response = DoseResponse()
        self._nodes: list[str] = []
        self._reach: FloatArray = np.zeros(0, dtype=np.float32)
        self._position: dict[str, int] | None = None

    def fit(self, view: TrainView, graphs: Sequence[GeneGraph]) -> Targets:
        """Learn the top dose, and the outgoing weight of every gene, scaled and summed over graphs."""
        self._genes = {str(g): j for j, g in enumerate(view.genes)}
        self._response = DoseResponse.fit(view)
        total: dict[str, float] = {}
        for graph in graphs:
            out = np.asarray(abs(graph.adjacency).sum(axis=1)).reshape(-1)
            mean = float(out[out > 0].mean()) if (out > 0).any() else 1.0
            for gene, weight in zip(graph.genes.tolist(), (out / mean).tolist(), strict=True):
                if weight:
                    total[gene] = total.get(gene, 0.0) + weight
        self._nodes = sorted(total)
        self._reach = np.asarray([total[g] for g in self._nodes], dtype=np.float32)
        self._position = None
        return self

    def read(self, query: Query) -> FloatArray:
        """Return float64 [n, 3]: number of targets, their control expression, log1p of their outgoing weight.

        Expression (log1p) and outgoing weight are summed over the targets, weighted by amount; they are zero
        where unknown.
        """
        if self._position is None:
            self._position = {g: i for i, g in enumerate(self._nodes)}
        parts = interventions(query.conditions, self._response)
        n, amount = len(query), np.asarray(parts.amount)
        level: FloatArray = np.zeros(n)
        column = np.asarray([self._genes.get(g, -1) for g in parts.genes], dtype=np.int64)
        at = np.flatnonzero(column >= 0)
        if query.control is not None:
            np.add.at(level, parts.owner[at], amount[at] * query.control[parts.owner[at], column[at]])
        node = np.asarray([self._position.get(g, -1) for g in parts.genes], dtype=np.int64)
        at = np.flatnonzero(node >= 0)
        reach: FloatArray = np.zeros(n)
        np.add.at(reach, parts.owner[at], amount[at] * self._reach[node[at]])
        return np.stack([np.minimum(parts.sizes, _MOST), level, np.log1p(reach)], axis=1)

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {f"{prefix}.reach": self._reach}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {f"{prefix}.nodes": self._nodes, f"{prefix}.response": self._response.meta()}

    def restore(
        self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any], genes: list[str]
    ) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        genes
            Gene ids [G] in the order of fitting.
        """
        self._genes = {g: j for j, g in enumerate(genes)}
        self._nodes, self._reach = list(meta[f"{prefix}.nodes"]), arrays[f"{prefix}.reach"]
        self._response, self._position = DoseResponse.restored(meta, f"{prefix}."), None
