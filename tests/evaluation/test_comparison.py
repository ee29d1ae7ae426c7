"""Aligning a prediction with what was observed, whatever its order, and refusing what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.panels.hits import changed as changed_genes
from perturbfm_core.evaluation.panels.hits import screening
from perturbfm_core.evaluation.panels.uncertainty import coverage
from perturbfm_core.splits.split import FrozenSplit
from tests.support.factories import grid_rows, prediction_of, screen, split_one

# In the order of their condition keys.
PERTS = ["A", "g1+g2", "g1"]
KEYS = [f"x|{p}|||" for p in PERTS]


@pytest.fixture(scope="module")
def ds() -> PerturbDataset:
    """Return a screen with controls enough for two roles; context x is tested."""
    return screen(grid_rows(PERTS, ["x", "y"], reps=3, controls=120), seed=3)


@pytest.fixture(scope="module")
def split(ds: PerturbDataset) -> FrozenSplit:
    """Return the split."""
    return split_one(ds, "context_ood", {"holdout": ["x"]})


@pytest.fixture(scope="module")
def means() -> dict[str, np.ndarray]:
    """Return a mean for each test condition."""
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=6).astype(np.float32) for key in KEYS}


@pytest.fixture
def prediction(ds: PerturbDataset, split: FrozenSplit, means: dict[str, np.ndarray]) -> RowPrediction:
    """Return a complete prediction, each test row with the mean of its condition."""
    return prediction_of(ds, split, means)


# ---- the observed side ------------------------------------------------------------------------------------


def test_the_truth_subtracts_reference_controls_and_the_train_mean_input_controls(
    ds: PerturbDataset, split: FrozenSplit
) -> None:
    truth = observed(ds, split)
    X, context = ds.expression, ds.obs["context_id"].astype(str).to_numpy()
    perts = ds.obs["pert_id"].astype(str).to_numpy()

    def delta(pert: str, where: str, role: Any) -> np.ndarray:
        mine = X[(perts == pert) & (context == where)].astype(np.float64).mean(axis=0)
        return mine - X[ds.controls.has_role(role) & (context == where)].astype(np.float64).mean(axis=0)

    assert list(truth.conditions.index) == KEYS
    np.testing.assert_allclose(truth.observed, [delta(p, "x", "reference") for p in PERTS], atol=1e-6)
    np.testing.assert_allclose(
        truth.train_mean, np.mean([delta(p, "y", "input") for p in PERTS], axis=0), atol=1e-6
    )
    assert truth.n.tolist() == [3, 3, 3]
    assert not truth.shared_control.any()
    assert truth.rows.tolist() == split.rows(ds, "test").tolist()


def test_the_truth_is_not_changed_by_the_prediction(
    ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction
) -> None:
    truth = observed(ds, split)
    given = compare(ds, split, prediction, truth)
    np.testing.assert_array_equal(given.observed, compare(ds, split, prediction).observed)


def test_a_metric_cannot_write_into_what_all_metrics_share(
    ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction
) -> None:
    absent = np.zeros(len(prediction.mean), dtype=np.bool_)
    absent[0] = True
    given = replace(prediction, var_epistemic=prediction.var.copy(), not_predicted=absent)
    side = observed(ds, split)
    found = compare(ds, split, given, side)
    arrays = {
        f"{type(part).__name__}.{name}": array
        for part in (found, found.train)
        for name, array in vars(part).items()
        if isinstance(array, np.ndarray) and name != "genes"
    }
    assert len(arrays) == 13
    for name, array in arrays.items():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        assert not array.flags.writeable, name
    # The arrays of others stay theirs.
    assert side.observed.flags.writeable
    assert given.mean.flags.writeable


@pytest.mark.parametrize(("reps", "known"), [(1, False), (2, True)])
def test_without_the_perturbed_part_there_is_no_sampling_error(reps: int, known: bool) -> None:
    ds = screen(grid_rows(PERTS, ["x", "y"], reps=reps, controls=120), seed=3)
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    side = observed(ds, split)
    assert (side.s2 > 0).any() == known
    c = compare(ds, split, prediction_of(ds, split, dict(zip(KEYS, side.observed, strict=True))))
    assert changed_genes.significant(side.observed + 100, side.s2).any() == known
    assert screening.observed_size(c) == pytest.approx(
        np.maximum((c.observed**2).sum(axis=1) - c.s2.sum(axis=1), 0)
    )
    assert known or (screening.observed_size(c) > 0).all()
    assert known or not coverage.significant(c).any()


def test_controls_that_both_sides_subtract_are_flagged() -> None:
    few = screen(grid_rows(["A", "B"], ["x", "y"], controls=10))
    assert observed(few, split_one(few, "context_ood", {"holdout": ["x"]})).shared_control.all()


# ---- alignment --------------------------------------------------------------------------------------------


def _plain(p: RowPrediction) -> RowPrediction:
    return p


def _shuffled_genes(p: RowPrediction) -> RowPrediction:
    order = np.random.default_rng(1).permutation(6)
    assert p.genes is not None
    return replace(p, mean=p.mean[:, order], var=p.var[:, order], genes=p.genes[order])


def _more_genes(p: RowPrediction) -> RowPrediction:
    assert p.genes is not None
    extra = np.full((len(p.mean), 1), np.nan, dtype=np.float32)
    genes = np.concatenate([["other"], p.genes])
    return replace(p, mean=np.hstack([extra, p.mean]), var=np.hstack([extra, p.var]), genes=genes)


def _shuffled_rows(p: RowPrediction) -> RowPrediction:
    order = np.random.default_rng(2).permutation(len(p.idx))
    assert p.row_id is not None
    return replace(p, mean=p.mean[order], var=p.var[order], idx=p.idx[order], row_id=p.row_id[order])


def _names_over_positions(p: RowPrediction) -> RowPrediction:
    # Row ids count, positions do not: as in a file made on the same rows in another order.
    return replace(p, idx=np.arange(len(p.idx), dtype=np.int64))


def _once_per_condition(p: RowPrediction) -> RowPrediction:
    values, first, row = np.unique(p.mean, axis=0, return_index=True, return_inverse=True)
    return replace(p, mean=values, var=p.var[first], row=row.reshape(-1).astype(np.int64))


def _more_rows(p: RowPrediction) -> RowPrediction:
    assert p.row_id is not None
    bad = np.full((2, 6), np.nan, dtype=np.float32)
    return replace(
        p,
        mean=np.concatenate([bad, p.mean]),
        var=np.concatenate([bad, p.var]),
        idx=np.concatenate([[0, 200], p.idx]),
        row_id=np.concatenate([["r0", "r200"], p.row_id]),
    )


def _spread_rows(p: RowPrediction) -> RowPrediction:
    # Rows of one condition differ, around the mean that the condition had.
    offset = np.tile([[-1.0], [0.0], [1.0]], (3, 1)).astype(np.float32)
    return replace(p, mean=p.mean + offset)


@pytest.mark.parametrize(
    "change",
    [_plain, _shuffled_genes, _more_genes, _shuffled_rows, _names_over_positions, _once_per_condition, _more_rows, _spread_rows],
    ids=lambda f: f.__name__.strip("_"),
)  # fmt: skip
def test_whatever_the_order_each_condition_gets_its_mean(
    ds: PerturbDataset,
    split: FrozenSplit,
    prediction: RowPrediction,
    means: dict[str, np.ndarray],
    change: Callable[[RowPrediction], RowPrediction],
) -> None:
    comparison = compare(ds, split, change(prediction))
    assert comparison.genes.tolist() == ds.genes.tolist()
    np.testing.assert_allclose(comparison.predicted, [means[k] for k in KEYS], rtol=1e-6)
    np.testing.assert_array_equal(comparison.predicted_var, np.ones((3, 6)))
    assert comparison.alignment == "by_name"


def test_rows_that_were_not_requested_are_counted(
    ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction
) -> None:
    assert compare(ds, split, prediction).notes["rows_not_asked_for"] == 0
    assert compare(ds, split, _more_rows(prediction)).notes["rows_not_asked_for"] == 2


def test_rows_of_a_condition_are_averaged_cell_by_cell(ds: PerturbDataset, split: FrozenSplit) -> None:
    keys = ds.conditions.index[ds.condition_codes[split.rows(ds, "test")]]
    mean = np.arange(9, dtype=np.float32)[:, None] * np.ones((1, 6), dtype=np.float32)
    flat = prediction_of(ds, split, dict.fromkeys(KEYS, np.zeros(6)), mean=mean, var=mean + 1)
    expected = [np.flatnonzero(keys == k).mean() for k in KEYS]
    comparison = compare(ds, split, flat)
    np.testing.assert_allclose(comparison.predicted[:, 0], expected)
    np.testing.assert_allclose(comparison.predicted_var[:, 0], np.asarray(expected) + 1)


def test_optional_fields_of_a_file_may_be_absent(
    ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction
) -> None:
    bare = replace(prediction, split_hash=None, data_content_sha256=None, space=None)
    np.testing.assert_array_equal(
        compare(ds, split, bare).predicted, compare(ds, split, prediction).predicted
    )


@pytest.mark.parametrize(
    "without", [{"genes"}, {"row_id"}, {"genes", "row_id"}], ids=lambda s: "+".join(sorted(s))
)
def test_alignment_by_position_is_called_unverified(
    ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction, without: set[str]
) -> None:
    comparison = compare(ds, split, replace(prediction, **dict.fromkeys(without)))
    assert comparison.alignment == "positional_unverified"
    np.testing.assert_array_equal(comparison.predicted, compare(ds, split, prediction).predicted)


def test_a_variance_that_was_filled_in_is_passed_on(
    ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction
) -> None:
    assert compare(ds, split, replace(prediction, var_filled=True)).var_filled is True
    assert compare(ds, split, prediction).var_filled is False


# ---- refusals ---------------------------------------------------------------------------------------------


def _without_row(p: RowPrediction) -> RowPrediction:
    assert p.row_id is not None
    return replace(p, mean=p.mean[:-1], var=p.var[:-1], idx=p.idx[:-1], row_id=p.row_id[:-1])


def _with(field: str, row: int, value: float) -> Callable[[RowPrediction], RowPrediction]:
    def change(p: RowPrediction) -> RowPrediction:
        array = getattr(p, field).copy()
        array[row, 2] = value
        return replace(p, **{field: array})

    return change


def _repeat_row_id(p: RowPrediction) -> RowPrediction:
    assert p.row_id is not None
    q = _more_rows(p)
    return replace(
        q,
        mean=np.nan_to_num(q.mean),
        var=np.abs(np.nan_to_num(q.var)),
        row_id=np.concatenate([p.row_id[:2], p.row_id]),
    )


def _repeat_gene(p: RowPrediction) -> RowPrediction:
    q = _more_genes(p)
    assert p.genes is not None
    return replace(q, genes=np.concatenate([p.genes[:1], p.genes]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_without_row, r"lacks 1 of 9 test rows, in conditions \['x|g1|||'\]; predict them all", id="missing row"),
        pytest.param(_with("mean", 0, np.nan), r"NaN or infinite in 1 conditions, e.g. \['x|A|||'\]; predict finite", id="NaN mean"),
        pytest.param(_with("mean", 4, np.inf), r"NaN or infinite in 1 conditions, e.g. \['x|g1+g2|||'\]", id="infinite mean"),
        pytest.param(_with("var", 8, np.nan), r"NaN or infinite in 1 conditions, e.g. \['x|g1|||'\]", id="NaN variance"),
        pytest.param(_with("var", 3, -0.5), r"negative variance in 1 conditions, e.g. \['x|g1+g2|||'\]", id="negative variance"),
        pytest.param(lambda p: replace(p, genes=np.asarray(["q", *p.genes[1:]])), r"lacks 1 of 6 genes, e.g. \['g0'\]; predict every gene", id="wrong gene"),
        pytest.param(lambda p: replace(p, genes=None, mean=p.mean[:, :5], var=p.var[:, :5]), "5 unnamed genes, the data set 6; add an array `genes`", id="unnamed genes"),
        pytest.param(_repeat_gene, "prediction repeats 1 gene names; give every gene once", id="repeated gene"),
        pytest.param(_repeat_row_id, "row_id of the prediction repeats 2 rows; predict each row once", id="repeated row id"),
        pytest.param(lambda p: replace(p, row_id=np.asarray(["zz", *p.row_id[1:]])), "names 1 rows that 'screen' does not have, e.g. 'zz'", id="unknown row id"),
        pytest.param(lambda p: replace(p, row_id=None, idx=np.append(p.idx[:-1], 10**6)), "idx outside the data set's rows (0 to 257)", id="idx"),
        pytest.param(lambda p: replace(p, row_id=None, idx=np.append(p.idx[:-1], -1)), "idx outside the data set's rows (0 to 257)", id="negative idx"),
        pytest.param(lambda p: replace(p, split_hash="0" * 64), "made for split 000000000000, not ", id="split"),
        pytest.param(lambda p: replace(p, data_content_sha256="0" * 64), "made for data 000000000000, 'screen' is ", id="data"),
        pytest.param(lambda p: replace(p, space="zscore"), "in space 'zscore', the data set is scored in 'log1p'", id="space"),
    ],
)  # fmt: skip
def test_a_prediction_that_does_not_fit_is_refused(
    ds: PerturbDataset,
    split: FrozenSplit,
    prediction: RowPrediction,
    change: Callable[[RowPrediction], RowPrediction],
    message: str,
) -> None:
    with pytest.raises(PredictionError, match=_literal(message)):
        compare(ds, split, change(prediction))


def _literal(message: str) -> str:
    return re.escape(message.replace(r"\[", "[").replace(r"\]", "]"))


def test_all_conditions_that_lack_rows_are_counted_and_three_named(ds: PerturbDataset) -> None:
    wide = screen(grid_rows([f"P{i}" for i in range(6)], ["x", "y"]))
    split = split_one(wide, "context_ood", {"holdout": ["x"]})
    empty = RowPrediction(mean=np.zeros((1, 6)), var=np.ones((1, 6)), idx=np.asarray([0]), genes=wide.genes)
    with pytest.raises(
        PredictionError, match=r"lacks 6 of 6 test rows, in conditions \['x\|P0\|\|\|', .*P2\|\|\|'\];"
    ):
        compare(wide, split, empty)


def test_the_mean_of_the_observed_deltas_scores_perfectly(ds: PerturbDataset, split: FrozenSplit) -> None:
    truth = observed(ds, split)
    perfect = prediction_of(ds, split, dict(zip(KEYS, truth.observed, strict=True)))
    np.testing.assert_allclose(compare(ds, split, perfect).predicted, truth.observed, atol=1e-6)
