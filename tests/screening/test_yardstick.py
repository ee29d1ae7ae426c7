"""The yardstick of a run's answers: computed once, kept beside the model, and made anew by other code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.screening.yardstick import Yardstick, kept_yardstick
from perturbfm_core.store.artifacts import ArtifactStore

MODULES = ["perturbfm_core.screening.yardstick", "perturbfm_core.uncertainty.novelty"]


@pytest.mark.parametrize(
    ("reference", "epistemic"), [([0.25, 0.1 + 0.2], 0.5), ([], None), ([1 / 3], float(np.float32(0.1)))]
)
def test_it_is_computed_once_and_read_back_exactly(
    tmp_path: Path, reference: list[float], epistemic: float | None
) -> None:
    import perturbfm_core.uncertainty.novelty  # noqa: F401 - its file is part of the key

    store, calls = ArtifactStore(tmp_path), []

    def compute() -> Yardstick:
        calls.append(1)
        return Yardstick(np.asarray(reference, dtype=np.float64), epistemic)

    for _ in range(3):
        found = kept_yardstick(store, "model", MODULES, compute)
        np.testing.assert_array_equal(found.reference, reference)
        assert found.train_epistemic == epistemic
    assert len(calls) == 1
    kept_yardstick(store, "another", MODULES, compute)
    kept_yardstick(store, "model", MODULES[:1], compute)
    assert len(calls) == 3


def test_a_store_that_takes_nothing_answers_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(tmp_path)

    def refuse(*_: object) -> None:
        msg = "read-only"
        raise StoreError(msg)

    monkeypatch.setattr(ArtifactStore, "put_object", refuse)
    found = kept_yardstick(store, "model", MODULES, lambda: Yardstick(np.ones(2), 0.5))
    assert found.reference.tolist() == [1.0, 1.0]
