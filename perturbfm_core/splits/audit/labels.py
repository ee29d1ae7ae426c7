"""Audit checks of labels: features that name the condition, and guides of one gene on both sides of a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.guides import guides_of_genes
from perturbfm_core.data.label_features import label_features
from perturbfm_core.splits.audit.core import (
    CHECKS,
    Finding,
    NotApplicable,
    conditions_in,
    finding,
    fold_codes,
)
from perturbfm_core.splits.split import FrozenSplit

LABEL_FEATURES: Final = "label_naming_features"
# Findings that a data set can declare as accepted on import.
ACCEPTABLE: Final = (LABEL_FEATURES,)


@CHECKS.register(LABEL_FEATURES, order=45)
def label_naming_features(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find features from which a model can read the perturbation: guide counts among the genes."""
    found = label_features(ds)
    names = [f"{feature} = {pert}" for feature, pert in sorted(found.all.items())]
    columns = ds.metadata.notes.get("columns")
    accepted = isinstance(columns, Mapping) and LABEL_FEATURES in (columns.get("accept") or ())
    if not found.certain:
        # One silent gene that a perturbation switches on is biology, and no finding.
        return []
    return finding(
        LABEL_FEATURES,
        names,
        f"{len(names)} of {ds.n_genes} features name the condition, by their names or by being on in one "
        "perturbation only, so a model can read the label that it is to predict from; remove them and import again, or "
        f"import with --accept {LABEL_FEATURES}",
        severity="warning" if accepted else "blocking",
    )


@CHECKS.register("sister_guides", order=46)
def sister_guides(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find test perturbations, or combinations, of guides whose genes train has by other guides, or by name.

    Raises
    ------
    NotApplicable
        If test may have perturbations of train by the definition of the split, or no perturbation is a guide.
    """
    by_combo = split.definition.ood_axes[:1] == ("combo",)
    if "perturbation" not in split.definition.ood_axes and not by_combo:
        msg = "the split may have perturbations of train in test"
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


def _held_parts(pert: str, by_combo: bool) -> list[str]:
    """Return what a split holds out of a perturbation: each part, or the whole of a combination."""
    parts = pert_genes(pert)
    if by_combo:
        return [pert] if len(parts) > 1 else []
    return list(parts)


def _genes_of(name: str, genes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the genes of guides, sorted."""
    return tuple(sorted(genes.get(part, part) for part in pert_genes(name)))
