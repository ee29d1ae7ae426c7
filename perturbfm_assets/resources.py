"""The artifact store as a Dagster resource."""

import dagster as dg

from perturbfm_core.progress import Progress
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.locks import to_console


class StoreResource(dg.ConfigurableResource[ArtifactStore]):
    """The artifact store; empty fields take the environment's folders."""

    home: str = ""
    split_dir: str = ""

    def open(self, tell: Progress = to_console) -> ArtifactStore:
        """Return the store; `tell` is called with a line that names the holder of a lock that is waited for."""
        return ArtifactStore(self.home or None, self.split_dir or None, tell)
