"""A year of nightlies over 24 cells that do not change: no run is asked for, none is made, and no night takes longer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.assets.conftest import Location, forget
from tests.support.command import attempt
from tests.support.few_panels import brief

pytestmark = pytest.mark.slow

# Every thirtieth night; all 365 (72 CPU-s) with PERTURBFM_EVERY_NIGHT=1.
NIGHTS = range(0, 365, 1 if os.environ.get("PERTURBFM_EVERY_NIGHT") else 30)
CELLS = 24
DATA = {
    "name": "tiny",
    "description": "very small",
    "source": "synth",
    "synth": {"n_obs": 240, "n_genes": 20, "n_contexts": 2, "n_perts": 6, "n_combos": 4},
}
SUITE = {
    "name": "nightly",
    "description": "Four entries on six splits.",
    "grid": [
        {
            "dataset": "tiny",
            "splits": [
                {"kind": "context_ood", "params": {"holdout": ["C0"]}},
                {"kind": "context_ood", "params": {"holdout": ["C1"]}},
                {"kind": "perturbation_ood", "folds": 2},
                {"kind": "combo_ood", "folds": 2},
            ],
        }
    ],
    "models": ["control_only", "global_mean", "ridge", "kernel_ridge"],
    "refresh_cron": "30 5 * * *",
}


@pytest.fixture
def nightly(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """Return a code location whose suite has run once."""
    made = Location(tmp_path)
    for kind, entry in (("datasets", DATA), ("suites", SUITE)):
        (tmp_path / "catalog" / kind).mkdir(parents=True)
        (tmp_path / "catalog" / kind / f"{entry['name']}.yaml").write_text(yaml.safe_dump(entry))
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with brief("delta"):
        answer = attempt("suite", "run", "nightly")
        assert (answer.code, answer.values["made"]) == (0, str(CELLS)), answer.err
        forget()
        yield made
    forget()


def everything(folder: Path) -> dict[str, int]:
    """Return the size of every file of the runs and their objects."""
    return {str(p): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_year_adds_nothing(nightly: Location) -> None:
    defs = nightly.module("definitions").defs
    schedule, repository = defs.get_schedule_def("refresh_nightly"), defs.get_repository_def()
    first_night, before = datetime(2026, 1, 1, 5, 30, tzinfo=UTC), everything(nightly.path / "runs")
    seconds = []
    with dg.DagsterInstance.ephemeral() as instance:
        for night in NIGHTS:
            start = time.process_time()
            with dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=first_night + timedelta(days=night),
                repository_def=repository,
            ) as context:
                ticked = schedule.evaluate_tick(context)
            seconds.append(time.process_time() - start)
            assert not ticked.run_requests
            assert ticked.skip_message.startswith("all cells of suite nightly have runs")
        assert instance.get_runs_count() == 0
    assert everything(nightly.path / "runs") == before
    print(f"{len(NIGHTS)} nights of {CELLS} cells: {sum(seconds):.1f} CPU-s")
    # No night looks at more than the first did.
    assert sum(seconds[-5:]) < 3 * sum(seconds[:5]) + 1
