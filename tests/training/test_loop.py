"""The epoch loop: what it minimises, keeps, refuses, repeats and resumes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open

from perturbfm_core.errors import ModelError
from perturbfm_core.progress import EpochReport, epoch_listener
from perturbfm_core.training.averaging import AveragedWeights
from perturbfm_core.training.checkpoints import CHECKPOINT_FILE, Checkpoint, checkpoint_at
from perturbfm_core.training.determinism import deterministic
from perturbfm_core.training.loop import LoopConfig, train
from perturbfm_core.training.record import TrainingRecord
from tests.training.test_seeding_device import global_state

X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 6))).float()
W = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 3))).float()
Y = X @ W


@dataclass
class Problem:
    """A regression with a network that drops out, so that order and drop-out matter."""

    module: torch.nn.Module
    dropout: float = 0.3

    @classmethod
    def new(cls, dropout: float = 0.3, seed: int = 0) -> Problem:
        with deterministic(seed):
            layers = [
                torch.nn.Linear(6, 16),
                torch.nn.Tanh(),
                torch.nn.Dropout(dropout),
                torch.nn.Linear(16, 3),
            ]
            return cls(torch.nn.Sequential(*layers), dropout)

    def loss(self, module, rows):
        error = (module(X[rows]) - Y[rows]).square().mean()
        return {"loss": 2 * error, "mse": error}

    def validate(self, module):
        return -float((module(X) - Y).square().mean().detach())

    @property
    def bytes(self) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in self.module.parameters())

    def train(self, checkpoint=None, validate=False, on_epoch=None, loss=None, seed=0, **config):
        config = LoopConfig(**{"epochs": 12, "batch_size": 16, "lr": 1e-2, **config})
        return train(
            self.module,
            loss or self.loss,
            len(X),
            config,
            seed=seed,
            validate=self.validate if validate else None,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            phase="the test",
        )


class Scripted(torch.nn.Module):
    """One weight that the loss moves by the same amount each step, with scores given in advance."""

    def __init__(self, scores=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scores = list(scores)
        self.seen: list[float] = []

    def loss(self, module, rows):
        return {"loss": -module.weight.sum()}

    def validate(self, module):
        self.seen.append(module.weight.item())
        assert not module.training
        return self.scores[len(self.seen) - 1]


STEADY = {"lr": 1.0, "weight_decay": 0.0, "schedule": "constant", "batch_size": None}


def scripted(scores=(), ema_decay=0.0, **config):
    """Train a scripted module whose weight after epoch e is e, as long as Adam's steps are of length lr."""
    module = Scripted(scores)
    record = train(
        module,
        module.loss,
        3,
        LoopConfig(**{**STEADY, "ema_decay": ema_decay, **config}),
        seed=0,
        validate=module.validate if scores else None,
    )
    return module, record


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


# ---- averaged weights ----------------------------------------------------------------------------------------


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
    assert record.rows_per_second == pytest.approx(80 / record.seconds)


# ---- interruption --------------------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for a kill."""


def interrupted(problem: Problem, folder: Path, at_step: int, **options) -> None:
    """Train until the forward pass of a step, three steps an epoch, and lose all that was in memory."""
    steps = [0]

    def loss(module, rows):
        steps[0] += 1
        if steps[0] == at_step:
            raise KilledError
        return problem.loss(module, rows)

    with pytest.raises(KilledError):
        problem.train(checkpoint=Checkpoint(folder, every_epochs=2), loss=loss, **options)


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("at_step", [2, 7, 20, 36])
def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path, validate, at_step):
    whole = Problem.new()
    record = whole.train(validate=validate, grad_clip=1.0)
    interrupted(Problem.new(), tmp_path, at_step, validate=validate, grad_clip=1.0)
    # The module that goes on is new, with other weights: all of the state comes from the file.
    again = Problem.new(seed=9 if at_step > 6 else 0)
    epochs: list[int] = []
    resumed = again.train(
        checkpoint=Checkpoint(tmp_path, every_epochs=2),
        validate=validate,
        grad_clip=1.0,
        on_epoch=lambda r: epochs.append(r.epoch),
    )
    assert again.bytes == whole.bytes
    assert resumed.to_json() == record.to_json()
    done = (at_step - 1) // 3 // 2 * 2
    assert epochs == list(range(done + 1, 13))


