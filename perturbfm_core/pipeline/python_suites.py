"""Suites from Python: run, looked at, summed up and brought up to date, as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.pipeline import suite_status as states
from perturbfm_core.pipeline.python_arguments import list_of, panels_of, store_of
from perturbfm_core.pipeline.rescoring import rescore as rescore_run
from perturbfm_core.pipeline.rescoring import runs_to_rescore
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_filter import parse_only
from perturbfm_core.pipeline.suite_run import run_cells
from perturbfm_core.pipeline.suite_scorecard import suite_scorecard, write_scorecard
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore


def run_suite(
    name: str,
    *,
    only: Sequence[str] | str = (),
    jobs: int = 1,
    data_dir: Path | str | None = None,
    again: bool = False,
    store: ArtifactStore | Path | str | None = None,
    tell: Progress = quiet,
) -> pd.DataFrame:
    """Run every cell of a suite that is not done; what was interrupted or failed is run by the same call.

    Parameters
    ----------
    name
        A suite of the catalog.
    only
        Selections of cells, such as ``"entry=ridge,split=combo_ood"``, one or a list; each adds cells.
    jobs
        Cells at once, each in a process; a script that asks for several needs ``if __name__ == "__main__":``.
    data_dir
        Folder of your own files, for a suite that reads some.
    again
        Whether new runs are published though there are some of the same inputs and code.
    store
        Where artifacts go; by default as the environment says.
    tell
        Called with a line of text about progress.

    Returns
    -------
    DataFrame
        One row per cell: split, entry, seed, state (``made``, ``found``, ``failed``, ``not applicable``), run, reason,
        seconds.
    """
    home, suite = store_of(store), load_catalog().suite(name)
    folder = None if data_dir is None else Path(data_dir)
    chosen = parse_only(list_of(only, "only", "a selection such as 'entry=ridge', or a list of such"), suite)
    plan = plan_suite(home, suite, make=True, only=chosen, data_dir=folder, tell=tell)
    rows = [
        (o.cell.split.key, o.cell.entry, o.cell.seed, o.state, o.run, o.reason, o.seconds)
        for o in run_cells(home, plan.cells, jobs=jobs, again=again, tell=tell)
    ]
    return pd.DataFrame(rows, columns=["split", "entry", "seed", "state", "run", "reason", "seconds"])


def suite_status(name: str, *, store: ArtifactStore | Path | str | None = None) -> pd.DataFrame:
    """Return the state of a suite's cells (``done``, ``missing``, ``failed``, ``not applicable``), without fitting."""
    home, suite = store_of(store), load_catalog().suite(name)
    rows = [
        (s.cell.split.key, s.cell.entry, s.cell.seed, s.state, s.run, s.reason)
        for s in states.suite_status(home, plan_suite(home, suite).cells)
    ]
    return pd.DataFrame(rows, columns=["split", "entry", "seed", "state", "run", "reason"])


def scorecard(name: str, *, store: ArtifactStore | Path | str | None = None) -> pd.DataFrame:
    """Write the scorecard of a suite, and return it: one row per entry, from the best mean rank.

    Raises
    ------
    StoreError
        If no cell of the suite has run.
    """
    home = store_of(store)
    card = suite_scorecard(home, load_catalog().suite(name))
    write_scorecard(home, card)
    return pd.DataFrame(card.rows())


def rescore(
    runs: Sequence[str] | str | None = None,
    *,
    panels: Sequence[str] | None = None,
    store: ArtifactStore | Path | str | None = None,
    tell: Progress = quiet,
) -> pd.DataFrame:
    """Score runs again by the metrics that there are now, without a fit; each is published as a new run.

    Parameters
    ----------
    runs
        Ids of runs, or prefixes, one or a list; by default the newest of every configuration.
    panels
        The only panels that are scored anew.
    store
        Where the runs are; by default as the environment says.
    tell
        Called with a line of text about progress.

    Returns
    -------
    DataFrame
        One row per run: run, state (``rescored``, ``up to date``, ``refused``), the new run, reason.
    """
    home, only = store_of(store), panels_of(panels)
    names = None if runs is None else list_of(runs, "runs", "the id of a run or a list of such")
    found = [rescore_run(home, run.path, only, tell) for run in runs_to_rescore(home, names)]
    rows = [(r.run, r.state, r.new, r.reason) for r in found]
    return pd.DataFrame(rows, columns=["run", "state", "new", "reason"])
