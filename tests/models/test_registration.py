"""Models are known, listed and matched with splits without importing torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from perturbfm_core.models.base import MODELS
from tests.support.paths import REPO

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


# Each stage adds to what the process has imported; the last is known to need torch.
STAGES = {
    "command line": COMMANDS,
    "where entries apply, and scoring": MATCHING,
    "definitions": "import perturbfm_assets.definitions",
    "networks": """
try:
    import perturbfm_core.models.perturbfm.network.members
except (ImportError, AttributeError):
    pass
""",
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the modules that one process has after each of the stages, which it runs one after the other.

    An empty module stands for torch there: that it is imported shows as well, and takes no seconds.
    """
    stand_in = tmp_path_factory.mktemp("path")
    (stand_in / "torch.py").write_text("")
    folders = {
        f"PERTURBFM_{name}": str(tmp_path_factory.mktemp(name.lower()))
        for name in ("HOME", "SPLIT_DIR", "CATALOG")
    }
    probe = "\nimport sys\nprint('\\nMODULES', *sorted(sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", "".join(code + probe for code in STAGES.values())],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **folders, "PYTHONPATH": os.pathsep.join([str(stand_in), str(REPO)])},
    )
    assert done.returncode == 0, done.stderr
    lists = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("MODULES ")]
    return {stage: set(names) for stage, names in zip(STAGES, lists, strict=True)}


@pytest.mark.parametrize("stage", ["command line", "where entries apply, and scoring", "definitions"])
def test_torch_is_not_imported_at_start_up(imported: dict[str, set[str]], stage: str) -> None:
    assert "perturbfm_core.models" in imported[stage]
    assert "torch" not in imported[stage]


def test_the_list_of_imports_would_show_torch(imported: dict[str, set[str]]) -> None:
    assert "torch" in imported["networks"]


def test_every_version_of_perturbfm_is_registered() -> None:
    assert [n for n in MODELS if n.startswith("perturbfm")] == PERTURBFM
    assert {MODELS.get(n).family for n in PERTURBFM} == {"learned"}
