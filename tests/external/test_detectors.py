"""Numbers that are not what they are declared to be, and answers that are the control or one for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.prediction_scale import scale_of
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.conversion import convert
from perturbfm_core.external.scale_checks import check_expression
from tests.external.raws import ASKED, Model


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(
        simulate(SimulationConfig(name="ext", n_obs=900, n_genes=60, n_contexts=2, n_perts=8, n_combos=4))[0]
    )


def refused(raw, model, **options) -> str:
    with pytest.raises(PredictionError) as caught:
        convert(raw, model.asked, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- space and kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["latent", "embedding", "latent_32", "PCA"])
def test_latent_spaces(model, space):
    assert "is in a latent space" in refused(model.raw(space=space), model)


@pytest.mark.parametrize("space", ["log2", "zscore", "cpm", "X_hvg"])
def test_unknown_spaces(model, space):
    text = refused(model.raw(space=space), model)
    assert f"unknown space '{space.casefold()}'" in text
    assert "log1p of counts scaled to 10000" in text


def test_unknown_kinds_and_none(model):
    assert "kind must be delta or expression, found 'foldchange'" in refused(
        model.raw(kind="foldchange"), model
    )
    assert "does not say in which space" in refused(model.raw(space=""), model)
    assert "differences of counts" in refused(model.raw(model.delta, kind="delta", space="counts"), model)


def test_expression_and_deltas_declared_as_each_other(model):
    assert "declared as delta and looks like expression" in refused(model.raw(kind="delta"), model)
    text = refused(model.raw(model.delta), model)
    assert "differences to the control are kind delta" in text
    # Where no value is negative either.
    text = refused(model.raw(np.abs(model.delta)), model)
    assert "does not look like log1p expression of this data set" in text
    assert "is it a delta" in text
    own = replace(model.raw(np.abs(model.delta)), control=model.own)
    assert "does not look like log1p expression" in refused(own, model)


def test_counts_declared_as_log1p(model):
    rng = np.random.default_rng(0)
    mean = np.expm1(model.expression) / 5
    assert "looks like counts (whole numbers" in refused(model.raw(rng.poisson(mean)), model)
    assert "looks like counts (maximum" in refused(model.raw(mean), model)
    shallow = np.expm1(model.expression) / np.expm1(model.expression).max() * 8
    assert "in another scale than the data set, linear expression" in refused(model.raw(shallow), model)


def test_differences_of_counts_declared_as_log1p_deltas(model):
    control = model.expression - model.delta
    counts = np.expm1(model.expression) - np.expm1(control)
    text = refused(model.raw(counts, kind="delta"), model)
    assert "looks like differences of counts or linear expression (values from -" in text
    # A log1p delta may be below -1.
    strong = model.delta * (1.5 / -model.delta.min())
    assert not convert(model.raw(strong, kind="delta"), model.asked).missing.any()


def test_log1p_declared_as_counts(model):
    assert "looks like log1p expression already" in refused(model.raw(space="counts"), model)
    assert "negative values" in refused(model.raw(model.delta, space="counts"), model)
    negative = np.expm1(model.expression)
    negative[3, 5] = -0.1
    assert "has 1 negative values (lowest -0.1)" in refused(model.raw(negative, space="counts"), model)
    empty = np.expm1(model.expression)
    empty[2] = 0
    assert "1 conditions without any count" in refused(model.raw(empty, space="counts"), model)
    unknown = replace(model.asked, target_sum=None)
    with pytest.raises(PredictionError, match="does not say what its cells are scaled to"):
        convert(model.raw(np.expm1(model.expression), space="counts"), unknown)


def test_other_scales_of_expression(model):
    assert "log2(x + 1)" in refused(model.raw(model.expression / np.log(2)), model)
    assert "negative" in refused(model.raw(model.expression - model.expression.mean(axis=0)), model)
    assert "does not look like log1p expression" in refused(model.raw(model.expression * 0.1), model)
    shuffled = model.expression[:, np.random.default_rng(1).permutation(60)]
    for raw in (model.raw(shuffled), replace(model.raw(shuffled), control=shuffled)):
        assert "at other genes than the control" in refused(raw, model)


@pytest.mark.parametrize("seed", [4, 8, 26, 37, 43, 53])
@pytest.mark.parametrize("what", ["truth", "mean", "other"])
def test_few_genes_with_strong_effects_are_in_the_scale_of_the_data(seed, what):
    """One gene that makes most of the counts shifts all others, as another logarithm or a root does."""
    rng = np.random.default_rng(seed)
    sizes = {"n_genes": int(rng.integers(7, 30)), "n_contexts": 1, "n_perts": 5, "n_combos": 0}
    ds = simulate(SimulationConfig(n_obs=160, seed=seed, effect_size=4.0, **sizes))[0]
    table = condition_table(ds)
    control, delta = (table.control["input"].astype(float), table.delta["input"].astype(float))
    shown = {"truth": delta, "mean": np.tile(delta.mean(0), (len(delta), 1)), "other": delta[::-1]}[what]
    mean = np.maximum(control + shown, 0)
    found = scale_of(mean, control)
    assert found.other is None or found.fits
    # Nor by a correlation over so few genes.
    check_expression("raw.npz", mean, control, None, "log1p")


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("log2(x + 1)", lambda v: v / np.log(2)),
        ("log10(x + 1)", lambda v: v / np.log(10)),
        ("square roots", lambda v: np.sqrt(np.expm1(v)) / 4),
        ("linear expression", lambda v: np.expm1(v) / np.expm1(v).max() * 8),
    ],
)
def test_a_network_that_is_hardly_trained_is_not_called_a_scale_alone(model, name, turn):
    """Where the model's own control is as far from the data, the message says what else it may be."""
    text = refused(model.raw(turn(model.expression)), model)
    assert name in text
    assert "train longer" not in text
    text = refused(model.raw_with_own(turn(model.expression), turn(model.control)), model)
    assert name in text
    assert "train longer: the model's own control is as far from the data" in text


