"""The artifact store as a Dagster resource."""

import dagster as dg

from perturbfm_core.store.artifacts import ArtifactStore


class StoreResource(dg.ConfigurableResource[ArtifactStore]):
    """The artifact store; empty fields take the environment's folders."""

    home: str = ""
    split_dir: str = ""

    def open(self) -> ArtifactStore:
        """Return the store."""
        return ArtifactStore(self.home or None, self.split_dir or None)
