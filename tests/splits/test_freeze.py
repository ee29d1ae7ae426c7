"""What every frozen split must satisfy, kind by kind."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import Frozen
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.draft import KINDS, Draft, split_kind
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.inner_masks import inner_masks
from perturbfm_core.splits.split import CROSSED, FrozenSplit, units_of
from tests.support.factories import (
    assert_both_new,
    contexts_of,
    grid_rows,
    perts_of,
    reordered,
    screen,
    split_all,
    split_one,
    table_of,
)

SINGLES = ["A", "B", "C", "D", "E"]
PAIRS = ["+".join(p) for p in combinations(SINGLES, 2)]
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


def _try(ds: PerturbDataset, spec: SplitSpec) -> tuple[list[FrozenSplit], str]:
    try:
        return freeze(ds, spec), ""
    except SplitError as error:
        return [], str(error)


@pytest.mark.parametrize("kind", KINDS.names())
@settings(max_examples=25)
@given(data=st.data())
def test_any_specification_gives_sound_splits_or_an_error_with_a_remedy(
    kind: str, data: st.DataObject
) -> None:
    ds = data.draw(screens())
    spec = data.draw(specs(kind, ds))
    frozen_splits, refusal = _try(ds, spec)
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
GRID = grid_rows(["A", "B", "C", "A+B", "B+C"], ["x", "y", "z"])


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


# ---- k folds ----------------------------------------------------------------------------------------------


def _units(kind: str) -> list[str]:
    genes = ["A", "B", "C", "D", "E", "F", "G"]
    return {"context_ood": [f"c{i}" for i in range(7)], "perturbation_ood": genes}.get(
        kind, ["+".join(p) for p in combinations(genes[:5], 2)]
    )


def _screen_of(kind: str) -> PerturbDataset:
    if kind == "context_ood":
        return screen(grid_rows(["A", "B"], _units(kind)))
    singles = ["A", "B", "C", "D", "E", "F", "G"]
    return screen(grid_rows(singles + (_units(kind) if kind == "combo_ood" else ["A+B"]), ["x", "y"]))


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("kind", ["context_ood", "perturbation_ood", "combo_ood"])
def test_k_folds_partition_the_held_out_units(kind: str, k: int) -> None:
    ds = _screen_of(kind)
    folds = split_all(ds, kind, folds=k, seed=3)
    held = [f.definition.params["holdout"] for f in folds]
    assert sorted(u for h in held for u in h) == sorted(_units(kind))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    assert [(f.definition.cv.fold, f.definition.cv.k) for f in folds if f.definition.cv] == [
        (i, k) for i in range(k)
    ]
    assert len({f.definition.cv.group for f in folds if f.definition.cv}) == 1
    assert len({f.hash for f in folds}) == k


@pytest.mark.parametrize("kind", ["context_ood", "perturbation_ood", "combo_ood", "covariate_transfer"])
def test_a_fold_made_alone_is_the_fold_made_with_the_others(kind: str) -> None:
    ds = _screen_of("combo_ood" if kind == "covariate_transfer" else kind)
    folds = split_all(ds, kind, folds=3)
    assert [split_one(ds, kind, folds=3, fold=i).hash for i in range(3)] == [f.hash for f in folds]


def test_folds_of_other_seeds_are_another_cross_validation() -> None:
    ds = _screen_of("combo_ood")
    groups = {
        f.definition.cv.group
        for s in (0, 1)
        for f in split_all(ds, "combo_ood", folds=2, seed=s)
        if f.definition.cv
    }
    assert len(groups) == 2


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        pytest.param(
            "context_ood", {"folds": 4}, "4 folds need at least 4 contexts, found 3; ask for fewer", id="k"
        ),
        pytest.param(
            "combo_ood", {"folds": 2, "fold": 2}, "fold 2 of 2 does not exist; folds count from 0", id="fold"
        ),
        pytest.param(
            "leave_one_context_out", {"fold": 3}, "fold 3 does not exist: there are 3 contexts", id="context"
        ),
        pytest.param(
            "covariate_transfer", {"folds": 16}, "16 folds need at least 16 pairs, found 15; ask", id="pairs"
        ),
        pytest.param("iid", {"folds": 2}, "iid takes --seed for repeats, not --folds", id="iid"),
        pytest.param(
            "leave_one_context_out", {"folds": 5}, "'leave_one_context_out' makes no 5 folds", id="contexts"
        ),
    ],
)
def test_impossible_folds_are_refused(kind: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=re.escape(message)):
        split_all(screen(GRID), kind, **spec)


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_folds_of_a_kind_that_makes_none_are_refused(monkeypatch: pytest.MonkeyPatch, folds: int) -> None:
    def held(conditions: Any, spec: Any, params: Any) -> list[Draft]:
        """Hold out one condition."""
        return [Draft(test=[str(conditions.index[-1])], params={}, ood_axes=("pair",))]

    _ = len(KINDS)
    for name in ("_members", "_order"):
        monkeypatch.setattr(KINDS, name, dict(getattr(KINDS, name)))
    split_kind("one_condition", Frozen)(held)
    ds = screen(GRID)
    assert len(split_all(ds, "one_condition")) == 1
    with pytest.raises(SplitError, match=f"'one_condition' makes no {folds} folds .*; give no --folds"):
        split_all(ds, "one_condition", folds=folds)


# ---- contexts ---------------------------------------------------------------------------------------------


def test_a_held_out_context_leaves_as_a_whole_and_its_own_perturbations_are_unused() -> None:
    ds = screen([*grid_rows(["A", "B"], ["x", "y", "z"]), ("C", "x"), ("A+B", "x")])
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    table = table_of(split)
    assert table["test"] == ["x|A|||", "x|B|||"]
    assert table["unused"] == ["x|A+B|||", "x|C|||"]
    assert contexts_of(table["train"]) == {"y", "z"}
    assert split.definition.ood_axes == ("context",)


def test_leave_one_context_out_holds_out_each_context_once() -> None:
    ds = screen(grid_rows(["A", "B"], ["z", "x", "y"]))
    folds = split_all(ds, "leave_one_context_out")
    assert [f.definition.params["holdout"] for f in folds] == [["x"], ["y"], ["z"]]
    assert [contexts_of(table_of(f)["test"]) for f in folds] == [{"x"}, {"y"}, {"z"}]
    assert {f.definition.kind for f in folds} == {"context_ood"}
    assert [(f.definition.cv.fold, f.definition.cv.k) for f in folds if f.definition.cv] == [
        (0, 3),
        (1, 3),
        (2, 3),
    ]
    assert len({f.definition.cv.group for f in folds if f.definition.cv}) == 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fit_rows", ["train", "train+val"])
def test_test_perturbations_stay_seen_when_contexts_validate(seed: int, fit_rows: str) -> None:
    pairs = [("A", "u"), ("A", "v"), ("A", "w"), ("A", "x"), ("C", "w"), ("C", "x")]
    ds = screen([*(("control", c) for c in "uvwx"), *pairs])
    split = split_one(
        ds,
        "context_ood",
        {"holdout": ["x"]},
        validation="fold",
        calibration="none",
        val_frac=0.4,
        seed=seed,
        fit_rows=fit_rows,
    )
    table = table_of(split)
    fitted = perts_of(table["train"]) | (perts_of(table["val"]) if fit_rows == "train+val" else set())
    assert perts_of(table["test"]) <= fitted
    assert perts_of(table["val"]) <= perts_of(table["train"])
    assert "x|A|||" in table["test"]


# ---- perturbations and combinations -----------------------------------------------------------------------


def test_every_condition_that_touches_a_held_out_gene_is_tested() -> None:
    split = split_one(screen(GRID), "perturbation_ood", {"holdout": ["B"]})
    table = table_of(split)
    assert perts_of(table["test"]) == {"B", "A+B", "B+C"}
    assert perts_of(table["train"]) == {"A", "C"}


def test_held_out_combinations_leave_all_singles_in_train() -> None:
    split = split_one(screen(GRID), "combo_ood", {"holdout": ["B+A"]})
    table = table_of(split)
    assert perts_of(table["test"]) == {"A+B"}
    assert perts_of(table["train"]) == {"A", "B", "C", "B+C"}


# ---- covariate transfer -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    seed=st.integers(0, 50),
    fraction=st.sampled_from([0.1, 0.4, 0.9]),
    validation=st.sampled_from(["auto", "fold", "none"]),
    missing=st.sets(st.tuples(st.sampled_from(SINGLES), st.sampled_from("wxyz")), max_size=6),
)
def test_covariate_transfer_keeps_both_halves_of_every_test_pair_in_train(
    seed: int, fraction: float, validation: str, missing: set[tuple[str, str]]
) -> None:
    rows = [r for r in grid_rows(SINGLES, "wxyz") if r not in missing]
    spec = SplitSpec(
        kind="covariate_transfer",
        params={"test_frac": fraction},
        seed=seed,
        validation=validation,
        calibration="none",
        val_frac=0.3,
    )
    frozen_splits, refusal = _try(screen(rows, genes=2), spec)
    if refusal:
        # Only a fold that was requested, and that train cannot spare, may be refused.
        assert validation == "fold"
        assert "without hiding a context, or half of a pair, of test" in refusal
        return
    (split,) = frozen_splits
    table = table_of(split)
    assert perts_of(table["test"]) <= perts_of(table["train"])
    assert contexts_of(table["test"]) <= contexts_of(table["train"])
    assert bool(table["val"]) == (split.definition.validation == "fold")


def test_covariate_transfer_holds_out_the_pairs_that_were_named() -> None:
    ds = screen(GRID)
    split = split_one(ds, "covariate_transfer", {"perturbations": ["A", "B"], "values": ["x"]})
    assert table_of(split)["test"] == ["x|A|||", "x|B|||"]
    assert split.definition.params["pairs"] == [["A", "x"], ["B", "x"]]
    assert split.definition.ood_axes == ("pair",)


@pytest.mark.parametrize("covariate", ["dose", "modality", "time"])
def test_covariate_transfer_takes_any_covariate(covariate: str) -> None:
    columns = {
        "dose": lambda v: {schema.DOSES: v},
        "modality": lambda v: {schema.MODALITY: v},
        "time": lambda v: {schema.COVARIATES: f'{{"time":"{v}"}}'},
    }[covariate]
    rows = [("control", "c", {}), *((p, "c", columns(v)) for p in "ABC" for v in ("1", "2"))]
    ds = screen(rows)
    split = split_one(
        ds, "covariate_transfer", {"covariate": covariate, "perturbations": ["A"], "values": ["2"]}
    )
    (key,) = table_of(split)["test"]
    assert split.definition.params["pairs"] == [["A", "2"]]
    assert key == next(k for k in ds.conditions.index if "|A|" in k and "2" in k)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param(
            {"perturbations": ["A"], "values": ["x", "y", "z"]},
            "cannot be held out: train would not see 'A' with another context",
            id="whole perturbation",
        ),
        pytest.param(
            {"covariate": "tide"},
            "unknown covariate 'tide'; known: context, dose, modality",
            id="unknown covariate",
        ),
        pytest.param({"values": ["q"]}, "unknown value of context 'q'; known: x, y, z", id="unknown value"),
        pytest.param({"test_frac": 1.5}, "test_frac must lie between 0 and 1, found 1.5", id="share"),
    ],
)
def test_covariate_transfer_refuses_impossible_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=re.escape(message)):
        split_all(screen(GRID), "covariate_transfer", params)


def test_covariate_transfer_refuses_a_pair_that_does_not_occur() -> None:
    ds = screen([("control", "x"), ("control", "y"), ("A", "x"), ("B", "y"), ("B", "x")])
    with pytest.raises(SplitError, match="occurs with a context asked for; choose other pairs"):
        split_all(ds, "covariate_transfer", {"perturbations": ["A"], "values": ["y"]})


# ---- random rows ------------------------------------------------------------------------------------------


def test_iid_draws_rows_of_cells_and_is_bound_to_their_order() -> None:
    ds = screen(grid_rows(["A", "B"], ["x", "y"], reps=25, controls=3))
    split = split_one(ds, "iid", {"test_frac": 0.3}, validation="fold", calibration="fold")
    counts = {fold: len(split.rows(ds, fold)) for fold in schema.FOLDS}
    assert counts == {"train": 56, "val": 7, "calib": 7, "test": 30, "unused": 0}
    assert split.definition.ood_axes == ()
    with pytest.raises(SplitError, match=r"not in the order that by-row split .* was frozen with"):
        split.codes(reordered(ds, np.roll(np.arange(ds.n_obs), 1)))


def test_iid_of_condition_level_data_keeps_replicates_together() -> None:
    ds = screen(grid_rows(["A", "B", "C", "D"], ["x", "y"], reps=3), level="condition")
    split = split_one(ds, "iid", {"test_frac": 0.25})
    table = table_of(split)
    assert len(table["test"]) == 2
    assert split.definition.ood_axes == ("condition",)
    assert len(split.rows(ds, "test")) == 6


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0.0, "test_frac must lie between 0 and 1, found 0.0"),
        (1.0, "test_frac must lie between 0 and 1, found 1.0"),
        (-0.5, "test_frac must lie between 0 and 1, found -0.5"),
        ("half", "parameters of split kind 'iid': test_frac: .* number, found 'half'"),
    ],
)
def test_iid_refuses_a_test_share_that_is_not_between_0_and_1(fraction: Any, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_all(screen(GRID), "iid", {"test_frac": fraction})


# ---- names and emptiness ----------------------------------------------------------------------------------


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


# ---- validation and calibration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_units", "policy", "each"),
    [pytest.param(44, "inner_cv", 0, id="4 units"), pytest.param(50, "fold", 5, id="5 units")],
)
def test_folds_validate_and_calibrate_from_five_units_on_else_inner_folds(
    train_units: int, policy: str, each: int
) -> None:
    perts = [f"P{i:02d}" for i in range(train_units + 1)]
    split = split_one(screen(grid_rows(perts, ["x"]), genes=2), "perturbation_ood", {"holdout": ["P00"]})
    table = table_of(split)
    assert (split.definition.validation, split.definition.calibration) == (policy, policy)
    assert (len(table["val"]), len(table["calib"])) == (each, each)
    assert len(table["train"]) == train_units - 2 * each
    assert split.definition.inner is not None
    assert (split.definition.inner.unit, split.definition.inner.k) == ("perturbation", 5)


def test_validation_and_calibration_hold_different_units_and_what_touches_both_is_unused() -> None:
    ds = screen(grid_rows([*SINGLES, *PAIRS, "Q"], ["x"]))
    split = split_one(
        ds,
        "perturbation_ood",
        {"holdout": ["Q"]},
        validation="fold",
        calibration="fold",
        val_frac=0.2,
        calib_frac=0.2,
    )
    table = table_of(split)
    (val,) = {k for k in perts_of(table["val"]) if "+" not in k}
    (calib,) = {k for k in perts_of(table["calib"]) if "+" not in k}
    assert val != calib
    assert all(val in pert_genes(p) for p in perts_of(table["val"]))
    assert all(calib in pert_genes(p) for p in perts_of(table["calib"]))
    assert perts_of(table["unused"]) == {"+".join(sorted((val, calib)))}
    assert not {val, calib} & {g for p in perts_of(table["train"]) for g in pert_genes(p)}


def test_a_single_train_unit_leaves_validation_and_calibration_out() -> None:
    split = split_one(screen(grid_rows(["A"], ["x", "y"])), "context_ood", {"holdout": ["x"]})
    assert (split.definition.validation, split.definition.calibration) == ("none", "none")
    assert split.definition.inner is None


def test_inner_folds_are_by_perturbation_where_one_context_trains() -> None:
    split = split_one(screen(grid_rows(["A", "B", "C"], ["x", "y"])), "context_ood", {"holdout": ["x"]})
    assert split.definition.inner is not None
    assert (split.definition.inner.unit, sorted(split.definition.inner.folds)) == (
        "perturbation",
        ["A", "B", "C"],
    )
    assert split.definition.validation == "inner_cv"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            {"validation": "fold", "val_frac": 0.0}, "fold of 0 of 2 units is empty; raise", id="empty"
        ),
        pytest.param(
            {"validation": "fold", "calibration": "fold", "val_frac": 0.5, "calib_frac": 0.5},
            "would take all 2 train units; lower --val-frac or --calib-frac",
            id="everything",
        ),
    ],
)
def test_impossible_fractions_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_all(screen(GRID), "context_ood", {"holdout": ["x"]}, **spec)
