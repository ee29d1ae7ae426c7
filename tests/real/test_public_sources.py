"""Public sources as they are: tables of STRING, Gene Ontology, Reactome, DoRothEA and TRRUST become what they must."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.conversion import Converted, Options
from perturbfm_core.graphs.sources.identifiers import SYMBOLS
from perturbfm_core.graphs.sources.known import known_source


def converted(source: str, path: Path, **options) -> Converted:
    return known_source(source).convert({"main": path}, Options(**options), source)


def test_string_reactome_and_go(shared_dir):
    graphs = shared_dir / "data/graphs"
    string = converted("string", graphs / "string_v12_human_ntm700.parquet")
    pairs = pd.read_parquet(graphs / "string_v12_human_ntm700.parquet")
    assert string.identifiers == SYMBOLS
    assert string.graph.adjacency.nnz == 2 * (pairs["combined_score"] >= 700).sum()
    assert string.features.genes.tolist() == string.graph.genes.tolist()
    for source, file in (
        ("reactome", "reactome_membership.parquet"),
        ("go", "go_bp_2021_membership.parquet"),
    ):
        made = converted(source, graphs / file)
        assert made.features.matrix.shape[1] == 64
        assert {"TP53", "MYC"} <= set(made.features.genes.tolist())


def test_regulation_and_the_wrong_organism(shared_dir):
    graphs = shared_dir / "data/graphs"
    dorothea = converted("dorothea", graphs / "dorothea_hs.parquet")
    # Levels A to C.
    assert dorothea.graph.adjacency.nnz == 13_223
    assert converted("trrust", graphs / "trrust_v2_human.parquet").graph.meta["directed"] is True
    with pytest.raises(GraphError, match="holds genes of human by their symbols"):
        converted("dorothea", graphs / "dorothea_hs.parquet", organism="mouse")
