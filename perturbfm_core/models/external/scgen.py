"""scGen: perturbations that were seen, in contexts that may be new."""

from __future__ import annotations

from pydantic import Field

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.external.base import ExternalModel, ExternalParams
from perturbfm_core.models.external.requirements import Lacks, perturbations
from perturbfm_core.splits.conditions import SplitConditions


@MODELS.register("external-scgen")
class ScGen(ExternalModel):
    """scGen 2.1.0: a shift between control and perturbed cells in a latent space, taken to another context."""

    environment = "scgen"

    class Params(ExternalParams):
        """Parameters of `ScGen`: length and rate of training, and the size of its network.

        Attributes
        ----------
        epochs, patience
            Most epochs of training, and epochs without gain after which it stops.
        lr, batch_size
            Learning rate, and cells in a batch.
        n_hidden, n_latent
            Widths of hidden layers and of the latent space.
        """

        epochs: int = Field(default=100, ge=1)
        patience: int = Field(default=25, ge=1)
        lr: float = Field(default=1e-3, gt=0)
        batch_size: int = Field(default=32, ge=1)
        n_hidden: int = Field(default=800, ge=1)
        n_latent: int = Field(default=100, ge=1)

    def lacks(self, conditions: SplitConditions) -> Lacks:
        """Return what a condition lacks: its perturbation in train."""
        known = perturbations(conditions)
        return lambda _context, pert, _doses: (
            None if pert in known else "perturbations that train has in some context"
        )
