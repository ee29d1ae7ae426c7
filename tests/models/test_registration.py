"""Models are known, listed and matched with splits without importing torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perturbfm_core.models.base import MODELS

PERTURBFM = ["perturbfm-v0", "perturbfm-v1", "perturbfm-v2", "perturbfm-v3", "perturbfm-v3a"]

COMMANDS = """
from perturbfm_core.cli.main import main
for argv in (["--help"], ["splits", "list"], ["models", "list"], ["models", "show", "perturbfm-v3a"],
             ["train", "perturbfm-v2", "--help"], ["metrics", "list"]):
    try:
        main(argv)
    except SystemExit as exit_:
        assert not exit_.code, argv
"""
MATCHING = """
import perturbfm_core.pipeline.metric_panel
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.splits.index import SplitTraits
for entry in load_catalog().models.values():
    why_not(SplitTraits(), entry)
    model_configs(entry)
"""


def imported(code: str) -> set[str]:
    """Return the modules that a process has after running `code`."""
    probe = "\nimport sys\nprint('MODULES', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("MODULES", 1)[1].split())


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(COMMANDS, id="command line"),
        pytest.param(MATCHING, id="where entries apply, and scoring"),
        pytest.param("import perturbfm_assets.definitions", id="definitions"),
    ],
)
def test_torch_is_not_imported_at_start_up(code: str) -> None:
    found = imported(code)
    assert "perturbfm_core.models" in found
    assert "torch" not in found


def test_the_list_of_imports_would_show_torch() -> None:
    assert "torch" in imported("import perturbfm_core.models.perturbfm.network.members")


def test_every_version_of_perturbfm_is_registered() -> None:
    assert [n for n in MODELS if n.startswith("perturbfm")] == PERTURBFM
    assert {MODELS.get(n).family for n in PERTURBFM} == {"learned"}
