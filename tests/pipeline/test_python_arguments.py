"""Arguments of `pfm.run`, `pfm.score` and `pfm.freeze` that are refused, converted or named, in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import perturbfm_core as pfm
from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.cli.model_options import configured, find_entry
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import (
    ConfigError,
    DatasetError,
    PerturbFMError,
    PredictionError,
    SplitError,
    StoreError,
)
from perturbfm_core.models.parameters import every_parameter, recorded
from perturbfm_core.pipeline.changed_entry import changed_entry, plain_value
from perturbfm_core.pipeline.opening import open_experiments
from perturbfm_core.store.artifacts import ArtifactStore


@pytest.fixture(scope="module")
def ds():
    return simulate(SimulationConfig(name="s", n_obs=300, n_genes=20, n_perts=4))[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return ArtifactStore(home, home / "splits")


@pytest.fixture(scope="module")
def split(ds, store):
    return pfm.freeze(ds, "context_ood", holdout=["C1"], bounds=False, store=store)


@pytest.fixture(scope="module")
def frame(ds, split):
    keys = ds.conditions.index[np.unique(ds.condition_codes[split.rows(ds, "test")])]
    return pd.DataFrame(0.0, index=keys, columns=ds.genes)


# ---- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x/../../../evil", "a/b", "a\nb", "My Ridge", "", "..", "a..b", "-x", "é"])
def test_a_name_that_is_no_key_is_refused_as_on_the_command_line(ds, split, store, name):
    before = sorted(p for p in store.home.rglob("*"))
    with pytest.raises(ConfigError, match="cannot be a key; use lower-case letters") as caught:
        pfm.run(ds, split, "global_mean", name=name, store=store)
    assert "\n" not in str(caught.value)
    assert sorted(p for p in store.home.rglob("*")) == before
    with pytest.raises(ConfigError, match="cannot be a key"):
        configured(find_entry("global_mean"), {}, name=name)
    with pytest.raises(ConfigError, match="cannot be a key"):
        ModelEntry(name=name, description="x", model="ridge")


@pytest.mark.parametrize("length", [201, 300, 5000])
def test_a_name_too_long_for_a_folder_is_refused(ds, split, store, length):
    with pytest.raises(ConfigError, match=f"has {length} characters; give at most 200"):
        pfm.run(ds, split, "global_mean", name="a" * length, store=store)
    assert changed_entry(find_entry("ridge"), {}, name="a" * 200).name == "a" * 200


@pytest.mark.parametrize(
    ("model", "name"), [("ridge", "global_mean"), ("additive", "ridge"), ("global_mean", "additive")]
)
def test_the_name_of_another_model_is_refused(ds, split, store, model, name):
    with pytest.raises(
        ConfigError, match=f"{name!r} of the catalog is of model {name!r}, and this is one of {model!r}"
    ):
        pfm.run(ds, split, model, name=name, store=store)
    with pytest.raises(ConfigError, match="give another name"):
        changed_entry(find_entry(model), {}, name=name)
    assert open_experiments(store, split, changed_entry(find_entry(model), {}, name=model), data=ds)


@pytest.mark.parametrize(
    ("model", "params", "plain"),
    [
        ("ridge", {"control_components": 10}, {}),
        ("ridge", {"control_components": np.int64(10)}, {}),
        ("ridge", {"alphas": np.array([10.0])}, {"alphas": [10.0]}),
        ("ridge", {"alphas": [np.float32(10)]}, {"alphas": ["10"]}),
        ("ridge", {"alphas": pd.Series([1, 10])}, {"alphas": [1.0, 10.0]}),
        ("linear_additive", {"covariates": np.bool_(False)}, {"covariates": "off"}),
    ],
)
def test_python_and_the_command_line_give_one_configuration_one_name(model, params, plain):
    from perturbfm_core.pipeline.python_api import _entry

    here, there = _entry(model, None, None, params), configured(find_entry(model), plain)
    assert here.name == there.name
    assert every_parameter(model, here.params) == every_parameter(model, there.params)
    assert (here.name == model) is (every_parameter(model, here.params) == every_parameter(model, {}))


def test_values_become_plain():
    given: dict[str, Any] = {
        "a": (np.int8(1), {"z", "b"}),
        "b": {"c": pd.Index(["x"])},
        "d": {2, "x"},
        "e": None,
    }
    assert plain_value(given) == {
        "a": (1, ["b", "z"]),
        "b": {"c": ["x"]},
        "d": [2, "x"],
        "e": None,
    } or plain_value(given)["d"] == ["x", 2]


def test_sets_among_parameters_have_one_hash_in_every_process(tmp_path):
    code = """
