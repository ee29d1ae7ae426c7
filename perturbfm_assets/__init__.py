"""The Dagster code location: assets, partitions, checks, jobs, schedules, and the packaged catalog."""
