"""CPA: combinations of genes and contexts that were seen, each in some condition."""

from __future__ import annotations

from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.external.base import ExternalModel, ExternalParams
from perturbfm_core.models.external.requirements import Lacks, genes_by_context
from perturbfm_core.splits.conditions import SplitConditions

# It has room for so many genes in any case.
_PAIR = 2


@MODELS.register("external-cpa")
class Cpa(ExternalModel):
    """CPA (cpa-tools 0.8.8): additive embeddings of genes and contexts in a latent space of cells."""

    environment = "cpa"

    class Params(ExternalParams):
        """Parameters of `Cpa`: length and rate of training, and the size of its network.

        Attributes
        ----------
        epochs, patience
            Most epochs of training, and checks without gain after which it stops.
        lr, batch_size
            Learning rate, and cells in a batch.
        n_hidden, n_latent
            Widths of hidden layers and of the latent space.
        """

        epochs: int = Field(default=400, ge=1)
        patience: int = Field(default=10, ge=1)
        lr: float = Field(default=5e-4, gt=0)
        batch_size: int = Field(default=128, ge=1)
        n_hidden: int = Field(default=256, ge=1)
        n_latent: int = Field(default=128, ge=1)

    def lacks(self, conditions: SplitConditions) -> Lacks:
        """Return what a condition lacks: its context, each of its genes, and combinations as large, in train."""
        contexts = set(conditions.train[schema.CONTEXT_ID])
        genes: set[str] = set().union(*genes_by_context(conditions).values())
        largest = max([_PAIR, *(len(pert_genes(p)) for p in set(conditions.train[schema.PERT_ID]))])

        def lacks(context: str, pert: str, _doses: str) -> str | None:
            if context not in contexts:
                return "contexts that train has"
            mine = pert_genes(pert)
            if not set(mine) <= genes:
                return "genes that train has perturbed"
            return None if len(mine) <= largest else "combinations of as many genes in train"

        return lacks
