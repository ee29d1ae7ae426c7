"""A worker file of the user's own, or the template, as a model of the grid."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.errors import ModelError
from perturbfm_core.external.work import WORKERS
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.external.base import ExternalModel, ExternalParams
from perturbfm_core.models.external.requirements import Lacks
from perturbfm_core.splits.conditions import SplitConditions


@MODELS.register("external-worker")
class OwnWorker(ExternalModel):
    """A worker in one file: by default the template, a perturbation's mean change added to the control."""

    environment = "worker"

    class Params(ExternalParams):
        """Parameters of `OwnWorker`: its file.

        Attributes
        ----------
        worker
            File of the worker; by default the template that comes with the package.
        """

        worker: str | None = None

    def script(self) -> Path:
        """Return the file of the worker.

        Raises
        ------
        ModelError
            If it is not there.
        """
        if self.params.worker is None:
            return WORKERS / "template_worker.py"
        path = Path(self.params.worker).expanduser()
        if not path.is_file():
            msg = f"the worker {path} is not there; give the path of a Python file (parameter worker)"
            raise ModelError(msg)
        return path

    def lacks(self, conditions: SplitConditions) -> Lacks:
        """Return that nothing is known of what it lacks; its own word is in ``skipped`` and ``error.json``."""
        return lambda *_: None

    def cannot(self, conditions: SplitConditions) -> str | None:
        """Return nothing: it may read doses."""
        return None
