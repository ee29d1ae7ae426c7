"""The epoch loop: what it minimises, keeps, refuses, repeats and resumes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from perturbfm_core.errors import ModelError
from perturbfm_core.progress import EpochReport, epoch_listener
from perturbfm_core.training.loop import LoopConfig, train
from perturbfm_core.training.record import TrainingRecord
from tests.support.small_trainings import STEADY, Problem, Scripted
from tests.support.torch_state import global_state

# ---- learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 7, 16, 400])
def test_the_loss_falls(batch_size):
    problem = Problem.new(dropout=0.0)
    record = problem.train(epochs=200, batch_size=batch_size)
    curve = record.curves["loss"]
    assert len(curve) == 200
    assert curve[-1] < 0.05 * curve[0]
    assert -problem.validate(problem.module) < 0.05
    assert not problem.module.training


def test_curves_hold_every_part_the_rate_and_the_score():
    record = Problem.new().train(epochs=4, validate=True, validate_every=2)
    assert list(record.curves) == ["loss", "mse", "lr", "validation"]
    np.testing.assert_allclose(record.curves["loss"], 2 * np.asarray(record.curves["mse"]), rtol=1e-5)
    np.testing.assert_allclose(
        record.curves["lr"], [1e-2 * f for f in (1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5)], rtol=1e-9
    )
    assert [v is None for v in record.curves["validation"]] == [True, False, True, False]


def test_a_horizon_keeps_the_rates_of_the_longer_training():
    whole = Problem.new().train(epochs=8)
    part = Problem.new().train(epochs=3, horizon=8)
    assert part.curves["lr"] == whole.curves["lr"][:3]
    assert part.curves["loss"] == whole.curves["loss"][:3]


def test_the_loss_of_an_epoch_is_the_mean_over_rows():
    """Batches of 16, 16 and 8 count by their rows."""
    sizes: list[int] = []

    def loss(module, rows):
        sizes.append(len(rows))
        return {"loss": module[0].bias.sum() * 0 + rows.float().mean()}

    record = Problem.new().train(epochs=2, loss=loss)
    assert sizes == [16, 16, 8] * 2
    assert record.curves["loss"] == pytest.approx([19.5, 19.5])


def test_every_row_is_seen_once_an_epoch_in_another_order():
    seen: list[list[int]] = [[]]

    def loss(module, rows):
        if len(seen[-1]) == 40:
            seen.append([])
        seen[-1] += rows.tolist()
        return {"loss": module[0].bias.sum()}

    Problem.new().train(epochs=3, loss=loss)
    assert all(sorted(s) == list(range(40)) for s in seen)
    assert seen[0] != seen[1] != seen[2]


def test_groups_have_their_own_rates_and_the_rest_stays():
    problem = Problem.new()
    first, last = problem.module[0], problem.module[3]
    before = [p.detach().clone() for p in problem.module.parameters()]
    train(
        problem.module,
        problem.loss,
        40,
        LoopConfig(epochs=1, ema_decay=0, weight_decay=0),
        seed=0,
        parameter_groups=[{"params": [first.weight], "lr": 1e-4}, {"params": [last.weight], "lr": 1e-2}],
    )
    moved = [
        float((a - b).detach().abs().max()) for a, b in zip(problem.module.parameters(), before, strict=True)
    ]
    # Adam's first step has the length of the rate.
    assert moved == pytest.approx([1e-4, 0.0, 1e-2, 0.0], rel=1e-2)


def test_weight_decay_shrinks_by_rate_times_decay():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    config = LoopConfig(epochs=2, lr=0.1, weight_decay=0.5, schedule="constant", ema_decay=0)
    train(module, lambda m, _: {"loss": m.weight.sum() * 0}, 1, config, seed=0)
    assert module.weight.item() == pytest.approx(0.95**2)


def test_gradients_are_clipped_by_their_norm():
    """Adam forgets the scale of gradients, but not of one that was clipped among others that were not."""

    def final(clip):
        module, step = Scripted(), [0]

        def loss(m, _):
            step[0] += 1
            return {"loss": -m.weight.sum() * (1000.0 if step[0] == 1 else 1.0)}

        train(module, loss, 1, LoopConfig(**STEADY, ema_decay=0, epochs=5, grad_clip=clip), seed=0)
        return module.weight.item()

    assert final(1.0) == pytest.approx(5.0, rel=1e-4)
    assert final(None) < 4.5


def test_gradients_are_on_even_if_the_caller_has_none():
    with torch.no_grad():
        record = Problem.new().train(epochs=2)
    assert record.curves["loss"][0] != record.curves["loss"][1]


# ---- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_epoch(value):
    calls = [0]

    def loss(module, rows):
        calls[0] += 1
        error = module[0].bias.sum() * 0 + (value if calls[0] == 3 else 1.0)
        return {"loss": error, "part": error}

    with pytest.raises(
        ModelError, match=r"the test: the loss is not finite in epoch 3 \(loss (nan|inf), part"
    ):
        Problem.new().train(loss=loss, batch_size=None)


def test_impossible_trainings_are_refused():
    module = torch.nn.Linear(2, 2)
    loss = lambda m, rows: {"loss": m(torch.ones(1, 2)).sum()}  # noqa: E731
    with pytest.raises(ModelError, match="training has no rows to train on"):
        train(module, loss, 0, LoopConfig(), seed=0)
    with pytest.raises(ModelError, match="must be those of the module, but is no parameter of the module"):
        train(module, loss, 1, LoopConfig(), seed=0, parameter_groups=[{"params": [torch.zeros(1)]}])
    with pytest.raises(ModelError, match="returned \\['mse'\\], without 'loss'"):
        train(module, lambda m, rows: {"mse": m(torch.ones(1, 2)).sum()}, 1, LoopConfig(), seed=0)
    module.requires_grad_(False)
    with pytest.raises(ModelError, match="there is none"):
        train(module, loss, 1, LoopConfig(), seed=0)


def test_batch_statistics_are_refused():
    module = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(ModelError, match=r"changed the buffer '.*'; use layers without batch"):
        train(module, Problem.new().loss, 40, LoopConfig(), seed=0)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"lr": 0}, {"ema_decay": 1.0}, {"batch_size": 0}, {"patience": 0}, {"precision": "fp16"}, {"speed": 1}],
)  # fmt: skip
def test_configurations_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        LoopConfig(**wrong)


# ---- repeating -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    runs = []
    for seed in (0, 0, 1):
        problem = Problem.new()
        record = problem.train(seed=seed, validate=True)
        runs.append((problem.bytes, record.to_json()))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


def test_random_numbers_drawn_outside_change_nothing():
    problems = []
    for draws in (0, 5):
        torch.rand(draws)
        problems.append(Problem.new())
        torch.rand(draws)
        problems[-1].train()
    assert problems[0].bytes == problems[1].bytes


def test_no_global_state_is_left_changed():
    before = global_state()
    Problem.new().train(validate=True)
    with pytest.raises(ModelError):
        Problem.new().train(loss=lambda m, rows: {"loss": m[0].bias.sum() * float("nan")})
    assert global_state() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()


# ---- reports -------------------------------------------------------------------------------------------------


def test_every_epoch_is_reported():
    reports: list[EpochReport] = []
    record = Problem.new().train(epochs=3, validate=True, on_epoch=reports.append)
    assert [(r.phase, r.epoch, r.epochs) for r in reports] == [("the test", e, 3) for e in (1, 2, 3)]
    assert [r.loss for r in reports] == record.curves["loss"]
    assert [r.score for r in reports] == record.curves["validation"]
    reports.clear()
    Problem.new().train(epochs=1, on_epoch=reports.append)
    assert reports[0].score is None


def test_a_display_of_text_has_no_use_for_epochs():
    class Bar:
        def epoch(self, report):
            return report

    bar = Bar()
    assert epoch_listener(bar) == bar.epoch
    assert epoch_listener(print) is None


def test_the_record_becomes_json_without_the_time_it_took():
    record = Problem.new().train(epochs=2, validate=True)
    recorded = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert "seconds" not in recorded
    assert TrainingRecord.model_validate({**recorded, "seconds": record.seconds}) == record
    assert (recorded["rows"], recorded["batch_size"], recorded["parameters"]) == (
        40,
        16,
        6 * 16 + 16 + 16 * 3 + 3,
    )
    assert (recorded["device"], recorded["precision"], recorded["compiled"]) == ("cpu", "fp32", False)
    assert recorded["threads"] == torch.get_num_threads()
