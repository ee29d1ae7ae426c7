"""Tries of what a sensor asks for: one that failed is made again, ever later."""

import time

import dagster as dg

from perturbfm_assets.jobs import ON_THE_WAY

# Seconds until a failed try is made again: the first time, and at most.
FIRST_RETRY_S, LAST_RETRY_S = 300.0, 6 * 3600.0
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def next_try(instance: dg.DagsterInstance, job: str, tag: str, value: str) -> str | dg.SkipReason:
    """Return the run key of what is asked for: another after each failed try, and ever later, though nothing has changed.

    Parameters
    ----------
    instance
        Of Dagster.
    job
        What is asked for.
    tag, value
        The tag of its tries, and what they are for.
    """
    filters = dg.RunsFilter(job_name=job, tags={tag: value}, statuses=[*ON_THE_WAY, *ENDED])
    failed = [
        t
        for t in instance.get_run_records(filters)
        if t.dagster_run.status != dg.DagsterRunStatus.SUCCESS and t.end_time is not None
    ]
    if not failed:
        return value
    wait = min(FIRST_RETRY_S * 2 ** (len(failed) - 1), LAST_RETRY_S)
    left = max(t.end_time or 0.0 for t in failed) + wait - time.time()
    if left > 0:
        return dg.SkipReason(f"try {len(failed)} failed; the next is in {left / 60:.0f} minutes")
    return f"{value}-{len(failed)}"
