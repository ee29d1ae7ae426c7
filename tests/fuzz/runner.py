"""Runs command lines on damaged files, each in a copy of a template and a process of its own with limits.

Usage: ``python -m tests.fuzz.runner [--seed N] [--cases N] [--only NAME] [--keep FOLDER] [--json]``; exits 1 if a case
breaks a rule. The process forks, so that a case costs no start, and imports everything before; what starts threads
(the making of the template) runs in a fork as well.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import random
import resource
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

# What commands import late.
import anndata.io  # noqa: F401
import duckdb  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401
import zarr  # noqa: F401

import perturbfm_core
from perturbfm_core.cli.main import VERBS, main, verb
from tests.fuzz.targets import IMPORT, TARGETS

CPU_SECONDS = 20
MEMORY = 1 << 30
# Of addresses: threads and libraries reserve more than they use.
SPACE = 6 << 30
WALL_SECONDS = 60
LINES = 2


@dataclass
class Outcome:
    """What a case did, and the rules that it broke."""

    number: int
    target: str
    damage: str
    line: str
    code: int
    out: str
    err: str
    cpu: float
    memory: int
    broken: list[str]


# ---- one process -------------------------------------------------------------------------------------------------


def forked(folder: Path, work: Callable[[], int], *, limited: bool = True) -> tuple[int, float, int]:
    """Run `work` in a fork whose current directory is `folder`; return (code, CPU seconds, memory in bytes).

    What it prints goes to the files ``.out`` and ``.err`` beside `folder`. A signal is a negative code.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(folder)
            for number, name in ((1, "out"), (2, "err")):
                handle = os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, number)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            if limited:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, used + SPACE))
                resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = work()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + WALL_SECONDS * (1 if limited else 10)
    while True:
        done, status, used_by = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.002)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, used_by.ru_utime + used_by.ru_stime, used_by.ru_maxrss * 1024


def command(argv: list[str]) -> Callable[[], int]:
    """Return the work of one command line."""

    def work() -> int:
        main(argv)
        return 0

    return work


# ---- the template ------------------------------------------------------------------------------------------------


