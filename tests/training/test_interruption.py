"""Interrupted trainings: resumed to the same bytes, refused where the checkpoint is of another one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from perturbfm_core.errors import ModelError
from perturbfm_core.training.checkpoints import CHECKPOINT_FILE, Checkpoint, checkpoint_at
from perturbfm_core.training.loop import LoopConfig, train
from tests.support.small_trainings import STEADY, Problem, Scripted


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
