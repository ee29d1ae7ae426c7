"""What a model may see: never a test row, a reference control, or a held-out context's controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.residuals import out_of_fold
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import TrainView, query, train_view
from tests.support.factories import grid_rows, screen, split_one, view_of, with_metadata, with_values

CONTEXTS = ["x", "y", "z", "w"]


@pytest.fixture(scope="module")
def cells() -> PerturbDataset:
    """Return a screen with so many controls that their two roles are apart."""
    return screen(grid_rows(["A", "B", "C", "D"], CONTEXTS, reps=2, controls=110))


@pytest.fixture(scope="module")
def split(cells: PerturbDataset) -> FrozenSplit:
    """Return a split with every fold: context x is tested, one validates, one calibrates."""
    return split_one(
        cells,
        "context_ood",
        {"holdout": ["x"]},
        validation="fold",
        calibration="fold",
        val_frac=0.3,
        calib_frac=0.3,
    )


@pytest.fixture(scope="module")
def view(cells: PerturbDataset, split: FrozenSplit) -> TrainView:
    """Return the train view of the split."""
    return train_view(cells, split)


def _context(ds: PerturbDataset, split: FrozenSplit, fold: str) -> str:
    (name,) = set(ds.obs["context_id"].astype(str).to_numpy()[split.rows(ds, fold)])  # type: ignore[arg-type]
    return name


def _controls(ds: PerturbDataset, context: str, role: str) -> np.ndarray:
    mine = (ds.obs["context_id"] == context).to_numpy() & ds.controls.has_role(role)  # type: ignore[arg-type]
    return np.flatnonzero(mine)


def test_controls_of_the_screen_have_roles_of_their_own(cells: PerturbDataset) -> None:
    assert not cells.controls.shared.any()


# ---- cells ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["train", "val"])
def test_cells_of_train_and_validation_and_their_input_controls_are_served(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView, fold: str
) -> None:
    rows = np.concatenate([split.rows(cells, fold), _controls(cells, _context(cells, split, fold), "input")])  # type: ignore[arg-type]
    assert np.array_equal(view.expression(rows), cells.expression[rows])


@pytest.mark.parametrize("fold", ["test", "calib"])
def test_cells_of_test_and_calibration_are_refused(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView, fold: str
) -> None:
    rows = split.rows(cells, fold)  # type: ignore[arg-type]
    with pytest.raises(
        SplitError, match=f"{len(rows)} of the rows asked for .*first: row {rows[0]}.*must not read"
    ):
        view.expression(rows)


def test_one_forbidden_row_among_many_is_refused(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView
) -> None:
    rows = np.append(split.rows(cells, "train"), split.rows(cells, "test")[-1])
    with pytest.raises(SplitError, match="1 of the rows asked for are not train"):
        view.expression(rows)


def test_reference_controls_are_refused(cells: PerturbDataset, split: FrozenSplit, view: TrainView) -> None:
    rows = _controls(cells, _context(cells, split, "train"), "reference")
    assert len(rows) == 55
    with pytest.raises(SplitError, match="55 of the rows asked for"):
        view.expression(rows)


@pytest.mark.parametrize("fold", ["test", "calib"])
def test_controls_of_contexts_that_are_held_out_are_refused(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView, fold: str
) -> None:
    rows = _controls(cells, _context(cells, split, fold), "input")
    with pytest.raises(SplitError, match="55 of the rows asked for"):
        view.expression(rows)


def test_a_transductive_split_opens_input_controls_of_all_contexts_only(cells: PerturbDataset) -> None:
    open_split = split_one(cells, "context_ood", {"holdout": ["x"]}, transductive=True)
    view = train_view(cells, open_split)
    assert view.expression(_controls(cells, "x", "input")).shape == (55, 6)
    for rows in (_controls(cells, "x", "reference"), open_split.rows(cells, "test")):
        with pytest.raises(SplitError, match="must not read them"):
            view.expression(rows)


def test_shared_controls_are_served_where_there_are_too_few_for_two_roles() -> None:
    ds = screen(grid_rows(["A", "B"], ["x", "y"], controls=10))
    view = train_view(ds, split_one(ds, "context_ood", {"holdout": ["x"]}))
    assert ds.controls.shared.all()
    assert len(view.expression(_controls(ds, "y", "reference"))) == 10
    with pytest.raises(SplitError, match="10 of the rows"):
        view.expression(_controls(ds, "x", "input"))


def test_views_of_inner_folds_have_their_own_cells_only(cells: PerturbDataset, view: TrainView) -> None:
    first = np.arange(len(view)) == 0
    part = view.subset(first)
    codes = cells.condition_codes
    own = np.flatnonzero(codes == cells.conditions.index.get_loc(view.conditions.index[0]))
    other = np.flatnonzero(codes == cells.conditions.index.get_loc(view.conditions.index[1]))
    assert len(part) == 1
    assert len(part.expression(own)) == len(own) > 0
    assert len(view.expression(other)) == len(other) > 0
    with pytest.raises(SplitError, match="must not read them"):
        part.expression(other)


def test_views_of_inner_folds_close_contexts_that_they_lack(cells: PerturbDataset) -> None:
    ds = screen(grid_rows(["A", "B"], ["x", "y", "z"]))
    view = train_view(ds, split_one(ds, "context_ood", {"holdout": ["x"]}))
    part = view.subset((view.conditions["context_id"] == "y").to_numpy())
    assert len(part.expression(_controls(ds, "y", "input")))
    assert len(view.expression(_controls(ds, "z", "input")))
    with pytest.raises(SplitError, match="must not read them"):
        part.expression(_controls(ds, "z", "input"))


def test_rows_of_delta_data_are_served_and_refused_alike() -> None:
    rows = [(p, c) for c in ("x", "y") for p in "ABC"]
    ds = screen(
        rows, space="delta", X=np.random.default_rng(0).normal(size=(6, 4)), genes=4, level="condition"
    )
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    view = train_view(ds, split)
    assert np.array_equal(view.expression(split.rows(ds, "train")), ds.values.delta[3:])
    assert view.control is None
    with pytest.raises(SplitError, match="3 of the rows"):
        view.expression(split.rows(ds, "test"))


# ---- conditions -------------------------------------------------------------------------------------------


def test_a_view_holds_train_conditions_against_input_controls(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView
) -> None:
    context = _context(cells, split, "train")
    assert list(view.conditions.index) == [f"{context}|{p}|||" for p in "ABCD"]
    control = cells.expression[_controls(cells, context, "input")].mean(axis=0)
    rows = split.rows(cells, "train")
    perts = cells.obs["pert_id"].astype(str).to_numpy()[rows]
    for i, pert in enumerate("ABCD"):
        mean = cells.expression[rows[perts == pert]].mean(axis=0)
        np.testing.assert_allclose(view.delta[i], mean - control, atol=1e-6)
        np.testing.assert_allclose(view.control[i], control, atol=1e-6)  # type: ignore[index]
    assert view.n_cells.tolist() == [2, 2, 2, 2]
    assert view.genes.tolist() == cells.genes.tolist()


def test_validation_conditions_are_a_view_of_their_own(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView
) -> None:
    assert view.validation is not None
    assert set(view.validation.conditions["context_id"]) == {_context(cells, split, "val")}
    assert view.validation.dataset is None
    plain = train_view(cells, split_one(cells, "context_ood", {"holdout": ["x"]}, validation="inner_cv"))
    assert plain.validation is None


def test_fitting_on_validation_rows_merges_them(cells: PerturbDataset) -> None:
    split = split_one(
        cells,
        "context_ood",
        {"holdout": ["x"]},
        validation="fold",
        calibration="none",
        val_frac=0.3,
        fit_rows="train+val",
    )
    merged = train_view(cells, split)
    assert set(merged.conditions["context_id"]) == {"y", "z", "w"}
    assert merged.validation is None


def test_inner_folds_of_a_view_hold_out_whole_perturbations(cells: PerturbDataset) -> None:
    view = train_view(cells, split_one(cells, "perturbation_ood", {"holdout": ["A"]}))
    assert len(view.inner) == 3
    perts = view.conditions["pert_id"].to_numpy()
    assert sorted(set(perts[held]).pop() for _, held in view.inner) == ["B", "C", "D"]
    for fit, held in view.inner:
        assert held.sum() == len(CONTEXTS)
        assert not set(perts[held]) & set(perts[fit])


@pytest.mark.parametrize("hidden", ["test", "calib", "reference controls", "held-out controls"])
def test_values_of_hidden_rows_do_not_reach_the_view(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView, hidden: str
) -> None:
    rows = {
        "test": split.rows(cells, "test"),
        "calib": split.rows(cells, "calib"),
        "reference controls": np.flatnonzero(cells.controls.has_role("reference")),
        "held-out controls": np.concatenate([_controls(cells, "x", r) for r in ("input", "reference")]),
    }[hidden]
    X = cells.expression.copy()
    X[rows] = 9.0
    changed = with_values(cells, X)
    changed = with_metadata(changed, content_sha256=cells.content_sha256)
    other = train_view(changed, split)
    for mine, theirs in ((view, other), (view.validation, other.validation)):
        assert mine is not None
        assert theirs is not None
        for name in ("delta", "s2", "n_cells", "control"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name


def test_a_change_of_train_rows_reaches_the_view(
    cells: PerturbDataset, split: FrozenSplit, view: TrainView
) -> None:
    X = cells.expression.copy()
    X[split.rows(cells, "train")] = 9.0
    changed = with_values(cells, X)
    changed = with_metadata(changed, content_sha256=cells.content_sha256)
    assert not np.array_equal(train_view(changed, split).delta, view.delta)


def test_a_view_of_other_data_is_refused(cells: PerturbDataset, split: FrozenSplit) -> None:
    with pytest.raises(SplitError, match="belongs to data set"):
        train_view(with_values(cells, cells.expression + 1), split)


# ---- queries ----------------------------------------------------------------------------------------------


def test_a_query_holds_names_and_input_controls_only(cells: PerturbDataset, split: FrozenSplit) -> None:
    rows = split.rows(cells, "test")
    requested = query(cells, condition_table(cells, rows))
    assert list(requested.conditions.index) == [f"x|{p}|||" for p in "ABCD"]
    assert set(vars(requested)) == {"conditions", "genes", "control", "cells"}
    X = cells.expression.copy()
    X[rows] = 9.0
    X[_controls(cells, "x", "reference")] = 9.0
    changed = with_values(cells, X)
    same = query(changed, condition_table(changed, rows))
    np.testing.assert_array_equal(requested.control, same.control)


# ---- parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["delta", "s2", "control"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_part_has_the_rows_of_the_whole_also_as_a_part_of_a_part(
    view: TrainView, name: str, depth: int
) -> None:
    rng = np.random.default_rng(depth)
    part, rows = view, np.arange(len(view))
    for _ in range(depth):
        mask = rng.random(len(part)) < 0.8
        mask[0] = True
        part, rows = part.subset(mask), rows[mask]
    assert "delta" not in vars(part)
    np.testing.assert_array_equal(part.delta_columns(slice(0, 2)), view.delta[rows, 0:2])
    np.testing.assert_array_equal(getattr(part, name), getattr(view, name)[rows])
    assert list(part.conditions.index) == list(view.conditions.index[rows])
    again = replace(part, n_cells=part.n_cells + 1).subset(np.ones(len(part), dtype=bool))
    np.testing.assert_array_equal(getattr(again, name), getattr(view, name)[rows])
    np.testing.assert_array_equal(again.delta_columns(slice(1, 2)), view.delta[rows, 1:2])
    with pytest.raises(AttributeError, match="nothing"):
        _ = part.nothing  # type: ignore[attr-defined]


def test_one_control_that_stands_for_all_conditions_is_not_copied(view: TrainView) -> None:
    assert view.control is not None
    shared = replace(view, control=np.broadcast_to(view.control[0], view.control.shape))
    part = shared.subset(np.arange(len(view)) % 2 == 0)
    assert part.control is not None
    assert part.control.strides[0] == 0
    np.testing.assert_array_equal(part.control, np.stack([view.control[0]] * len(part)))
    assert replace(view, control=None).subset(np.arange(len(view)) > 0).control is None


@pytest.mark.parametrize("folds", [[[0, 3], [1, 2]], [[2], [0, 1]], [[1, 2], [2, 3]]])
def test_out_of_fold_predictions_read_the_truth_late(folds: list[list[int]]) -> None:
    rows = [("x", "A"), ("x", "B"), ("y", "A"), ("y", "B")]
    view = view_of(rows, np.random.default_rng(0).normal(size=(4, 3)), inner=folds)
    held = [fold for _, fold in view.inner]
    parts = [(~h, h, Prediction(view.delta[h] * 0, view.delta[h] * 0 + 1)) for h in held]
    found = out_of_fold(view, parts)
    assert found is not None
    assert "truth" not in vars(found)
    assert replace(found, truth=view.delta[np.concatenate(folds)]).units == found.units
    np.testing.assert_array_equal(found.truth, view.delta[np.concatenate(folds)])
    assert list(found.conditions.index) == [str(view.conditions.index[i]) for fold in folds for i in fold]
    assert found.fold.tolist() == [i for i, fold in enumerate(folds) for _ in fold]
