"""Validation of a configuration: what is scored, and what is never read."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.errors import SplitError
from perturbfm_core.models.base import new_model
from perturbfm_core.models.baselines.linear import Linear
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view
from perturbfm_core.tuning import search
from perturbfm_core.tuning.validation import FoldScore, Validation, value_of
from tests.support.tuning_screen import FOLD, entry, forbidden_rows, poisoned, run, untimed


def by_hand(fit, held, prediction):
    """Return (per condition: centred Pearson, mean squared error), a loop over rows."""
    center = fit.delta.astype(float).mean(axis=0)
    pearson = [np.corrcoef(p - center, y - center)[0, 1] for p, y in zip(prediction, held.delta, strict=True)]
    return np.asarray(pearson), ((prediction - held.delta) ** 2).mean(axis=1)


def test_a_configuration_is_fitted_on_train_and_scored_on_the_validation_fold(store, ds, splits):
    split = splits["fold"]
    view = train_view(ds, split)
    held = view.validation
    contexts = held.conditions["context_id"].astype(str)
    # Two contexts of different size, so that units and conditions weigh differently.
    assert sorted(contexts.value_counts()) == [5, 5]
    model = new_model("linear", {"components": 3})
    model.fit(view, 4)
    pearson, mse = by_hand(view, held, model.predict(held.query()).mean)
    validation = Validation(store, ds, split, entry(), seed=4)
    assert len(validation) == 1
    score = validation.score({"components": 3}, 0)
    units = sorted(set(contexts))
    assert score.pearson == pytest.approx([pearson[contexts == u].mean() for u in units], abs=1e-6)
    assert score.mse == pytest.approx([mse[contexts == u].mean() for u in units], abs=1e-6)
    assert (score.conditions, score.undefined) == (10, 0)


def test_units_weigh_the_same_whatever_their_size():
    # One unit of three conditions and one of one: means .2 and .8, whose mean is .5; over conditions it is .35.
    from perturbfm_core.tuning.validation import _by_unit

    assert _by_unit(np.asarray([0.1, 0.2, 0.3, 0.8]), np.asarray([0, 0, 0, 1])) == pytest.approx((0.2, 0.8))
    folds = [FoldScore((0.2, 0.8), (1.0, 1.0), 4, 0), FoldScore((0.1,), (1.0,), 1, 0)]
    assert value_of(folds) == pytest.approx(0.3)


def test_inner_folds_are_fitted_again_without_what_they_hold_out(store, ds, splits):
    split = splits["inner_cv"]
    view = train_view(ds, split)
    validation = Validation(store, ds, split, entry(), seed=0)
    assert len(validation) == len(view.inner) == 4
    for fold, (fit, held) in enumerate(view.inner):
        part = view.subset(held)
        model = new_model("linear", {"components": 2})
        model.fit(view.subset(fit), 0)
        pearson, mse = by_hand(view.subset(fit), part, model.predict(part.query()).mean)
        score = validation.score({"components": 2}, fold)
        # A fold holds out one context.
        assert part.conditions["context_id"].nunique() == 1
        assert score.pearson == pytest.approx([pearson.mean()], abs=1e-6)
        assert score.mse == pytest.approx([mse.mean()], abs=1e-6)


def test_predicting_the_train_mean_scores_0(store, ds, splits):
    score = Validation(store, ds, splits["fold"], entry("global_mean"), 0).score({}, 0)
    assert score.pearson == (0.0, 0.0)
    assert (score.conditions, score.undefined) == (10, 10)
    assert min(score.mse) > 0


def test_the_seed_reaches_the_fit(store, ds, splits, monkeypatch):
    seen = []
    plain = Linear._fit
    monkeypatch.setattr(Linear, "_fit", lambda self, view, seed: (seen.append(seed), plain(self, view, seed)))
    Validation(store, ds, splits["fold"], entry(), 11).score({}, 0)
    assert set(seen) == {11}


# ---- what is never read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fold", "inner_cv"])
def test_no_test_row_and_no_reference_control_is_read(store, ds, splits, policy, monkeypatch):
    """Values of a whole search are the same when all that it must not read is replaced by nonsense."""
    split = splits[policy]
    rows = forbidden_rows(ds, split)
    assert len(rows) > len(split.rows(ds, "test")) + 200
    clean = run(store, split, trials=4, name="clean").study
    monkeypatch.setattr(FrozenSplit, "check_dataset", lambda self, other: None)
    monkeypatch.setattr(search, "require_clean", lambda *_: None)

    def again(name, changed):
        monkeypatch.setattr(search, "dataset_of", lambda *_: poisoned(ds, changed))
        # The nonsense is noticed otherwise: the content is verified before anything is fitted.
        return run(store, split, trials=4, name=name).study

    assert untimed(again("poisoned", rows)) == untimed(clean)
    # What is read does change the values: the comparison can fail.
    for name, readable in (("train", split.rows(ds, "train")[:3]), ("val", split.rows(ds, "val")[:3])):
        if len(readable):
            assert untimed(again(name, readable)) != untimed(clean)


def test_validation_is_held_out_where_entries_fit_on_it(store, ds):
    spec = FOLD.model_copy(update={"fit_rows": "train+val"})
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    (part,) = Validation(store, ds, split, entry(), 0).parts
    table = split.definition.folds.table
    assert set(part.fit.conditions.index) == set(table["train"])
    assert set(part.held.conditions.index) == set(table["val"])


def test_a_split_without_validation_is_refused(store, ds):
    spec = FOLD.model_copy(update={"validation": "none"})
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    with pytest.raises(
        SplitError, match=r"has no validation to select on; freeze one with .*--validation fold"
    ):
        run(store, split)