def test_a_model_whose_own_control_is_far_from_the_data_is_scored_with_a_warning(model):
    rng = np.random.default_rng(2)
    own = np.tile(rng.random(60) * 0.3, (ASKED, 1))
    raw = model.raw_with_own(own + rng.random((ASKED, 60)) * 0.2, own)
    done = convert(raw, model.asked)
    np.testing.assert_allclose(done.mean, raw.mean - model.control, atol=1e-5)
    assert "so is the model's own control" in done.warnings[0]
    assert "does not look like log1p" in refused(replace(raw, control=None), model)


def test_some_predictions_unlike_the_control_are_warned_of(model):
    mean = model.expression.copy()
    mean[4] = mean[4][::-1]
    assert (
        f"1 of {ASKED} predictions are unlike the control"
        in convert(model.raw(mean), model.asked).warnings[0]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(model, value):
    for name in ("mean", "var", "control"):
        raw = replace(model.raw_with_own(), var=np.ones_like(model.expression))
        values = getattr(raw, name).copy()
        values[[1, 4], 7] = value
        text = refused(replace(raw, **{name: values}), model)
        assert f"{name} is NaN or infinite in 2 of {ASKED} conditions, e.g. '{model.keys[1]}'" in text
        assert f"and 1 genes, e.g. '{model.asked.genes[7]}'" in text
    negative = replace(model.raw(), var=np.full_like(model.expression, -1))
    assert "var is negative in 12 conditions" in refused(negative, model)


# ---- the control under another name ----------------------------------------------------------------------------


def test_predictions_that_are_all_the_control(model):
    for raw in (
        model.raw(model.control),
        model.raw(np.zeros_like(model.delta), kind="delta"),
        model.raw(model.control.astype(np.float16)),
        model.raw_with_own(model.own),
    ):
        for missing in ("refuse", "control"):
            text = refused(raw, model, missing=missing)
            assert "all 12 predictions are the control (their delta is 0)" in text
        done = convert(raw, model.asked, degenerate="flag")
        assert "12 of 12 predictions are a control" in done.warnings[0]


@pytest.mark.parametrize("noise", [0.0, 1e-3, 5e-3])
@pytest.mark.parametrize("own", [False, True])
def test_silent_replacement_by_the_control(model, noise, own):
    rng = np.random.default_rng(4)
    base = model.own if own else model.control
    mean = base + model.delta
    mean[[2, 5]] = base[[2, 5]] + rng.normal(0, noise, (2, 60))
    raw = model.raw_with_own(mean) if own else model.raw(mean)
    text = refused(raw, model)
    assert f"2 of {ASKED} predictions are a control" in text
    assert model.keys[2] in text
    done = convert(raw, model.asked, missing="control")
    assert done.missing_keys == [model.keys[2], model.keys[5]]
    assert done.counts["replaced_by_control"] == 2
    assert not done.mean[[2, 5]].any()
    kept = convert(raw, model.asked, degenerate="flag")
    assert not kept.missing.any()


def test_weak_effects_are_no_control(model):
    delta = model.delta.copy()
    delta[3] *= 0.02
    # Predicted as a delta, it is what the model says.
    assert not convert(model.raw(delta, kind="delta"), model.asked).missing.any()
    delta[3] = model.delta[3] * 0.2
    assert convert(model.raw(model.control + delta), model.asked).counts["predicted"] == ASKED


# ---- one answer for all ----------------------------------------------------------------------------------------


def test_one_answer_for_all_conditions(model):
    for raw in (
        model.raw(np.tile(model.delta[:1], (ASKED, 1)), kind="delta"),
        model.raw(np.tile(model.expression[:1], (ASKED, 1))),
        model.raw(model.control + model.delta[1]),
    ):
        text = refused(raw, model)
        assert "all 12 conditions have the same prediction" in text
        assert "--degenerate flag" in text
        done = convert(raw, model.asked, degenerate="flag")
        assert any("the same prediction" in w for w in done.warnings)


def test_one_answer_for_each_context(model):
    context = np.asarray([k.split("|")[0] for k in model.keys])
    by_context = np.where((context == "C0")[:, None], model.delta[0], model.delta[1])
    text = refused(model.raw(by_context, kind="delta"), model)
    assert "all conditions of a context have the same prediction, in 2 of 2 contexts (C0, C1)" in text
    one = np.where((context == "C0")[:, None], model.delta[0], model.delta)
    assert "in 1 of 2 contexts (C0)" in refused(model.raw(model.control + one), model)


def test_some_conditions_with_one_answer(model):
    context = np.asarray([k.split("|")[0] for k in model.keys])
    a, b = np.flatnonzero(context == "C1")[:2]
    mean = model.expression.copy()
    mean[b] = mean[a]
    text = refused(model.raw(mean), model)
    assert (
        f"2 of {ASKED} conditions have the same prediction as another perturbation of their context" in text
    )
    assert model.keys[a] in text
    assert convert(model.raw(mean), model.asked, degenerate="flag").counts["predicted"] == ASKED


def test_doses_of_one_perturbation_may_have_one_answer(model):
    context = np.asarray([k.split("|")[0] for k in model.keys])
    a, b = np.flatnonzero(context == "C1")[:2]
    table = model.asked.conditions.copy()
    table["pert_id"] = table["pert_id"].astype(str)
    table.iloc[b, table.columns.get_loc("pert_id")] = table["pert_id"].iloc[a]
    delta = model.delta.copy()
    delta[b] = delta[a]
    done = convert(model.raw(delta, kind="delta"), replace(model.asked, conditions=table))
    assert done.counts["predicted"] == ASKED