def test_a_training_interrupted_again_and_again_ends_with_the_same_bytes(tmp_path):
    whole = Problem.new()
    whole.train(validate=True)
    for _ in range(3):
        interrupted(Problem.new(), tmp_path, 8, validate=True)
    again = Problem.new()
    again.train(checkpoint=Checkpoint(tmp_path), validate=True)
    assert again.bytes == whole.bytes


def test_patience_goes_on_counting_after_an_interruption(tmp_path):
    scores = [0.1, 0.5, 0.3, 0.2, 0.2, 9.0]
    config = LoopConfig(**STEADY, ema_decay=0, epochs=9, patience=3)
    first, second = Scripted(scores), Scripted(scores[4:])

    def loss(module, rows):
        if len(first.seen) == 4:
            raise KilledError
        return first.loss(module, rows)

    with pytest.raises(KilledError):
        train(
            first,
            loss,
            3,
            config,
            seed=0,
            validate=first.validate,
            checkpoint=Checkpoint(tmp_path, every_epochs=1),
        )
    record = train(
        second, second.loss, 3, config, seed=0, validate=second.validate, checkpoint=Checkpoint(tmp_path)
    )
    assert (record.epochs, record.best_epoch, record.stopped_early) == (5, 2, True)
    assert second.weight.item() == pytest.approx(2.0, rel=1e-5)


def test_a_finished_training_is_not_repeated(tmp_path):
    first = Problem.new()
    record = first.train(checkpoint=Checkpoint(tmp_path), validate=True)
    second = Problem.new(seed=3)

    def never(module, rows):
        pytest.fail("a finished training was run again")

    again = second.train(checkpoint=Checkpoint(tmp_path), validate=True, loss=never)
    assert again == record
    assert second.bytes == first.bytes
    assert not second.module.training


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change", [{"lr": 2e-2}, {"epochs": 13}, {"seed": 1}, {"validate": True}, {"identity": "x"}]
)
def test_a_checkpoint_of_another_configuration_is_not_resumed(tmp_path, change, finished):
    if finished:
        Problem.new().train(checkpoint=Checkpoint(tmp_path))
    else:
        interrupted(Problem.new(), tmp_path, 20)
    identity = change.pop("identity", "")
    with pytest.raises(
        ModelError, match=r"belongs to a training of another configuration .* remove it to train"
    ):
        Problem.new().train(checkpoint=Checkpoint(tmp_path, identity=identity), **change)
    change.update({"identity": identity} if identity else {})


def test_a_checkpoint_of_another_network_is_not_resumed(tmp_path):
    interrupted(Problem.new(), tmp_path, 20)
    other = Problem(torch.nn.Sequential(torch.nn.Linear(6, 3)))
    with pytest.raises(ModelError, match="another configuration"):
        other.train(checkpoint=Checkpoint(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\x80\x04}.", b"{}"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    interrupted(Problem.new(), tmp_path, 20)
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"is no whole checkpoint .* remove it to train from the beginning"):
        Problem.new().train(checkpoint=Checkpoint(tmp_path))


def test_a_checkpoint_holds_tensors_and_json_only(tmp_path):
    interrupted(Problem.new(), tmp_path, 20, validate=True)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT_FILE]
    with safe_open(tmp_path / CHECKPOINT_FILE, framework="pt") as file:
        recorded = json.loads(file.metadata()["state"])
        names = set(file.keys())
    assert (recorded["epoch"], recorded["steps"], recorded["phase"]) == (6, 18, "the test")
    assert len(recorded["curves"]["loss"]) == 6
    assert isinstance(recorded["next_seed"], int)
    parts = ("live", "mean", "best", "adam.step", "adam.exp_avg", "adam.exp_avg_sq")
    assert names == {
        f"{part}.{name}" for part in parts for name in ("0.weight", "0.bias", "3.weight", "3.bias")
    }


def test_state_is_written_by_time(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, every_seconds=10.0)
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert not checkpoint.due(1)
    now[0] += 10.1
    assert checkpoint.due(1)
    checkpoint.write({"a": torch.zeros(1)}, {})
    assert not checkpoint.due(2)


def test_parts_of_a_training_have_their_own_folders(tmp_path):
    assert checkpoint_at(None, "a") is None
    part = checkpoint_at(tmp_path, "member", 0, "stage_a", identity="key")
    assert part is not None
    assert part.path == tmp_path / "member/0/stage_a" / CHECKPOINT_FILE
    assert part.identity == "key"
