"""``make demo``: the job `demo` in this process, then the leaderboard and the last report's path."""

import sys
import time

import dagster as dg
from sqlalchemy.exc import DatabaseError

from perturbfm_assets.definitions import defs
from perturbfm_assets.jobs import quiet_logs
from perturbfm_assets.launcher import host_tags
from perturbfm_core.cli.boards import board_lines, undefined_reasons
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.headline import board_sql, headline_of
from perturbfm_core.schema import REPORT_FILE
from perturbfm_core.store.artifacts import ArtifactStore


def main() -> None:
    """Run the embedded default against the instance of ``./dagster.yaml``."""
    start = time.perf_counter()
    try:
        with dg.DagsterInstance.from_config(".") as instance:
            result = defs.resolve_job_def("demo").execute_in_process(
                instance=instance, raise_on_error=False, run_config=quiet_logs("INFO"), tags=host_tags()
            )
    except (DatabaseError, OSError) as error:
        reason = error.orig if isinstance(error, DatabaseError) else error
        print(
            f"error: the storage of Dagster that ./dagster.yaml names cannot be used: {reason}; make room on its disk, or make "
            "it writable, and run again",
            file=sys.stderr,
        )
        sys.exit(1)
    if not result.success:
        print("error: the demo job failed; its log is above and in the UI (make ui)", file=sys.stderr)
        sys.exit(1)
    store = ArtifactStore()
    for line in board_lines(
        database.query(store, board_sql()), headline_of(), undefined_reasons(store, headline_of())
    ):
        print(line)
    print(f"leaderboard={store.leaderboard}")
    print(f"leaderboard_page={store.leaderboard_page}")
    print(f"report={store.run_dirs()[-1] / REPORT_FILE}")
    print(f"seconds={time.perf_counter() - start:.1f}")


if __name__ == "__main__":
    main()
