"""Exact sums behind a condition table: of conditions and of control groups, for all rows or a range of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.control_pools import pool_moments
from perturbfm_core.data.controls import INPUT, REFERENCE, ROLES, SHARED, Role
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.exact_sums import ExactSums
from perturbfm_core.data.matrix import Matrix, is_stored
from perturbfm_core.data.pseudobulk import GroupMoments, exact_sums, group_weights, moments_of_sums
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import FloatArray, IntArray

# Most sums that are made at once beside each other, of which each has two or three integers.
MOST_SUMS = 1 << 25


@dataclass(frozen=True, eq=False)
class TableSums:
    """Exact sums of rows, by condition and then by control role and (context, batch) group.

    Attributes
    ----------
    first, second
        Sums of the values and of their squares.
    n_conditions
        How many of the groups are conditions.
    """

    first: ExactSums
    second: ExactSums
    n_conditions: int


def n_sums(ds: PerturbDataset, n_conditions: int) -> int:
    """Return the number of groups of a table with so many conditions: the control groups count three times."""
    return n_conditions + (3 * ds.controls.n_groups if ds.has_controls else 0)


def joint_codes(ds: PerturbDataset, codes: IntArray, n_conditions: int) -> IntArray:
    """Return int64 [N]: the condition of perturbed rows, beyond them role and group of control rows, -1 for others.

    Parameters
    ----------
    ds
        The data set.
    codes
        int64 [N], condition of each row, -1 to leave it out.
    n_conditions
        Number of conditions.
    """
    if not ds.has_controls:
        return codes
    groups = ds.controls
    roles = groups.roles.astype(np.int64)
    return np.where(roles >= 0, n_conditions + roles * groups.n_groups + groups.group, codes)


def table_sums(
    ds: PerturbDataset,
    codes: IntArray,
    n_conditions: int,
    rows: slice = slice(None),
    place: IntArray | None = None,
) -> tuple[ExactSums, ExactSums]:
    """Return the sums of the values of a range of rows and of their squares, from one pass over them.

    Parameters
    ----------
    ds
        The data set.
    codes, n_conditions
        As in `joint_codes`.
    rows
        The range.
    place
        int64 [groups], place of each group in the sums (default: all groups in order).

    Raises
    ------
    DatasetError
        If the data set states its controls row by row.
    """
    if ds.metadata.control_policy == "file":
        msg = f"data set {ds.name!r} states the control of each row itself; its table is made at once, without shards"
        raise DatasetError(msg)
    X: Matrix = ds.streamed_expression if ds.has_controls else ds.streamed.delta
    joint = joint_codes(ds, codes, n_conditions)
    weights = ds.obs[schema.WEIGHT].to_numpy() if schema.WEIGHT in ds.obs else None
    start, stop, _ = rows.indices(ds.n_obs)
    if (start, stop) != (0, ds.n_obs):
        X = X.take(np.arange(start, stop)) if is_stored(X) else X[start:stop]
        joint, weights = joint[start:stop], None if weights is None else weights[start:stop]
    n = n_sums(ds, n_conditions)
    if place is not None:
        joint = np.where(joint >= 0, place[joint], -1)
        n = int(place.max(initial=-1)) + 1
    first, second = exact_sums(X, joint, n, weights)
    return first, second


def moments_of_table(
    ds: PerturbDataset, codes: IntArray, sums: TableSums
) -> tuple[GroupMoments, dict[Role, GroupMoments]]:
    """Return (moments of each condition, {role: moments of the control pools}) of sums over all rows.

    Parameters
    ----------
    ds
        The data set; its matrix is not read.
    codes
        int64 [N], condition of each row, -1 to leave it out.
    sums
        The sums.
    """
    n_groups = n_sums(ds, sums.n_conditions)
    joint = joint_codes(ds, codes, sums.n_conditions)
    weights = ds.obs[schema.WEIGHT].to_numpy() if schema.WEIGHT in ds.obs else None
    n = np.bincount(joint[joint >= 0], minlength=n_groups)
    w = group_weights(joint, n_groups, weights)
    C = sums.n_conditions
    cells = moments_of_sums(n[:C], w[:C], sums.first, sums.second)
    pools: dict[Role, GroupMoments] = {}
    if ds.has_controls:
        k = ds.controls.n_groups
        for role in ROLES:
            # Controls of a group are shared or have roles: one of the two sums is zero.
            parts = [
                slice(C + r * k, C + (r + 1) * k) for r in (SHARED, INPUT if role == "input" else REFERENCE)
            ]

            def both(of: ExactSums, parts: list[slice] = parts) -> FloatArray:
                return of.total(parts[0]) + of.total(parts[1])

            pools[role] = pool_moments(
                ds.controls,
                n[parts[0]] + n[parts[1]],
                w[parts[0]] + w[parts[1]],
                both(sums.first),
                both(sums.second),
            )
    return cells, pools
