"""What every frozen split must satisfy, kind by kind, and what none is frozen of."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.draft import KINDS
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.inner_masks import inner_masks
from perturbfm_core.splits.split import CROSSED, FrozenSplit, units_of
from tests.support.factories import (
    assert_both_new,
    grid_rows,
    perts_of,
    reordered,
    screen,
    split_all,
    split_one,
    table_of,
)
from tests.support.split_screens import GRID, PAIRS, SINGLES, tried

REMEDY = re.compile(
    r"; (hold out|ask for|lower|raise|choose|give|use|name|list|it takes|folds count|known)"
    r"|needs |hold out another|known: |--seed|does not exist|too few"
)


@st.composite
def screens(draw: st.DrawFn) -> PerturbDataset:
    """Draw a screen where contexts need not have the same perturbations."""
    n_contexts = draw(st.integers(2, 4))
    treatments = SINGLES[: draw(st.integers(3, 5))] + draw(
        st.lists(st.sampled_from(PAIRS), unique=True, min_size=2, max_size=5)
    )
    rows: list[tuple[str, str]] = []
    for c in range(n_contexts):
        chosen = draw(st.lists(st.sampled_from(treatments), unique=True, min_size=len(treatments) // 2))
        rows += [("control", f"c{c}"), *((p, f"c{c}") for p in chosen)]
        rows += [(p, f"c{c}") for p in chosen[: draw(st.integers(0, 2))]]
    return screen(rows, genes=2)


@st.composite
def specs(draw: st.DrawFn, kind: str, ds: PerturbDataset) -> SplitSpec:
    """Draw a specification for a screen: mostly possible, sometimes not."""
    perts = sorted(perts_of(ds.conditions.index))
    folds = draw(st.sampled_from([None, None, 2, 3]))
    params: dict[str, Any] = {}

    def some(names: list[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=2)) if names else []

    if kind == "context_ood" and folds is None:
        params["holdout"] = some(ds.contexts)
    elif kind == "perturbation_ood" and folds is None:
        params["holdout"] = some(sorted({g for p in perts for g in pert_genes(p)}))
    elif kind == "combo_ood" and folds is None:
        params["holdout"] = some([p for p in perts if "+" in p])
    elif kind == "covariate_transfer":
        if draw(st.sampled_from([False, False, True])):
            params, folds = {"perturbations": some(perts), "values": some(ds.contexts)}, None
        else:
            params = {"test_frac": draw(st.sampled_from([0.2, 0.6]))}
    elif kind == "explicit":
        keys = draw(st.permutations(list(ds.conditions.index)))
        params["folds"] = {"test": some(keys[:3])}
        for at, fold in enumerate(sorted(draw(st.sets(st.sampled_from(["val", "calib", "unused"]))))):
            params["folds"][fold] = some(keys[2 + at : 4 + at])
        folds = None
    elif kind == "iid":
        params["test_frac"] = draw(st.sampled_from([0.2, 0.5]))
        folds = None
    return SplitSpec(
        kind=kind,
        params=params,
        folds=folds,
        seed=draw(st.integers(0, 3)),
        val_frac=draw(st.sampled_from([0.2, 0.4])),
        calib_frac=draw(st.sampled_from([0.2, 0.4])),
        validation=draw(st.sampled_from(["auto", "auto", "fold", "inner_cv", "none"])),
        calibration=draw(st.sampled_from(["auto", "auto", "fold", "inner_cv", "none"])),
        fit_rows=draw(st.sampled_from(["train", "train+val"])),
    )


def _sound(ds: PerturbDataset, split: FrozenSplit) -> None:
    """Assert what holds for every split, whatever its kind."""
    codes = split.codes(ds)
    treated = ds.condition_codes >= 0
    assert (codes[~treated] == -1).all()
    assert np.isin(codes[treated], range(len(schema.FOLDS))).all()
    for fold in ("train", "test"):
        assert len(split.rows(ds, fold)) > 0
    definition = split.definition
    if definition.folds.by == "condition":
        table = table_of(split)
        listed = [key for keys in table.values() for key in keys]
        assert sorted(listed) == sorted(ds.conditions.index)
        assert len(set(listed)) == len(listed)
        for position, fold in enumerate(schema.FOLDS):
            rows = np.flatnonzero(np.isin(ds.condition_codes, ds.conditions.index.get_indexer(table[fold])))
            assert np.array_equal(np.flatnonzero(codes == position), rows)
    if definition.inner is not None:
        _inner_folds_are_group_wise(ds, split)
    blocking = [f for f in audit(ds, split) if f.severity == "blocking"]
    assert not [f for f in blocking if f.name != "empty_fold"]


def _inner_folds_are_group_wise(ds: PerturbDataset, split: FrozenSplit) -> None:
    inner = split.definition.inner
    assert inner is not None
    train = ds.conditions.iloc[np.unique(ds.condition_codes[split.rows(ds, "train")])]
    if inner.unit == CROSSED:
        for fit, held in inner_masks(inner, train):
            assert_both_new(train[held], train[fit])
        return
    units = [set(us) for us in units_of(train, inner.unit)]
    assert set().union(*units) <= set(inner.folds)
    groups = [{u for u, f in inner.folds.items() if f == i} for i in range(inner.k)]
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    touched = [[bool(us & group) for us in units] for group in groups]
    masks = inner_masks(inner, train)
    assert [held.tolist() for _, held in masks] == [t for t in touched if any(t) and not all(t)]
    for fit, held in masks:
        assert np.array_equal(fit, ~held)


@pytest.mark.parametrize("kind", KINDS.names())
@settings(max_examples=25)
@given(data=st.data())
def test_any_specification_gives_sound_splits_or_an_error_with_a_remedy(
    kind: str, data: st.DataObject
) -> None:
    ds = data.draw(screens())
    spec = data.draw(specs(kind, ds))
    frozen_splits, refusal = tried(ds, spec)
    if refusal:
        assert REMEDY.search(refusal), refusal
        return
    assert frozen_splits
    for split in frozen_splits:
        _sound(ds, split)
    assert [f.hash for f in freeze(ds, spec)] == [f.hash for f in frozen_splits]


CERTAIN = {
    "context_ood": {"holdout": ["x"]},
    "perturbation_ood": {"holdout": ["A"]},
    "combo_ood": {"holdout": ["A+B"]},
    "covariate_transfer": {"test_frac": 0.3},
    "leave_one_context_out": {},
    "explicit": {"folds": {"test": ["A"]}},
}


@pytest.mark.parametrize(("kind", "params"), CERTAIN.items(), ids=list(CERTAIN))
@settings(max_examples=6)
@given(order=st.permutations(range(len(GRID))))
def test_hash_of_a_split_by_condition_is_independent_of_row_order(
    kind: str, params: dict[str, Any], order: list[int]
) -> None:
    ds = screen(GRID)
    moved = reordered(ds, order)
    splits = split_all(ds, kind, params)
    assert [f.hash for f in split_all(moved, kind, params)] == [f.hash for f in splits]
    for split in splits:
        assert np.array_equal(split.codes(moved), split.codes(ds)[order])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("val_frac", 0.2),
        ("fit_rows", "train+val"),
        ("transductive", True),
        ("validation", "none"),
    ],
)
def test_hash_covers_the_specification(field: str, value: Any) -> None:
    ds = screen(GRID)
    plain = split_one(ds, "context_ood", {"holdout": ["x"]})
    other = split_one(ds, "context_ood", {"holdout": ["x"]}, **{field: value})
    assert plain.hash != other.hash


# ---- names and emptiness --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        pytest.param("cntext_ood", {}, r"unknown split kind 'cntext_ood' \(did you mean 'context_ood'\?\); known: .*iid", id="kind"),
        pytest.param("context_ood", {"holdout": ["q"]}, "unknown context 'q'; known: x, y, z", id="context"),
        pytest.param("perturbation_ood", {"holdout": ["Q"]}, "unknown perturbation 'Q'; known: A, B, C", id="perturbation"),
        pytest.param("combo_ood", {"holdout": ["A+C"]}, r"unknown combination 'A\+C'; known: A\+B, B\+C", id="combination"),
        pytest.param("context_ood", {"houldout": ["x"]}, "has no parameter 'houldout'; it takes: .*holdout", id="parameter"),
        pytest.param("context_ood", {}, "needs --holdout-context or --folds; contexts: x, y, z", id="no context"),
        pytest.param("perturbation_ood", {}, "needs --holdout-perturbation or --folds; there are 3", id="no gene"),
        pytest.param("combo_ood", {}, r"needs --holdout-combo or --folds; there are 2 .* e.g. A\+B", id="no combination"),
        pytest.param("context_ood", {"holdout": ["x", "y", "z"]}, "leaves no context to train on; hold out fewer", id="all contexts"),
        pytest.param("perturbation_ood", {"holdout": ["A", "B", "C"]}, "leaves no condition to train on; hold out fewer", id="all genes"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused_with_the_known_ones(
    kind: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        split_all(screen(GRID), kind, params)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("context_ood", {"holdout": ["x"]}),
        ("perturbation_ood", {"holdout": ["A"]}),
        ("combo_ood", {"holdout": ["A+B"]}),
    ],
)
def test_a_holdout_and_folds_exclude_each_other(kind: str, params: dict[str, Any]) -> None:
    with pytest.raises(SplitError, match=r"give either --holdout-.* or --folds, not both"):
        split_all(screen(GRID), kind, params, folds=2)


def test_a_context_with_perturbations_of_its_own_only_cannot_be_tested() -> None:
    ds = screen([("control", "x"), ("A", "x"), ("control", "y"), ("B", "y")])
    with pytest.raises(
        SplitError, match=r"no perturbation of x occurs in another context; .*hold out another"
    ):
        split_all(ds, "context_ood", {"holdout": ["x"]})


def test_one_context_cannot_be_left_out() -> None:
    with pytest.raises(SplitError, match=r"needs at least 2 contexts, found \['x'\]"):
        split_all(screen(grid_rows(["A", "B"], ["x"])), "leave_one_context_out")


def test_all_combinations_cannot_leave_when_there_are_no_singles() -> None:
    with pytest.raises(SplitError, match="nothing is left to train on; hold out less"):
        split_all(screen(grid_rows(["A+B", "B+C"], ["x"])), "combo_ood", {"holdout": ["A+B", "B+C"]})


def test_a_screen_without_combinations_has_no_combinations_to_hold_out() -> None:
    with pytest.raises(
        SplitError, match="combo_ood needs combinations of perturbations, the data set has none"
    ):
        split_all(screen(grid_rows(["A", "B"], ["x"])), "combo_ood", folds=2)
