"""Stage `split`: splits frozen, audited and verified, with statistics, ceilings and floors beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.halves import halves_digest
from perturbfm_core.errors import SplitError
from perturbfm_core.evaluation.ceilings import PANEL, bounds_of
from perturbfm_core.evaluation.condition_bounds import ConditionBounds
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.evaluation.panel_bounds import headline_metrics, panel_bounds
from perturbfm_core.pipeline.condition_bounds import (
    CONDITIONS_FILE,
    condition_bounds_file,
    keep_condition_bounds,
    put_condition_bounds,
)
from perturbfm_core.pipeline.dataset import find_dataset, open_dataset
from perturbfm_core.pipeline.panel_scale import stored_scales
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.audit.core import audit, require_clean
from perturbfm_core.splits.earlier import freeze_beside
from perturbfm_core.splits.folder import SplitFolder, SplitStats, row_digests, traits_of
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, RowFolds
from perturbfm_core.splits.strata import strata_of
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.store.code import Code, code_of

BOUNDS_FILE = "bounds.json"


def freeze_split(
    store: ArtifactStore,
    ds: PerturbDataset,
    spec: SplitSpec,
    *,
    bounds: bool = True,
    tell: Progress = quiet,
) -> list[tuple[FrozenSplit, SplitStats, bool]]:
    """Freeze the splits that `spec` describes, audited, with ceilings and floors beside them.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    spec
        The request: kind, parameters, folds, policies.
    bounds
        Whether ceilings and floors are computed now, else at the first scoring.
    tell
        Called with a line of text about progress.

    Returns
    -------
    list
        (split, statistics, whether it is new). A split that exists keeps its hash and file.

    Raises
    ------
    SplitError
        If the audit blocks one of them; then none is written.
    """
    made = freeze_beside(SplitFolder(store.split_dir), ds, spec)
    return save_splits(store, ds, made, bounds=bounds, tell=tell)


def save_splits(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen_all: Sequence[FrozenSplit],
    *,
    bounds: bool = True,
    tell: Progress = quiet,
) -> list[tuple[FrozenSplit, SplitStats, bool]]:
    """Write splits with what belongs beside them, if the audit blocks none (see `freeze_split`).

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    frozen_all
        The splits.
    bounds
        Whether ceilings and floors are computed now, else at the first scoring.
    tell
        Called with a line of text about progress.
    """
    folder = SplitFolder(store.split_dir)
    for split in frozen_all:
        require_clean(ds, split)
    out = []
    for i, split in enumerate(frozen_all):
        tell(f"split {i + 1} of {len(frozen_all)}: {split.definition.key}")
        kept: list[ConditionBounds] = []
        stats = split_stats(ds, split, bounds=bounds, tell=tell, keep=kept.append)
        old = folder.stats(split.hash)
        if old is not None and not bounds and old.halves == stats.halves:
            stats = stats.model_copy(
                update={
                    "ceiling": old.ceiling,
                    "floor": old.floor,
                    "no_signal": old.no_signal,
                    # Those of the expression are computed with the bounds only.
                    "strata": {**old.strata, **stats.strata},
                }
            )
        if old is not None:
            stats = stats.model_copy(update={"supersedes": old.supersedes})
        new = folder.save(split, stats)
        for values in kept:
            put_condition_bounds(store, split, stats, values)
        out.append((split, stats, new))
    return out


def split_stats(
    ds: PerturbDataset,
    split: FrozenSplit,
    *,
    bounds: bool = True,
    tell: Progress = quiet,
    keep: Callable[[ConditionBounds], None] = lambda _values: None,
) -> SplitStats:
    """Return what is stored beside a split (see `SplitStats`).

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    bounds
        Whether ceilings and floors are computed.
    tell
        Called with a line of text about progress.
    keep
        Called with ceilings and floors by condition.
    """
    codes = split.codes(ds)
    counts: dict[str, dict[str, int]] = {}
    for i, fold in enumerate(schema.FOLDS):
        rows = np.flatnonzero(codes == i)
        if len(rows):
            counts[fold] = {"conditions": len(np.unique(ds.condition_codes[rows])), "rows": len(rows)}
    unused = (
        split.definition.folds.table.get("unused", ())
        if isinstance(split.definition.folds, ConditionFolds)
        else ()
    )
    stats = SplitStats(
        counts=counts,
        traits=traits_of(split, ds),
        row_digests=row_digests(split, ds),
        strata=strata_of(ds, split, expression=bounds),
        audit=tuple(f.to_json() for f in audit(ds, split)),
        halves=halves_digest(ds),
        dropped_perturbations=tuple(sorted({k.split("|")[1] for k in unused}))
        if "context" in split.definition.ood_axes
        else (),
    )
    if bounds:
        ceiling, floor, no_signal = bounds_of(
            ds,
            split,
            progress=lambda done, n: tell(f"split-half ceiling, halving {done} of {n}"),
            keep=keep,
        )
        stats = stats.model_copy(update={"ceiling": ceiling, "floor": floor, "no_signal": no_signal})
    return stats


def stats_with_bounds(store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit) -> SplitStats:
    """Return a split's statistics, computing and storing ceilings and floors if they are not there yet.

    Those of other halves than lie beside the data are computed anew.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    split
        The split.
    """
    folder = SplitFolder(store.split_dir)
    stats = folder.stats(split.hash)
    if stats is None or stats.ceiling is None or stats.halves != halves_digest(ds):
        kept: list[ConditionBounds] = []
        computed = split_stats(ds, split, keep=kept.append)
        stats = computed if stats is None else computed.model_copy(update={"supersedes": stats.supersedes})
        folder.save_stats(split.hash, stats)
        put_condition_bounds(store, split, stats, kept[0])
    found = stats
    if _lacking(found):
        # A metric that was added after the split was frozen: the frozen file stays, its bounds are kept as an object.
        def fill(target: Path) -> None:
            ceiling, floor, _ = bounds_of(ds, split, keep=partial(put_condition_bounds, store, split, found))
            write_json(target / BOUNDS_FILE, {"ceiling": ceiling, "floor": floor})

        key = _bounds_key(split, stats)
        store.put_object(key, fill)
        stats = _with_bounds(stats, read_json(store.object(key) / BOUNDS_FILE))

    keep_condition_bounds(store, ds, split, stats)

    # Those of other panels depend on their code, and are no part of what is frozen.
    def fill_panels(target: Path) -> None:
        scales = partial(stored_scales, store, ds, split, PANELS)
        bounds = panel_bounds(
            ds,
            split,
            scales=lambda c: scales(lambda: c),
            keep=lambda values: values.write(target / CONDITIONS_FILE),
        )
        write_json(target / BOUNDS_FILE, bounds)

    key = _panel_bounds_key(split, stats)
    store.put_object(key, fill_panels)
    return _with_bounds(stats, read_json(store.object(key) / BOUNDS_FILE))


def stored_stats(store: ArtifactStore, split: FrozenSplit) -> SplitStats | None:
    """Return a split's statistics as far as they were computed before, None if nothing is stored."""
    stats = SplitFolder(store.split_dir).stats(split.hash)
    if stats is None or stats.ceiling is None:
        return stats
    keys = [_bounds_key(split, stats)] if _lacking(stats) else []
    for key in [*keys, _panel_bounds_key(split, stats)]:
        found = store.find(key)
        if found is not None:
            stats = _with_bounds(stats, read_json(found.path / BOUNDS_FILE))
    return stats


