"""Scores, bounds and audit of data that stay in their file: those of memory, without the rows that nobody asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data import stored_rows
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.kept_rows import expression_of, kept_rows
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.evaluation.ceilings import bounds_of
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.evaluation.panel_bounds import panel_bounds
from perturbfm_core.splits.audit.cells import profile_hashes
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import FrozenSplit

CONFIG = SimulationConfig(n_obs=900, n_genes=20, n_contexts=2, n_perts=8, n_combos=2, n_batches=2)
SPEC = SplitSpec(kind="perturbation_ood", folds=3, fold=0)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "data"
    write_dataset(simulate(CONFIG)[0], path)
    return path


@pytest.fixture
def pair(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PerturbDataset, PerturbDataset]:
    """Return the data set in memory, and one that is read from its file in small blocks."""
    small = load_dataset(artifact)
    _ = small.values
    monkeypatch.setattr(stored_rows, "STREAM_FROM", 1)
    monkeypatch.setattr(stored_rows, "_BLOCK", 200)
    return small, load_dataset(artifact)


def loaded(ds: PerturbDataset) -> bool:
    """Return whether the whole matrix was read."""
    return "values" in vars(ds)


def scored(ds: PerturbDataset, split: FrozenSplit) -> dict[str, np.ndarray]:
    truth = observed(ds, split)
    noise = np.random.default_rng(0).normal(size=truth.observed.shape)
    mean = (0.6 * truth.observed + 0.1 * noise).astype(np.float32)
    prediction = RowPrediction(
        mean, np.full_like(mean, 0.1), truth.rows, truth.codes.astype(np.int64), ds.genes, kind="delta"
    )
    found = evaluate(compare(ds, split, prediction, truth), sorted(PANELS))
    return {f"{r.metric.panel}.{r.metric.name}": np.asarray(r.values) for r in found.results}


def test_all_panels_are_those_of_memory(pair) -> None:
    small, large = pair
    (split,) = freeze(small, SPEC)
    one, two = scored(small, split), scored(large, split)
    assert not loaded(large)
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(two[name], values, err_msg=name)


def test_bounds_are_those_of_memory(pair) -> None:
    small, large = pair
    (split,) = freeze(small, SPEC)
    one, two = ((bounds_of(ds, split), panel_bounds(ds, split)) for ds in pair)
    assert not loaded(large)
    assert repr(one) == repr(two)


def test_a_split_is_frozen_alike(pair) -> None:
    small, large = pair
    assert [s.hash for s in freeze(large, SPEC)] == [s.hash for s in freeze(small, SPEC)]
    assert not loaded(large)


def test_profiles_of_the_audit_are_those_of_memory(pair) -> None:
    small, large = pair
    for one, two in zip(profile_hashes(small), profile_hashes(large), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not loaded(large)


@pytest.mark.parametrize("rows", [[5, 3, 3, 700], [0], [899, 1], list(range(0, 900, 7))])
def test_some_rows_in_any_order(pair, rows) -> None:
    small, large = pair
    asked = np.asarray(rows)
    expected = expression_of(small, asked).toarray()
    np.testing.assert_array_equal(expression_of(large, asked).toarray(), expected)
    assert kept_rows(small, asked) is None
    assert kept_rows(large, asked).rows.tolist() == sorted(set(rows))
    assert not loaded(large)


def test_the_same_rows_are_read_once(pair, monkeypatch) -> None:
    _, large = pair
    asked = np.arange(0, 60, 2)
    first = kept_rows(large, asked)
    monkeypatch.setattr(stored_rows.StoredRows, "__getitem__", lambda *_: pytest.fail("read again"))
    assert kept_rows(large, asked[::-1]) is first


def test_rows_among_those_read_last_are_not_read_again(pair, monkeypatch) -> None:
    _, large = pair
    first = kept_rows(large, np.arange(0, 60, 2))
    monkeypatch.setattr(stored_rows.StoredRows, "__getitem__", lambda *_: pytest.fail("read again"))
    assert kept_rows(large, np.asarray([8, 4])) is first


def test_more_halvings_read_no_more_of_the_file(pair, monkeypatch) -> None:
    _, large = pair
    (split,) = freeze(large, SPEC)
    read, reads = stored_rows.StoredRows._read, []
    monkeypatch.setattr(stored_rows.StoredRows, "_read", lambda *a: reads.append(a[2]) or read(*a))
    counts = []
    for halvings in (1, 5):
        reads.clear()
        bounds_of(large, split, halvings=halvings)
        counts.append(len(reads))
    assert counts[1] <= counts[0]
