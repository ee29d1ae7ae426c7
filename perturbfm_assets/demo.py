"""``make demo``: the job `demo` in this process, then the leaderboard and the last report's path."""

import sys
import time

import dagster as dg

from perturbfm_assets.definitions import defs
from perturbfm_assets.jobs import quiet_logs
from perturbfm_core import pipeline
from perturbfm_core.cli.output import emit, emit_table
from perturbfm_core.leaderboard import database
from perturbfm_core.schema import REPORT_FILE
from perturbfm_core.store import ArtifactStore


def main() -> None:
    """Run the embedded default against the instance of ``./dagster.yaml``."""
    start = time.perf_counter()
    with dg.DagsterInstance.from_config(".") as instance:
        result = defs.resolve_job_def("demo").execute_in_process(
            instance=instance, raise_on_error=False, run_config=quiet_logs("INFO")
        )
    if not result.success:
        print("error: the demo job failed; its log is above and in the UI (make ui)", file=sys.stderr)
        sys.exit(1)
    store = ArtifactStore()
    emit_table(database.query(store, pipeline.HEADLINE_SQL), as_json=False)
    last = store.run_dirs()[-1]
    emit(
        {
            "leaderboard": str(store.leaderboard),
            "leaderboard_page": str(store.leaderboard_page),
            "report": str(last / REPORT_FILE),
            "seconds": round(time.perf_counter() - start, 1),
        },
        as_json=False,
    )


if __name__ == "__main__":
    main()