def stored_condition_bounds(store: ArtifactStore, split: FrozenSplit) -> tuple[Path, ...]:
    """Return the files of ceilings and floors by condition that there are of a fold of a cross-validation."""
    stats = None if split.definition.cv is None else SplitFolder(store.split_dir).stats(split.hash)
    if stats is None:
        return ()
    panels = store.object(_panel_bounds_key(split, stats)) / CONDITIONS_FILE
    return tuple(f for f in (condition_bounds_file(store, split, stats), panels) if f.is_file())


def _lacking(stats: SplitStats) -> list[str]:
    """Return the metrics that have neither ceiling nor floor beside a split."""
    known = set(stats.ceiling or {}) | set((stats.floor or {}).get("train_mean") or {})
    return [metric.name for metric in PANELS.get(PANEL).metrics if metric.name not in known]


def _bounds_key(split: FrozenSplit, stats: SplitStats) -> str:
    code = code_of("perturbfm_core.evaluation.ceilings", *PANELS.get(PANEL).modules)
    return _key("bounds", split, stats, code)


def _panel_bounds_key(split: FrozenSplit, stats: SplitStats) -> str:
    modules = sorted({m for metric in headline_metrics() for m in PANELS.get(metric.panel).modules})
    code = code_of("perturbfm_core.evaluation.panel_bounds", *modules)
    return _key("panel_bounds", split, stats, code)


