"""The page on extending, executed word for word from an empty folder, with the package installed from a wheel."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import VARIABLES
from tests.support.paths import REPO

PAGE = (REPO / "docs/extending.md").read_text()
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install the wheel into a folder of its own and return it."""
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: what an earlier build left beside the sources would get into the wheel.
    source = folder / "source"
    for name in ("perturbfm_core", "perturbfm_assets"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, capture_output=True, cwd=folder, timeout=300)
    (wheel,) = folder.glob("perturbfm-*.whl")
    install = [*pip, "install", "--no-deps", "--target", folder / "site", wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    return folder / "site"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, site):
    """Follow the page in an empty folder; return it with what every command printed."""
    place = tmp_path_factory.mktemp("empty")
    printed: dict[str, str] = {}
    for language, file, text in FENCE.findall(PAGE):
        if file:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(text)
        elif language == "sh":
            for line in text.strip().splitlines():
                printed[line] = command(site, place, line)
    return place, printed


def command(site: Path, place: Path, line: str) -> str:
    """Run one command of the page as written, but for the names of a split and a run that it stands for."""
    words = shlex.split(line)
    if "SPLIT" in words:
        run = sorted((place / "runs").glob("*_half_median_*"))[-1]
        given = {"SPLIT": json.loads((run / "config.json").read_text())["split_hash"], "RUN": str(run)}
        words = [given.get(w, w.replace("RUN", given["RUN"])) for w in words]
    assert words[0] == "perturbfm"
    environment = {k: v for k, v in os.environ.items() if k not in (*VARIABLES, "PERTURBFM_PLUGINS")}
    done = subprocess.run(
        [sys.executable, "-m", "perturbfm_core.cli.main", *words[1:]],
        cwd=place,
        env={**environment, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def test_the_installed_package_is_used_and_not_the_checkout(site, tmp_path):
    code = "import perturbfm_core; print(perturbfm_core.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith(str(site))


def test_every_row_of_the_table_has_a_section_that_is_executed(folder):
    _, printed = folder
    rows = re.findall(r"^\| \[([^\]]+)\]\(#([a-z-]+)\)", PAGE, re.MULTILINE)
    assert len(rows) == 9
    for title, anchor in rows:
        assert anchor == title.replace(" ", "-")
        section = PAGE.split(f"\n## {title[0].upper()}{title[1:]}\n")[1].split("\n## ")[0]
        lines = [
            x for language, _, text in FENCE.findall(section) if language == "sh" for x in text.split("\n")
        ]
        assert any(line in printed for line in lines), title


def test_a_metric_and_a_panel_are_listed(folder):
    _, printed = folder
    assert "sign_agreement" in printed["perturbfm metrics list --panel delta"]
    assert "hit" in printed["perturbfm metrics list --panel largest_gene"]


def test_a_metric_is_in_the_next_run_with_its_floor_and_ceiling(folder, site):
    place, printed = folder
    run = sorted((place / "runs").glob("*_half_median_*"))[-1]
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 < metrics["delta"]["global"]["sign_agreement"] <= 1
    assert metrics["largest_gene"]["global"]["hit"] is not None
    report = (run / "report.html").read_text()
    row = report.split("sign_agreement</td>")[1].split("</tr>")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
    # value, better, ceiling (half), noise-free, train mean, no change, null
    assert all(re.fullmatch(r"-?[\d.]+", cells[i]) for i in (0, 2, 4, 5, 6)), cells
    assert "half_median" in printed["perturbfm leaderboard show --metric delta.sign_agreement"]
    shown = command(site, place, "perturbfm leaderboard show --metric delta.sign_agreement --json")
    for row in json.loads(shown):
        assert row["ceiling"] > 0
        assert row["null_floor"] > 0


def test_a_model_is_shown_runs_and_ranks(folder):
    place, printed = folder
    assert "model=median_effect" in printed["perturbfm models show half_median"]
    board = printed["perturbfm leaderboard show --metric delta.sign_agreement"]
    assert {"half_median", "global_mean"} <= set(board.split())
    record = json.loads((sorted((place / "runs").glob("*_half_median_*"))[-1] / "config.json").read_text())
    assert record["family"] == "baseline"
    assert record["params"] == {"factor": 0.5}
    assert set(record["plugins"]) == {p.name for p in (place / ".perturbfm/plugins").glob("*.py")}


def test_a_split_kind_has_its_options_and_freezes(folder):
    _, printed = folder
    assert "--letter" in printed["perturbfm splits create --spec first_letter --help"]
    made = printed["perturbfm splits create --data data/screen --spec first_letter --last 2"]
    assert "kind=first_letter" in made


def test_a_preset_is_a_verb(folder):
    _, printed = folder
    assert "our laboratory" in printed["perturbfm data import-ourlab --help"]


def test_a_metric_that_is_added_later_gets_its_bounds_on_splits_that_were_frozen_before(folder, site):
    place, _ = folder
    (place / ".perturbfm/plugins/later.py").write_text(
        (place / ".perturbfm/plugins/sign_agreement.py").read_text().replace("sign_agreement", "later")
    )
    stats = {p: p.read_bytes() for p in (place / "splits").glob("*.stats.json")}
    command(site, place, "perturbfm demo --suite ours")
    shown = command(site, place, "perturbfm leaderboard show --metric delta.later --json")
    assert all(row["ceiling"] > 0 for row in json.loads(shown))
    # What was frozen beside the split stays as it was.
    assert {p: p.read_bytes() for p in stats} == stats


def test_entry_points_of_another_package_are_found(folder, site, tmp_path):
    place, _ = folder
    package, info = tmp_path / "our_package", tmp_path / "our_package-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    source = (place / ".perturbfm/plugins/median_effect.py").read_text()
    (package / "models.py").write_text(source.replace("median_effect", "packaged_median"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[perturbfm.models]\nmine = our_package.models\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    shown = subprocess.run(
        [sys.executable, "-m", "perturbfm_core.cli.main", "models", "list"],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{tmp_path}", "PERTURBFM_PLUGINS": str(empty)},
        cwd=empty,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "packaged_median" in shown.stdout, shown.stderr
