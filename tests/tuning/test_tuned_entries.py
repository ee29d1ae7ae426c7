"""Tuned parameters as entries of the catalog that name their study."""

from __future__ import annotations

import pytest

from perturbfm_core.catalog.entries import Tuned
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import ConfigError
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.tuning.record import check_registration, register
from perturbfm_core.tuning.search import tune
from tests.support.tuning_screen import entry, run


def test_the_selected_parameters_become_an_entry_that_names_its_study(store, ds, splits, scored):
    given = entry("ridge", uncertainty={"ensemble": 2}, seeds=(3, 4), params={"control_components": 5})
    made = tune(store, splits["fold"].hash, given, fixed=["control_components"], trials=3, name="mine")
    path = register(made, "best")
    found = load_catalog().model("best")
    assert path.is_file()
    assert (found.model, found.seeds, found.uncertainty) == ("ridge", (3, 4), {"ensemble": 2})
    assert found.params == {"control_components": 5} | (
        {} if made.study.own_is_best else made.study.selected.params
    )
    assert found.tuned == Tuned(
        study="mine",
        split=splits["fold"].hash,
        data_content_sha256=ds.content_sha256,
        trial=None if made.study.own_is_best else made.study.selected.number,
        trials=3,
        value=made.study.selected.value,
    )
    # A later state of the study may take its place.
    assert register(made, "best") == path


def test_the_study_of_the_parameters_is_no_part_of_the_config_hash():
    tuned = Tuned(study="s", split="a" * 64, data_content_sha256="b" * 64, trial=1, trials=2, value=0.5)
    (plain,), (other,) = model_configs(entry()), model_configs(entry(tuned=tuned))
    assert other.tuned == tuned
    assert (plain.config_hash, plain.entry_hash) == (other.config_hash, other.entry_hash)


def test_hand_made_entries_are_not_replaced(own_home):
    with pytest.raises(ConfigError, match="already has an entry 'additive', which is not from a study"):
        check_registration("additive")
    folder = own_home.parent / "catalog/models"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("{name: mine, description: x, model: linear}")
    with pytest.raises(ConfigError, match="already has an entry 'mine', which is not from a study"):
        check_registration("mine")
    with pytest.raises(ConfigError, match="entry name 'A B' cannot be a key"):
        check_registration("A B")


def test_a_run_on_another_split_than_the_parameters_were_selected_on_is_flagged(store, ds, splits):
    made = run(store, splits["fold"], trials=1)
    register(made, "best")
    pages = {}
    for policy, split in splits.items():
        (folder,) = run_entry(store, split.hash, load_catalog().model("best"))
        pages[policy] = (folder / "report.html").read_text()
    flag = "the parameters were selected on the validation of another split of this data"
    assert [flag in pages[policy] for policy in ("fold", "inner_cv")] == [False, True]
    assert all(f"of study {made.study.name}, 1 trials" in page for page in pages.values())
