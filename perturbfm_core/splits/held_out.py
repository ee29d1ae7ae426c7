"""Held-out contexts, perturbations, doses or rows of a split, in words."""

from __future__ import annotations

from collections.abc import Iterable

from perturbfm_core.data.condition import parse_key, pert_genes
from perturbfm_core.schema import CONTEXT_ID, PERT_ID
from perturbfm_core.splits.split import ConditionFolds, Split

_SHOWN = 3
# {axis: what one of them is called, where it is not called as the axis is}
_NOUNS = {"perturbation": "gene", "combo": "combination", "pair": "context and perturbation"}
_PLURALS = {"batch": "batches", "context and perturbation": "pairs of context and perturbation"}


def held_out(split: Split, *, shown: int = _SHOWN) -> str:
    """Return a line such as ``context C0`` or ``6 genes: G000, G149, G174, ...``.

    Parameters
    ----------
    split
        The split.
    shown
        How many names are given at most.
    """
    if not isinstance(split.folds, ConditionFolds):
        axis = "batch" if "batch" in split.ood_axes else None
        if axis is None:
            share = split.params.get("test_frac", split.params.get("frac"))
            part = f"{float(share):.0%} of the rows" if isinstance(share, int | float) else "some rows"
            return f"{part} of every condition"
        return _listed(_texts(split.params.get("holdout", ())), "batch", shown)
    said = [text for axis in split.ood_axes if (text := _of_axis(split, axis, shown))]
    return "; ".join(said) or _of_axis(split, "condition", shown)


def tested(split: Split) -> list[str]:
    """Return the keys of the tested conditions, sorted; empty for a split by rows."""
    return sorted(split.folds.table["test"]) if isinstance(split.folds, ConditionFolds) else []


def _of_axis(split: Split, axis: str, shown: int) -> str:
    """Return what a split holds out along one axis, in words."""
    noun = _NOUNS.get(axis, axis)
    test = [parse_key(k) for k in tested(split)]
    fitted = [parse_key(k) for k in _fitted(split)]
    if axis == "context":
        return _listed({t[CONTEXT_ID] for t in test} - {t[CONTEXT_ID] for t in fitted}, noun, shown)
    if axis == "perturbation":
        seen = {g for t in fitted for g in pert_genes(t[PERT_ID])}
        new = {g for t in test for g in pert_genes(t[PERT_ID])} - seen
        # Combinations of known genes, or a known gene without its partner, are new by themselves.
        return _listed(new, noun, shown) or _listed(
            {t[PERT_ID] for t in test} - {t[PERT_ID] for t in fitted}, axis, shown
        )
    if axis == "combo":
        return _listed({t[PERT_ID] for t in test} - {t[PERT_ID] for t in fitted}, noun, shown)
    if axis in ("dose", "time"):
        levels = split.params.get("levels")
        named = levels.items() if isinstance(levels, dict) else ()
        return (
            _listed([f"{pert} at {level}" for pert, level in named], noun, shown)
            or f"a {noun} that train lacks"
        )
    return _listed({f"{t[CONTEXT_ID]}/{t[PERT_ID]}" for t in test}, noun, shown)


def _fitted(split: Split) -> Iterable[str]:
    if not isinstance(split.folds, ConditionFolds):
        return ()
    return [k for fold, keys in split.folds.table.items() if fold not in ("test", "unused") for k in keys]


def _listed(names: Iterable[str], noun: str, shown: int) -> str:
    """Return ``context C0``, ``2 contexts: C0, C1`` or, of many, their number and the first names."""
    known = sorted(set(names))
    if not known:
        return ""
    if len(known) == 1:
        return f"{noun} {known[0]}"
    plural = _PLURALS.get(noun, f"{noun}s")
    more = ", ..." if len(known) > shown else ""
    return f"{len(known)} {plural}: {', '.join(known[:shown])}{more}"


def _texts(value: object) -> list[str]:
    if isinstance(value, list | tuple | set):
        return [str(v) for v in value]
    return [] if value in (None, "") else [str(value)]
