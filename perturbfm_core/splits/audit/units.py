"""Audit checks of names: held-out genes, contexts and conditions that occur in train, under any name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.control_names import control_like
from perturbfm_core.data.quantities import canonical_doses, canonical_time
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

_JOINTS = re.compile(r"[-+_|;,&/:]")


class Names:
    """Comparison of names of genes, drugs and contexts without regard to case, spaces and declared aliases.

    Parameters
    ----------
    ds
        The data set; the aliases are those declared in its metadata (``notes``: ``aliases``, or the aliases
        of its import).
    """

    def __init__(self, ds: PerturbDataset) -> None:
        notes = ds.metadata.notes
        columns = notes.get("columns")
        declared: dict[str, Any] = {
            **(columns.get("aliases", {}) if isinstance(columns, Mapping) else {}),
            **(notes.get("aliases", {}) if isinstance(notes.get("aliases"), Mapping) else {}),
        }
        self._alias = {plain(k): plain(str(v)) for k, v in declared.items()}
        self._genes = frozenset(map(plain, map(str, ds.genes)))
        self._is_control: dict[str, bool] = {}
        # A separator inside a name counts only if all pieces are perturbations themselves ("A_B", not
        # "HLA_A").
        self._known = {
            self.one(g) for p in ds.conditions[schema.PERT_ID].astype(str).unique() for g in pert_genes(p)
        }

    def one(self, name: str) -> str:
        """Return the canonical form of a name."""
        text = plain(name)
        return self._alias.get(text, text)

    def parts(self, pert: str) -> tuple[str, ...]:
        """Return the canonical parts of a perturbation, sorted, without repetitions and controls beside other parts."""
        pieces = set(self._pieces(pert))
        return tuple(sorted({p for p in pieces if not self._control(p)} or pieces))

    def _control(self, name: str) -> bool:
        """Return whether a name reads like that of a control, numbered guides among them."""
        text = plain(name)
        if text not in self._is_control:
            self._is_control[text] = bool(control_like([text], self._genes))
        return self._is_control[text]

    def _pieces(self, pert: str) -> list[str]:
        """Return the canonical parts of a perturbation in its order, those of control too."""
        out: list[str] = []
        for part in pert_genes(pert):
            pieces = [p for p in _JOINTS.split(part) if p.strip()]
            known = len(pieces) > 1 and all(self.one(p) in self._known or self._control(p) for p in pieces)
            out += [self.one(p) for p in (pieces if known else [part])]
        return out

    def doses(self, pert: str, doses: str) -> tuple[tuple[str, str], ...]:
        """Return (part, dose) of each part, sorted; doses alone where they are not those of the parts."""
        # Data of another tool may have one dose in several notations, which an import makes one.
        values = [plain(dose) for dose in canonical_doses(doses)[0]] if doses else []
        parts = self._pieces(pert)
        if len(values) != len(parts):
            return tuple(sorted(("", value) for value in values))
        # The drug at 1 and the other at 10 is another condition than the drug at 10 and the other at 1.
        each = list(zip(parts, values, strict=True))
        return tuple(sorted([(p, v) for p, v in each if not self._control(p)] or each))

    def condition(self, row: tuple[str, ...]) -> tuple[Any, ...]:
        """Return a form of a condition (its `schema.CONDITION_COLUMNS`) that is equal for equal meanings."""
        context, pert, modality, doses, covariates = row
        rest = json.loads(covariates) if covariates.startswith("{") else covariates
        if isinstance(rest, dict) and isinstance(time := rest.get("time"), str):
            rest = {**rest, "time": canonical_time(time)[0]}
        return (
            plain(context),
            self.parts(pert),
            plain(modality),
            self.doses(pert, doses),
            json.dumps(rest, sort_keys=True),
        )


def plain(name: str) -> str:
    """Return a name in lower case, without surrounding or repeated spaces."""
    return " ".join(name.casefold().split())


@CHECKS.register("equivalent_conditions", order=20)
def equivalent_conditions(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find test conditions that train has under another name: `B+A`, `A+control`, another case, an alias.

    Raises
    ------
    NotApplicable
        If train and test may share conditions by the definition of the split.
    """
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
    """Find held-out contexts, genes or combinations that occur in train: a gene in a combination, another spelling.

    Raises
    ------
    NotApplicable
        If the split does not hold out whole contexts, genes or combinations.
    """
    axes = split.definition.ood_axes
    if axes[:1] == ("combo",):
        return _combinations(ds, split)
    contexts, genes = _held(split)
    if not contexts and not genes:
        if axes[:1] in (("context",), ("perturbation",)):
            return _unlisted(ds, split)
        if axes == ("dose",) and (found := _doses_in_combinations(ds, split)):
            return found
        msg = "the split holds out no whole contexts, genes or combinations"
        raise NotApplicable(msg)
    codes = fold_codes(ds, split)
    names = Names(ds)
    fit = conditions_in(ds, codes, "train", "val", "calib")
    # The few-shot conditions of a held-out context are in train by definition of the split.
    fit = fit[~fit.index.isin(list(split.definition.params.get("few_shot", ())))]
    out: list[Finding] = []
    for what, held, seen in (
        ("context", contexts, set(fit[schema.CONTEXT_ID].astype(str))),
        ("perturbation", genes, {g for p in fit[schema.PERT_ID].astype(str) for g in _genes(names, p)}),
    ):
        known = {names.one(s) if what == "perturbation" else plain(s) for s in seen}
        hit = sorted(h for h in held if (names.one(h) if what == "perturbation" else plain(h)) in known)
        # Another separator than the import's joins the parts of a train perturbation.
        whole = sorted(
            p for p in seen if hit and p not in hit and hit[0] in names.parts(p) and pert_genes(p) == [p]
        )
        cure = "freeze again"
        if what == "perturbation" and whole:
            cure = f"also as a part of {whole[0]!r}; import with --separator if that is a combination"
        out += finding("held_out_unit_in_train", hit, f"held-out {what} {hit[:1]} is in train; {cure}")
    return out


