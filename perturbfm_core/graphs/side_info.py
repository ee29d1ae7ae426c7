"""Side information of models: gene graphs, gene features, a cell encoder, perturbation masks and borrowed effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from perturbfm_core.config import content_hash
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.donor import DonorEffects
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.masks import PertMasks

T = TypeVar("T")

# Name of the graph that is built from a split's own training rows; no graph file may have it.
COEXPRESSION = "coexpression"
# What comes before the name of a donor where its effects are a table of gene features.
BORROWED = "borrowed:"
# Word for the table of families that the symbols of perturbed genes tell.
FAMILIES = "families"
# What comes after the name of a list of genes where being in it is a table of two features.
LISTED = ":listed"
# Word for everything of public sources that is registered and knows the perturbed genes of the data set.
AUTO = "auto"


@dataclass(frozen=True)
class Needs:
    """Side information that a configured model needs.

    Attributes
    ----------
    graphs, features
        Names of gene graphs and of gene-feature tables.
    encoder, masks
        Name of a pre-trained cell encoder, and file of perturbation masks; None if not needed.
    borrowed
        Data sets whose effects are borrowed, each ``DATASET`` or ``DATASET:CONTEXT``.
    """

    graphs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    encoder: str | None = None
    masks: str | None = None
    borrowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceUse:
    """One graph or table of a public source that a model reads; recorded in the run.

    Attributes
    ----------
    name, what, sha256
        Name in the catalog, ``graph`` or ``features``, and hash of the content.
    source, version, organism, identifiers, licence
        Of the source.
    perturbed, found
        How many genes the data set perturbs, and how many of these it has.
    """

    name: str
    what: str
    sha256: str
    source: str
    version: str
    organism: str
    identifiers: str
    licence: str
    perturbed: int
    found: int


@dataclass(frozen=True)
class EncoderFolder:
    """A pre-trained cell encoder on disk that may be used with a split.

    Attributes
    ----------
    path
        Its folder.
    sha256
        Hash of its architecture and weights.
    split_hash
        Hash of the split whose training rows it was trained on.
    """

    path: Path
    sha256: str
    split_hash: str


@dataclass(frozen=True, eq=False)
class SideInfo:
    """Graphs and gene features by name, a cell encoder, masks of perturbations, and effects of other data sets.

    Attributes
    ----------
    graphs
        {name: gene graph}; one built from data belongs to a split (see `GeneGraph.split_hash`).
    features
        {name: gene-feature table}.
    encoder
        The pre-trained cell encoder, None if there is none.
    masks
        Target genes of the perturbations, None if perturbations are genes.
    donors
        {``DATASET`` or ``DATASET:CONTEXT``: effects of another data set}.
    sources
        What is known of those graphs and tables that are of public sources.
    """

    graphs: Mapping[str, GeneGraph] = field(default_factory=dict)
    features: Mapping[str, GeneFeatures] = field(default_factory=dict)
    encoder: EncoderFolder | None = None
    masks: PertMasks | None = None
    donors: Mapping[str, DonorEffects] = field(default_factory=dict)
    sources: tuple[SourceUse, ...] = ()

    def graph(self, name: str) -> GeneGraph:
        """Return the graph called `name`; an unknown name raises `GraphError`."""
        return _get(self.graphs, name, "graph")

    def feature_table(self, name: str) -> GeneFeatures:
        """Return the gene features called `name`, or those of a donor; an unknown name raises `GraphError`."""
        if name.startswith(BORROWED) and name not in self.features:
            return self.donor(name.removeprefix(BORROWED)).features
        return _get(self.features, name, "table of gene features")

    def donor(self, name: str) -> DonorEffects:
        """Return the effects of the donor called `name`; an unknown name raises `GraphError`."""
        return _get(self.donors, name, "effects of a data set")

    @property
    def digests(self) -> dict[str, dict[str, str]]:
        """Return {kind: {name: SHA-256}} of all side information."""
        return {
            "graphs": {k: v.sha256 for k, v in sorted(self.graphs.items())},
            "features": {k: v.sha256 for k, v in sorted(self.features.items())},
            **({} if self.encoder is None else {"encoder": {"cells": self.encoder.sha256}}),
            **({} if self.masks is None else {"masks": {"perturbations": self.masks.sha256}}),
            **({"borrowed": {k: v.sha256 for k, v in sorted(self.donors.items())}} if self.donors else {}),
        }

    @property
    def graph_hash(self) -> str | None:
        """Return one hash of all graphs, None if there are none; it is recorded in every run."""
        return content_hash(self.digests["graphs"]) if self.graphs else None


def _get(items: Mapping[str, T], name: str, what: str) -> T:
    try:
        return items[name]
    except KeyError:
        msg = f"the model was given no {what} called {name!r}; it has: {', '.join(items) or 'none'}"
        raise GraphError(msg) from None
