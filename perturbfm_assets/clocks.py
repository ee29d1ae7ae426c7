"""The clocks of suites (``refresh_cron``): one that Dagster cannot read costs its suite the schedule, and nothing else."""

from datetime import UTC, datetime

from dagster._utils.schedules import get_next_cron_tick, is_valid_cron_string

from perturbfm_assets.partitions import CATALOG
from perturbfm_core.catalog.loading import suite_file


def wrong_clocks() -> dict[str, str]:
    """Return {suite: why it has no schedule} of the suites whose clock cannot be read, naming file and value."""
    out = {}
    for name, suite in CATALOG.suites.items():
        if suite.refresh_cron and (why := _why_not(suite.refresh_cron)) is not None:
            out[name] = (
                f"{suite_file(name)}: refresh_cron {suite.refresh_cron!r} {why}; the suite has no schedule"
            )
    return out


def _why_not(cron: str) -> str | None:
    """Return why a schedule cannot run by a text, None if it can."""
    if not is_valid_cron_string(cron):
        return (
            "is no cron expression; give five fields (minute, hour, day, month, weekday) such as '0 3 * * *'"
        )
    try:
        get_next_cron_tick(cron, datetime.now(UTC), "UTC")
    except ValueError:
        return "names a day that never comes; give another"
    return None
