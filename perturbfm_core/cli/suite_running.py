"""Running a suite from the command line, for `suite run` and `demo`: plan, cells, leaderboard, scorecard."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.leaderboard import warn_of_skipped
from perturbfm_core.cli.output import progress, store
from perturbfm_core.cli.suite_progress import suite_progress
from perturbfm_core.errors import StoreError
from perturbfm_core.pipeline.leaderboard import rank
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_filter import parse_only
from perturbfm_core.pipeline.suite_run import CellOutcome, run_cells
from perturbfm_core.pipeline.suite_scorecard import suite_scorecard, write_scorecard
from perturbfm_core.progress import Progress
from perturbfm_core.store.artifacts import ArtifactStore

# Exit code of what the user interrupted, as shells have it.
_INTERRUPTED = 130


@dataclass(frozen=True)
class SuiteRun:
    """What became of a suite.

    Attributes
    ----------
    suite, home
        Its name, and where its runs are.
    outcomes
        One per cell.
    skipped
        Number of runs that the leaderboard could not read.
    scorecard, page
        The files of the scorecard, None where no cell has a run.
    """

    suite: str
    home: ArtifactStore
    outcomes: Sequence[CellOutcome]
    skipped: int
    scorecard: Path | None
    page: Path | None

    @property
    def failed(self) -> list[CellOutcome]:
        """Return the cells that failed."""
        return [o for o in self.outcomes if o.state == "failed"]

    def result(self) -> dict[str, Any]:
        """Return what is printed at the end."""
        counts = Counter(o.state for o in self.outcomes)
        return {
            "suite": self.suite,
            "cells": len(self.outcomes),
            **{k.replace(" ", "_"): counts[k] for k in ("made", "found", "failed", "not applicable")},
            "skipped": self.skipped,
            "leaderboard": str(self.home.leaderboard),
            "leaderboard_page": str(self.home.leaderboard_page),
            "scorecard": None if self.scorecard is None else str(self.scorecard),
            "scorecard_page": None if self.page is None else str(self.page),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per cell."""
        return [
            {
                "split": o.cell.split.key,
                "split_hash": o.cell.split.hash,
                "entry": o.cell.entry,
                "seed": o.cell.seed,
                "state": o.state,
                "run": None if o.run is None else str(o.run),
                "reason": o.reason,
                "seconds": round(o.seconds, 3),
            }
            for o in self.outcomes
        ]

    @property
    def last_report(self) -> Path | None:
        """Return the report of the last cell that has a run."""
        runs = [o.run for o in self.outcomes if o.run is not None]
        return runs[-1] / schema.REPORT_FILE if runs else None


def carry_out(
    name: str,
    *,
    jobs: int = 1,
    only: Sequence[str] = (),
    data_dir: Path | None = None,
    again: bool = False,
    silent: bool = False,
    lines: bool = True,
) -> SuiteRun:
    """Run a suite's cells that are not done, rank all runs, write the scorecard; failed cells are listed.

    Parameters
    ----------
    name
        Name of the suite.
    jobs, only, data_dir, again
        See the options of ``perturbfm suite run``.
    silent
        Whether no progress is shown.
    lines
        Whether it is a line per cell where standard error is no terminal.
    """
    home, suite = store(), load_catalog().suite(name)
    finished: list[CellOutcome] = []
    total: int | None = None
    try:
        with progress(silent=silent) as tell:
            plan = plan_suite(
                home, suite, make=True, only=parse_only(only, suite), data_dir=data_dir, tell=tell
            )
        total = len(plan.cells)
        with suite_progress(total, jobs, silent=silent or not lines) as shown:
            finished = shown.outcomes
            outcomes = run_cells(home, plan.cells, jobs=jobs, again=again, tell=shown.tell, each=shown.each)
        with progress(silent=silent) as tell:
            files = refresh(home, suite, tell)
    except KeyboardInterrupt:
        so_far = "" if total is None else f" after {len(finished)} of {total} cells"
        print(
            f"interrupted{so_far}; nothing half-written was left: the same command goes on where it stopped "
            f"(`perturbfm suite status {name}` shows what is done)",
            file=sys.stderr,
        )
        raise typer.Exit(_INTERRUPTED) from None
    skipped = warn_of_skipped(home)
    done = SuiteRun(name, home, outcomes, skipped, files.get("scorecard"), files.get("scorecard_page"))
    for outcome in done.failed:
        reason = " ".join((outcome.reason or "").split())
        print(f"failed: {outcome.cell.label}: {reason}", file=sys.stderr)
    if done.failed:
        print(
            f"{len(done.failed)} of {len(outcomes)} cells failed; tracebacks are in {home.failures}, "
            "and the same command runs them again",
            file=sys.stderr,
        )
    return done


def refresh(home: ArtifactStore, suite: SuiteEntry, tell: Progress) -> dict[str, Path]:
    """Write a suite's scorecard and rank all runs; return the files of the scorecard, none where no cell has a run.

    Parameters
    ----------
    home, suite
        Where the runs are, and the suite.
    tell
        Called with a line of text about progress.
    """
    tell("writing the scorecard")
    files = _scorecard(home, suite, tell)
    tell("ranking")
    rank(home)
    return files


def _scorecard(home: ArtifactStore, suite: SuiteEntry, tell: Progress) -> dict[str, Path]:
    """Write the scorecard and return its files, none where no cell has a run."""
    try:
        return write_scorecard(home, suite_scorecard(home, suite, tell=tell))
    except StoreError as error:
        print(f"warning: there is no scorecard: {error}", file=sys.stderr)
        return {}
