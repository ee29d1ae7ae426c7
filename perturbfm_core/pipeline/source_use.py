"""Use of public sources by a model: which perturbed genes each knows, and what is said once of those that none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perturbfm_core import schema
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.condition import distinct_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.masks import PertMasks
from perturbfm_core.graphs.side_info import SourceUse
from perturbfm_core.progress import WARNING, Progress, quiet

_SHOWN = 5
# What was said in this process: a suite opens the same data set many times.
_said: set[tuple[str, ...]] = set()


def acted_on(ds: PerturbDataset, masks: PertMasks | None = None) -> list[str]:
    """Return the genes that a data set perturbs, sorted; the targets of those perturbations that masks describe."""
    names = distinct_genes(ds.conditions[schema.PERT_ID].astype(str).unique())
    if masks is None:
        return names
    described = [masks.position[n] for n in names if n in masks.position]
    targets = masks.genes[(masks.mask[described] != 0).any(axis=0)].tolist() if described else []
    return sorted({*(n for n in names if n not in masks.position), *targets})


def uses_of(
    genes: Sequence[str], graphs: Mapping[str, GeneGraph], tables: Mapping[str, GeneFeatures]
) -> tuple[SourceUse, ...]:
    """Return what is known of those graphs and tables that are registered as of a public source.

    Parameters
    ----------
    genes
        Perturbed genes of the data set.
    graphs, tables
        What a model reads, by name.
    """
    catalog = load_catalog()
    read: list[tuple[str, GeneGraph | GeneFeatures]] = [
        *(("graph", g) for g in graphs.values()),
        *(("features", t) for t in tables.values()),
    ]
    out = []
    for what, item in read:
        entry = (catalog.graphs if what == "graph" else catalog.features).get(item.name)
        if entry is None or entry.origin is None:
            continue
        out.append(
            SourceUse(
                name=item.name,
                what=what,
                sha256=item.sha256,
                source=entry.origin.source,
                version=entry.origin.version,
                organism=entry.origin.organism,
                identifiers=entry.origin.identifiers,
                licence=entry.licence,
                perturbed=len(genes),
                found=sum(g in item.position for g in genes),
            )
        )
    return tuple(out)


def say_missing(
    ds: PerturbDataset,
    genes: Sequence[str],
    uses: Sequence[SourceUse],
    items: Sequence[GeneGraph | GeneFeatures],
    tell: Progress,
) -> None:
    """Say which perturbed genes none of the sources has; once per data set and sources in a process.

    Parameters
    ----------
    ds, genes
        The data set, and its perturbed genes.
    uses
        The sources that are read.
    items
        Their graphs and tables.
    tell
        Called with the line.
    """
    if not uses:
        return
    have = set().union(*(i.position for i in items if i.name in {u.name for u in uses}))
    missing = [g for g in genes if g not in have]
    counts = ", ".join(f"{u.name} ({u.what}) {u.found}" for u in uses)
    tell(f"public sources: of {len(genes)} perturbed genes {counts}")
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        say_once(
            f"{len(missing)} of {len(genes)} perturbed genes of {ds.name!r} are not found in any source that is read "
            f"({', '.join(u.name for u in uses)}): {', '.join(missing[:_SHOWN])}{more}",
            (ds.content_sha256, *(u.sha256 for u in uses)),
            tell,
        )


def say_once(text: str, about: tuple[str, ...], tell: Progress) -> None:
    """Say a warning, unless it was said about the same things in this process.

    Parameters
    ----------
    text
        The line.
    about
        What it is about.
    tell
        Called with it; where progress is ignored, it does not count as said.
    """
    if tell is not quiet and about not in _said:
        _said.add(about)
        tell(WARNING + text)
