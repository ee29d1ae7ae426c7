"""Condition table of a large data set in shards: exact sums of ranges of rows, merged to the table of all rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.exact_sums import ExactSums
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.data.npz import publish_npz, read_npz
from perturbfm_core.data.table import ConditionTable, table_of, used_rows
from perturbfm_core.data.table_sums import TableSums, joint_codes, moments_of_table, n_sums, table_sums
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import IntArray

_VERSION = 2


@dataclass(frozen=True, eq=False)
class TableShard:
    """Exact sums of a range of rows.

    Attributes
    ----------
    made_of
        What the sums follow from: content hash of the data, digest of the order of its rows, scale of its expression and
        how its controls are matched.
    start, stop
        The range.
    groups
        int64 [k], groups (conditions, then controls by role, context and batch) that occur in it.
    first, second
        {limb: int64 [k, G]} of the sums of values and of their squares (see `ExactSums`).
    """

    made_of: dict[str, Any]
    start: int
    stop: int
    groups: IntArray
    first: dict[int, IntArray]
    second: dict[int, IntArray]


def _made_of(ds: PerturbDataset) -> dict[str, Any]:
    m = ds.metadata
    return {
        "content": ds.content_sha256,
        # The content hash is the same for all orders of the rows, a range of them is not.
        "order of rows": rows_digest(ds.row_ids),
        "normalization": None if m.normalization is None else m.normalization.model_dump(mode="json"),
        "control policy": m.control_policy,
        "control seed": m.control_seed,
    }


def table_shard(ds: PerturbDataset, start: int, stop: int) -> TableShard:
    """Return the sums of a range of rows.

    Parameters
    ----------
    ds
        The data set.
    start, stop
        The rows from `start` to `stop`, which is not one of them.

    Raises
    ------
    DatasetError
        If the range is empty or exceeds the rows, or the data set states its controls row by row or has none.
    """
    if not 0 <= start < stop <= ds.n_obs:
        msg = f"rows {start}:{stop} are no range of the {ds.n_obs} rows of data set {ds.name!r}"
        raise DatasetError(msg)
    values = ds.streamed
    if not ds.has_controls and (
        values.x_control is not None or values.delta is None or values.expression is not None
    ):
        msg = f"data set {ds.name!r} has no control rows, and not differences alone; its table is made at once, without shards"
        raise DatasetError(msg)
    codes, n = ds.condition_codes, len(ds.conditions)
    joint = joint_codes(ds, codes, n)
    present = np.unique(joint[start:stop])
    present = present[present >= 0]
    # Only the groups that occur are summed.
    place = np.full(n_sums(ds, n), -1, dtype=np.int64)
    place[present] = np.arange(len(present))
    first, second = table_sums(ds, codes, n, slice(start, stop), place)
    limbs = [{j: limb.reshape(sums.shape) for j, limb in sums.limbs.items()} for sums in (first, second)]
    return TableShard(_made_of(ds), start, stop, present, *limbs)


def write_shard(path: Path, shard: TableShard) -> None:
    """Write a shard atomically, as npz."""
    head = {
        "version": _VERSION,
        "made_of": shard.made_of,
        "rows": [shard.start, shard.stop],
    }
    arrays: dict[str, Any] = {"head": np.asarray([json.dumps(head)], dtype=np.str_), "groups": shard.groups}
    for name in ("first", "second"):
        arrays |= {f"{name}{j:+d}": limb for j, limb in getattr(shard, name).items()}
    publish_npz(path, arrays)


def read_shard(path: Path) -> TableShard:
    """Read a shard.

    Raises
    ------
    DatasetError
        If the file is damaged, or holds none.
    """
    arrays = read_npz(path)
    try:
        head = json.loads(str(arrays["head"][0]))
        start, stop = (int(n) for n in head["rows"])
        if head["version"] != _VERSION:
            msg = f"version {head['version']}, this program reads {_VERSION}"
            raise ValueError(msg)
        limbs = [
            {int(k.removeprefix(name)): v for k, v in arrays.items() if k.startswith(name)}
            for name in ("first", "second")
        ]
        return TableShard(dict(head["made_of"]), start, stop, arrays["groups"], *limbs)
    except (KeyError, ValueError, TypeError, IndexError) as exc:
        msg = (
            f"{path} holds no shard of a condition table ({exc}); make it with `perturbfm data table --rows`"
        )
        raise DatasetError(msg) from exc


def merged_table(ds: PerturbDataset, paths: Sequence[Path]) -> ConditionTable:
    """Return the condition table of shards that together cover each row once; it equals `condition_table(ds)`.

    Shards are read one at a time; the matrix of the data set is not.

    Raises
    ------
    DatasetError
        If a shard is of other data, or rows are missing or occur twice.
    """
    n, mine = len(ds.conditions), _made_of(ds)
    width = n_sums(ds, n)
    sums = TableSums(ExactSums(width, ds.n_genes), ExactSums(width, ds.n_genes), n)
    ranges: list[tuple[int, int, Path]] = []
    for path in paths:
        shard = read_shard(path)
        _check_made_of(ds, mine, shard, path)
        ranges.append((shard.start, shard.stop, path))
        for into, limbs in ((sums.first, shard.first), (sums.second, shard.second)):
            _merge(into, limbs, shard.groups, path)
    _check_cover(sorted(ranges), ds.n_obs)
    moments, pools = moments_of_table(ds, ds.condition_codes, sums)
    return table_of(ds, used_rows(ds), moments, pools)


def _check_made_of(ds: PerturbDataset, mine: dict[str, Any], shard: TableShard, path: Path) -> None:
    """Check that a shard is of this import of the data: the same content, order of rows, scale and matching."""
    other = next((k for k, v in mine.items() if shard.made_of.get(k) != v), None)
    if other is None:
        return
    was, now = (v[:12] if isinstance(v, str) else v for v in (shard.made_of.get(other), mine[other]))
    msg = f"{path} is of another import: its {other} is {was}, that of data set {ds.name!r} is {now}; make the shard of this one"
    raise DatasetError(msg)


def _merge(into: ExactSums, limbs: dict[int, IntArray], groups: IntArray, path: Path) -> None:
    shape = len(groups), into.shape[1]
    fits = groups.ndim == 1 and groups.dtype == np.int64
    fits = (
        fits
        and bool(((groups >= 0) & (groups < into.shape[0])).all())
        and len(np.unique(groups)) == len(groups)
    )
    if not fits or any(limb.shape != shape or limb.dtype != np.int64 for limb in limbs.values()):
        msg = f"{path} does not fit the conditions and genes of the data set; make the shard again"
        raise DatasetError(msg)
    into.merge(limbs, groups)


def _check_cover(ranges: list[tuple[int, int, Path]], n_obs: int) -> None:
    """Check that sorted ranges cover each of `n_obs` rows once."""
    at = 0
    for start, stop, path in ranges:
        if start < at:
            msg = f"rows {start}:{min(at, stop)} are in two shards, one of them {path}; give each row once"
            raise DatasetError(msg)
        if start > at:
            break
        at = stop
    if at < n_obs:
        following = next((start for start, _, _ in ranges if start > at), n_obs)
        msg = f"rows {at}:{following} are in no shard; make it with `perturbfm data table DATA --rows {at}:{following} --out FILE`"
        raise DatasetError(msg)
