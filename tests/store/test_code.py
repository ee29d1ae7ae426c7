"""Code digests: what a result depends on is found by imports, and nothing else counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from perturbfm_core.errors import StoreError
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
