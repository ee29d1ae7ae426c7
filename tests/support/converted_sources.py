"""Conversion of small files by a public source: what is made of them, or the line that refuses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.conversion import Converted, Options
from perturbfm_core.graphs.sources.known import known_source


def converted(source: str, files: dict[str, Path], name: str = "x", **options) -> Converted:
    """Return what a source makes of files."""
    return known_source(source).convert(files, Options(**options), name)


def refusal(source: str, files: dict[str, Path], **options) -> str:
    """Return the one line by which a source refuses files."""
    with pytest.raises(GraphError) as refused:
        converted(source, files, **options)
    text = str(refused.value)
    assert "\n" not in text
    return text


def edges(graph) -> dict[tuple[str, str], float]:
    """Return {(source, target): weight} of a graph."""
    coo = graph.adjacency.tocoo()
    return {
        (str(graph.genes[i]), str(graph.genes[j])): round(float(w), 4)
        for i, j, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


def near(features, a: str, b: str) -> float:
    """Return the distance of two genes by their features."""
    rows = features.matrix[[features.position[a], features.position[b]]].astype(np.float64)
    return float(np.linalg.norm(rows[0] - rows[1]))
