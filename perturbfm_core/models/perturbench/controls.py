"""Input control cells of a train view: the pools that match perturbed cells, and their spread in each context."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import ModelError
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.view import TrainView
from perturbfm_core.training.seeds import seed_sequence


def has_cells(view: TrainView) -> bool:
    """Return whether a view has single cells with controls, in units of expression."""
    ds = view.dataset
    return (
        ds is not None
        and view.fit_rows is not None
        and ds.metadata.level == "cell"
        and ds.has_controls
        and ds.expression is not None
        and bool((view.fit_rows & ds.controls.has_role("input")).any())
    )


def control_spread(view: TrainView, most: int, seed: int) -> dict[str, FloatArray]:
    """Return {context: float32 [<= most, G]}: input control cells less their mean, so that columns sum to zero.

    Parameters
    ----------
    view
        A view with cells.
    most
        Maximum number of control cells per context.
    seed
        Seed of the draw.
    """
    ds, allowed = cells_of(view)
    controls = allowed & ds.controls.has_role("input")
    context = ds.obs[schema.CONTEXT_ID].astype(str).to_numpy()
    out: dict[str, FloatArray] = {}
    for name in sorted(set(view.conditions[schema.CONTEXT_ID].astype(str))):
        rows = np.flatnonzero(controls & (context == name))
        if len(rows) > most:
            rng = np.random.default_rng(seed_sequence(seed, "controls", name))
            rows = np.sort(rng.choice(rows, size=most, replace=False))
        if len(rows):
            cells = view.expression(rows)
            out[name] = (cells - cells.mean(axis=0, dtype=np.float64)).astype(np.float32)
    return out


def cells_of(view: TrainView) -> tuple[PerturbDataset, BoolArray]:
    """Return the data set of a view, and bool [N], its rows that may be read to fit.

    Raises
    ------
    ModelError
        If the view has no cells.
    """
    if view.dataset is None or view.fit_rows is None:
        msg = "pairs of cells need a view with cells; this one has conditions only"
        raise ModelError(msg)
    return view.dataset, view.fit_rows


def pools_of(ds: PerturbDataset, rows: IntArray) -> IntArray:
    """Return the control pool of each row (see `ControlGroups.match`)."""
    groups = ds.controls
    return groups.match["input"][groups.group[rows]]


def members_of(ds: PerturbDataset, allowed: BoolArray, pool: int) -> IntArray:
    """Return the control cells of a pool that may be read: of the batch, else of the context, else any.

    Parameters
    ----------
    ds
        The data set.
    allowed
        bool [N], rows that may be read.
    pool
        Number of the pool (see `ControlGroups.match`).

    Raises
    ------
    ModelError
        If no control cell may be read.
    """
    groups = ds.controls
    mine = allowed & groups.has_role("input")
    context = groups.context_of_group[groups.group]
    of_batch = pool < groups.n_groups
    wanted = int(groups.context_of_group[pool]) if of_batch else pool - groups.n_groups
    for part in ((groups.group == pool) if of_batch else context == wanted, context == wanted):
        found = np.flatnonzero(mine & part)
        if len(found):
            return found
    found = np.flatnonzero(mine)
    if not len(found):
        msg = "no control cell of this view may be read; use data with control cells in the train contexts"
        raise ModelError(msg)
    return found
