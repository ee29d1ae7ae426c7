"""What the four assets of a grid cell share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from perturbfm_assets.partitions import CATALOG, SPLITS, cell_of
from perturbfm_assets.resources import StoreResource
from perturbfm_core import pipeline
from perturbfm_core.config import ModelEntry
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store import ArtifactStore


@dataclass(frozen=True)
class Cell:
    """One (split, entry) with its artifacts at hand."""

    store: ArtifactStore
    split: FrozenSplit
    dataset: PerturbDataset
    entry: ModelEntry

    @property
    def configs(self) -> list[pipeline.RunConfig]:
        """Return one configuration per seed."""
        return pipeline.run_configs(self.entry)


def each_seed(
    context: dg.AssetExecutionContext,
    resource: StoreResource,
    stage: Callable[..., Any],
    describe: Callable[[Cell, list[Any]], dict[str, Any]],
    checks: Callable[[Cell, list[Any]], list[dg.AssetCheckResult]] = lambda _cell, _results: [],
    check_names: tuple[str, ...] = (),
) -> dg.MaterializeResult:
    """Run one pipeline stage for every seed of the partition's cell.

    A cell that cannot exist materialises with status ``not_applicable`` and its reason.
    """
    model, split_key = cell_of(context.partition_key)
    entry, index = CATALOG.model(model), SPLITS[split_key]
    reason = pipeline.why_not(index.traits, entry)
    if reason is not None:
        skipped = [
            dg.AssetCheckResult(passed=True, check_name=n, metadata={"not_applicable": reason})
            for n in check_names
        ]
        metadata = {"status": "not_applicable", "reason": reason}
        return dg.MaterializeResult(metadata=metadata, check_results=skipped)
    store = resource.open()
    frozen = SplitFolder(store.split_dir).load(index.hash)
    cell = Cell(store, frozen, pipeline.dataset_of(store, frozen), entry)
    results = [
        stage(store, frozen=frozen, ds=cell.dataset, config=c, progress=context.log.info)
        for c in cell.configs
    ]
    metadata = {"status": "ok", "split_hash": frozen.hash, "seeds": len(results), **describe(cell, results)}
    version = "-".join(getattr(r, "key", str(r))[-16:] for r in results)
    return dg.MaterializeResult(
        metadata=metadata, check_results=checks(cell, results), data_version=dg.DataVersion(version)
    )
