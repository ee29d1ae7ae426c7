"""Shared part of the four assets of an experiment: opened once per run, all seeds, skipped where not applicable."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import dagster as dg

from perturbfm_assets.launcher import mark_host
from perturbfm_assets.partitions import CATALOG, SPLITS, names_of
from perturbfm_assets.readable import conditions_of, described_split
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog, partition_of
from perturbfm_core.errors import NotApplicableError
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.opening import open_experiments, why_not
from perturbfm_core.progress import Progress, quiet, worker_session

# What one stage made of an experiment, and how it is described or checked.
Stage = Callable[[Experiment], Any]
Describe = Callable[[list[Experiment], list[Any]], dict[str, Any]]
Checks = Callable[[list[Experiment], list[Any]], list[dg.AssetCheckResult]]


class _Relay:
    """Passes progress on to the log of the asset that runs now."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.listener: Progress = quiet

    def __call__(self, text: str) -> None:
        self.listener(text)

    def worker_session(self) -> AbstractContextManager[Mapping[str, str]]:
        """Return what the worker of an external model runs within."""
        return worker_session(self.listener)


@lru_cache(maxsize=1)
def _relay(run_id: str) -> _Relay:
    """Return what the experiments of a run report to."""
    return _Relay(run_id)


@lru_cache(maxsize=1)
def _opened(run_id: str, home: str, split_dir: str, model: str, split_key: str) -> list[Experiment]:
    """Open a partition's experiments; the assets of one run share them."""
    log = _relay(run_id)
    store = StoreResource(home=home, split_dir=split_dir).open(log)
    return open_experiments(store, SPLITS[split_key].hash, CATALOG.model(model), tell=log)


def _no_checks(_experiments: list[Experiment], _results: list[Any]) -> list[dg.AssetCheckResult]:
    return []


def _not_applicable(
    model: str, split_key: str, reason: str, check_names: tuple[str, ...]
) -> dg.MaterializeResult:
    """Return the result of an entry that cannot run on a split: no artifact, and checks that pass with the reason."""
    skipped = [
        dg.AssetCheckResult(passed=True, check_name=n, metadata={"not_applicable": reason})
        for n in check_names
    ]
    metadata = {"status": "not_applicable", "reason": reason, "entry": model, **described_split(split_key)}
    return dg.MaterializeResult(metadata=metadata, check_results=skipped)


def each_seed(
    context: dg.AssetExecutionContext,
    resource: StoreResource,
    stage: Stage,
    describe: Describe,
    checks: Checks = _no_checks,
    check_names: tuple[str, ...] = (),
    version: Callable[[Any], str] = lambda made: str(made.key),
) -> dg.MaterializeResult:
    """Run one pipeline stage for every seed of the partition's entry.

    An entry that cannot run on the split materialises with status ``not_applicable`` and its reason.

    Parameters
    ----------
    context, resource
        Of the asset.
    stage
        Makes the stage's artifact of one experiment.
    describe, checks
        Metadata and check results of the experiments with what the stage made of each.
    check_names
        Names of the checks, which pass where the entry is not applicable.
    version
        Identity of an artifact's content, for the asset's data version.
    """
    # Once its process is gone it would be on the way for ever, and neither asked for again nor ranked.
    mark_host(context.instance, context.run)
    model, split_key = names_of(partition_of(context))
    reason = why_not(SPLITS[split_key].traits, CATALOG.model(model), conditions_of(split_key))
    if reason is not None:
        return _not_applicable(model, split_key, reason, check_names)
    # Before they are opened: what that builds may wait for the slot of another run.
    _relay(context.run.run_id).listener = RunLog(context)
    try:
        experiments = _opened(context.run.run_id, resource.home, resource.split_dir, model, split_key)
    except NotApplicableError as error:
        # What only the data say: their genes, and the conditions of a split that lists rows.
        return _not_applicable(model, split_key, error.reason, check_names)
    results = [stage(e) for e in experiments]
    named: dict[str, Any] = {
        "entry": model,
        **described_split(split_key),
        "split_hash": experiments[0].split.hash,
        "seeds": len(results),
        # Where there are several, what is shown of one is shown of the first.
        **({"shown_seed": experiments[0].config.seed} if len(results) > 1 else {}),
    }
    return dg.MaterializeResult(
        metadata={"status": "ok", **describe(experiments, results), **named},
        check_results=checks(experiments, results),
        data_version=dg.DataVersion("-".join(version(r)[:16] for r in results)),
    )