def make_template() -> None:
    """Make a file of every format in the current directory, and say what they are called in ``names.json``."""
    import gzip
    import warnings

    import h5py
    import numpy as np
    import scipy.sparse as sp

    from tests.support.command import attempt, perturbfm

    warnings.simplefilter("ignore")
    size = ("--n-obs", 120, "--n-genes", 24, "--n-contexts", 3, "--n-perts", 4, "--n-combos", 2)
    perturbfm("data", "make-synth", "--out", "D", *size)
    perturbfm("data", "make-synth", "--out", "Z", *size, "--storage", "zarr")
    held = ("--spec", "context_ood", "--holdout-context", "C0")
    split = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
    rows = perturbfm("splits", "create", "--data", "D", "--spec", "iid", "--no-bounds").values["split_hash"]
    run = perturbfm("train", "global_mean", "--data", "D", "--split", split).values["run_id"]
    perturbfm("leaderboard", "refresh")
    Path("edges.csv").write_text("source,target,weight\nG00,G01,0.5\nG01,G02,-2\n")
    pd.read_csv("edges.csv").to_parquet("edges.parquet")
    with gzip.open("edges.tsv.gz", "wt") as file:
        file.write("protein1\tprotein2\tcombined_score\nG00\tG01\t900\nG01\tG02\t500\n")
    Path("go.gmt").write_text("GO:1\t\tG00\tG01\tG02\nGO:2\t\tG01\tG02\n")
    perturbfm("graphs", "build", "edges", "--name", "edges", "--source", "edges.csv", "--directed")
    genes = np.array([f"G{i:02d}" for i in range(24)])
    values = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    np.savez("emb.npz", genes=genes, features=values)
    pd.DataFrame({"gene": genes, "a": values[:, 0], "b": values[:, 1]}).to_parquet("emb.parquet")
    perturbfm("graphs", "features", "emb.npz", "--name", "emb")
    _write_h5ad(Path("in.h5ad"))
    made = attempt(*IMPORT.replace("NEW", "N").split())
    assert made.code == 0, made.err
    with h5py.File("in.h5ad", "r+") as file:
        # Another matrix, for --layer.
        file["layers"].create_dataset(
            "dense", data=sp.random(24, 12, 0.5, random_state=1).toarray().round().astype("f4")
        )
        file["layers/dense"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    folds = ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    Path("saved.csv").write_text("".join(f"c{i},{f}\n" for i, f in enumerate(folds)))
    Path("saved.json").write_text(
        json.dumps({"train": list(range(16)), "test": ["c20", "c21", "c22", "c23"]})
    )
    Path("explicit.json").write_text(json.dumps({"train": ["G00"], "val": ["G01"], "test": ["G02", "G03"]}))
    Path("explicit.csv").write_text("condition,fold\nG00,train\nG01,val\nG02,test\nG03,test\n")
    shutil.copy(f"runs/{run}/metrics.json", "reference.json")
    for suffix in ("csv", "parquet", "h5ad"):
        perturbfm("export", run, "--out", f"preds.{suffix}")
    Path("batch.csv").write_text("perturbation,context\nG00,C1\nG01,C2\n")
    catalog = Path(".perturbfm/catalog")
    for kind in ("models", "suites", "datasets"):
        (catalog / kind).mkdir(exist_ok=True)
    (catalog / "models/mine.yaml").write_text(
        "name: mine\ndescription: a model\nmodel: ridge\nparams: {alphas: [1.0, 10.0]}\nseeds: [0]\nowner: team:x\n"
    )
    (catalog / "suites/mine.yaml").write_text(
        "name: mine\ndescription: a suite\ngrid:\n  - dataset: mine\n    splits:\n      - kind: iid\n        params: {test_frac: 0.2}\n"
        "        seed: 0\nmodels: [global_mean]\n"
    )
    (catalog / "datasets/mine.yaml").write_text(
        "name: mine\ndescription: simulated\nsource: synth\nsynth: {n_obs: 120, n_genes: 24, n_perts: 4, seed: 3}\nstorage: npz\n"
    )
    content = json.loads(Path("D/meta.json").read_text())["metadata"]["content_sha256"]
    Path("names.json").write_text(json.dumps({"SPLIT": split, "ROWS": rows, "RUN": run, "content": content}))


def _write_h5ad(path: Path) -> None:
    import anndata
    import numpy as np
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "pert": pd.Categorical(["ctrl", "A", "B", "A+B"] * 6),
            "line": pd.Categorical(["K"] * 12 + ["R"] * 12),
        },
        index=[f"c{i}" for i in range(24)],
    )
    X = sp.csr_matrix(rng.poisson(1.5, (24, 12)).astype(np.float32))
    var = pd.DataFrame(index=[f"g{i}" for i in range(12)])
    anndata.AnnData(X=X, obs=obs, var=var, layers={"more": X}).write_h5ad(path)


# ---- one case ----------------------------------------------------------------------------------------------------