def _combinations(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Return findings about combinations of test that train has in any context, however they are spelled.

    They are only warnings where the split is given by conditions, which may mean some contexts alone.
    """
    codes, names = fold_codes(ds, split), Names(ds)
    fit, test = (
        conditions_in(ds, codes, *folds)[schema.PERT_ID].astype(str).unique()
        for folds in (("train", "val", "calib"), ("test",))
    )
    seen = {parts: p for p in fit if len(parts := names.parts(p)) > 1}
    hit = sorted(f"{p} as {seen[names.parts(p)]}" for p in test if names.parts(p) in seen)
    declared = "holdout" in split.definition.params
    return finding(
        "held_out_unit_in_train",
        hit,
        f"held-out combination {hit[:1]} is in train; import again with one name for each (aliases, separators), "
        "or freeze again",
        "blocking" if declared else "warning",
    )


def _doses_in_combinations(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Return a warning about test doses of single perturbations that train has as parts of combinations.

    They are only a warning, since a combination counts as a perturbation of its own, with the sum of its doses.
    """
    codes, names = fold_codes(ds, split), Names(ds)

    def parts_of(*folds: str) -> dict[str, tuple[tuple[str, str], ...]]:
        table = conditions_in(ds, codes, *folds)
        return {
            str(key): names.doses(str(pert), str(doses))
            for key, pert, doses in zip(
                table.index, table[schema.PERT_ID], table[schema.DOSES].astype(str), strict=True
            )
        }

    seen: dict[tuple[str, str], str] = {}
    for key, parts in parts_of("train", "val", "calib").items():
        for part in parts if len(parts) > 1 else ():
            seen.setdefault(part, key)
    tested = {key: parts[0] for key, parts in parts_of("test").items() if len(parts) == 1 and parts[0][0]}
    hit = sorted(f"{key} in {seen[part]}" for key, part in tested.items() if part in seen)
    return finding(
        "held_out_unit_in_train",
        hit,
        f"train has the dose of {len(hit)} test conditions as a part of combinations, e.g. {hit[:1]}; if it is to be unseen "
        "there as well, list the folds (--spec explicit) and leave these combinations out of train",
        "warning",
    )


def _held(split: FrozenSplit) -> tuple[list[str], list[str]]:
    """Return the (contexts, genes) that a split declares to hold out as a whole."""
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
    """Return warnings about contexts or genes of test that occur in train, for a split given by conditions.

    They are only warnings, since this may be intended, as in a split that tests single perturbations and
    trains on their combinations.
    """
    codes = fold_codes(ds, split)
    names, axes = Names(ds), split.definition.ood_axes
    fit, test = conditions_in(ds, codes, "train", "val", "calib"), conditions_in(ds, codes, "test")
    out: list[Finding] = []
    if "context" in axes:
        seen = {plain(c) for c in fit[schema.CONTEXT_ID].astype(str)}
        hit = sorted({c for c in test[schema.CONTEXT_ID].astype(str) if plain(c) in seen})
        message = f"held-out context {hit[:1]} is in train, validation or calibration; list it in one fold"
        out += finding("held_out_unit_in_train", hit, message, "warning")
    if "perturbation" not in axes:
        return out
    whole = {names.parts(p) for p in fit[schema.PERT_ID].astype(str)}
    parts = {g for p in whole for g in p}
    new = {p for p in test[schema.PERT_ID].astype(str) if names.parts(p) not in whole}
    hit = sorted({g for p in new for g in pert_genes(p) if names.one(g) in parts})
    return out + finding(
        "held_out_unit_in_train",
        hit,
        f"perturbation {hit[:1]} of test is part of a train condition; say so, or use perturbation_ood",
        "warning",
    )
