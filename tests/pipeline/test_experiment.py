"""One experiment passes through the stages once: nothing is fitted, gathered, audited or keyed twice."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

import perturbfm_core
from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import ConfigError, SplitError
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.pipeline.changed_entry import changed_entry
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.opening import needs_of
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning.sweep_grid import sweep_cells

PACKAGE = str(Path(perturbfm_core.__file__).parent)
ONCE = [
    ("pipeline/opening.py", "open_experiment"),
    ("pipeline/gene_graph.py", "gather"),
    ("splits/audit/core.py", "require_clean"),
    ("pipeline/experiment.py", "keys"),
    ("pipeline/trained_model.py", "fit"),
    ("pipeline/prediction.py", "predict"),
    ("pipeline/metric_panel.py", "score"),
    ("pipeline/report.py", "report"),
    ("splits/view.py", "train_view"),
    ("evaluation/comparison.py", "compare"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    ds = simulate(SimulationConfig(name="small", n_obs=400, n_genes=40, n_contexts=3, n_perts=6))[0]
    import_dataset(store, ds, storage="npz")
    opened = open_dataset(store.dataset("small"))
    ((split, _, _),) = freeze_split(store, opened, SplitSpec(kind="context_ood", params={"holdout": ["C1"]}))
    return store, split


def entries(work):
    """Return how often each function of the core was entered while `work` ran."""
    count: Counter[tuple[str, str]] = Counter()

    def watch(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            count[code.co_filename.removeprefix(PACKAGE + "/"), code.co_name] += 1

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("seeds", [(0,), (3, 4)])
def test_a_fresh_run_enters_every_stage_once_per_seed(prepared, seeds):
    store, split = prepared
    entry = ModelEntry(name="additive", description="x", model="additive", seeds=seeds)
    count = entries(lambda: run_entry(store, split.hash, entry))
    assert {f: count[f] for f in ONCE} == dict.fromkeys(ONCE, len(seeds))


def test_a_run_that_is_asked_for_again_fits_and_reads_nothing_again(prepared):
    store, split = prepared
    entry = ModelEntry(name="ridge", description="x", model="ridge")
    run_entry(store, split.hash, entry)
    count = entries(lambda: run_entry(store, split.hash, entry, again=True))
    assert {f: count[f] for f in ONCE if f[1] != "train_view"} == dict.fromkeys(
        [f for f in ONCE if f[1] != "train_view"], 1
    )
    assert count["splits/view.py", "train_view"] == 0
    assert count["models/base.py", "load_model"] == 0


def test_a_run_that_is_found_is_audited_and_enters_no_stage(prepared):
    store, split = prepared
    entry = ModelEntry(name="linear", description="x", model="linear")
    run_entry(store, split.hash, entry)
    count = entries(lambda: run_entry(store, split.hash, entry))
    entered = ("open_experiment", "gather", "require_clean", "keys")
    assert {f[1]: count[f] for f in ONCE if count[f]} == dict.fromkeys(entered, 1)


def test_an_entry_that_cannot_run_on_the_split_is_refused_before_anything_is_gathered(prepared, monkeypatch):
    store, split = prepared
    monkeypatch.setattr(MODELS.get("ridge"), "requires", Requires(min_contexts=9))
    entry = ModelEntry(name="ridge", description="x", model="ridge")

    def refused():
        with pytest.raises(SplitError, match="it needs 9 train contexts, there are 2"):
            run_entry(store, split.hash, entry)

    assert entries(refused)["pipeline/gene_graph.py", "gather"] == 0


@pytest.mark.parametrize(
    "read", [model_configs, needs_of, lambda e: changed_entry(e, {}), lambda e: sweep_cells(e, [])]
)
def test_parameters_that_a_model_does_not_have_name_the_entry_that_they_are_of(read):
    wrong = ModelEntry(name="mine", description="x", model="ridge", params={"alphaz": 1})
    with pytest.raises(ConfigError, match=r"parameters of model 'ridge' in entry 'mine' .*alphaz"):
        read(wrong)
    # An entry of a model's own name needs no second mention.
    with pytest.raises(ConfigError, match="parameters of model 'ridge' is not a valid"):
        read(wrong.model_copy(update={"name": "ridge"}))


@pytest.mark.parametrize(
    ("own", "settings", "field"),
    [
        ({"conformal": {"method": "mondrain"}}, {}, "conformal.method"),
        ({}, {"conformal": "mondrain"}, "conformal.method"),
        ({}, {"ensemble": 0}, "ensemble"),
    ],
)
def test_a_wrong_uncertainty_is_that_of_its_entry(own, settings, field):
    entry = ModelEntry(name="mine", description="x", model="ridge", uncertainty=own)
    with pytest.raises(ConfigError, match=rf"^uncertainty of entry 'mine' is not a valid .*: {field}: "):
        changed_entry(entry, {}, **settings)
