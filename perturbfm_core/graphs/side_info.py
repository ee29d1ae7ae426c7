"""The bundle of side information that a model is given beside its train view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from perturbfm_core.config import content_hash
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.masks import PertMasks

T = TypeVar("T")

# The graph that is built from a split's own train rows; no file may have its name.
COEXPRESSION = "coexpression"


@dataclass(frozen=True)
class Needs:
    """Names of the graphs, gene-feature tables, pre-trained cell encoder and masks that a configured model reads."""

    graphs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    encoder: str | None = None
    masks: str | None = None


@dataclass(frozen=True)
class EncoderFolder:
    """A pre-trained cell encoder on disk, found to belong to the split it is to be used on.

    Attributes
    ----------
    path
        Its folder.
    sha256
        Of its form and weights.
    split_hash
        The split whose train rows it was trained on.
    """

    path: Path
    sha256: str
    split_hash: str


@dataclass(frozen=True, eq=False)
class SideInfo:
    """Graphs and gene features by name, a cell encoder, and masks of perturbations.

    Attributes
    ----------
    graphs
        Gene graphs; one built from data belongs to a split (see `GeneGraph.split_hash`).
    features
        Gene-feature tables.
    encoder
        The pre-trained cell encoder, None without one.
    masks
        Which genes perturbations act on, None where they are genes.
    """

    graphs: Mapping[str, GeneGraph] = field(default_factory=dict)
    features: Mapping[str, GeneFeatures] = field(default_factory=dict)
    encoder: EncoderFolder | None = None
    masks: PertMasks | None = None

    def graph(self, name: str) -> GeneGraph:
        """Return the graph called `name`, or raise `GraphError` with the known names."""
        return _get(self.graphs, name, "graph")

    def feature_table(self, name: str) -> GeneFeatures:
        """Return the gene features called `name`, or raise `GraphError` with the known names."""
        return _get(self.features, name, "table of gene features")

    @property
    def digests(self) -> dict[str, dict[str, str]]:
        """Return {kind: {name: SHA-256}} of everything in it."""
        return {
            "graphs": {k: v.sha256 for k, v in sorted(self.graphs.items())},
            "features": {k: v.sha256 for k, v in sorted(self.features.items())},
            **({} if self.encoder is None else {"encoder": {"cells": self.encoder.sha256}}),
            **({} if self.masks is None else {"masks": {"perturbations": self.masks.sha256}}),
        }

    @property
    def graph_hash(self) -> str | None:
        """Return one hash over all graphs, None without any; recorded in every run."""
        return content_hash(self.digests["graphs"]) if self.graphs else None


def _get(items: Mapping[str, T], name: str, what: str) -> T:
    try:
        return items[name]
    except KeyError:
        msg = f"the model was given no {what} called {name!r}; it has: {', '.join(items) or 'none'}"
        raise GraphError(msg) from None
