"""The code location: merges, nothing else."""

import dagster as dg

from perturbfm_assets import assets
from perturbfm_assets.jobs import (
    benchmark,
    build_graph,
    make_dataset,
    publish_submissions,
    refresh_leaderboard,
    verify_split,
)
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.schedules import schedules
from perturbfm_assets.sensors import sensors
from perturbfm_assets.suite import demo

defs = dg.Definitions(
    # Every asset of the package: adding one is adding a file.
    assets=dg.load_assets_from_package_module(assets, include_specs=True),
    jobs=[demo, benchmark, refresh_leaderboard, publish_submissions, make_dataset, verify_split, build_graph],
    schedules=schedules,
    sensors=sensors,
    resources={"store": StoreResource()},
    # Of what is launched from the page of an asset too: a process per step loads the code location again for each, and goes on
    # with its training when the run is killed.
    executor=dg.in_process_executor,
)
