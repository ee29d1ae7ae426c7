"""GEARS: single genes and pairs inside its gene graph, one model per context."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from perturbfm_core.data.condition import pert_genes
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.external.base import ExternalModel, ExternalParams
from perturbfm_core.models.external.requirements import Lacks, genes_by_context
from perturbfm_core.splits.conditions import SplitConditions

_MOST_GENES = 2


@MODELS.register("external-gears")
class Gears(ExternalModel):
    """GEARS 0.1.2, which knows no contexts: one model is trained per context that is asked for."""

    environment = "gears"

    class Params(ExternalParams):
        """Parameters of `Gears`: length and rate of training, and its gene graph.

        Attributes
        ----------
        epochs
            Epochs of training.
        lr
            Learning rate.
        batch_size
            Cells in a batch.
        hidden_size
            Width of its network.
        go_table
            {gene: terms} of its gene graph; by default genes are joined by their correlation on the controls.
        """

        epochs: int = Field(default=20, ge=1)
        lr: float = Field(default=1e-3, gt=0)
        batch_size: int = Field(default=32, ge=1)
        hidden_size: int = Field(default=64, ge=1)
        go_table: dict[str, Any] | None = None

    def lacks(self, conditions: SplitConditions) -> Lacks:
        """Return what a condition lacks: a trained context, at most two genes, each in the graph."""
        trained = genes_by_context(conditions)
        table = self.params.go_table

        def lacks(context: str, pert: str, _doses: str) -> str | None:
            if context not in trained:
                return "train conditions of every tested context, it learns nothing across contexts"
            genes = pert_genes(pert)
            if len(genes) > _MOST_GENES:
                return "one or two genes per perturbation"
            graph = conditions.genes if table is None else frozenset(table)
            known = graph is None or set(genes) <= graph | (trained[context] if table is None else set())
            return None if known else "perturbed genes inside its gene graph"

        return lacks