def snapshot(root: Path) -> dict[str, str]:
    """Return every file below a folder with a digest; pipes and devices by their kind."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            mode = path.lstat().st_mode
            where = str(path.relative_to(root))
            if stat.S_ISREG(mode):
                small = path.lstat().st_size < 1 << 24
                found[where] = hashlib.sha256(path.read_bytes()).hexdigest() if small else "large"
            else:
                found[where] = str(stat.S_IFMT(mode))
    return found


def run_case(number: int, name: str, seed: int, template: Path, root: Path) -> Outcome:
    """Damage a file in a copy of the template, run one of its command lines, and check what is left."""
    target = TARGETS[name]
    names = json.loads((template / "names.json").read_text())
    # Not of the number, so that a case is the same whatever else is run.
    rng = random.Random(f"{seed}/{name}/{number}")
    folder = root / f"{number:05d}"
    shutil.copytree(template, folder, symlinks=True)
    line = rng.choice(target.lines)

    def named(text: str) -> str:
        for key, value in names.items():
            text = text.replace(key, value)
        return text

    path = folder / named(target.path)
    damage = target.damage(path, rng)
    before = snapshot(folder)
    argv = shlex.split(named(line))
    code, cpu, memory = forked(folder, command(argv))
    out, err = (Path(f"{folder}.{x}").read_text(errors="replace") for x in ("out", "err"))
    after = snapshot(folder)
    outcome = Outcome(number, name, damage[:200], line, code, out, err, cpu, memory, [])
    outcome.broken = list(_broken(outcome, target.hashed, names["content"], before, after))
    if code == 0 and line.startswith("data import"):
        again, *_ = forked(folder, command(["data", "info", "NEW", "--verify"]))
        if again != 0:
            outcome.broken.append(f"what was imported does not verify ({again})")
    return outcome


def _broken(
    o: Outcome, hashed: bool, content: str, before: dict[str, str], after: dict[str, str]
) -> list[str]:
    """Return the rules that a case broke."""
    broken = []
    if o.code not in (0, 2):
        broken.append(f"exit {o.code}")
    if "Traceback" in o.err or "unexpected error" in o.err:
        broken.append("traceback")
    if len(o.err.splitlines()) > LINES:
        broken.append(f"{len(o.err.splitlines())} lines of error")
    # The doctor prints what it finds as its result.
    if o.code == 2 and not o.err.strip() and o.line != "doctor":
        broken.append("no line of error")
    if any(text in o.err for text in ("not enough memory", "Unable to allocate")):
        broken.append("memory")
    if o.memory > MEMORY:
        broken.append(f"{o.memory / 1e9:.1f} GB")
    if o.cpu > CPU_SECONDS:
        broken.append(f"{o.cpu:.0f} CPU-s")
    left = [k for k in after if k not in before and (".tmp" in k or ".staging/" in k or "/crashes/" in k)]
    if o.code == 2:
        left += [k for k in after if before.get(k) != after[k] and not _may_change(k) and k not in left]
    if left:
        broken.append(f"left {left[:3]}")
    if o.code == 0 and hashed and o.line.startswith("data info") and f"content_sha256={content}" not in o.out:
        broken.append("another content passes")
    return broken


def _may_change(name: str) -> bool:
    """Return whether a refused command may leave this: locks, and what is kept for the next time."""
    return (
        ".locks" in name
        or name.endswith(".lock")
        or name.startswith(("runs/.objects", "runs/.staging", "data/mine"))
        or name in ("runs", "data")
    )


# ---- all cases ---------------------------------------------------------------------------------------------------


def import_everything() -> None:
    """Import what verbs import late, and leave figures blank: they are most of a small run, and read no file."""
    for module in pkgutil.walk_packages(perturbfm_core.__path__, "perturbfm_core."):
        if not module.name.startswith(
            ("perturbfm_core.models.perturbfm", "perturbfm_core.training", "perturbfm_core.tuning")
        ):
            importlib.import_module(module.name)
    for name in VERBS:
        verb(name)


def run_all(seed: int, cases: int, only: str | None, root: Path, *, keep: bool) -> list[Outcome]:
    """Make the template and run the cases, the targets in turn."""
    template = root / "template"
    template.mkdir(parents=True)

    def prepare() -> int:
        make_template()
        return 0

    code, *_ = forked(template, prepare, limited=False)
    if code != 0:
        sys.exit(f"the template could not be made: {Path(f'{template}.err').read_text()}")
    names = [name for name in TARGETS if only is None or only in name]
    outcomes = []
    for number in range(cases):
        outcome = run_case(number, names[number % len(names)], seed, template, root)
        outcomes.append(outcome)
        if not (keep and outcome.broken):
            shutil.rmtree(root / f"{number:05d}", ignore_errors=True)
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--only")
    parser.add_argument("--keep", type=Path, help="folder in which cases that break a rule stay")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for variable in ("PERTURBFM_HOME", "PERTURBFM_SPLIT_DIR", "PERTURBFM_CATALOG"):
        os.environ.pop(variable, None)
    import_everything()
    with tempfile.TemporaryDirectory() as temporary:
        place = given.keep or Path(temporary)
        found = run_all(given.seed, given.cases, given.only, place, keep=given.keep is not None)
    if given.json:
        print(json.dumps([asdict(o) for o in found]))
        sys.exit(0)
    for o in found:
        if o.broken:
            print(
                f"{o.number:05d} {o.target} [{o.damage}] {o.line}\n      {', '.join(o.broken)}\n      {o.err.strip()[-400:]}"
            )
    bad = sum(bool(o.broken) for o in found)
    passed = sum(o.code == 0 for o in found)
    print(
        f"{len(found)} damaged files of {len({o.target for o in found})} kinds: {passed} read all the same, "
        f"{len(found) - passed} refused, {bad} break a rule; at most {max(o.cpu for o in found):.1f} CPU-s "
        f"and {max(o.memory for o in found) / 1e9:.2f} GB"
    )
    sys.exit(1 if bad else 0)
