"""Effects of a donor data set, averaged per perturbation and direction, and checks that they can be borrowed."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.direction import DIRECTION_NAMES, direction_of
from perturbfm_core.graphs.donor import DonorEffects
from perturbfm_core.schema import StrArray
from perturbfm_core.splits.audit.borrowed import donor_rows

_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{6,}(\.\d+)?", re.IGNORECASE)
# Gene names of different kinds that overlap by less than this share are names of different things.
_OVERLAP = 0.5


def effects_of(donor: PerturbDataset, context: str | None, genes: StrArray, name: str) -> DonorEffects:
    """Return the mean effect of each perturbation of a donor, over its contexts, doses and covariates.

    Parameters
    ----------
    donor
        The data set borrowed from.
    context
        Its only context that is read, None for all.
    genes
        Gene ids [G] of the data set that borrows.
    name
        The donor in messages.

    Raises
    ------
    GraphError
        If nothing is perturbed in the context.
    """
    rows = donor_rows(donor, context)
    if not len(rows):
        msg = f"{name!r} has no perturbed rows to borrow from; choose another context"
        raise GraphError(msg)
    table = condition_table(donor, rows)
    # Both halves of the controls are used: a donor is not scored.
    delta = (table.delta["input"] + table.delta["reference"]) / 2.0
    labels = pd.MultiIndex.from_arrays(
        [
            table.conditions[schema.PERT_ID].astype(str),
            [direction_of(str(m)) for m in table.conditions[schema.MODALITY]],
        ]
    )
    codes, groups = pd.factorize(labels, sort=True)
    shape = (len(groups), len(codes))
    weight = table.n.astype(np.float64)
    members = sp.csr_array((weight, (codes, np.arange(len(codes)))), shape=shape)
    mean = (members @ delta) / np.bincount(codes, weights=weight, minlength=shape[0])[:, None]
    at = pd.Index(donor.genes).get_indexer(pd.Index(genes))
    effects = np.zeros((shape[0], len(genes)), dtype=np.float32)
    effects[:, at >= 0] = mean[:, at[at >= 0]]
    return DonorEffects(
        name=name,
        content_sha256=donor.content_sha256,
        perts=tuple(str(p) for p, _ in groups),
        direction=np.asarray([d for _, d in groups], dtype=np.int8),
        effects=effects,
        measured=np.asarray(at >= 0, dtype=np.bool_),
    )


def check_genes(ds: PerturbDataset, donor: PerturbDataset, name: str) -> None:
    """Refuse a donor whose genes, or perturbed genes, are named in another way.

    Parameters
    ----------
    ds, donor
        The data set that borrows, and the one borrowed from.
    name
        The donor in messages.

    Raises
    ------
    GraphError
        If no name is shared, or one data set has Ensembl ids where the other has symbols.
    """
    _check_names(ds, set(ds.genes.tolist()), name, set(donor.genes.tolist()), "genes", 1)
    # Screens of different genes share none: only names of another kind are refused.
    _check_names(ds, _perturbed(ds), name, _perturbed(donor), "perturbed genes", 0)


def check_directions(ds: PerturbDataset, effects: DonorEffects) -> None:
    """Refuse a donor that perturbs in other directions only.

    Parameters
    ----------
    ds
        The data set that borrows.
    effects
        The donor's effects.

    Raises
    ------
    GraphError
        If no effect is of a direction in which `ds` perturbs.
    """
    theirs = frozenset(int(d) for d in effects.direction)
    if not theirs & effects.directions:
        ours, other = (
            " and ".join(DIRECTION_NAMES[d] for d in sorted(x)) for x in (effects.directions, theirs)
        )
        shown = sorted(set(ds.conditions[schema.MODALITY].astype(str)))
        msg = (
            f"nothing can be borrowed from {effects.name!r}: its modalities are {other}, those of {ds.name!r} {ours} "
            f"({', '.join(map(repr, shown[:3]))}), and effects of another direction are not borrowed; "
            "if a modality is not declared, import with --modality"
        )
        raise GraphError(msg)


def _perturbed(ds: PerturbDataset) -> set[str]:
    return {g for p in ds.conditions[schema.PERT_ID].astype(str) for g in pert_genes(p)}


def _check_names(
    ds: PerturbDataset, ours: set[str], name: str, theirs: set[str], what: str, least: int
) -> None:
    shared = len(ours & theirs)
    kinds = _kind(ours), _kind(theirs)
    mixed = kinds[0] != kinds[1] and shared < _OVERLAP * min(len(ours), len(theirs))
    if shared >= least and not mixed:
        return
    examples = [repr(min(x)) for x in (ours - theirs or ours, theirs - ours or theirs)]
    msg = (
        f"{shared} of {len(ours)} {what} of {ds.name!r} ({kinds[0]}, e.g. {examples[0]}) are among the {len(theirs)} of "
        f"{name!r} ({kinds[1]}, e.g. {examples[1]}); import one of them with the other's gene names to borrow from it"
    )
    raise GraphError(msg)


def _kind(names: Iterable[str]) -> str:
    listed = list(names)
    return "Ensembl ids" if sum(bool(_ENSEMBL.fullmatch(n)) for n in listed) > len(listed) / 2 else "symbols"
