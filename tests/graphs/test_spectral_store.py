"""Spectral features in the object store: computed once for each graph, found by what the graph holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.graphs import spectral_store
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.spectral import kept_spectral_features, spectral_features
from perturbfm_core.graphs.spectral_store import spectra_kept_in
from perturbfm_core.store.artifacts import ArtifactStore


def ring(n: int, name: str = "ring", weight: float = 1.0) -> GeneGraph:
    A = sp.coo_array((np.full(n, weight), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return GeneGraph(name, np.asarray([f"g{i}" for i in range(n)]), sp.csr_array(A + A.T))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the graphs whose features are computed."""
    out: list[str] = []

    def counted(graph: GeneGraph, dim: int) -> object:
        out.append(graph.name)
        return spectral_features(graph, dim)

    counted.__module__ = spectral_features.__module__
    monkeypatch.setattr(spectral_store, "spectral_features", counted)
    return out


def test_features_are_computed_once_for_each_graph_and_width(tmp_path: Path, computed: list[str]) -> None:
    plain = spectral_features(ring(12), 4)
    for _ in range(2):
        with spectra_kept_in(ArtifactStore(tmp_path)):
            found = kept_spectral_features(ring(12), 4)
            other = kept_spectral_features(ring(12, "other"), 4)
    assert computed == ["ring"]
    assert (found.name, other.name) == (plain.name, "other_svd4")
    assert (found.matrix == plain.matrix).all()
    assert (found.genes == plain.genes).all()
    with spectra_kept_in(ArtifactStore(tmp_path)):
        assert kept_spectral_features(ring(12), 3).matrix.shape == (12, 3)
        kept_spectral_features(ring(12, weight=-1.0), 4)
        kept_spectral_features(ring(13), 4)
    assert computed == ["ring"] * 4


def test_without_a_store_nothing_is_kept(tmp_path: Path, computed: list[str]) -> None:
    with spectra_kept_in(ArtifactStore(tmp_path)):
        pass
    assert (kept_spectral_features(ring(8), 4).matrix == spectral_features(ring(8), 4).matrix).all()
    assert computed == []
    assert not (tmp_path / "runs").exists()
