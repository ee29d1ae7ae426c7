"""The weights that a training keeps: averaged over steps, of the best epoch, stopped by patience."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perturbfm_core.errors import ModelError
from perturbfm_core.training.averaging import AveragedWeights
from tests.support.small_trainings import scripted


def test_the_average_has_no_bias_of_its_start():
    parameter = torch.nn.Parameter(torch.full((2,), 100.0))
    weights = AveragedWeights([parameter], 0.9)
    values = [1.0, 2.0, 4.0]
    for i, value in enumerate(values):
        parameter.data.fill_(value)
        weights.update()
        shares = 0.9 ** np.arange(i, -1, -1)
        assert weights.mean[0].tolist() == pytest.approx([np.average(values[: i + 1], weights=shares)] * 2)


def test_the_average_takes_the_place_of_the_weights_for_a_while():
    parameter = torch.nn.Parameter(torch.zeros(2))
    weights = AveragedWeights([parameter], 0.5)
    for value in (1.0, 4.0):
        parameter.data.fill_(value)
        weights.update()
    seen: list[list[float]] = []

    def look_and_fail():
        with weights.in_place():
            seen.append(parameter.tolist())
            raise KeyError

    with pytest.raises(KeyError):
        look_and_fail()
    assert seen == [[3.0, 3.0]]
    assert parameter.tolist() == [4.0, 4.0]
    parameter.data.add_(1.0)
    weights.update()
    assert weights.mean[0].tolist() == pytest.approx([(0.25 + 2 + 5) / 1.75] * 2)


def test_without_validation_the_average_of_the_last_epoch_is_kept():
    module, record = scripted(ema_decay=0.5, epochs=3)
    assert module.weight.item() == pytest.approx((0.25 * 1 + 0.5 * 2 + 3) / 1.75, rel=1e-5)
    assert (record.best_epoch, record.best_score, record.stopped_early) == (3, None, False)


def test_validation_sees_the_averaged_weights():
    module, _ = scripted(scores=[1.0, 2.0, 3.0], ema_decay=0.5, epochs=3)
    assert module.seen == pytest.approx([1.0, 2.5 / 1.5, 4.25 / 1.75], rel=1e-5)


# ---- early stopping ------------------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_patience_stops():
    module, record = scripted(scores=[0.1, 0.5, 0.3, 0.5, 0.2, 9.0], epochs=9, patience=3)
    # The equal score of epoch 4 is no improvement, so 3 epochs after the second it is over.
    assert (record.epochs, record.best_epoch, record.best_score) == (5, 2, 0.5)
    assert record.stopped_early
    assert module.weight.item() == pytest.approx(2.0, rel=1e-5)


def test_all_planned_epochs_are_not_an_early_stop():
    _, record = scripted(scores=[3.0, 2.0, 1.0], epochs=3, patience=2)
    assert (record.epochs, record.stopped_early) == (3, False)


def test_a_rare_validation_still_includes_the_last_epoch():
    module, record = scripted(scores=[1.0, 2.0, 3.0], epochs=5, validate_every=2)
    assert module.seen == pytest.approx([2.0, 4.0, 5.0], rel=1e-5)
    assert record.best_epoch == 5


def test_a_score_that_is_undefined_is_no_improvement():
    nan = float("nan")
    _, record = scripted(scores=[nan, 0.2, nan, 0.1], epochs=4)
    assert (record.best_epoch, record.curves["validation"]) == (2, [None, 0.2, None, 0.1])
    with pytest.raises(ModelError, match="training: the validation score was not finite in any of 3 epochs"):
        scripted(scores=[nan] * 3, epochs=3)
