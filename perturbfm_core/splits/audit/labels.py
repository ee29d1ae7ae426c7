"""Audit check of labels: features that name the condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.label_features import label_features
from perturbfm_core.splits.audit.core import CHECKS, Finding, finding
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
