"""Checks of names: held-out genes and contexts that train has, under the same or another name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
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

# What files call control rows, and therefore a part of a combination that is none.
CONTROL_NAMES = frozenset(
    {
        "control",
        "ctrl",
        "ctl",
        "non-targeting",
        "nontargeting",
        "non_targeting",
        "nt",
        "ntc",
        "dmso",
        "vehicle",
    }
)
_JOINTS = re.compile(r"[+_|;,&/]")


class Names:
    """Names of genes, drugs and contexts, as equal names are recognised: case, spaces, declared aliases.

    Parameters
    ----------
    ds
        The data set; aliases are those that its metadata declare (``notes``: ``aliases``, or those it was
        imported with).
    """

    def __init__(self, ds: PerturbDataset) -> None:
        notes = ds.metadata.notes
        columns = notes.get("columns")
        declared: dict[str, Any] = {
            **(columns.get("aliases", {}) if isinstance(columns, Mapping) else {}),
            **(notes.get("aliases", {}) if isinstance(notes.get("aliases"), Mapping) else {}),
        }
        self._alias = {plain(k): plain(str(v)) for k, v in declared.items()}
        # A joint inside a name joins only what are perturbations themselves ("A_B", but not "HLA_A").
        self._known = {
            self.one(g) for p in ds.conditions[schema.PERT_ID].astype(str).unique() for g in pert_genes(p)
        }

    def one(self, name: str) -> str:
        """Return the name by which `name` is known."""
        text = plain(name)
        return self._alias.get(text, text)

    def parts(self, pert: str) -> tuple[str, ...]:
        """Return the parts of a perturbation, sorted, without control parts and repetitions."""
        out: set[str] = set()
        for part in pert_genes(pert):
            pieces = [p for p in _JOINTS.split(part) if p.strip()]
            known = len(pieces) > 1 and all(
                self.one(p) in self._known or plain(p) in CONTROL_NAMES for p in pieces
            )
            out |= {self.one(p) for p in (pieces if known else [part])}
        return tuple(sorted(p for p in out if p not in CONTROL_NAMES))

    def condition(self, row: tuple[str, ...]) -> tuple[Any, ...]:
        """Return what a condition (the columns of `schema.CONDITION_COLUMNS`) is, whatever it is called."""
        context, pert, modality, doses, covariates = row
        dose = sorted(plain(d) for d in doses.split(schema.COMBO_SEPARATOR)) if doses else []
        rest = json.loads(covariates) if covariates.startswith("{") else covariates
        return (
            plain(context),
            self.parts(pert),
            plain(modality),
            tuple(dose),
            json.dumps(rest, sort_keys=True),
        )


def plain(name: str) -> str:
    """Return a name without case and surrounding or doubled space."""
    return " ".join(name.casefold().split())


@CHECKS.register("equivalent_conditions", order=20)
def equivalent_conditions(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """A test condition that train has under another name: `B+A`, `A+control`, another case, an alias."""
    codes = fold_codes(ds, split)
    if same_condition_meant(split):
        msg = "the split holds out rows of conditions that train may have"
        raise NotApplicable(msg)
    names = Names(ds)
    seen = _canonical(names, conditions_in(ds, codes, "train", "val", "calib"))
    twins = [
        f"{key} = {seen[what]}"
        for what, key in _canonical(names, conditions_in(ds, codes, "test")).items()
        if what in seen and seen[what] != key
    ]
    return finding(
        "equivalent_conditions",
        twins,
        f"{len(twins)} test conditions are in train under another name, e.g. {twins[:1]}; "
        "import again with one name for each (aliases, separators, control label)",
    )


def _canonical(names: Names, conditions: pd.DataFrame) -> dict[tuple[Any, ...], str]:
    columns = [conditions[c].astype(str).tolist() for c in schema.CONDITION_COLUMNS]
    rows = zip(*columns, strict=True)
    return {names.condition(row): str(key) for key, row in zip(conditions.index, rows, strict=True)}


@CHECKS.register("held_out_unit_in_train", order=20)
def held_out_unit_in_train(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """A held-out context or gene that train has seen, for example through a combination."""
    axes = split.definition.ood_axes
    contexts, genes = _held(split)
    if not contexts and not genes:
        if axes[:1] in (("context",), ("perturbation",)):
            return _unlisted(ds, split)
        msg = "the split holds out no whole contexts or genes"
        raise NotApplicable(msg)
    codes = fold_codes(ds, split)
    names = Names(ds)
    fit = conditions_in(ds, codes, "train", "val", "calib")
    # Of a few-shot split, some conditions of the held-out context train by declaration.
    fit = fit[~fit.index.isin(list(split.definition.params.get("few_shot", ())))]
    out: list[Finding] = []
    for what, held, seen in (
        ("context", contexts, set(fit[schema.CONTEXT_ID].astype(str))),
        ("perturbation", genes, {g for p in fit[schema.PERT_ID].astype(str) for g in _genes(names, p)}),
    ):
        known = {names.one(s) if what == "perturbation" else plain(s) for s in seen}
        hit = sorted(h for h in held if (names.one(h) if what == "perturbation" else plain(h)) in known)
        out += finding("held_out_unit_in_train", hit, f"held-out {what} {hit[:1]} is in train; freeze again")
    return out


def _held(split: FrozenSplit) -> tuple[list[str], list[str]]:
    """Return the contexts and genes that a split says it holds out as a whole."""
    params, axes = split.definition.params, split.definition.ood_axes
    if axes == ("context", "perturbation"):
        return list(params.get("contexts", ())), list(params.get("perturbations", ()))
    listed = [str(h) for h in params.get("holdout", ())]
    if axes[:1] == ("context",):
        return listed, []
    return ([], listed) if axes[:1] == ("perturbation",) else ([], [])


def _genes(names: Names, pert: str) -> list[str]:
    return [*pert_genes(pert), *names.parts(pert)]


def _unlisted(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Return the units of test that train has where the split was given condition by condition.

    Warnings only: such a split may mean it, as one that asks for singles from their combinations.
    """
    codes = fold_codes(ds, split)
    names = Names(ds)
    fit, test = conditions_in(ds, codes, "train", "val", "calib"), conditions_in(ds, codes, "test")
    if split.definition.ood_axes[:1] == ("context",):
        seen = {plain(c) for c in fit[schema.CONTEXT_ID].astype(str)}
        hit = sorted({c for c in test[schema.CONTEXT_ID].astype(str) if plain(c) in seen})
        message = f"held-out context {hit[:1]} is in train, validation or calibration; list it in one fold"
        return finding("held_out_unit_in_train", hit, message, "warning")
    whole = {names.parts(p) for p in fit[schema.PERT_ID].astype(str)}
    parts = {g for p in whole for g in p}
    new = {p for p in test[schema.PERT_ID].astype(str) if names.parts(p) not in whole}
    hit = sorted({g for p in new for g in pert_genes(p) if names.one(g) in parts})
    return finding(
        "held_out_unit_in_train",
        hit,
        f"perturbation {hit[:1]} of test is part of a train condition; say so, or use perturbation_ood",
        "warning",
    )
