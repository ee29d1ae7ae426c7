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
    """Find test perturbations that are guides of a gene whose other guides, or which itself, train has.

    Raises
    ------
    NotApplicable
        If test may have perturbations of train by the definition of the split, or no perturbation is a guide.
    """
    if "perturbation" not in split.definition.ood_axes:
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
    seen: dict[str, str] = {}
    seen_names: set[str] = set()
    for pert in train[schema.PERT_ID].astype(str):
        for name in pert_genes(pert):
            seen.setdefault(genes.get(name, name), name)
            seen_names.add(name)
    sisters = []
    for key, pert in conditions_in(ds, codes, "test")[schema.PERT_ID].astype(str).items():
        for name in pert_genes(pert):
            gene = genes.get(name, name)
            if name not in seen_names and gene in seen and seen[gene] != name:
                sisters.append(f"{key} = {seen[gene]} of train")
    return finding(
        "sister_guides",
        sisters,
        f"{len(sisters)} test perturbations are guides of a gene whose other guides train has, so they are not unseen; "
        "import with --guides merge, or hold out all guides of a gene",
    )
