"""Models by the commands that a user types: options from parameters, names in the leaderboard, what is listed."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.cli.model_options import configured, find_entry
from perturbfm_core.cli.output import parse_pairs
from perturbfm_core.cli.parameters import Parameters
from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import MODELS
from perturbfm_core.pipeline.experiment import model_configs
from tests.support.command import attempt, perturbfm

# Every option that users of such tools look for, as the interface of the networks promises them.
PROMISED = [
    "--hidden-dim",
    "--lr",
    "--epochs",
    "--batch-size",
    "--seed",
    "--device",
    "--adjacency",
    "--pert-masks",
    "--gating-mode",
    "--num-bases",
    "--combo-weight",
    "--ensemble-size",
    "--conformal",
    "--no-basal",
    "--no-context",
    "--no-perturbation",
    "--no-graph",
    "--no-gating",
    "--no-contextual-operator",
    "--pretrained-encoder",
    "--freeze-encoder",
    "--n-heads",
    "--n-layers",
    "--dropout",
    "--hvg-count",
]


def config_of(work, answer):
    return json.loads((work.path / answer.values["run_dir"] / "config.json").read_text())


def train(work, *argv):
    return perturbfm("train", *argv, "--data", "D", "--split", work.split)


# ---- options ------------------------------------------------------------------------------------------------


def test_a_parameter_given_twice_is_a_list_wherever_it_stands(work):
    after = train(work, "ridge", "--alphas", "1", "--alphas", "10")
    before = train(work, "--alphas=1", "--alphas", "10", "ridge")
    for answer in (after, before):
        assert config_of(work, answer)["params"] == {"alphas": [1.0, 10.0], "control_components": 10}
    assert after.values["entry"] == before.values["entry"]


def test_a_changed_parameter_gives_the_entry_a_suffix(work):
    plain = train(work, "linear").values["entry"]
    same = train(work, "linear", "--components", "10", "--penalty", "0.1").values["entry"]
    changed = train(work, "linear", "--components", "2").values["entry"]
    other = train(work, "linear", "--components", "3").values["entry"]
    assert plain == same == "linear"
    assert re.fullmatch(r"linear-[0-9a-f]{6}", changed)
    assert re.fullmatch(r"linear-[0-9a-f]{6}", other)
    assert changed != other
    assert train(work, "linear", "--components", "2", "--name", "mine").values["entry"] == "mine"


def test_param_and_option_are_one(work):
    option = train(work, "linear", "--components", "2")
    pair = train(work, "linear", "--param", "components=2")
    assert option.values["entry"] == pair.values["entry"]
    assert config_of(work, option)["config_hash"] == config_of(work, pair)["config_hash"]


@pytest.mark.parametrize("value", ["on", "off"])
def test_a_word_of_a_parameter_is_no_boolean(value):
    entry = configured(find_entry("perturbfm-v2"), parse_pairs([f"gate={value}"], "--param"))
    assert entry.params["gate"] == value
    assert MODELS.get(entry.model).Params.model_validate(entry.params).gate == value


@pytest.mark.parametrize(("value", "read"), [("off", False), ("yes", True), ("no", False), ("true", True)])
def test_a_boolean_takes_its_words_all_the_same(value, read):
    given = parse_pairs([f"covariates={value}"], "--param")
    entry = configured(find_entry("linear_additive"), given)
    assert MODELS.get("linear_additive").Params.model_validate(entry.params).covariates is read


def test_names_that_are_words_stay_names():
    assert parse_pairs(["holdout=[NO, ON, yes]"], "--param") == {"holdout": ["NO", "ON", "yes"]}


def test_train_takes_entries_of_the_catalog(work):
    folder = work.path / ".perturbfm/catalog/models"
    folder.mkdir(parents=True)
    entry = {
        "name": "mine",
        "description": "x",
        "model": "linear",
        "params": {"components": 2},
        "seeds": [1, 2],
        "uncertainty": {"conformal": {"method": "pooled"}},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(entry))
    both = perturbfm("train", "mine", "--data", "D", "--split", work.split, "--json").json["runs"]
    assert [(r["entry"], r["seed"]) for r in both] == [("mine", 1), ("mine", 2)]
    one = train(work, "mine", "--seed", "5", "--penalty", "3")
    config = config_of(work, one)
    assert config["params"] == {"components": 2, "penalty": 3.0}
    assert config["seed"] == 5
    assert config["uncertainty"]["conformal"]["method"] == "pooled"
    # The same options serve `run`.
    ran = perturbfm(
        "run", "--entry", "mine", "--data", "D", "--split", work.split, "--seed", 5, "--penalty", 3
    )
    assert config_of(work, ran)["config_hash"] == config["config_hash"]


@pytest.mark.parametrize("method", ["none", "pooled", "hierarchical", "weighted", "mondrian"])
def test_conformal_sets_the_entrys_uncertainty(method):
    base = ModelEntry(name="e", description="", model="linear", uncertainty={"conformal": {"min_units": 7}})
    entry = configured(base, {}, conformal=method)
    asked = model_configs(entry)[0].uncertainty.conformal
    assert (asked.method, asked.min_units) == (method, 7)
    assert bool(asked.axes) == (method == "mondrian")
    assert (entry.name == "e") == (method == "mondrian")


def test_groups_of_one_method_are_not_those_of_another():
    block = {"conformal": {"method": "mondrian", "groups": ["context"]}}
    base = ModelEntry(name="e", description="", model="linear", uncertainty=block)
    assert model_configs(configured(base, {}, conformal="pooled"))[0].uncertainty.conformal.groups == ()
    assert configured(base, {}, conformal="mondrian") == base


def test_conformal_is_recorded(work):
    config = config_of(work, train(work, "control_only", "--conformal", "pooled"))
    assert config["uncertainty"]["conformal"]["method"] == "pooled"


def test_members_make_an_ensemble_of_any_model(work):
    answer = train(work, "linear", "--members", "2")
    assert config_of(work, answer)["uncertainty"]["ensemble"] == 2
    assert config_of(work, answer)["model"] == "linear"


def test_the_networks_have_every_promised_option():
    shown = perturbfm("train", "perturbfm-v3a", "--help").out
    assert [o for o in PROMISED if o not in re.findall(r"--[a-z-]+", shown)] == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": "16"}, 16),
        ({"batch_size": "none"}, None),
        ({"adjacency": ["coexpression", "b"]}, ["coexpression", "b"]),
        ({"gating_mode": "none"}, "none"),
        ({"pretrained_encoder": "1234567"}, "1234567"),
        ({"lr": "3e-4"}, 3e-4),
        ({"graph": False}, False),
        ({"device": "cpu"}, "cpu"),
    ],
)
def test_text_is_read_by_the_type_of_the_parameter(given, expected):
    entry = configured(find_entry("perturbfm-v2"), given)
    (name,) = given
    params = MODELS.get("perturbfm-v2").Params.model_validate(entry.params)
    assert params.model_dump(mode="json")[name] == expected


def test_every_parameter_of_every_model_is_an_option_once():
    for name, kind in MODELS.items():
        rows = Parameters(name, kind.Params).described()
        assert [r["parameter"] for r in rows] == list(kind.Params.model_fields)
        assert len({r["option"] for r in rows}) == len(rows)
        assert all(r["type"] for r in rows)


def test_every_parameter_of_the_networks_is_described():
    rows = Parameters("perturbfm-v3", MODELS.get("perturbfm-v3").Params).described()
    assert [r["parameter"] for r in rows if not r["description"]] == []
    # Each by itself: a text that several share would say nothing of any.
    assert len({r["description"] for r in rows}) == len(rows)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("ridge --lr 1", r"model 'ridge' has no option --lr.*its parameters: --alphas, --control-components"),
        ("linear --component 3", r"has no option --component; did you mean --components"),
        ("perturbfm-v2 --hiden-dim 3", r"has no option --hiden-dim; did you mean --hidden-dim"),
        ("perturbfm-v2 --no-graphs", r"has no option --no-graphs; did you mean --no-graph"),
        ("perturbfm-v2 --gating-mode wide", r"gating_mode: Input should be 'none', 'scalar'.* found 'wide'"),
        ("perturbfm-v2 --hidden-dim many", r"hidden_dim: Input should be a valid integer.* found 'many'"),
        ("rigde --lr 1", r"unknown model 'rigde' \(did you mean 'ridge'\?\); known: .*additive"),
        ("ridge --conformal often", r"conformal.method: Input should be 'pooled'.* found 'often'"),
        ("ridge --alphas 1 --name Mine", r"'Mine' cannot be a key"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_one_line(work, argv, message):
    answer = attempt("train", *argv.split(), "--data", "D", "--split", work.split)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert re.search(message, answer.err), answer.err


def test_run_refuses_options_of_other_models(work):
    answer = attempt("run", "--entry", "ridge", "--epochs", "3", "--data", "D", "--split", work.split)
    assert answer.code == 2
    assert "model 'ridge' has no option --epochs" in answer.err


def test_an_unknown_parameter_is_refused_by_configured():
    with pytest.raises(ConfigError, match="wheels: Extra inputs are not permitted"):
        configured(find_entry("ridge"), {"wheels": "4"})


def test_a_network_is_trained_as_a_user_types_it(work):
    np.savez("masks.npz", pert=np.asarray(["G01"]), genes=np.asarray(["G01", "G02"]), mask=np.ones((1, 2)))
    quick = (
        "--epochs 2 --hidden-dim 4 --rank 3 --gate on --core none --device cpu --ensemble-size 2 --lr 0.01"
    )
    answer = train(
        work, "perturbfm-v2", *quick.split(), "--no-gating", "--pert-masks", "masks.npz", "--name", "tiny"
    )
    config = config_of(work, answer)
    assert (config["entry"], config["model"], config["family"]) == ("tiny", "perturbfm-v2", "learned")
    asked = {"epochs": 2, "hidden_dim": 4, "gating": False, "lr": 0.01, "adjacency": ["coexpression"]}
    assert {k: config["params"][k] for k in asked} == asked
    assert set(config["side_info"]) == {"graphs", "features", "masks"}
    training = json.loads((work.path / answer.values["run_dir"] / "training.json").read_text())
    assert [r["epochs"] for r in training["networks"]] == [2, 2]


# ---- what is listed -----------------------------------------------------------------------------------------


def test_models_list_has_every_model_with_its_entries():
    rows = {r["model"]: r for r in perturbfm("models", "list", "--json").json}
    assert list(rows) == MODELS.names()
    assert rows["perturbfm-v2"]["entries"] == "perturbfm-v2-residual, perturbfm-v2"
    assert rows["perturbfm-v2"]["family"] == "learned"
    assert "hidden_dim" in rows["perturbfm-v2"]["parameters"]
    assert "perturbfm-v3a" in perturbfm("models", "list").out


def test_models_show_tells_values_defaults_and_meaning():
    shown = perturbfm("models", "show", "perturbfm-v2-residual", "--json").json
    assert (shown["model"], shown["family"], shown["seeds"]) == ("perturbfm-v2", "learned", [0])
    rows = {r["parameter"]: r for r in shown["parameters"]}
    assert (rows["adjacency"]["value"], rows["adjacency"]["default"]) == (["coexpression", "auto"], [])
    assert rows["hidden_dim"] == {
        "parameter": "hidden_dim",
        "option": "--hidden-dim",
        "type": "integer",
        "default": 64,
        "value": 64,
        "description": "Width d of embeddings and hidden layers.",
    }
    assert rows["graph"]["option"] == "--graph/--no-graph"
    assert rows["gating_mode"]["type"] == "none|scalar|node|lowrank|mlp"
    text = perturbfm("models", "show", "knn").out
    assert re.search(r"(?m)^--neighbours integer\.\.\.: 1, 3, 5", text)


@pytest.mark.parametrize("verb", [["list"], ["show", "perturbfm-v3"], ["show", "ensemble"]])
def test_models_fit_a_hundred_columns(verb):
    lines = perturbfm("models", *verb).out.splitlines()
    assert max(len(line) for line in lines if "=" not in line) <= 100
    assert len(lines) > 10


@pytest.mark.parametrize("name", MODELS.names())
def test_every_parameter_is_described(name):
    rows = perturbfm("models", "show", name, "--json").json["parameters"]
    for row in rows:
        assert row["description"], row["parameter"]
        assert row["description"].endswith((".", ")", "`"))


def test_models_show_refuses_what_is_unknown():
    answer = attempt("models", "show", "perturbfm-v9")
    assert answer.code == 2
    assert "unknown model 'perturbfm-v9' (did you mean 'perturbfm-v" in answer.err


def test_models_show_names_the_entry_whose_parameter_is_wrong(tmp_path, monkeypatch):
    folder = tmp_path / "catalog/models"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "{name: mine, model: ridge, description: of mine, params: {penalti: 3}}"
    )
    monkeypatch.setenv("PERTURBFM_CATALOG", str(tmp_path / "catalog"))
    answer = attempt("models", "show", "mine")
    assert (answer.code, answer.out) == (2, "")
    assert "in entry 'mine'" in answer.err
    assert "penalti" in answer.err
