"""Code digests: what a result depends on is found by imports, and nothing else counts."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.ridge import RidgeRegression
from perturbfm_core.registry.members import load_plugin_files
from perturbfm_core.registry.sources import sources_kept
from perturbfm_core.store import code as code_module
from perturbfm_core.store.code import code_of

FILES = {
    "__init__.py": '"""A package."""\n',
    "stage.py": '''"""A stage."""

from typing import TYPE_CHECKING

from toy.inner import scale

if TYPE_CHECKING:
    from toy.types_only import Thing


def run(x: "Thing") -> float:
    """Run."""
    from toy.lazy import FACTOR

    return scale(x) * FACTOR
''',
    "inner/__init__.py": "from .scaling import scale\n",
    "inner/scaling.py": 'import numpy as np\n\n\ndef scale(x):\n    """Scale."""\n    return np.float64(2) * x\n',
    "lazy.py": "FACTOR = 3\n",
    "types_only.py": "class Thing: ...\n",
    "beside.py": "import scipy\nFACTOR = 4\n",
}
REACHED = {"toy", "toy.stage", "toy.inner", "toy.inner.scaling", "toy.lazy"}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "toy" / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    return tmp_path / "toy"


def digest(toy: Path) -> str:
    code_of.__globals__["_code_of"].cache_clear()
    return code_of("toy.stage", roots={"toy": toy}).digest


def test_modules_reached_by_imports_lazy_and_relative_ones_too(toy):
    code = code_of("toy.stage", roots={"toy": toy})
    assert set(code.modules) == REACHED
    assert set(code.libraries) == {"numpy"}
    assert code.libraries["numpy"].count(".") == 1


@pytest.mark.parametrize("name", ["stage.py", "inner/scaling.py", "lazy.py", "inner/__init__.py"])
def test_a_change_in_a_reached_module_changes_the_digest(toy, name):
    before = digest(toy)
    with (toy / name).open("a") as file:
        file.write("\nADDED = 1\n")
    assert digest(toy) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("inner/scaling.py", '"""Scale."""', '"""Scale it by two."""'),
        ("inner/scaling.py", '"""Scale."""\n', ""),
        ("stage.py", '"""A stage."""', '"""The stage."""'),
        ("lazy.py", "FACTOR = 3", "# Three is enough.\nFACTOR  =  3"),
        ("beside.py", "4", "5"),
        ("types_only.py", "...", "pass"),
    ],
)
def test_comments_docstrings_layout_and_other_modules_change_nothing(toy, name, old, new):
    before = digest(toy)
    file = toy / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    (toy / "new.py").write_text("X = 1\n")
    assert digest(toy) == before


def test_a_changed_constant_changes_the_digest(toy):
    before = digest(toy)
    (toy / "lazy.py").write_text("FACTOR = 4\n")
    assert digest(toy) != before


def test_a_module_without_source_is_refused():
    with pytest.raises(StoreError, match=r"toy\.nothing has no source file"):
        code_of("toy.nothing")


# ---- plug-ins and what they import ----------------------------------------------------------------------------

HELPERS = {
    "lab_helpers.py": "import lab_units.scale\nFACTOR = 1.0\n",
    "lab_units/__init__.py": "",
    "lab_units/scale.py": "SCALE = 1.0\n",
    "lab_lazy.py": "LAZY = 1.0\n",
    "lab_unused.py": "UNUSED = 1.0\n",
    "plug/aaa.py": "SHARED = 1.0\n",
    "plug/med.py": (
        "import json\nimport pydantic\nfrom lab_helpers import FACTOR\nfrom perturbfm_plugins_aaa import SHARED\n"
        "def fit():\n    from lab_lazy import LAZY\n    return FACTOR * LAZY * SHARED\n"
    ),
}
MED = "perturbfm_plugins_med"


def fresh(modules=("lab_", "perturbfm_plugins")):
    """Forget what was imported and read, as a new process has."""
    for name in [m for m in sys.modules if m.startswith(modules)]:
        del sys.modules[name]
    for cached in (code_module._code_of, code_module._file_of, code_module._folder_of, code_module._is_local):
        cached.cache_clear()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    for name, text in HELPERS.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PERTURBFM_PLUGINS", str(tmp_path / "plug"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    fresh()
    yield tmp_path
    fresh()


def med() -> str:
    load_plugin_files()
    return code_of(MED).digest


def test_local_modules_and_neighbours_that_a_plugin_imports_are_in_its_code(lab):
    load_plugin_files()
    code = code_of(MED)
    assert {MED, "perturbfm_plugins_aaa", "lab_helpers", "lab_units", "lab_units.scale", "lab_lazy"} == set(
        code.modules
    )
    assert set(code.libraries) == {"pydantic"}
    # From a stage of the core too, which itself reaches none of them.
    assert set(code.modules) <= set(code_of("perturbfm_core.pipeline.trained_model", MED).modules)


@pytest.mark.parametrize("name", ["lab_helpers.py", "lab_units/scale.py", "plug/aaa.py", "plug/med.py"])
def test_a_change_in_what_a_plugin_imports_counts_from_the_next_process(lab, name):
    before = med()
    file = lab / name
    file.write_text(file.read_text().replace("1.0", "-1.0") + "MORE = 1\n")
    (lab / "lab_unused.py").write_text("UNUSED = 2.0\n")
    # What was executed is what counts, however often the digest is asked for.
    code_module._code_of.cache_clear()
    assert med() == before
    fresh()
    after = med()
    assert after != before
    fresh()
    assert med() == after


def edit(file: Path) -> None:
    """Change a file as a user does: some time after what was done with it before."""
    file.write_text(file.read_text().replace("1.0", "-1.0"))
    os.utime(file, (time.time() + 1,) * 2)


def test_a_module_that_is_imported_later_counts_as_it_is_until_then(lab):
    before = med()
    (lab / "lab_lazy.py").write_text("LAZY = 2.0\n")
    after = med()
    assert after != before
    # Imported in a fit, and edited after it.
    with sources_kept(MED):
        sys.modules[MED].fit()
    (lab / "lab_lazy.py").write_text("LAZY = 3.0\n")
    assert med() == after
    fresh()
    assert med() != after


@pytest.mark.parametrize("when", ["before the plug-in", "after a key was asked for"])
def test_a_module_that_was_edited_since_its_import_elsewhere_is_refused(lab, when):
    name = "lab_helpers" if when == "before the plug-in" else "lab_lazy"
    if name == "lab_lazy":
        load_plugin_files()
        _ = code_of(MED)
    importlib.import_module(name)
    edit(lab / f"{name}.py")
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"^module {name} was changed after .* restart Python$"):
            med()


def test_a_module_that_was_imported_elsewhere_counts_as_it_was_imported_last(lab):
    importlib.import_module("lab_helpers")
    before = med()
    edit(lab / "lab_helpers.py")
    assert med() == before
    os.utime(lab / "lab_helpers.py")
    importlib.reload(sys.modules["lab_helpers"])
    assert med() != before


def test_modules_imported_before_the_core_are_known_by_the_start_of_the_process(lab):
    script = (
        "import sys, time, lab_helpers\n"
        "if len(sys.argv) > 1:\n"
        "    time.sleep(0.05)\n"
        "    open(lab_helpers.__file__, 'a').write('MORE = 1\\n')\n"
        "from perturbfm_core.registry.sources import executed_source\n"
        "from pathlib import Path\n"
        "print(executed_source('lab_helpers', Path(lab_helpers.__file__)) is None)\n"
    )
    os.utime(lab / "lab_helpers.py", (time.time() - 10,) * 2)
    for more, lost in (((), "False"), (("edit",), "True")):
        done = subprocess.run(
            [sys.executable, "-c", script, *more],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(lab), os.getcwd()])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == lost


def test_modules_that_a_plugin_does_not_import_change_nothing(lab):
    before = med()
    (lab / "lab_unused.py").write_text("UNUSED = 2.0\n")
    (lab / "plug/other.py").write_text("OTHER = 1.0\n")
    (lab / "lab_helpers.py").write_text("# A comment.\n" + HELPERS["lab_helpers.py"])
    fresh()
    assert med() == before


@pytest.mark.parametrize("changed", ["lab_space/inner.py", "lab_more.py"])
@pytest.mark.parametrize(
    "text",
    [
        "import lab_space.inner as inner\nfrom lab_more import *\n",
        "from lab_space import inner\nimport importlib\nX = importlib.import_module('lab_more').X\n",
        "def fit():\n    return __import__('lab_more').X + import_module('lab_space.inner').X\n",
    ],
)
def test_a_package_of_plugins_counts_with_the_local_modules_beside_it(lab, changed, text):
    (lab / "lab_package").mkdir()
    (lab / "lab_package/__init__.py").touch()
    (lab / "lab_package/models.py").write_text(text)
    # A folder without __init__.py.
    (lab / "lab_space").mkdir()
    (lab / "lab_space/inner.py").write_text("X = 1\n")
    (lab / "lab_more.py").write_text("X = 1\n")
    before = code_of("lab_package.models")
    assert {"lab_package", "lab_package.models", "lab_space.inner", "lab_more"} == set(before.modules)
    (lab / changed).write_text("X = 2\n")
    fresh()
    assert code_of("lab_package.models").digest != before.digest


def test_an_installed_package_counts_by_its_version_wherever_it_lies(lab):
    info = lab / "lab_units-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-units\nVersion: 1.0.3\n")
    (info / "RECORD").write_text("lab_units/__init__.py,,\n")
    code_module._distributions.cache_clear()
    load_plugin_files()
    code = code_of(MED)
    assert code.libraries["lab-units"] == "1.0.3"
    assert "lab_units.scale" not in code.modules
    code_module._distributions.cache_clear()


def test_a_model_of_a_notebook_is_named_with_where_to_move_it(monkeypatch):
    _ = len(MODELS)
    for name in ("_members", "_order"):
        monkeypatch.setattr(MODELS, name, dict(getattr(MODELS, name)))
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    fresh()
    MODELS.register("med")(type("Med", (RidgeRegression,), {"__module__": "__main__", "name": "med"}))
    with pytest.raises(
        StoreError, match=r"^model 'med' is defined in __main__.*move it to .*/med\.py"
    ) as caught:
        code_of("__main__")
    assert "\n" not in str(caught.value)
    fresh()
