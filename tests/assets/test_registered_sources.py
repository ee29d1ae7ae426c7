"""Assets of an experiment read the public sources that are registered when they run."""

from __future__ import annotations

import dagster as dg

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.pipeline.source_use import acted_on
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import read_run_record
from tests.assets.conftest import Location
from tests.support.asset_runs import CONTEXT, cell, metadata
from tests.support.command import attempt, perturbfm
from tests.support.source_files import written


def sets_of(ds: PerturbDataset) -> str:
    """Return gene sets over the genes that a data set perturbs, but for the last one."""
    genes = acted_on(ds)[:-1]
    return "".join("\t".join([f"S{k}", "made up", *genes[k : k + 4]]) + "\n" for k in range(len(genes) - 3))


def test_a_cell_reads_what_is_registered_when_it_runs(here: Location, tmp_path, monkeypatch):
    monkeypatch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")
    store = ArtifactStore()
    before = set(store.run_dirs())
    plain = cell(here, "perturbfm-v0", tags={"perturbfm/again": "true"})
    assert plain.success
    (first,) = set(store.run_dirs()) - before
    assert read_run_record(first).sources == []
    sets = written(tmp_path, "sets.gmt", sets_of(open_dataset(store.dataset("demo"))))
    assert attempt("knowledge", "add", "file", "--from", sets, "--name", "sets").code == 0
    try:
        with_sets = cell(here, "perturbfm-v0")
        assert with_sets.success
        (second,) = set(store.run_dirs()) - before - {first}
        record = read_run_record(second)
        assert [(s["name"], s["what"]) for s in record.sources] == [("sets", "features")]
        assert record.config_hash == read_run_record(first).config_hash
        assert metadata(with_sets, "trained_model")["object"] != metadata(plain, "trained_model")["object"]
        # Of the same key as that of the command line.
        found = perturbfm(
            "run", "--entry", "perturbfm-v0", "--split", CONTEXT["key"], "--json", warns=True
        ).json
        assert (found["existing"], found["run_id"]) == (True, record.run_id)
    finally:
        perturbfm("knowledge", "remove", "sets")
    again = cell(here, "perturbfm-v0", instance=dg.DagsterInstance.ephemeral())
    assert metadata(again, "trained_model")["object"] == metadata(plain, "trained_model")["object"]
    assert set(store.run_dirs()) - before == {first, second}
