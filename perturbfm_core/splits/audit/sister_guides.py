"""Audit check of guides: test perturbations, combinations or conditions whose genes train has by other guides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.guides import guides_of_genes
from perturbfm_core.data.quantities import split_doses
from perturbfm_core.splits.audit.core import (
    CHECKS,
    Finding,
    NotApplicable,
    conditions_in,
    finding,
    fold_codes,
    same_condition_meant,
)
from perturbfm_core.splits.split import FrozenSplit


@CHECKS.register("sister_guides", order=46)
def sister_guides(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find test perturbations, or combinations, of guides whose genes train has by other guides, or by name.

    Where test may have perturbations of train, as in pairs with a context, it is whole conditions that train must not have
    by other guides.

    Raises
    ------
    NotApplicable
        If test may have conditions of train by the definition of the split, or no perturbation is a guide.
    """
    by_combo = split.definition.ood_axes[:1] == ("combo",)
    if same_condition_meant(split):
        msg = "the split holds out rows of conditions that train may have"
        raise NotApplicable(msg)
    perts = {g for p in ds.conditions[schema.PERT_ID].astype(str) for g in pert_genes(p)}
    noted = ds.metadata.notes.get("guides")
    genes = {
        **guides_of_genes(perts, set(map(str, ds.genes))),
        **({str(k): str(v) for k, v in noted.items()} if isinstance(noted, Mapping) else {}),
    }
    if not genes:
        msg = "no perturbation is a guide of a gene"
        raise NotApplicable(msg)
    codes = fold_codes(ds, split)
    train = conditions_in(ds, codes, "train", "val", "calib")
    if "perturbation" not in split.definition.ood_axes and not by_combo:
        return _sister_conditions(split, train, conditions_in(ds, codes, "test"), genes)
    seen: dict[tuple[str, ...], str] = {}
    seen_names: set[str] = set()
    for pert in train[schema.PERT_ID].astype(str):
        for name in _held_parts(pert, by_combo):
            seen.setdefault(_genes_of(name, genes), name)
            seen_names.add(name)
    sisters = []
    for key, pert in conditions_in(ds, codes, "test")[schema.PERT_ID].astype(str).items():
        for name in _held_parts(pert, by_combo):
            gene = _genes_of(name, genes)
            if name not in seen_names and gene in seen and seen[gene] != name:
                sisters.append(f"{key} = {seen[gene]} of train")
    return finding(
        "sister_guides",
        sisters,
        f"{len(sisters)} test perturbations are guides of {'genes' if by_combo else 'a gene'} whose other guides train has"
        f"{', combined as they are' if by_combo else ''}, so they are not unseen; "
        "import with --guides merge, or hold out all guides of a gene",
    )


def _sister_conditions(
    split: FrozenSplit, train: pd.DataFrame, test: pd.DataFrame, genes: Mapping[str, str]
) -> list[Finding]:
    """Return findings about test conditions of guides that train has, in all but the guide.

    They are only a warning where the few-shot conditions of a context are the ones: train has these by the definition of the
    split.
    """
    seen: dict[tuple[Any, ...], list[str]] = {}
    for key, what in _of_genes(train, genes).items():
        seen.setdefault(what, []).append(key)
    sisters = {key: seen[what] for key, what in _of_genes(test, genes).items() if what in seen}
    few = set(split.definition.params.get("few_shot", ()))
    declared = {key for keys in sisters.values() for key in keys} <= few
    return finding(
        "sister_guides",
        [f"{key} = {keys[0]} of train" for key, keys in sisters.items()],
        f"{len(sisters)} test conditions are guides of a gene whose other guides train has in the same condition, so they are "
        "not unseen; import with --guides merge, or hold out all guides of a gene",
        "warning" if declared else "blocking",
    )


def _of_genes(conditions: pd.DataFrame, genes: Mapping[str, str]) -> dict[str, tuple[Any, ...]]:
    """Return {condition: the same with the genes of its guides}, each part with its dose."""
    out = {}
    rows = zip(*(conditions[c].astype(str) for c in schema.CONDITION_COLUMNS), strict=True)
    for key, (context, pert, modality, doses, covariates) in zip(conditions.index, rows, strict=True):
        parts = [genes.get(part, part) for part in pert_genes(pert)]
        each = split_doses(doses)
        whole = sorted(zip(parts, each, strict=True)) if len(each) == len(parts) else [*sorted(parts), doses]
        out[str(key)] = (context, *whole, modality, covariates)
    return out


def _held_parts(pert: str, by_combo: bool) -> list[str]:
    """Return what a split holds out of a perturbation: each part, or the whole of a combination."""
    parts = pert_genes(pert)
    return list(parts) if not by_combo else [pert] if len(parts) > 1 else []


def _genes_of(name: str, genes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the genes of guides, sorted."""
    return tuple(sorted(genes.get(part, part) for part in pert_genes(name)))
