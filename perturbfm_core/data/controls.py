"""Control cells: their roles (`input` or `reference`) and the pool that matches each perturbed row.

Models read the `input` controls; the observed deltas that are scored are differences to the `reference`
controls. The two sets are disjoint, because sampling noise of shared controls would correlate prediction and
truth. In a context with fewer than 50 controls per role, both roles use all of its controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.hashing import row_rank_hash
from perturbfm_core.schema import BoolArray, IntArray

Role = Literal["input", "reference"]
ROLES: tuple[Role, ...] = ("input", "reference")
MIN_PER_ROLE = 50

NOT_CONTROL, SHARED, INPUT, REFERENCE = -1, 0, 1, 2


@dataclass(frozen=True, eq=False)
class ControlGroups:
    """Control cells in groups of equal context and batch.

    Attributes
    ----------
    roles
        int8 [N]: -1 not a control, 0 shared by both roles, 1 input, 2 reference.
    group
        int64 [N]: index of the row's (context, batch) group, for all rows.
    match
        {role: int64 [n_groups]}: control pool of each group. A value below n_groups is the group's own
        controls, n_groups + c are all controls of context c (where the group has none of its own).
    context_of_group
        int64 [n_groups]: context index of each group.
    contexts
        Context names in order of their index.
    shared
        bool [n_contexts]: whether both roles use the same controls.
    """

    roles: IntArray
    group: IntArray
    match: dict[str, IntArray]
    context_of_group: IntArray
    contexts: list[str]
    shared: BoolArray

    @property
    def n_groups(self) -> int:
        """Return the number of (context, batch) groups."""
        return len(self.context_of_group)

    def has_role(self, role: Role) -> BoolArray:
        """Return bool [N]: rows that are control cells of `role`."""
        return np.asarray((self.roles == SHARED) | (self.roles == (INPUT if role == "input" else REFERENCE)))

    def fallback_rows(self, role: Role, treated: BoolArray) -> int:
        """Return how many of the `treated` rows (bool [N]) have no controls of their own batch."""
        return int(np.count_nonzero(self.match[role][self.group[treated]] >= self.n_groups))


def control_groups(obs: pd.DataFrame, seed: int) -> ControlGroups:
    """Assign roles and pools to the control cells of a row table.

    Within a context the controls are ordered by batch, then by a seeded hash of the row id, and are assigned
    to the two roles alternately: half to each in every batch, independent of the order of rows.
    """
    context = obs[schema.CONTEXT_ID].cat
    batch = obs[schema.BATCH_ID].cat
    contexts = [str(c) for c in context.categories]
    ctx = context.codes.to_numpy().astype(np.int64)
    joint = ctx * max(len(batch.categories), 1) + batch.codes.to_numpy().astype(np.int64)
    # Groups are numbered by sorted (context, batch), so that the numbers do not depend on the order of rows.
    values, group = np.unique(joint, return_inverse=True)
    context_of_group = values // max(len(batch.categories), 1)
    control = obs[schema.IS_CONTROL].to_numpy()
    roles = np.full(len(obs), NOT_CONTROL, dtype=np.int8)
    rows = np.flatnonzero(control)
    shared = np.ones(len(contexts), dtype=np.bool_)
    if len(rows):
        batch_names = obs[schema.BATCH_ID].astype(str).to_numpy()[rows]
        # lexsort sorts by its last key first: context, then batch, then hash.
        order = np.lexsort((row_rank_hash(obs.index.to_numpy()[rows], seed), batch_names, ctx[rows]))
        rows = rows[order]
        counts = np.bincount(ctx[rows], minlength=len(contexts))
        # Rank of each control within its context: its index less the index where the context starts.
        position = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        shared = counts < 2 * MIN_PER_ROLE
        roles[rows] = np.where(shared[ctx[rows]], SHARED, np.where(position % 2 == 0, INPUT, REFERENCE))
    n_groups = len(values)
    match: dict[str, IntArray] = {}
    for name, code in (("input", INPUT), ("reference", REFERENCE)):
        mine = (roles == code) | (roles == SHARED)
        # A batch without a control of this role falls back to all controls of its context.
        own = np.bincount(group[mine], minlength=n_groups) > 0
        match[name] = np.where(own, np.arange(n_groups), n_groups + context_of_group)
    return ControlGroups(roles, group, match, context_of_group, contexts, shared)
