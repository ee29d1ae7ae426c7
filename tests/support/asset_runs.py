"""Runs of the code location in this process: single cells of the grid, and single assets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dagster as dg

from tests.support.paths import REPO

if TYPE_CHECKING:
    from tests.assets.conftest import Location

INDEX = json.loads((REPO / "splits/index.json").read_text())["splits"]
DEMO = [e for e in INDEX if e["dataset"] == "demo"]
(CONTEXT,) = [e for e in DEMO if e["kind"] == "context_ood"]
TOO_FEW = f"needs 9 train contexts, there are {CONTEXT['traits']['train_contexts']}"
ENTRIES = ["additive", "control_only", "global_mean", "ridge"]


def cell(here: Location, model: str, split: str = CONTEXT["key"], instance=None, tags=None):
    """Run one cell of the grid in this process."""
    definitions, partitions = here.module("definitions"), here.module("partitions")
    job = definitions.defs.resolve_job_def("benchmark")
    with instance or dg.DagsterInstance.ephemeral() as kept:
        return job.execute_in_process(
            instance=kept,
            partition_key=partitions.grid_key(model, split),
            run_config=here.module("jobs").quiet_logs("CRITICAL"),
            raise_on_error=False,
            tags=tags,
        )


def alone(here: Location, asset: str, key: str):
    """Materialise one asset for one key in this process."""
    module = here.module(f"assets.{asset}")
    with dg.DagsterInstance.ephemeral() as kept:
        return dg.materialize(
            [getattr(module, asset)],
            partition_key=key,
            instance=kept,
            resources={"store": here.module("resources").StoreResource()},
            run_config=here.module("jobs").quiet_logs("CRITICAL"),
            raise_on_error=False,
        )


def metadata(result, asset: str) -> dict[str, object]:
    """Return the metadata of an asset's one materialisation."""
    (made,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in made.metadata.items()}


def checks(result) -> dict[str, bool]:
    """Return {check: whether it passed}."""
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
