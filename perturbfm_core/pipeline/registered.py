"""Names behind the word ``auto``: families by symbols, and what is registered of public sources and knows the perturbed genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perturbfm_core.catalog.entries import FeaturesEntry, GraphEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.graphs.side_info import AUTO, FAMILIES, LISTED
from perturbfm_core.graphs.sources.identifiers import kind_of
from perturbfm_core.graphs.sources.known import SOURCES
from perturbfm_core.models.base import new_model
from perturbfm_core.models.named_inputs import FEATURES, GRAPHS
from perturbfm_core.pipeline.gene_families import tells_families
from perturbfm_core.pipeline.gene_graph import load_features, load_graph, load_masks
from perturbfm_core.pipeline.source_use import acted_on, say_once
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore

# A source that knows less than this share of the perturbed genes names genes in another way, or is of another organism.
LEAST_SHARE = 0.1


def names_for(
    store: ArtifactStore, ds: PerturbDataset, model: str, params: Mapping[str, Any], tell: Progress = quiet
) -> dict[str, tuple[str, ...]]:
    """Return {parameter: names} that ``auto`` stands for in the parameters of a model, for one data set.

    A source whose graph is read gives no table besides, if the model makes features of its graphs itself. Families by
    gene symbols need no source.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    model, params
        Registered model, and its parameters.
    tell
        Called with a line of text about progress.

    Raises
    ------
    GraphError
        If a registered file is missing or not what the catalog states.
    """
    unfitted = new_model(model, dict(params))
    needs = unfitted.needs()
    wanted = {GRAPHS: AUTO in needs.graphs, FEATURES: AUTO in needs.features}
    if not any(wanted.values()):
        return {}
    catalog = load_catalog()
    graphs = [e for e in catalog.graphs.values() if e.origin is not None and wanted[GRAPHS]]
    tables = [e for e in catalog.features.values() if e.origin is not None and wanted[FEATURES]]
    masks = None if needs.masks is None else load_masks(needs.masks)
    families = (FAMILIES,) if wanted[FEATURES] and tells_families(ds, masks) else ()
    genes = acted_on(ds, masks)
    known = {e.name: load_graph(store, e.name).position for e in graphs}
    used = [e for e in graphs if _knows(known[e.name], genes)]
    has_own = {_identity(e) for e in used} if getattr(unfitted.params, "graph_features", 0) else set()
    rows = {e.name: load_features(store, e.name).position for e in tables}
    read = [e for e in tables if _identity(e) not in has_own and _knows(rows[e.name], genes)]
    # Tables of sources whose graph is read are left out by choice.
    unread: list[GraphEntry | FeaturesEntry] = [
        *(e for e in graphs if e not in used),
        *(e for e in tables if e not in read and _identity(e) not in has_own),
    ]
    if genes and unread:
        found_in = {
            e.name: _found(known if isinstance(e, GraphEntry) else rows, e.name, genes) for e in unread
        }
        _say_unread(ds, genes, unread, found_in, tell, is_any_read=bool(used or read))
    lists = [e.name + LISTED for e in read if _is_complete(e)]
    # Those that are named beside the word are not read twice.
    found = {
        GRAPHS: tuple(e.name for e in used if e.name not in needs.graphs),
        FEATURES: tuple(n for n in (*families, *(e.name for e in read), *lists) if n not in needs.features),
    }
    return {name: names for name, names in found.items() if names}


def resolved_params(
    store: ArtifactStore, ds: PerturbDataset, model: str, params: Mapping[str, Any], tell: Progress = quiet
) -> dict[str, Any]:
    """Return the parameters of a model with the names that ``auto`` stands for.

    Parameters are those of `names_for`.
    """
    found = names_for(store, ds, model, params, tell)
    plain = new_model(model, dict(params)).params
    out = dict(params)
    for name in (GRAPHS, FEATURES):
        given = getattr(plain, name, ())
        if AUTO in given:
            out[name] = [*(n for n in given if n != AUTO), *found.get(name, ())]
    return out


def _knows(position: Mapping[str, int], genes: list[str]) -> bool:
    return bool(genes) and sum(g in position for g in genes) >= max(1, LEAST_SHARE * len(genes))


def _is_complete(entry: FeaturesEntry) -> bool:
    """Return whether the source of a table lists every gene of its kind."""
    source = None if entry.origin is None else SOURCES.get(entry.origin.source)
    return source is not None and source.complete


def _found(positions: Mapping[str, Mapping[str, int]], name: str, genes: list[str]) -> int:
    return sum(g in positions[name] for g in genes)


def _identity(entry: GraphEntry | FeaturesEntry) -> tuple[str, ...]:
    """Return what graph and table of the same files share."""
    origin = entry.origin
    return () if origin is None else (origin.source, entry.name)


def _say_unread(
    ds: PerturbDataset,
    genes: list[str],
    entries: list[GraphEntry | FeaturesEntry],
    found: Mapping[str, int],
    tell: Progress,
    *,
    is_any_read: bool,
) -> None:
    """Say which registered sources are not read, with the names that they have and how many of the genes they know."""
    offered = dict.fromkeys(
        f"{e.name} has {e.origin.identifiers} of {e.origin.organism}"
        + (f" ({found[e.name]} of {len(genes)} genes)" if found[e.name] else "")
        for e in entries
        if e.origin is not None
    )
    about = f"the perturbed genes of {ds.name!r} ({kind_of(genes)}, e.g. {genes[0]!r})"
    if is_any_read:
        text = f"registered sources that know less than a tenth of {about} are not read: "
    else:
        text = f"no registered source knows {about}, none is read: "
    say_once(text + "; ".join(offered), (ds.content_sha256, *(e.sha256 for e in entries)), tell)
