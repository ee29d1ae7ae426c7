"""A sensor that asks for a scan of the inbox once something lies complete there; off until turned on."""

import dagster as dg

from perturbfm_assets.jobs import publish_submissions
from perturbfm_assets.tries import next_try
from perturbfm_core.pipeline.inbox_files import inbox_of, ready
from perturbfm_core.store.artifacts import ArtifactStore

# The files that a scan was asked for.
FILES_TAG = "perturbfm/inbox"


def _ready(home: ArtifactStore) -> str | None:
    """Return an identity of what a scan would take now, None if that is nothing."""
    try:
        return ready(home)
    except FileNotFoundError:
        # What was removed meanwhile is gone at the next look.
        return None


@dg.sensor(
    job=publish_submissions,
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
    description="Starts `publish_submissions` once prediction files lie in inbox/, each with its description.",
)
def inbox(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Take what lies complete in the inbox, each file once."""
    home = ArtifactStore()
    found = _ready(home)
    if found is None:
        return dg.SkipReason(f"{inbox_of(home)} holds no file with a description beside it")
    # A try that failed, say on a full disk, is made again although the files are the same.
    key = next_try(context.instance, publish_submissions.name, FILES_TAG, found)
    return (
        key
        if isinstance(key, dg.SkipReason)
        else dg.RunRequest(run_key=f"inbox-{key}", tags={FILES_TAG: found})
    )
