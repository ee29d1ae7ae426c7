"""The Makefile in a folder whose path has spaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import REPO


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_web_ui_starts_in_a_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "my screens"
    for name in ("pyproject.toml", ".ci/requirements.lock", ".venv/bin/python", ".venv/.installed"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch(0o755)
    (folder / ".venv/bin/dg").write_text('#!/bin/sh\necho "$DAGSTER_HOME" "$VIRTUAL_ENV"\n')
    (folder / ".venv/bin/dg").chmod(0o755)
    shutil.copy(REPO / "Makefile", folder)
    shown = subprocess.run(["make", "-s", "ui"], cwd=folder, capture_output=True, text=True, env=os.environ)
    assert shown.stdout.splitlines()[-1:] == [f"{folder}/.dagster {folder}/.venv"], shown.stderr
