"""STATE: perturbations that were seen, in contexts that may be new."""

from __future__ import annotations

from pydantic import Field

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.external.base import ExternalModel, ExternalParams
from perturbfm_core.models.external.requirements import Lacks, perturbations
from perturbfm_core.splits.conditions import SplitConditions


@MODELS.register("external-state")
class State(ExternalModel):
    """STATE (arc-state 0.11.1): a transformer over sets of control cells; unknown perturbations are its control."""

    environment = "state"

    class Params(ExternalParams):
        """Parameters of `State`: length and rate of training; sizes of the network go into `settings`.

        Attributes
        ----------
        steps, val_freq
            Steps of training at most, and steps between validations.
        patience
            Validations without a lower loss after which training stops; none, as in the package, makes all steps.
        lr, batch_size
            Learning rate, and sets of cells in a batch.
        """

        steps: int = Field(default=40000, ge=1)
        val_freq: int = Field(default=2000, ge=1)
        patience: int | None = Field(default=None, ge=1)
        lr: float = Field(default=1e-4, gt=0)
        batch_size: int = Field(default=16, ge=1)

    def lacks(self, conditions: SplitConditions) -> Lacks:
        """Return what a condition lacks: its perturbation in train, which STATE would take for its control."""
        known = perturbations(conditions)
        return lambda _context, pert, _doses: (
            None if pert in known else "perturbations that train has in some context"
        )