def _key(stage: str, split: FrozenSplit, stats: SplitStats, code: Code) -> str:
    """Return the key of bounds: given halves are no part of the data's content, and so of no split's hash."""
    given = {"halves": stats.halves} if stats.halves else {}
    return content_hash({"stage": stage, "split": split.hash, "code": code.digest, **given})


def _with_bounds(stats: SplitStats, bounds: dict[str, Any]) -> SplitStats:
    """Return statistics with the bounds of metrics that they lack; those that they have are kept."""
    ceiling = {**bounds["ceiling"], **(stats.ceiling or {})}
    own = stats.floor or {}
    floor = {
        kind: {**bounds["floor"].get(kind, {}), **own.get(kind, {})} for kind in {**own, **bounds["floor"]}
    }
    return stats.model_copy(update={"ceiling": ceiling, "floor": floor})


def migrate_split(
    store: ArtifactStore, old: FrozenSplit, ds: PerturbDataset
) -> tuple[FrozenSplit, SplitStats]:
    """Carry a split over to a new version of its data, if every condition keeps its fold.

    By row, the rows must have the conditions that they had, and, if batches are held out, their batches. Where the old
    data are not at hand, the conditions and rows of each fold are compared with what was recorded of them.

    Parameters
    ----------
    store
        Where artifacts lie.
    old
        The split to carry over.
    ds
        The new version of its data.

    Raises
    ------
    SplitError
        If conditions (or, by row, row ids or what the rows are) differ, naming what differs.
    """
    split = old.definition
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
        _check_rows(store, old, new, ds)
    require_clean(ds, new)
    kept: list[ConditionBounds] = []
    stats = split_stats(ds, new, keep=kept.append).model_copy(update={"supersedes": old.hash})
    SplitFolder(store.split_dir).save(new, stats)
    put_condition_bounds(store, new, stats, kept[0])
    return new, stats


def _check_rows(store: ArtifactStore, old: FrozenSplit, new: FrozenSplit, ds: PerturbDataset) -> None:
    """Refuse to carry a split by row over to rows of other conditions or, if batches are held out, of other batches.

    Parameters
    ----------
    store
        Where artifacts lie.
    old, new
        The split on its data, and with the same folds on the new version.
    ds
        The new version of its data.

    Raises
    ------
    SplitError
        If rows, or where the old data are not at hand, numbers or test conditions of the folds, differ.
    """
    at = find_dataset(store, old)
    if at is not None:
        before = open_dataset(at)
        for what in ("condition", "batch") if "batch" in old.definition.ood_axes else ("condition",):
            was, now = _labels(before, what), _labels(ds, what)
            differ = np.flatnonzero(was != now)
            if len(differ):
                first = int(differ[0])
                msg = (
                    f"{len(differ)} rows of {ds.name!r} have another {what} than when split {old.hash[:12]} was frozen, e.g. row "
                    f"{str(ds.row_ids[first])!r}: {now[first]!r}, then {was[first]!r}; freeze a new one"
                )
                raise SplitError(msg)
        return
    recorded, found = SplitFolder(store.split_dir).stats(old.hash), split_stats(ds, new, bounds=False)
    batches = set(_labels(ds, "batch")[new.rows(ds, "test")])
    held = set(map(str, old.definition.params.get("holdout", ())))
    other = {
        "conditions and rows": recorded is not None and recorded.counts != found.counts,
        "test conditions": recorded is not None
        and any(recorded.strata.get(s, {}) != found.strata.get(s, {}) for s in ("seen", "cells")),
        "batches": "batch" in old.definition.ood_axes and bool(held) and batches != held,
    }
    for what, is_other in other.items():
        if is_other:
            msg = (
                f"the {what} of the folds on {ds.name!r} are not those split {old.hash[:12]} was frozen with, although the "
                "rows have the same names; freeze a new one"
            )
            raise SplitError(msg)


def _labels(ds: PerturbDataset, what: str) -> Any:
    """Return object [N], the condition or the batch of every row."""
    if what == "batch":
        return ds.obs[schema.BATCH_ID].astype(str).to_numpy(dtype=object)
    keys = np.asarray([*map(str, ds.conditions.index), schema.CONTROL], dtype=object)
    return keys[ds.condition_codes]
