"""Start-up: a verb imports what it needs, and says which extra brings what is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib

import pytest

from perturbfm_core.cli.main import VERBS, verb
from tests.support.command import VARIABLES
from tests.support.paths import REPO

# What costs a tenth of a second or more.
LARGE = (
    "pandas.core",
    "scipy.sparse._base",
    "sklearn",
    "anndata",
    "torch",
    "optuna",
    "matplotlib",
    "pyarrow.dataset",
)
BLOCK = """
import sys
import tomllib

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "optuna", "dagster", "dagster_webserver"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
"""


def run(*argv, cwd, path=(), code="from perturbfm_core.cli.main import main; main()"):
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        cwd=cwd,
        env={
            **environment,
            "PYTHONPATH": os.pathsep.join([*map(str, path), str(REPO)]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


TELL = f"""
import sys
import tomllib
from perturbfm_core.cli.main import main
try:
    main()
except SystemExit as end:
    print("MODULES", [m for m in {LARGE} if m in sys.modules], end.code)
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--version", 0),
        ("--help", 0),
        ("splits list", 0),
        ("splits kinds", 0),
        ("nonsense", 2),
        ("leaderboard show --bogus", 2),
        ("data import x.h5ad --bogus", 2),
        ("splits create --data D --spec context_ood --holdout-combo A+B", 2),
        ("train ridge --data D --split S --hiden-dim 3", 2),
        ("tune perturbfm-v2 --data D --split S --hiden-dim 3", 2),
        ("run --split S --entry nope", 2),
        ("splits create --data D --spec nope", 2),
        ("predictions --help", 0),
        ("eval predictions --data D --split S --preds p.npz --out o --kind rates", 2),
    ],
)
def test_a_verb_that_needs_no_large_library_imports_none(work, line, code):
    done = run(*line.split(), cwd=work.path, code=TELL)
    shown = done.stdout.rsplit("MODULES ", 1)
    assert len(shown) == 2, done.stderr
    assert shown[1].strip() == f"[] {code}"


def test_the_help_of_every_verb_is_that_of_the_table():
    for name, (_, text) in VERBS.items():
        command = verb(name)
        own = (command.help or "").strip().split("\n")[0]
        assert own, name
        assert text == own, name


@pytest.fixture
def without_extras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BLOCK)
    return folder


ALL = """
import json, sys
from perturbfm_core.cli.main import main
for line in json.loads(sys.argv[1]):
    try:
        main(line.split())
    except SystemExit as end:
        if end.code:
            sys.exit(f"{line} ended with {end.code}")
"""


def test_scoring_and_ranking_work_without_torch_optuna_and_dagster(work, without_extras):
    preds = next((work.path / "runs").glob("*_global_mean_*")) / "predictions.npz"
    lines = [
        "splits verify --all",
        "models list",
        "train control_only --data D --split " + work.split,
        f"eval predictions --data D --split {work.split} --preds {preds} --out scored",
        "leaderboard refresh",
        "doctor",
    ]
    done = run(json.dumps(lines), cwd=work.path, path=[without_extras], code=ALL)
    assert done.returncode == 0, done.stderr
    assert (work.path / "scored/metrics.json").is_file()


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("train perturbfm-v2 --data D --split SPLIT", "needs torch, which is not installed: pip install 'perturbfm[models]'"),
        ("tune ridge --data D --split SPLIT --trials 1", "needs optuna, which is not installed: pip install 'perturbfm[tune]'"),
    ],
)  # fmt: skip
def test_a_verb_says_which_extra_it_needs(work, without_extras, line, extra):
    done = run(*line.replace("SPLIT", work.split).split(), cwd=work.path, path=[without_extras])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert extra in done.stderr
    assert not [p for p in (work.path / "runs/.staging").glob("*") if p.is_dir()]


INTERRUPT = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


def test_ctrl_c_while_the_command_line_loads_ends_with_one_line(tmp_path, work):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    start = "from perturbfm_core.cli.__main__ import main; main()"
    done = run("doctor", cwd=work.path, path=[tmp_path], code=start)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; nothing half-written was left\n"


def test_the_command_starts_where_ctrl_c_is_caught():
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"perturbfm": "perturbfm_core.cli.__main__:main"}
    done = subprocess.run(
        [sys.executable, "-m", "perturbfm_core.cli", "--version"], cwd=REPO, capture_output=True, text=True
    )
    assert done.stdout.startswith("perturbfm ")


def test_closed_output_drops_what_is_printed(work):
    closed = "import sys; sys.stdout = None; from perturbfm_core.cli.main import main; main()"
    done = run("splits", "list", cwd=work.path, code=closed)
    assert (done.returncode, done.stderr) == (0, "")
