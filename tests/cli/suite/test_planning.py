"""Suites before they run: listed, shown, narrowed to some cells, refused."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from perturbfm_core.catalog.loading import load_catalog, packaged_folder
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.pipeline import suite as suite_module
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_data import suite_dataset
from perturbfm_core.pipeline.suite_filter import parse_only
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.small_suite import ENTRIES, counts, declare


def test_suites_are_listed_and_shown_before_anything_is_made(tmp_path):
    declare(tmp_path, panels=["perturbench"])
    assert {"demo", "perturbench_style", "scperturbench_style", "vcc2026_style", "real_small", "t"} <= {
        row["suite"] for row in perturbfm("suite", "list", "--json").json
    }
    shown = perturbfm("suite", "show", "t", "--json").json
    assert (shown["cells"], shown["entries"], shown["panels"]) == (9, list(ENTRIES), ["perturbench"])
    assert shown["seeds"] == {entry: [0] for entry in ENTRIES}
    assert [s["kind"] for s in shown["splits"]] == ["context_ood", "combo_ood", "combo_ood"]
    assert shown["data_not_made"] == ["tiny"]
    assert not (tmp_path / "data").exists()
    assert "cells=9" in perturbfm("suite", "show", "t").out


def test_dry_run_makes_nothing(tmp_path):
    declare(tmp_path)
    answer = perturbfm("suite", "run", "t", "--dry-run")
    assert answer.values["missing"] == "9"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".perturbfm"]


def test_dry_run_says_what_is_done(ran):
    before = sorted(str(p) for p in ran.rglob("*"))
    answer = perturbfm("suite", "run", "t", "--dry-run", "--only", "entry=ridge", "--json").json
    assert (answer["cells"], answer["done"]) == (3, 3)
    assert sorted(str(p) for p in ran.rglob("*")) == before


@pytest.mark.parametrize(
    ("only", "cells"),
    [
        (["entry=ridge"], 3),
        (["entry=ridge,split=combo_ood"], 2),
        (["entry=ridge,entry=global_mean"], 6),
        (["entry=ridge", "split=context"], 5),
        (["dataset=tiny,seed=0,entry=ridge"], 3),
        (["split=tiny.combo_ood.cv-"], 6),
    ],
)
def test_only_narrows_by_fields_and_adds_by_repetition(ran, only, cells):
    assert counts(*(w for text in only for w in ("--only", text)))["cells"] == cells


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("ridge", "--only takes entry=..,split=..,dataset=..,seed=.., found 'ridge'"),
        ("entry=", "--only takes entry=..,split=..,dataset=..,seed=.., found 'entry='"),
        ("entry=rigde", "suite 't' has no entry 'rigde'; it has: control_only, global_mean, ridge"),
        ("dataset=demo", "suite 't' has no data set 'demo'; it has: tiny"),
        ("seed=one", "--only seed=one: a seed is a whole number"),
        ("split=iid", "--only selects no cell of suite 't'; its splits: tiny.combo_ood."),
    ],
)
def test_selections_of_nothing_are_refused_in_one_line(ran, only, message):
    answer = attempt("suite", "run", "t", "--only", only)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1


def test_an_unknown_name_in_a_suite_leaves_nothing(tmp_path):
    declare(tmp_path, panels=["perturbbench"])
    answer = attempt("suite", "run", "t")
    assert (answer.code, "unknown panel 'perturbbench'" in answer.err) == (2, True)
    assert not (tmp_path / "data").exists()


# ---- shipped -------------------------------------------------------------------------------------------------


def test_shipped_suites_name_what_exists():
    catalog = load_catalog([packaged_folder()])
    for suite in catalog.suites.values():
        for name in suite.models:
            catalog.model(name)
        for panel in suite.panels:
            PANELS.get(panel)
        for group in suite.grid:
            assert (group.dataset in catalog.datasets) != (group.file is not None)


@pytest.mark.parametrize("name", ["perturbench_style", "scperturbench_style", "vcc2026_style"])
def test_suites_in_the_style_of_peers_are_small_and_every_entry_can_run(name):
    suite = load_catalog().suite(name)
    store = ArtifactStore()
    for group in suite.grid:
        suite_dataset(store, group)
    plan = plan_suite(store, suite)
    assert plan.unmade == ()
    assert {cell.reason for cell in plan.cells} == {None}
    assert 10 <= len(plan.cells) <= 40
    kinds = {split.kind for split in plan.splits}
    assert (
        kinds
        == {
            "perturbench_style": {"covariate_transfer", "combo_ood"},
            "scperturbench_style": {"context_ood", "perturbation_ood"},
            "vcc2026_style": {"covariate_transfer", "perturbation_ood"},
        }[name]
    )
    assert open_dataset(store.dataset(suite.grid[0].dataset)).values.counts is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "suite 'real_small' reads files of your own; give --data-dir FOLDER with norman.h5ad (Norman 2019",
        ),
        (
            ("--data-dir", "nowhere"),
            "--data-dir nowhere is no folder; suite 'real_small' expects one with norman.h5ad",
        ),
        (
            ("--data-dir", ".", "--only", "dataset=real_kang"),
            "--data-dir . lacks kang.h5ad (Kang 2018",
        ),
        (
            ("--data-dir", ".", "--only", "dataset=real_kang", "--only", "dataset=real_l1000"),
            "--data-dir . lacks kang.h5ad (Kang 2018",
        ),
    ],
)
def test_files_of_ones_own_that_are_missing_are_named_in_one_line(tmp_path, words, message):
    answer = attempt("suite", "run", "real_small", *words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_real_files_are_imported_once(shared_dir, tmp_path, monkeypatch):
    source = shared_dir / "data/sc_kang_ifnb_5celltypes.h5ad"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kang.h5ad").symlink_to(source)
    # Without ceilings, which take longer than all else.
    monkeypatch.setattr(suite_module, "freeze_split", partial(freeze_split, bounds=False))
    suite, store = load_catalog().suite("real_small"), ArtifactStore()
    only = parse_only(["dataset=real_kang"], suite)
    plan = plan_suite(store, suite, make=True, only=only, data_dir=Path("mine"))
    assert len(plan.splits) == 5
    assert all(split.is_frozen for split in plan.splits)
    assert load_catalog().dataset("real_kang").source == "artifact"
    shutil.rmtree(tmp_path / "mine")
    # The file is not read again.
    assert plan_suite(store, suite, make=True, only=only).cells == plan.cells
