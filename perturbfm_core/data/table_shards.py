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
from perturbfm_core.data.npz import publish_npz, read_npz
from perturbfm_core.data.table import ConditionTable, table_of, used_rows
from perturbfm_core.data.table_sums import TableSums, joint_codes, moments_of_table, n_sums, table_sums
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import IntArray

_VERSION = 1


@dataclass(frozen=True, eq=False)
class TableShard:
    """Exact sums of a range of rows.

    Attributes
    ----------
    content_sha256
        Content hash of the data.
    start, stop
        The range.
    groups
        int64 [k], groups (conditions, then controls by role, context and batch) that occur in it.
    first, second
        {limb: int64 [k, G]} of the sums of values and of their squares (see `ExactSums`).
    """

    content_sha256: str
    start: int
    stop: int
    groups: IntArray
    first: dict[int, IntArray]
    second: dict[int, IntArray]


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
        If the range is empty or exceeds the rows, or the data set states its controls row by row.
    """
    if not 0 <= start < stop <= ds.n_obs:
        msg = f"rows {start}:{stop} are no range of the {ds.n_obs} rows of data set {ds.name!r}"
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
    return TableShard(ds.content_sha256, start, stop, present, *limbs)


def write_shard(path: Path, shard: TableShard) -> None:
    """Write a shard atomically, as npz."""
    head = {
        "version": _VERSION,
        "content_sha256": shard.content_sha256,
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
        return TableShard(str(head["content_sha256"]), start, stop, arrays["groups"], *limbs)
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
    n = len(ds.conditions)
    width = n_sums(ds, n)
    sums = TableSums(ExactSums(width, ds.n_genes), ExactSums(width, ds.n_genes), n)
    ranges: list[tuple[int, int, Path]] = []
    for path in paths:
        shard = read_shard(path)
        if shard.content_sha256 != ds.content_sha256:
            msg = f"{path} is of data {shard.content_sha256[:12]}, not of data set {ds.name!r} ({ds.content_sha256[:12]})"
            raise DatasetError(msg)
        ranges.append((shard.start, shard.stop, path))
        for into, limbs in ((sums.first, shard.first), (sums.second, shard.second)):
            _merge(into, limbs, shard.groups, path)
    _check_cover(sorted(ranges), ds.n_obs)
    moments, pools = moments_of_table(ds, ds.condition_codes, sums)
    return table_of(ds, used_rows(ds), moments, pools)


def _merge(into: ExactSums, limbs: dict[int, IntArray], groups: IntArray, path: Path) -> None:
    shape = len(groups), into.shape[1]
    fits = groups.ndim == 1 and groups.dtype == np.int64 and (groups < into.shape[0]).all()
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