from perturbfm_core.config import Frozen
from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.means import GlobalMean
from perturbfm_core.pipeline.changed_entry import changed_entry
from perturbfm_core.pipeline.experiment import model_configs

class Inner(Frozen):
    of: frozenset[str] = frozenset({"p", "q", "r"})

class WithSets(GlobalMean):
    class Params(Frozen):
        names: set[str] = {"a", "b", "c", "d"}
        groups: frozenset[frozenset[str]] = frozenset({frozenset("xyz"), frozenset("uvw")})
        inner: Inner = Inner()
        by: dict[str, set[int]] = {"k": {3, 1, 2}}

MODELS.add("with_sets", WithSets)
base = ModelEntry(name="with_sets", description="x", model="with_sets")
print(model_configs(base)[0].config_hash, changed_entry(base, {"names": {"d", "c", "b", "a"}}).name)
print(changed_entry(base, {"names": ["v", "w", "x"]}).name)
"""
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert seen.pop().split()[1] == "with_sets"
    assert recorded([3, 1], {1, 3}) == [1, 3]
    assert recorded([3, 1], (3, 1)) == [3, 1]


# ---- paths --------------------------------------------------------------------------------------------------


def test_a_run_and_its_store_stay_where_they_are_in_another_directory(ds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    kept = ArtifactStore("out", "out/splits")
    made = pfm.freeze(ds, "context_ood", holdout=["C1"], bounds=False, store=kept)
    run = pfm.Run(Path("runs") / "x")
    monkeypatch.chdir(tmp_path / "sub")
    assert run.path == tmp_path / "runs" / "x"
    assert run.report.is_relative_to(tmp_path / "runs")
    assert kept.home == tmp_path / "out"
    assert kept.runs == tmp_path / "out" / "runs"
    assert (kept.split_dir / f"{made.hash}.json").is_file()


def test_a_store_is_a_path_too(ds, tmp_path, monkeypatch):
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(tmp_path / "splits"))
    first = pfm.freeze(ds, "context_ood", holdout=["C1"], bounds=False, store=str(tmp_path / "a"))
    again = pfm.freeze(ds, "context_ood", holdout=np.array(["C1"]), bounds=False, store=tmp_path / "a")
    assert again.hash == first.hash
    assert (
        first.hash == pfm.freeze(ds, "context_ood", holdout={"C1"}, bounds=False, store=tmp_path / "b").hash
    )


# ---- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"kind": "deltas"},
            PredictionError,
            "unknown kind of prediction 'deltas'; give one of delta, expression",
        ),
        ({"kind": 3}, PredictionError, "unknown kind of prediction 3"),
        ({"prediction": np.zeros((2, 2))}, PredictionError, "the prediction is a ndarray; give a data frame"),
        ({"prediction": None}, PredictionError, "the prediction is a NoneType"),
        ({"prediction": {}}, PredictionError, "the prediction is a dict"),
        ({"prediction": pd.Series([1.0])}, PredictionError, "the prediction is a Series"),
        ({"variance": np.ones(3)}, PredictionError, "variance is a ndarray; give a data frame"),
        ({"variance": 1.0}, PredictionError, "variance is a float"),
        (
            {"prediction": "x.npz", "variance": pd.DataFrame()},
            PredictionError,
            "a file and a RowPrediction have",
        ),
        ({"panels": []}, ConfigError, r"panels is \[\]; give a list"),
        ({"panels": "delta"}, ConfigError, "panels is 'delta'; give a list"),
        ({"panels": [1]}, ConfigError, r"panels is \[1\]"),
        ({"split": Path("x")}, SplitError, "the split is a Posix.*; give a frozen split"),
        ({"split": None}, SplitError, "the split is a NoneType"),
        ({"store": 5}, StoreError, "the store is a int; give an ArtifactStore or the path"),
        ({"ds": None}, DatasetError, "the data set is a NoneType"),
    ],
)
def test_an_argument_of_another_type_is_refused_in_one_line(ds, split, store, frame, change, error, message):
    given = {"ds": ds, "split": split, "prediction": frame, "store": store, **change}
    with pytest.raises(error, match=message) as caught:
        pfm.score(**given)
    assert "\n" not in str(caught.value)
    if set(change) <= {"split", "store", "ds"}:
        with pytest.raises(error, match=message):
            pfm.run(given["ds"], given["split"], "global_mean", store=given["store"])


def test_values_that_are_no_numbers_are_refused(ds, split, store, frame):
    text = frame.astype(object)
    text.iloc[0, 1] = "much"
    with pytest.raises(PredictionError, match="the data frame holds what is no number, in "):
        pfm.score(ds, split, text, store=store)
    with pytest.raises(PredictionError, match="variance holds what is no number"):
        pfm.score(ds, split, frame, variance=text, store=store)
    with pytest.raises(PredictionError, match="variance repeats a condition or a gene"):
        pfm.score(ds, split, frame, variance=pd.concat([frame, frame.iloc[:1]]), store=store)


def test_a_variance_that_lacks_a_condition_or_gene_names_it(ds, split, store, frame):
    rows, genes = frame.shape
    with pytest.raises(PredictionError, match=f"variance lacks 1 of {rows} rows of the prediction, e.g. '"):
        pfm.score(ds, split, frame, variance=frame.abs().iloc[1:], store=store)
    with pytest.raises(PredictionError, match=f"variance lacks 2 of {genes} genes of the prediction, e.g. "):
        pfm.score(ds, split, frame, variance=frame.abs().iloc[:, 2:], store=store)


def test_an_entry_is_a_name_or_an_entry(ds, split, store):
    for wrong in (None, 5, ["ridge"]):
        with pytest.raises(ConfigError, match="give the name of a catalog entry or model, or a ModelEntry"):
            pfm.run(ds, split, wrong, store=store)


SUITE_CALLS = {
    "run_suite": lambda store: pfm.run_suite("demo", only="split=none", store=store),
    "suite_status": lambda store: pfm.suite_status("demo", store=store),
    "scorecard": lambda store: pfm.scorecard("demo", store=store),
    "rescore": lambda store: pfm.rescore("20260101-000000_none", store=store),
}


@pytest.mark.parametrize("name", SUITE_CALLS)
def test_suites_take_a_store_as_every_other_call_does(tmp_path, name):
    answers = []
    for store in (tmp_path, str(tmp_path), ArtifactStore(tmp_path)):
        try:
            answers.append(SUITE_CALLS[name](store).to_json())
        except PerturbFMError as error:
            answers.append(str(error))
    assert len(set(answers)) == 1
    with pytest.raises(StoreError, match="the store is a int; give an ArtifactStore or the path"):
        SUITE_CALLS[name](3)


def test_one_run_is_rescored_by_its_name_and_what_is_no_name_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no run in .* match 'RUN'"):
        pfm.rescore("RUN", store=tmp_path)
    with pytest.raises(ConfigError, match="runs is 3; give the id of a run or a list of such"):
        pfm.rescore(3, store=tmp_path)
    with pytest.raises(ConfigError, match="panels is 'delta'; give a list"):
        pfm.rescore("RUN", panels="delta", store=tmp_path)
    with pytest.raises(ConfigError, match="only is 3; give a selection such as"):
        pfm.run_suite("demo", only=3, store=tmp_path)


@pytest.mark.parametrize("policies", ["x", [1]])
def test_policies_and_metrics_of_another_type_are_refused(ds, store, policies):
    with pytest.raises(
        ConfigError, match=r"policies is a (str|list); give a dictionary, such as \{'calibration'"
    ):
        pfm.freeze(ds, "iid", policies=policies, bounds=False, store=store)
    with pytest.raises(StoreError, match=r"metric is a int; write PANEL\.METRIC as text"):
        pfm.leaderboard(3, refresh=False, store=store)
