"""Spectral features of graphs in the object store: computed once for each graph, whatever split or model uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perturbfm_core.config import content_hash
from perturbfm_core.graphs.features import GeneFeatures, read_features
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.io import write_features
from perturbfm_core.graphs.spectral import KEEPER, spectral_features
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.code import code_of

_FILE = "features.npz"


@contextmanager
def spectra_kept_in(store: ArtifactStore) -> Iterator[None]:
    """Find spectral features in the store, and keep there what is computed, as long as the block runs."""

    def keep(graph: GeneGraph, dim: int) -> GeneFeatures:
        key = content_hash(
            {
                "stage": "spectral_features",
                "graph": graph.sha256,
                "dim": dim,
                "code": code_of(spectral_features.__module__).digest,
            }
        )

        def fill(folder: Path) -> None:
            write_features(spectral_features(graph, dim), folder / _FILE)

        table = read_features(store.put_object(key, fill) / _FILE)
        # Graphs of equal edges share the features, not the name.
        return GeneFeatures(f"{graph.name}_svd{dim}", graph.genes, table.matrix)

    token = KEEPER.set(keep)
    try:
        yield
    finally:
        KEEPER.reset(token)
