"""Seeds by purpose, torch's global state, and devices."""

from __future__ import annotations

import pytest
import torch

from perturbfm_core.errors import ModelError
from perturbfm_core.training.determinism import (
    derived_seed,
    derived_seeds,
    deterministic,
    seed_sequence,
    torch_generator,
)
from perturbfm_core.training.device import autocast, compiled, precision_on, resolve_device
from tests.support.torch_state import global_state


def test_each_purpose_has_its_own_seed():
    purposes = [
        (),
        ("init",),
        ("epochs",),
        ("member", 0),
        ("member", 1),
        ("member0",),
        ("member", "0"),
        (0, "member"),
    ]
    seeds = [derived_seed(s, *p) for s in (0, 1) for p in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**31 for s in seeds)
    assert seeds == [derived_seed(s, *p) for s in (0, 1) for p in purposes]


def test_a_seed_stays_what_it_is():
    """A change here changes every trained network."""
    assert derived_seed(0, "init") == 230528848
    assert derived_seeds(2, 7, "epochs") == [3120348525557525682, 4968165930518411663]
    assert seed_sequence(3, "a").spawn_key == ()


def test_fewer_epochs_have_the_first_seeds():
    assert derived_seeds(300, 4, "epochs")[:20] == derived_seeds(20, 4, "epochs")


def test_generators_repeat_and_differ_by_purpose():
    draw = lambda *p: torch.rand(4, generator=torch_generator(5, *p)).tolist()  # noqa: E731
    assert draw("a") == draw("a") != draw("b")


def test_the_block_repeats_and_leaves_no_trace():
    before = global_state()
    with deterministic(3) as threads:
        first = torch.rand(5)
        assert torch.are_deterministic_algorithms_enabled()
        assert threads == torch.get_num_threads()
    with deterministic(3):
        again = torch.rand(5)
    assert torch.equal(first, again)
    assert global_state() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_the_block_leaves_no_trace_after_an_error():
    before = global_state()
    with pytest.raises(ZeroDivisionError), deterministic(1):
        _ = int(torch.rand(1) * 0 + 1) / 0
    assert global_state() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_without_a_seed_the_state_goes_on():
    with deterministic(8):
        outer = torch.rand(2)
        with deterministic():
            inner = torch.rand(2)
        after = torch.rand(2)
    assert not torch.equal(outer, inner)
    assert torch.equal(inner, after)  # the inner block's draws are undone


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ModelError, match="unknown device 'tpu'; known: auto, cpu, cuda"):
        resolve_device("tpu")


def test_absent_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ModelError, match=r"device 'cuda' was asked for, but torch .*; use --device auto or cpu"
    ):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


def test_a_cpu_has_neither_mixed_precision_nor_compilation():
    cpu, layer = torch.device("cpu"), torch.nn.Linear(2, 2)
    assert precision_on(cpu, "bf16") == "fp32"
    with autocast(cpu, "bf16"):
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert compiled(layer, cpu, True) is layer


def test_cuda_has_mixed_precision_unless_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    cuda = torch.device("cuda")
    assert [precision_on(cuda, p) for p in ("auto", "bf16", "fp32")] == ["bf16", "bf16", "fp32"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert precision_on(cuda, "auto") == "fp32"


def test_cuda_compiles_on_request(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module: ("compiled", module))
    layer, cuda = torch.nn.Linear(2, 2), torch.device("cuda")
    assert compiled(layer, cuda, True) == ("compiled", layer)
    assert compiled(layer, cuda, False) is layer
