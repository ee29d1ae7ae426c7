"""Registries find their members, name each once, and refuse what lacks the contract before anything runs."""

from __future__ import annotations

import hashlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from perturbfm_core.config import Frozen
from perturbfm_core.data.preset import PRESETS
from perturbfm_core.errors import ConfigError, MetricError, ModelError, SplitError
from perturbfm_core.evaluation.metric import METRICS, metric
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.evaluation.parity import KINDS as PARITY_KINDS
from perturbfm_core.models.base import MODELS, Model, Requires
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.registry.members import (
    Discovery,
    Registry,
    load_plugin_files,
    loaded_plugin_digests,
    plugin_digests,
)
from perturbfm_core.splits.audit.core import CHECKS, RUN_CHECKS
from perturbfm_core.splits.draft import KINDS, split_kind
from tests.support.command import attempt, perturbfm


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """Forget what a test registers."""
    for registry in (MODELS, METRICS, PANELS, KINDS, PRESETS):
        _ = len(registry)
        for name in ("_members", "_order"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    yield
    for name in [m for m in sys.modules if m.startswith("perturbfm_plugins")]:
        del sys.modules[name]


# ---- discovery -----------------------------------------------------------------------------------------------


def test_members_are_found_without_a_list_of_imports():
    assert {"ridge", "additive", "ensemble", "perturbfm-v3"} <= set(MODELS.names())
    assert PANELS.names() == [
        "delta",
        "scperturbench",
        "perturbench",
        "virtual_cell",
        "vcc2026",
        "cell_eval2",
        "systema",
        "calibrated",
        "linear_paper",
        "openproblems",
        "hits",
        "uncertainty",
    ]
    assert {"context_ood", "combo_ood", "iid", "explicit", "dose_ood", "batch_ood"} <= set(KINDS.names())
    assert {"perturbench", "scperturb"} <= set(PRESETS.names())
    assert len(CHECKS) >= 10
    assert len(RUN_CHECKS) >= 9
    assert len(PARITY_KINDS) >= 5
    # A split that does not fit its data is reported first.
    assert CHECKS.names()[0] == "changed_data"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Return a registry over a package in a folder, and that folder."""
    package = tmp_path / "toyshop"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from perturbfm_core.registry.members import Discovery, Registry\n"
        "TOYS = Registry('toy', discovery=Discovery('toyshop.shelf', 'toy*'))\n"
    )
    for name in ("shelf", "shelf/box", "shelf/open"):
        (package / name).mkdir()
        (package / name / "__init__.py").touch()
    register = "from toyshop import TOYS\nTOYS.register('{0}', order={1})(object())\n"
    (package / "shelf/ball.py").write_text(register.format("ball", 3))
    (package / "shelf/box/toy_car.py").write_text(register.format("car", 1))
    (package / "shelf/box/glue.py").write_text("raise RuntimeError('not a toy')\n")
    (package / "shelf/open/kite.py").write_text(register.format("kite", 2))
    monkeypatch.syspath_prepend(tmp_path)
    import toyshop

    yield toyshop.TOYS, package
    for name in [m for m in sys.modules if m.startswith("toyshop")]:
        del sys.modules[name]


def test_modules_of_a_package_and_the_named_ones_of_its_folders_are_imported_in_order(toy):
    assert toy[0].names() == ["car", "kite", "ball"]
    assert "car" in toy[0]
    assert len(toy[0]) == 3


def test_a_name_that_is_registered_twice_is_refused(toy):
    toys, package = toy
    (package / "shelf/again.py").write_text((package / "shelf/ball.py").read_text())
    with pytest.raises(ConfigError, match="toy 'ball' is registered twice"):
        toys.names()


def test_an_unknown_name_lists_the_known_ones(toy):
    with pytest.raises(
        ConfigError, match=r"unknown toy 'kyte' \(did you mean 'kite'\?\); known: car, kite, ball"
    ):
        toy[0].get("kyte")


def test_a_module_that_reads_the_registry_while_it_is_found_does_no_harm():
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)
    assert Registry("number", discovery=Discovery("perturbfm_core.data.presets")).names() == []
    assert registry.values() == [1]


def test_threads_that_read_a_registry_first_wait_for_all_its_members(toy):
    toys, package = toy
    (package / "shelf/slow.py").write_text(
        "import time\ntime.sleep(0.2)\nfrom toyshop import TOYS\nTOYS.register('slow', order=9)(len(TOYS))\n"
    )
    start = threading.Barrier(4)

    def read(_):
        start.wait()
        return toys.names()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [["car", "kite", "ball", "slow"]] * 4


def test_a_module_that_fails_leaves_no_member_and_can_be_repaired(toy):
    toys, package = toy
    file = package / "shelf/late.py"
    file.write_text("from toyshop import TOYS\nTOYS.register('late')(1)\nraise RuntimeError('no')\n")
    with pytest.raises(RuntimeError, match="no"):
        toys.names()
    file.write_text("from toyshop import TOYS\nTOYS.register('late', order=4)(2)\n# Repaired.\n")
    assert toys.names() == ["car", "kite", "ball", "late"]
    assert toys.get("late") == 2


# ---- what is refused at registration -------------------------------------------------------------------------


def whole(**changes):
    """Return a model class that keeps the contract, but for some attributes."""
    fields = {"family": "baseline", "_fit": lambda *_: None, "_mean": lambda *_: None, **changes}
    return type("Made", (Baseline,), {k: v for k, v in fields.items() if v is not None})


class NoDefault(Frozen):
    """Parameters of which one must be given."""

    size: int


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param(object, "is no subclass of Model", id="no model"),
        pytest.param(whole(_fit=None), "does not implement _fit", id="abstract"),
        pytest.param(type("Bare", (Model,), {}), "does not implement .*_predict", id="nothing implemented"),
        pytest.param(whole(family="fancy"), "must set `family` to one of baseline, learned, external, found 'fancy'", id="family"),
        pytest.param(whole(Params=NoDefault), "parameters size have no default", id="default"),
        pytest.param(whole(Params=dict), "Params must extend", id="params"),
        pytest.param(whole(requires="cells"), "`requires` must be a Requires, found str", id="requires"),
        pytest.param(whole(requires=Requires(min_contexts="2")), "`min_contexts` of `requires` must be a whole number, found '2'", id="requires of contexts"),
        pytest.param(whole(requires=Requires(cells=1)), "`cells` of `requires` must be True or False, found 1", id="requires of cells"),
        pytest.param(whole(absent="torch"), "absent must be a method, found str", id="hook"),
        pytest.param(whole(search_space={"depth": None}), "search_space names depth, which are no parameters", id="search"),
    ],
)  # fmt: skip
def test_a_model_without_what_the_contract_asks_is_refused_at_registration(kind, message):
    with pytest.raises(ModelError, match=message):
        MODELS.register("made")(kind)
    assert "made" not in MODELS


def test_a_model_that_sets_no_family_is_no_yardstick_by_accident():
    bare = type(
        "Bare",
        (Model,),
        {n: (lambda *_: None) for n in ("_fit", "_fit_variance", "_predict", "arrays", "meta", "restore")},
    )
    with pytest.raises(ModelError, match=r"must set `family` .* found None"):
        MODELS.register("made")(bare)


def test_the_name_stands_once():
    kind = MODELS.register("made")(whole())
    assert kind.name == "made"
    with pytest.raises(ConfigError, match="name of a model 'My Model' cannot be a key") as caught:
        MODELS.register("My Model")(whole())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"direction": "up"}, "has direction 'up'; known: max, min, target"),
        ({"bounds": (1.0, 0.0)}, "has bounds .*; the first must be below the second"),
        ({"aggregate": "median"}, "aggregates by 'median'; known: mean, ratio, set"),
    ],
)
def test_a_metric_that_is_misdeclared_is_refused(declared, message):
    fields = {"direction": "max", "bounds": (0.0, 1.0), "version": "1", "source": "here", **declared}
    with pytest.raises(MetricError, match=message):
        metric("delta", "made", "A metric.", **fields)(lambda c: c)
    with pytest.raises(MetricError, match="has no docstring to describe it"):
        metric("delta", "made", direction="max", bounds=(0.0, 1.0), version="1", source="here")(lambda c: c)


def test_a_split_kind_needs_a_description_and_defaults():
    def described(conditions, spec, params):
        """Do nothing."""
        return []

    with pytest.raises(SplitError, match="parameters size have no default"):
        split_kind("made", NoDefault)(described)
    with pytest.raises(SplitError, match="has no docstring to describe it"):
        split_kind("made", Frozen)(lambda c, s, p: [])


# ---- plug-in files ---------------------------------------------------------------------------------------------


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    folder = tmp_path / "plug"
    folder.mkdir()
    monkeypatch.setenv("PERTURBFM_PLUGINS", str(folder))
    return folder


def test_plugins_are_off_unless_the_folder_is_there(plugins):
    plugins.rmdir()
    load_plugin_files()
    assert plugin_digests() == {}


def test_a_plugin_is_imported_and_its_digest_is_of_its_bytes(plugins):
    (plugins / "mine.py").write_text("VALUE = 1\n")
    load_plugin_files()
    assert sys.modules["perturbfm_plugins_mine"].VALUE == 1
    assert plugin_digests() == {"mine.py": hashlib.sha256(b"VALUE = 1\n").hexdigest()}


def test_an_edit_after_the_import_and_another_folder_do_not_change_what_is_recorded(
    plugins, monkeypatch, tmp_path
):
    (plugins / "mine.py").write_text("VALUE = 1\n")
    load_plugin_files()
    loaded = {"mine.py": hashlib.sha256(b"VALUE = 1\n").hexdigest()}
    (plugins / "mine.py").write_text("VALUE = 2\n")
    (plugins / "later.py").write_text("VALUE = 3\n")
    assert plugin_digests() == loaded_plugin_digests() == loaded
    load_plugin_files()
    assert set(loaded_plugin_digests()) == {"mine.py", "later.py"}
    assert sys.modules["perturbfm_plugins_mine"].VALUE == 1
    monkeypatch.delenv("PERTURBFM_PLUGINS")
    monkeypatch.chdir(tmp_path)
    assert loaded_plugin_digests()["mine.py"] == loaded["mine.py"]


def test_an_edit_within_one_second_is_what_is_executed(plugins):
    for value in (1, 2, 3):
        (plugins / "mine.py").write_text(f"VALUE = {value}\n")
        load_plugin_files()
        assert value == sys.modules.pop("perturbfm_plugins_mine").VALUE


def test_hidden_files_beside_plugins_are_left_out(plugins):
    (plugins / ".#mine.py").symlink_to("user@host.1234")
    (plugins / "._mine.py").write_bytes(b"\x00\x05\x16\x07")
    (plugins / ".hidden.py").write_text("raise RuntimeError\n")
    (plugins / "folder.py").mkdir()
    (plugins / "mine.py").write_text("VALUE = 1\n")
    load_plugin_files()
    assert set(plugin_digests()) == {"mine.py"}


@pytest.mark.parametrize("name", ["my.model.py", "v1.2.py"])
def test_a_plugin_with_dots_in_its_name_is_refused_in_one_line(plugins, name):
    (plugins / name).write_text("VALUE = 1\n")
    with pytest.raises(ConfigError, match=r"no dots in its name; rename it to \w+\.py$") as caught:
        load_plugin_files()
    assert str(plugins / name) in str(caught.value)


def test_a_link_to_nothing_is_named_as_it_stands_in_the_folder(plugins):
    (plugins / "mine.py").symlink_to("nowhere.py")
    with pytest.raises(ConfigError, match=r"plug/mine\.py cannot be read: No such file"):
        load_plugin_files()


REGISTERING = """
from perturbfm_core.evaluation.metric import metric
from perturbfm_core.evaluation.panel import add_panel

add_panel("repaired", source="here", headline="m")


@metric("repaired", "m", direction="max", bounds=(0.0, 1.0), version="1", source="here")
def m(c):
    \"\"\"A metric.\"\"\"
"""


@pytest.mark.parametrize("fault", ["1 / 0", "import nothing_of_this_name", "raise KeyboardInterrupt"])
def test_a_plugin_that_failed_after_registering_can_be_repaired(plugins, fault):
    file = plugins / "mine.py"
    file.write_text(f"{REGISTERING}\n{fault}\n")
    for _ in range(2):
        with pytest.raises((ConfigError, KeyboardInterrupt)) as caught:
            load_plugin_files()
        assert "registered twice" not in str(caught.value)
        assert "repaired" not in PANELS
        assert "repaired.m" not in METRICS
    file.write_text(REGISTERING)
    load_plugin_files()
    assert "repaired" in PANELS
    assert "repaired.m" in METRICS
    assert "ridge" in MODELS


def test_members_are_found_by_the_module_that_defines_them():
    MODELS.register("made")(type("Made", (whole(),), {"__module__": "cells_of_a_notebook"}))
    assert MODELS.defined_in("cells_of_a_notebook") == ["made"]
    assert MODELS.defined_in("cells_of_another") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", r"plug-in .*bad.py cannot be imported: SyntaxError: .*; repair or remove it"),
        ("import nothing_of_this_name\n", "cannot be imported: ModuleNotFoundError: No module named"),
        ("from perturbfm_core.errors import NotApplicableError\nraise NotApplicableError('nothing here', 'needs more')\n", "bad.py: nothing here"),
        ("from perturbfm_core.models.base import MODELS\nMODELS.register('ridge')(MODELS.get('ridge'))\n", "bad.py: model 'ridge' is registered twice"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_in_one_line(plugins, text, message):
    (plugins / "bad.py").write_text(text)
    with pytest.raises((ConfigError, ModelError, SplitError), match=message) as caught:
        load_plugin_files()
    assert "\n" not in str(caught.value)
    assert "perturbfm_plugins_bad" not in sys.modules


def test_doctor_names_the_plugins(plugins):
    plugins.with_name("catalog").mkdir()
    (plugins / "mine.py").write_text("VALUE = 1\n")
    assert "mine.py" in perturbfm("doctor", "--json").json["plugins"]
    assert attempt("doctor").code == 0
