"""Data sets of the catalog, freezing of splits and cells of suites, as the stages need them."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from perturbfm_core.catalog.entries import DatasetEntry, SplitSpec, SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.simulate import simulate
from perturbfm_core.errors import DatasetError, SplitError
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.pipeline import split as freezing
from perturbfm_core.pipeline.dataset import ensure_dataset, find_dataset, import_dataset
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.splits.folder import SplitFolder
from tests.support.small_store import CONFIG, config, entry
from tests.support.stages import score


def test_splits_are_all_frozen_or_none(store, ds, monkeypatch):
    before = {p.name for p in store.split_dir.iterdir()}
    plain, calls = freezing.require_clean, []

    def second_leaks(dataset, split):
        calls.append(split.hash)
        if len(calls) == 2:
            msg = "leaks: planted"
            raise SplitError(msg)
        return plain(dataset, split)

    monkeypatch.setattr(freezing, "require_clean", second_leaks)
    with pytest.raises(SplitError, match="leaks: planted"):
        freeze_split(store, ds, SplitSpec(kind="leave_one_context_out"))
    assert {p.name for p in store.split_dir.iterdir()} == before


def test_bounds_left_out_at_the_freeze_come_with_the_first_scores(store, ds):
    spec = SplitSpec(kind="context_ood", params={"holdout": ["C2"]})
    ((split, stats, new),) = freeze_split(store, ds, spec, bounds=False)
    assert new
    assert (stats.ceiling, stats.no_signal) == (None, None)
    score(store, ds, split, config())
    stored = SplitFolder(store.split_dir).stats(split.hash)
    assert stored.ceiling["pearson"]["half"] is not None
    assert stored.no_signal in (True, False)
    # Freezing once more without bounds does not lose them.
    ((_, kept, again),) = freeze_split(store, ds, spec, bounds=False)
    assert not again
    assert kept.ceiling == stored.ceiling


# ---- data sets and suites ------------------------------------------------------------------------------------


def test_catalog_data_set_is_simulated_once_by_racing_processes(store, monkeypatch):
    made = DatasetEntry(
        name="tiny",
        description="x",
        source="synth",
        synth={"n_obs": 120, "n_genes": 10, "n_contexts": 2, "n_perts": 3},
    )
    told = []
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: ensure_dataset(store, made, told.append), range(2)))
    assert paths == [store.dataset("tiny")] * 2
    assert [line for line in told if not line.startswith("waiting for a lock")] == ["simulating tiny"]


def test_catalog_data_set_of_other_content_is_refused(store):
    synth = {"n_obs": 120, "n_genes": 10, "n_contexts": 2, "n_perts": 3}
    made = DatasetEntry(name="tiny", description="x", source="synth", synth=synth, content_sha256="0" * 64)
    with pytest.raises(
        DatasetError, match="the catalog states 000000000000; its splits and results do not hold"
    ):
        ensure_dataset(store, made)
    assert not store.dataset("tiny").exists()
    gone = DatasetEntry(name="gone", description="x", source="artifact", path="data/gone")
    with pytest.raises(DatasetError, match=r"'gone' is not at .*; import it with `perturbfm data import`"):
        ensure_dataset(store, gone)


def test_data_of_a_split_are_found_by_content_not_by_name(store, split):
    assert find_dataset(store, split) == store.dataset("small")
    store.dataset("small").rename(store.dataset("renamed"))
    assert find_dataset(store, split) == store.dataset("renamed")
    import_dataset(store, simulate(CONFIG.model_copy(update={"seed": 5}))[0])
    assert find_dataset(store, split) == store.dataset("renamed")
    shutil.rmtree(store.dataset("renamed"))
    assert find_dataset(store, split) is None
    with pytest.raises(DatasetError, match="is not at hand; give --data DIR"):
        run_entry(store, split.hash, entry())


def test_suite_freezes_what_is_missing_and_lists_its_cells(store, tmp_path, monkeypatch):
    folder = tmp_path / "catalog/datasets"
    folder.mkdir(parents=True)
    synth = {"n_obs": 160, "n_genes": 12, "n_contexts": 2, "n_perts": 4}
    made = {"name": "tiny", "description": "x", "source": "synth", "synth": synth}
    (folder / "tiny.yaml").write_text(json.dumps(made))
    suite = SuiteEntry(
        name="s",
        description="x",
        grid=({"dataset": "tiny", "splits": ({"kind": "leave_one_context_out"},)},),
        models=("additive", "ridge"),
    )
    monkeypatch.setattr(MODELS.get("ridge"), "requires", Requires(min_contexts=2))
    unmade = plan_suite(store, suite)
    assert (unmade.unmade, [c.reason for c in unmade.cells]) == (("tiny",), [None, None])
    made = plan_suite(store, suite, make=True)
    hashes = [split.hash for split in made.splits]
    assert len(hashes) == 2
    assert set(hashes) <= set(SplitFolder(store.split_dir).hashes())
    files = {p.name: p.stat().st_mtime_ns for p in store.split_dir.iterdir()}
    for again in (plan_suite(store, suite), plan_suite(store, suite, make=True)):
        assert (again.splits, again.cells) == (made.splits, made.cells)
    assert {p.name: p.stat().st_mtime_ns for p in store.split_dir.iterdir()} == files
    assert [(c.split.hash, c.entry) for c in made.cells] == [(h, m) for h in hashes for m in suite.models]
    assert [c.reason for c in made.cells] == [None, "needs 2 train contexts, there are 1"] * 2
    # What is not frozen yet is known as well, once the data are there.
    shutil.rmtree(store.split_dir)
    planned = plan_suite(store, suite)
    assert [(s.hash, s.is_frozen) for s in planned.splits] == [(h, False) for h in hashes]
    assert [c.reason for c in planned.cells] == [c.reason for c in made.cells]
    assert load_catalog().dataset("tiny").synth == synth
