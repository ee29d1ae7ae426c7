"""Freezing splits: audited, with statistics, ceilings and floors beside them, all or none of a request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core import schema
from perturbfm_core.config import SplitSpec, content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.evaluation.ceilings import bounds_of
from perturbfm_core.library import Progress, quiet
from perturbfm_core.splits.audit import audit, require_clean
from perturbfm_core.splits.folder import SplitFolder, SplitStats, row_digests, traits_of
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, RowFolds
from perturbfm_core.splits.strata import strata_of
from perturbfm_core.store import ArtifactStore


def freeze_split(
    store: ArtifactStore,
    ds: PerturbDataset,
    spec: SplitSpec,
    *,
    bounds: bool = True,
    progress: Progress = quiet,
) -> list[tuple[FrozenSplit, SplitStats, bool]]:
    """Freeze the splits that `spec` describes, audited, with ceilings and floors beside them.

    Returns
    -------
    list
        (split, statistics, whether it is new). A split that exists keeps its hash and file.

    Raises
    ------
    SplitError
        If the audit blocks one of them; then none is written.
    """
    return save_splits(store, ds, freeze(ds, spec), bounds=bounds, progress=progress)


def save_splits(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen_all: Sequence[FrozenSplit],
    *,
    bounds: bool = True,
    progress: Progress = quiet,
) -> list[tuple[FrozenSplit, SplitStats, bool]]:
    """Write splits with what belongs beside them, if the audit blocks none (see `freeze_split`)."""
    folder = SplitFolder(store.split_dir)
    for frozen in frozen_all:
        require_clean(ds, frozen)
    out = []
    for i, frozen in enumerate(frozen_all):
        progress(f"split {i + 1} of {len(frozen_all)}: {frozen.split.key}")
        stats = split_stats(ds, frozen, bounds=bounds, progress=progress)
        old = folder.stats(frozen.hash)
        if old is not None and not bounds:
            stats = stats.model_copy(
                update={"ceiling": old.ceiling, "floor": old.floor, "no_signal": old.no_signal}
            )
        if old is not None:
            stats = stats.model_copy(update={"supersedes": old.supersedes})
        new = folder.save(frozen, stats)
        out.append((frozen, stats, new))
    return out


def split_stats(
    ds: PerturbDataset, frozen: FrozenSplit, *, bounds: bool = True, progress: Progress = quiet
) -> SplitStats:
    """Return what is stored beside a split (see `SplitStats`)."""
    codes = frozen.codes(ds)
    counts: dict[str, dict[str, int]] = {}
    for i, fold in enumerate(schema.FOLDS):
        rows = np.flatnonzero(codes == i)
        if len(rows):
            counts[fold] = {"conditions": len(np.unique(ds.condition_codes[rows])), "rows": len(rows)}
    unused = (
        frozen.split.folds.table.get("unused", ()) if isinstance(frozen.split.folds, ConditionFolds) else ()
    )
    stats = SplitStats(
        counts=counts,
        traits=traits_of(frozen, ds),
        row_digests=row_digests(frozen, ds),
        strata=strata_of(ds, frozen, expression=bounds),
        audit=tuple(f.to_json() for f in audit(ds, frozen)),
        dropped_perturbations=tuple(sorted({k.split("|")[1] for k in unused}))
        if "context" in frozen.split.ood_axes
        else (),
    )
    if bounds:
        ceiling, floor, no_signal = bounds_of(
            ds, frozen, progress=lambda done, n: progress(f"split-half ceiling, halving {done} of {n}")
        )
        stats = stats.model_copy(update={"ceiling": ceiling, "floor": floor, "no_signal": no_signal})
    return stats


def stats_with_bounds(store: ArtifactStore, ds: PerturbDataset, frozen: FrozenSplit) -> SplitStats:
    """Return a split's statistics, computing and storing ceilings and floors if they are not there yet."""
    folder = SplitFolder(store.split_dir)
    stats = folder.stats(frozen.hash)
    if stats is None or stats.ceiling is None:
        computed = split_stats(ds, frozen)
        stats = computed if stats is None else computed.model_copy(update={"supersedes": stats.supersedes})
        folder.save_stats(frozen.hash, stats)
    return stats


def migrate_split(
    store: ArtifactStore, old: FrozenSplit, ds: PerturbDataset
) -> tuple[FrozenSplit, SplitStats]:
    """Carry a split over to a new version of its data, if every condition keeps its fold.

    Raises
    ------
    SplitError
        If conditions (or, by row, row ids) differ, naming what differs.
    """
    split = old.split
    if split.dataset.content_sha256 == ds.content_sha256:
        msg = f"split {old.hash[:12]} already belongs to this data; there is nothing to migrate"
        raise SplitError(msg)
    ref = split.dataset.model_copy(
        update={"name": ds.name, "content_sha256": ds.content_sha256, "genes_sha256": ds.genes_sha256}
    )
    cv = split.cv
    if cv is not None:
        # Folds that are carried over meet in a group of their own: never pooled with those on the old data.
        cv = cv.model_copy(update={"group": content_hash([cv.group, ds.content_sha256])[:16]})
    new = FrozenSplit(split.model_copy(update={"dataset": ref, "cv": cv}), old.row_codes)
    if isinstance(split.folds, RowFolds):
        treated = ds.condition_codes >= 0
        codes = new.codes(ds)
        if not np.array_equal(codes >= 0, treated):
            msg = f"control rows of {ds.name!r} are not those split {old.hash[:12]} was frozen with; freeze a new one"
            raise SplitError(msg)
    require_clean(ds, new)
    stats = split_stats(ds, new).model_copy(update={"supersedes": old.hash})
    SplitFolder(store.split_dir).save(new, stats)
    return new, stats
