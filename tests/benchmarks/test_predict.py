"""CPU time of `perturbfm predict` on a run that is open: at most one second beyond the start of the program.

Run with ``-s`` for the figures.
"""

import subprocess
import sys
import time

import pytest

from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.screening.fitted_run import open_run
from perturbfm_core.screening.predictions import predict_requests
from perturbfm_core.screening.requests import Request, resolve_requests
from perturbfm_core.store.artifacts import ArtifactStore
from tests.benchmarks.conftest import measure

GOAL_S, REPEATS = 1.0, 5
PROGRAM = (sys.executable, "-m", "perturbfm_core.cli.main")


@pytest.fixture(scope="module", params=["ridge", "perturbfm-v2"])
def opened(request, tmp_path_factory):
    """Return (folder, split, run, a perturbation) of an entry on the demo's unseen context."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERTURBFM_HOME", str(folder))
        patch.setenv("PERTURBFM_SPLIT_DIR", str(folder / "splits"))

        def run(*words):
            done = subprocess.run([*PROGRAM, *words], cwd=folder, check=True, capture_output=True, text=True)
            return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

        run("data", "make-synth", "--out", "D", "--n-obs", "6000", "--n-genes", "1000", "--n-perts", "60")
        split = run("splits", "create", "--data", "D", "--spec", "context_ood", "--holdout-context", "C0")[
            "split_hash"
        ]
        made = run("run", "--data", "D", "--split", split, "--entry", request.param)["run_id"]
        yield (
            folder,
            split,
            made,
            next(p for p in open_dataset(folder / "D").conditions["pert_id"] if p.startswith("G")),
        )


def least(call):
    """Return the fewest CPU seconds of some calls: others only add."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def test_one_condition_of_an_open_run(opened):
    folder, split, made, pert = opened
    store = ArtifactStore(folder, folder / "splits")
    run = open_run(store, split, made, folder / "D")
    asked = resolve_requests(run, [Request(pert, "C0")])
    seconds = least(lambda: predict_requests(run, asked, 0.9).top(0, 20))
    print(f"\none condition of {made}: {seconds:.3f} CPU-s")
    assert seconds <= GOAL_S


def test_the_command_beyond_its_start(opened, monkeypatch):
    folder, split, made, pert = opened
    monkeypatch.setenv("PERTURBFM_HOME", str(folder))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(folder / "splits"))
    words = (
        "predict",
        "--data",
        "D",
        "--split",
        split,
        "--run",
        made,
        "--perturbation",
        pert,
        "--context",
        "C0",
    )
    start = min(measure([*PROGRAM, "--help"], folder).cpu_s for _ in range(REPEATS))
    whole = min(measure([*PROGRAM, *words], folder).cpu_s for _ in range(REPEATS))
    print(f"\npredict of {made}: {whole:.2f} CPU-s, of which the program's start takes {start:.2f}")
