"""Parameters of every type as options of ``train``, for a model that a user wrote."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from perturbfm_core.cli.model_options import ModelCommand
from perturbfm_core.cli.parameters import Parameters, given_parameters, typed
from perturbfm_core.config import Frozen, parse
from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.means import GlobalMean
from perturbfm_core.models.parameters import every_parameter
from tests.support.command import attempt, perturbfm


class Inner(Frozen):
    """One setting with fields of its own."""

    depth: int = 1


class Many(Frozen):
    """Parameters of many types, some with the name of an option of ``train``."""

    level: Literal[1, 2] = 1
    inner: Inner | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    either: int | str = 3
    levels: tuple[Literal[1, 2], ...] = ()
    several: list[Inner] = Field(default_factory=list)
    names: frozenset[str] = frozenset()
    text: str = "x"
    limit: float | Literal["auto"] = "auto"
    flag: bool = False
    seed: int = 4
    data: str = ""
    name: str = ""
    members: int = 1


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    """Register the model for one test."""
    _ = len(MODELS)
    for name in ("_members", "_order"):
        monkeypatch.setattr(MODELS, name, dict(getattr(MODELS, name)))
    MODELS.register("many")(type("ManyTypes", (GlobalMean,), {"Params": Many, "__doc__": "Many types."}))


def given(*argv: str) -> dict[str, Any]:
    """Return the parameters that a command line gives, validated."""
    app, seen = typer.Typer(), {}

    @app.command(cls=ModelCommand)
    def train(ctx: typer.Context, model: str, seed: int = 0) -> None:
        seen.update(typed(Many, given_parameters(ctx)))

    done = CliRunner().invoke(app, ["many", *argv], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return parse(Many, seen, "options").model_dump(exclude_unset=True)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--level", "2"], {"level": 2}),
        (["--inner", "{depth: 3}"], {"inner": {"depth": 3}}),
        (["--inner", "none"], {"inner": None}),
        (["--pairs", "[1, 2]", "--pairs", "[3, 4]"], {"pairs": ((1, 2), (3, 4))}),
        (["--pairs", "[1, 2]"], {"pairs": ((1, 2),)}),
        (["--pairs", "[[1, 2], [3, 4]]"], {"pairs": ((1, 2), (3, 4))}),
        (["--either", "5"], {"either": 5}),
        (["--either", "five"], {"either": "five"}),
        (["--either", "'5'"], {"either": "5"}),
        (["--levels", "1", "--levels", "2"], {"levels": (1, 2)}),
        (["--levels", "[2, 1]"], {"levels": (2, 1)}),
        (["--several", "{depth: 2}", "--several", "{depth: 4}"], {"several": [{"depth": 2}, {"depth": 4}]}),
        (["--several", "[{depth: 2}]"], {"several": [{"depth": 2}]}),
        (["--names", "b", "--names", "a"], {"names": {"a", "b"}}),
        (["--text", "5"], {"text": "5"}),
        (["--text", "{a"], {"text": "{a"}),
        (["--limit", "0.5"], {"limit": 0.5}),
        (["--limit", "auto", "--flag"], {"limit": "auto", "flag": True}),
    ],
)
def test_an_option_gives_every_type(argv, expected):
    assert given(*argv) == expected


def test_text_that_is_quoted_in_a_pair_stays_text():
    assert typed(Many, {"either": "5"}) == {"either": "5"}


def test_what_is_no_yaml_is_said_in_one_line():
    with pytest.raises(ConfigError, match=r"--inner .\{depth.: the value"):
        given("--inner", "{depth")


def test_a_parameter_with_the_name_of_an_option_of_train_is_shown_as_a_pair():
    shown = {
        row["parameter"]: row for row in perturbfm("models", "show", "many", "--json").json["parameters"]
    }
    for name in ("seed", "data", "name", "members"):
        assert shown[name]["option"] == f"--param {name}="
    assert shown["level"]["option"] == "--level"
    assert shown["flag"]["option"] == "--flag/--no-flag"
    assert shown["pairs"]["type"] == "list..."
    assert shown["inner"]["type"] == "mapping|none"
    assert "\n--param seed= integer: 4\n" in perturbfm("models", "show", "many").out
    rows = Parameters("many", Many).described({"--no-flag"})
    assert next(row["option"] for row in rows if row["parameter"] == "flag") == "--param flag="


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_without_end_is_refused_in_one_line(value):
    class Endless(Frozen):
        limits: tuple[float, ...] = (1.0, value)

    MODELS.register("endless")(type("Endless", (GlobalMean,), {"Params": Endless}))
    answer = attempt("models", "show", "endless")
    assert answer.code != 70
    assert f"is {value}, which no configuration can hold" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert every_parameter("endless", {"limits": (2.0,)}) == {"limits": [2.0]}


def test_an_unknown_type_is_refused_in_one_line():
    form = type("Lost", (Frozen,), {"__annotations__": {"size": "Missing | None"}, "size": None})
    with pytest.raises(ConfigError, match=r"parameter .size. of .lost. has an unknown type .Missing"):
        Parameters("lost", form).described()
    with pytest.raises(ConfigError, match=r"parameters cannot be read: .*Lost.* is not fully defined"):
        parse(form, {}, "parameters")
