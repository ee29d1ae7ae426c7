"""External models in the ordinary grid: requirements, fit by the template worker, variance, kept output, ranking."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import ExternalError, ModelError, PerturbFMError, PredictionError, SplitError
from perturbfm_core.models.base import load_model, new_model
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.opening import open_experiments, why_not
from perturbfm_core.pipeline.prediction import query_of_test
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.folder import traits_of
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support import stages
from tests.support.factories import screen, simulated, split_one

TEMPLATE = Path(__import__("perturbfm_core").__file__).parent / "external/workers/template_worker.py"


@lru_cache(maxsize=4)
def world(kind: str = "context_ood"):
    """Return a simulated screen and a split of it."""
    ds = simulated(n_obs=700, n_genes=25, n_contexts=3, n_perts=7, n_combos=3)
    holdout = {"context_ood": {"holdout": ["C0"]}}
    return ds, split_one(ds, kind, holdout.get(kind), **({} if kind in holdout else {"folds": 3, "fold": 0}))


def config(**params):
    """Return the configuration of a worker file with parameters."""
    seed = params.pop("seed", 0)
    entry = ModelEntry(name="mine", description="", model="external-worker", params=params, seeds=(seed,))
    (found,) = model_configs(entry)
    return found


def worker(tmp_path: Path, change: str = "", name: str = "mine.py") -> str:
    """Return the file of a template worker whose rows are changed by a line of code."""
    text = TEMPLATE.read_text()
    mark = "    keys, rows, skipped = predicted(request, train, controls)\n"
    assert text.count(mark) == 1
    path = tmp_path / name
    path.write_text(text.replace(mark, mark + (f"    {change}\n" if change else "")))
    return str(path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> ArtifactStore:
    """Return a store that the tests of this module share."""
    return ArtifactStore(tmp_path_factory.mktemp("store"))


# ---- requirements -----------------------------------------------------------------------------------------

ROWS = [
    *[("control", c) for c in ("x", "y", "z") for _ in range(3)],
    *[(p, c) for c in ("x", "y") for p in ("g0", "g1", "g2", "g3", "g0+g1") for _ in range(3)],
    *[(p, "z") for p in ("g0", "g4") for _ in range(3)],
]


def stated(test: list[tuple[str, str]]) -> SplitConditions:
    """Return the conditions of a screen of six genes, of which some are tested."""
    table = screen(ROWS).conditions.astype(str)
    pairs = list(zip(table["pert_id"], table["context_id"], strict=True))
    tested = np.asarray([pair in test for pair in pairs])
    assert tested.sum() == len(test)
    return SplitConditions(table[~tested], table[tested], frozenset(f"g{i}" for i in range(6)))


@pytest.mark.parametrize(
    ("model", "test", "reason"),
    [
        ("gears", [("g3", "x"), ("g0+g1", "x")], None),
        ("gears", [("g0", "z"), ("g4", "z")], "train conditions of every tested context"),
        ("scgen", [("g0", "x"), ("g1", "x")], None),
        ("scgen", [("g4", "z"), ("g0", "z")], r"in some context \(1 of 2 test conditions, e.g. z\|g4\|"),
        ("scgen", [("g0+g1", "x"), ("g0+g1", "y")], r"\(2 of 2 test conditions"),
        ("state", [("g4", "z")], r"\(1 of 1 test conditions, e.g. z\|g4\|"),
        ("state", [("g0", "z")], None),
        ("cpa", [("g0+g1", "x"), ("g0+g1", "y")], None),
        ("cpa", [("g0", "z"), ("g4", "z")], r"needs contexts that train has \(2 of 2"),
        ("cpa", [("g4", "z")], "genes that train has perturbed"),
    ],
)
def test_requirements_name_how_many_conditions_and_one_of_them(model, test, reason):
    found = new_model(f"external-{model}").cannot(stated(test))
    if reason is None:
        assert found is None
    else:
        assert found.startswith("needs ")
        assert "e.g. " in found
        assert __import__("re").search(reason, found), found


def test_gears_refuses_three_genes_and_genes_outside_its_graph():
    conditions = stated([("g3", "x")])
    more = conditions.test.copy()
    for key, pert in (("x|drug|||", "drug"), ("x|g0+g1+g2|||", "g0+g1+g2")):
        more.loc[key] = ["x", pert, "", "", ""]
    found = new_model("external-gears").cannot(SplitConditions(conditions.train, more, conditions.genes))
    assert "one or two genes per perturbation (1 of 3 test conditions, e.g. x|g0+g1+g2|||)" in found
    assert "perturbed genes inside its gene graph (1 of 3 test conditions, e.g. x|drug|||)" in found


@pytest.mark.parametrize("model", ["gears", "scgen", "state", "cpa"])
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("doses", "0.5", "one dose of each perturbation"),
        ("modality", "CRISPRi", "one modality of each perturbation"),
        ("covariates", "time=24", "one time, or other covariate, of each perturbation"),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_what_is_not_read_of_a_condition_must_be_one(model, column, value, says, alone):
    rows = [*ROWS, *[("g1", "x", {column: value})] * 3]
    table = screen(rows).conditions.astype(str)
    # Tested beside its other form, or with it in train.
    tested = (table["pert_id"] == "g1") & (table["context_id"] == "x")
    tested &= (table[column] != "") | (not alone)
    found = new_model(f"external-{model}").cannot(SplitConditions(table[~tested], table[tested]))
    assert says in found
    n = int(tested.sum())
    assert f"({n} of {n} test conditions" in found
    one = table[table[column] == ""]
    tested = (one["pert_id"] == "g1") & (one["context_id"] == "x")
    assert new_model(f"external-{model}").cannot(SplitConditions(one[~tested], one[tested])) is None


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (["g0", "g1", "g2"], "g0+g1", None),
        (["g0", "g1", "g2"], "g0+g1+g2", "combinations of as many genes in train (1 of 1"),
        (["g0+g1", "g2"], "g0+g1+g2", "combinations of as many genes in train (1 of 1"),
        (["g0+g1+g2", "g3"], "g0+g1+g3", None),
        (["g0+g1+g2", "g3"], "g0+g1+g2+g3", "combinations of as many genes"),
    ],
)
def test_cpa_combines_as_many_genes_as_it_has_seen(train, test, says):
    names = ["context_id", "pert_id", "modality", "doses", "covariates"]
    seen, asked = (
        pd.DataFrame([["x", p, "", "", ""] for p in perts], columns=names, index=[f"x|{p}|||" for p in perts])
        for perts in (train, [test])
    )
    found = new_model("external-cpa").cannot(SplitConditions(seen, asked))
    assert found is None if says is None else says in found


@pytest.mark.parametrize("model", ["gears", "scgen", "state", "cpa"])
def test_an_absent_environment_says_how_to_build_it(model, own_home):
    entry = load_catalog().model(f"external-{model}")
    ds, split = world()
    reason = why_not(traits_of(split, ds), entry)
    assert f"perturbfm external env create {model}" in reason
    assert "--env PATH" in reason


def test_a_split_states_the_conditions_that_its_data_have():
    for kind in ("context_ood", "combo_ood"):
        ds, split = world(kind)
        here, there = SplitConditions.of(split, ds), SplitConditions.stated(split.definition)
        assert there is not None
        for name in ("train", "test"):
            a, b = getattr(here, name).sort_index(), getattr(there, name).sort_index()
            assert a.index.tolist() == b.index.tolist()
            assert (a.to_numpy() == b[a.columns].to_numpy()).all()


# ---- fit and prediction -----------------------------------------------------------------------------------


def test_the_template_predicts_the_mean_change_of_a_perturbation(kept):
    ds, split = world()
    fitted = stages.fit(kept, ds, split, config())
    model, query, view = load_model(fitted.path), query_of_test(ds, split), train_view(ds, split)
    found = model.predict(query)
    assert found.mean.shape == (len(query), 25)
    assert (found.var > 0).all()
    # The worker's own control is the mean of all input controls of a context; the matched one is by batch.
    held = view.inner[0][1] if view.validation is None else np.zeros(len(view), dtype=bool)
    perts = view.conditions["pert_id"].astype(str).to_numpy()
    for i, pert in enumerate(query.conditions["pert_id"].astype(str)):
        if (mine := (perts == pert) & ~held).any():
            assert np.corrcoef(found.mean[i], view.delta[mine].mean(axis=0))[0, 1] > 0.9, pert
    record = model.training
    assert record["conversion"]["counts"]["predicted"] == len(query)
    assert record["worker"]["versions"]["numpy"] == np.__version__


def test_other_conditions_than_those_asked_for_are_refused(kept):
    ds, split = world()
    model = load_model(stages.fit(kept, ds, split, config()).path)
    with pytest.raises(ModelError, match=r"predicts the .* conditions that its split asked for") as caught:
        model.predict(train_view(ds, split).query())
    assert "\n" not in str(caught.value)


def test_a_model_without_a_request_is_refused():
    ds, split = world()
    with pytest.raises(ModelError, match="predicts what its split will ask"):
        new_model("external-worker").fit(train_view(ds, split), 0)


def test_a_failed_conversion_does_not_train_again(kept, tmp_path):
    ds, split = world()
    code = "open('/'.join(str(out).split('/')[:-3]) + '/../../calls', 'a').write('x')"
    path = worker(tmp_path, f"{code}; keys, rows = keys[1:], rows[1:]")
    with pytest.raises(PredictionError, match="does not predict 1 of 10 conditions"):
        stages.fit(kept, ds, split, config(worker=path))
    said = []
    fitted = stages.fit(kept, ds, split, config(worker=path, missing="control"), said.append)
    assert (kept.runs.parent / "calls").read_text() == "x"
    assert any(line.startswith("found the output") for line in said)
    assert any("1 of 10 test conditions are not predicted" in line for line in said)
    record = load_model(fitted.path).training["conversion"]
    assert record["counts"]["missing"] == 1
    assert record["warnings"]


def test_a_worker_that_changes_its_inputs_is_refused_and_they_are_made_anew(tmp_path):
    ds, split = world()
    store = ArtifactStore(tmp_path / "store")
    for ends_well in (True, False):
        change = "view_dir.joinpath('view.h5ad').chmod(0o666); view_dir.joinpath('view.h5ad').open('r+b').write(b'x')"
        if not ends_well:
            change += "; raise ValueError('no more')"
        path = worker(tmp_path, f"{change}  # {ends_well}", name=f"{ends_well}.py")
        says = "changed view.h5ad or query_controls.h5ad" if ends_well else "no more"
        with pytest.raises(PerturbFMError, match=says):
            stages.fit(store, ds, split, config(worker=path))
        # What others are given is whole again.
        stages.fit(store, ds, split, config(worker=worker(tmp_path, f"rows += 0  # {ends_well}")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("rows[0, 0] = np.nan", "NaN or infinite"),
        ("keys[0] = keys[1]", "twice|repeat|more than once|duplicate"),
    ],
)
def test_bad_output_is_refused_in_one_line(kept, tmp_path, change, says):
    ds, split = world()
    with pytest.raises(PerturbFMError, match=says) as caught:
        stages.fit(kept, ds, split, config(worker=worker(tmp_path, change)))
    assert "\n" not in str(caught.value)


def test_variance_is_of_calibration_conditions_where_there_are_some(kept):
    ds, split = world("perturbation_ood")
    # Perturbations that train lacks get the same prediction from the template, which is refused unless it is asked for.
    with pytest.raises(PredictionError, match="same prediction"):
        stages.fit(kept, ds, split, config())
    model = load_model(stages.fit(kept, ds, split, config(degenerate="flag")).path)
    rows = split.rows(ds, "calib")
    said = model.training["variance"]
    if len(rows):
        assert said["source"] == "calibration conditions"
        assert said["conditions"] == len(np.unique(ds.condition_codes[rows]))
    else:
        assert said["source"].startswith("validation conditions")


def test_a_constant_variance_is_declared(kept):
    rows = [(p, c) for c in ("x", "y") for p in ("control", "control", "control", "A", "A")]
    ds = screen(rows)
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    model = load_model(stages.fit(kept, ds, split, config(constant_variance=0.25)).path)
    assert model.training["variance"] == {
        "source": "a declared constant",
        "value": 0.25,
        "conditions": 0,
        "of_calibration_fold": False,
    }
    assert (model.predict(query_of_test(ds, split)).var == np.float32(0.25)).all()


def test_keys_know_worker_parameters_seed_and_environment(tmp_path, monkeypatch):
    ds, split = world()
    store = ArtifactStore(tmp_path)

    def key(**params) -> str:
        return stages.opened(store, ds, split, config(**params)).keys.model

    path = worker(tmp_path)
    keys = [key(), key(seed=1), key(settings={"shift": 0.5}), key(worker=path)]
    Path(path).write_text(Path(path).read_text() + "\n# changed\n")
    keys.append(key(worker=path))
    monkeypatch.setenv("PERTURBFM_ENV_WORKER", sys.executable)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_settings_of_the_machine_are_checked(monkeypatch, kept, tmp_path):
    ds, split = world()
    monkeypatch.setenv("PERTURBFM_EXTERNAL_TIMEOUT", "soon")
    with pytest.raises(ExternalError, match="PERTURBFM_EXTERNAL_TIMEOUT must be a number"):
        stages.fit(kept, ds, split, config(settings={"shift": 0.9}))
    monkeypatch.setenv("PERTURBFM_EXTERNAL_TIMEOUT", "0.4")
    with pytest.raises(ExternalError, match=r"took longer than 0\.4 s"):
        stages.fit(kept, ds, split, config(worker=worker(tmp_path, "time.sleep(30)")))


def test_an_entry_that_is_not_applicable_says_why(tmp_path):
    ds, split = world()
    entry = load_catalog().model("external-cpa")
    with pytest.raises(SplitError, match=r"not applicable .* needs contexts that train has \(10 of 10"):
        open_experiments(ArtifactStore(tmp_path), split, entry, data=ds)


@pytest.mark.parametrize("model", ["gears", "scgen", "state", "cpa"])
def test_every_external_model_has_an_entry_by_its_own_control(model):
    """By both entries one output is converted: only `control` differs, which the worker is not given."""
    catalog = load_catalog()
    real, own = (catalog.model(f"external-{model}{end}") for end in ("", "-own-control"))
    assert (real.model, own.params) == (own.model, {**real.params, "control": "model"})
    made = [new_model(e.model, e.params) for e in (real, own)]
    assert made[0].params.control == "real"
    assert made[0].worker() == made[1].worker()


def test_the_suite_of_external_models_has_all_of_them_on_all_simulated_boards():
    catalog = load_catalog()
    suite = catalog.suite("external")
    models = {catalog.model(name).model for name in suite.models}
    networks = {"linear_additive", "latent_additive", "decoder_only"}
    assert {f"external-{m}" for m in ("gears", "scgen", "cpa", "state")} | networks <= models
    assert {"ridge", "global_mean", "perturbfm-v2"} <= set(suite.models)
    asked = {(g.dataset, s.kind) for g in suite.grid for s in g.splits}
    for name in ("demo", "simulations"):
        assert {(g.dataset, s.kind) for g in catalog.suite(name).grid for s in g.splits} <= asked
