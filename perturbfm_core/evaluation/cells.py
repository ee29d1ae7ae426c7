"""Observed, control and predicted cells of the test conditions, for metrics that need more than means.

A model that predicts means gets cells from a declared generator, which is recorded with the scores; a prediction that
has cells is scored on them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.data.controls import INPUT, SHARED
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import row_rank_hash
from perturbfm_core.data.kept_rows import KeptRows, kept_rows
from perturbfm_core.data.prediction import PredictedCells
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.control_profile import ControlProfile
from perturbfm_core.evaluation.count_generators import COUNTS_VERSION, draw_counts
from perturbfm_core.schema import DEFAULT_GENERATOR, CountGenerator, FloatArray, IntArray, StrArray


class Generator(Frozen):
    """How point predictions become cells.

    ``control_shift``: input control cells of the condition's context, as many as the condition has true cells
    (drawn by `seed`, with replacement only where there are too few), plus the predicted delta, clipped at 0.
    With `residual_noise` a Gaussian of the model's predictive variance is added before clipping. `counts` names how the
    same control cells become counts (see `count_generators`), `counts_version` the rules of that.
    """

    name: str = "control_shift"
    residual_noise: bool = False
    seed: int = 0
    counts: CountGenerator = DEFAULT_GENERATOR
    counts_version: str = COUNTS_VERSION


@dataclass(frozen=True, eq=False)
class Cells:
    """True, control and generated cells of the conditions of a comparison.

    Attributes
    ----------
    X
        log1p expression of the data set, CSR or dense [N, G]; of a large one, of the rows that are read here.
    truth_rows
        Row positions of the test cells of each condition [C].
    control_rows
        {context: row positions of *all* its control cells}, which other benchmarks subtract and test against.
    input_rows
        {context: row positions of its input controls}, which models see and the generator shifts.
    contexts
        Context of each condition [C].
    delta, var
        Predicted delta and variance [C, G].
    generator
        How predicted cells are made.
    keys
        Condition keys [C] that seed the generator of each condition; without them its position does.
    own
        log1p expression of the prediction's own cells, CSR or dense [n, G]; None if it has none.
    own_rows
        Rows in `own` of each condition [C]; where there are none, its cells are generated.
    counts
        Counts of the same rows, CSR [N, G]; None if the data set keeps none.
    own_counts
        Counts of the cells in `own`, CSR [n, G]; None if the prediction has none.
    target_sum
        Depth to which log1p expression is scaled.
    gene_order
        Columns in the order of gene names, in which counts are drawn [G]; None: as they are.
    row_ids
        Row ids of the same rows [N], by a hash of which cells are put in order where they are drawn; None: as they are.
    kept
        Which rows of the data set these are; None: all.
    reads
        How often predicted cells were asked for: tells which panels use them.
    """

    X: Any
    truth_rows: list[IntArray]
    control_rows: dict[str, IntArray]
    input_rows: dict[str, IntArray]
    contexts: list[str]
    delta: FloatArray
    var: FloatArray
    generator: Generator
    keys: tuple[str, ...] = ()
    own: Any = None
    own_rows: list[IntArray | None] | None = None
    counts: Any = None
    own_counts: Any = None
    target_sum: float = 1e4
    gene_order: IntArray | None = None
    row_ids: StrArray | None = None
    kept: KeptRows | None = None
    reads: Counter[str] = field(default_factory=Counter, repr=False)

    def _rng(self, i: int, stream: int) -> np.random.Generator:
        """Return the random generator of one condition, the same in any order of the conditions."""
        own = i
        if self.keys:
            own = int.from_bytes(hashlib.blake2b(self.keys[i].encode(), digest_size=8).digest(), "little")
        return np.random.default_rng([self.generator.seed, own, stream])

    def __len__(self) -> int:
        return len(self.truth_rows)

    def position(self, rows: IntArray) -> IntArray:
        """Return the positions in `X` of rows of the data set."""
        return rows if self.kept is None else self.kept.position(rows)

    def dense(self, rows: IntArray) -> FloatArray:
        """Return float32 [n, G], the expression of some rows."""
        part = self.X[rows]
        return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float32)

    def ordered(self, rows: IntArray) -> IntArray:
        """Return rows in an order that does not depend on their positions."""
        if self.row_ids is None:
            return rows
        return np.asarray(rows[np.argsort(row_rank_hash(self.row_ids[rows], 0), kind="stable")])

    def truth(self, i: int) -> FloatArray:
        """Return float32 [n, G], the true cells of condition `i`."""
        return self.dense(self.truth_rows[i])

    def control(self, context: str) -> FloatArray:
        """Return float32 [n, G], all control cells of a context."""
        return self.dense(self.control_rows[context])

    @cached_property
    def template_rows(self) -> list[IntArray]:
        """Return the control rows that the generator shifts, for each condition."""
        out = []
        for i, rows in enumerate(self.truth_rows):
            rng = self._rng(i, 0)
            pool = self.input_rows[self.contexts[i]]
            out.append(rng.choice(pool, size=len(rows), replace=len(rows) > len(pool)))
        return out

    def _own_rows(self, i: int) -> IntArray | None:
        return None if self.own is None or self.own_rows is None else self.own_rows[i]

    def n_predicted(self, i: int) -> int:
        """Return the number of predicted cells of condition `i`."""
        own = self._own_rows(i)
        return len(self.truth_rows[i] if own is None else own)

    @property
    def n_own(self) -> int:
        """Return the number of conditions whose cells are the prediction's own."""
        return sum(self._own_rows(i) is not None for i in range(len(self)))

    def predicted(self, i: int) -> FloatArray:
        """Return float32 [n, G], the prediction's own cells of condition `i`, else generated ones."""
        self.reads["predicted"] += 1
        own = self._own_rows(i)
        if own is not None:
            part = self.own[own]
            return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float32)
        # A copy, since rows are chosen by their positions.
        cells = self.dense(self.template_rows[i])
        cells += self.delta[i].astype(np.float32)
        if self.generator.residual_noise:
            rng = self._rng(i, 1)
            cells += rng.standard_normal(cells.shape, dtype=np.float32) * np.sqrt(self.var[i]).astype(
                np.float32
            )
        np.maximum(cells, 0.0, out=cells)
        return cells

    # ---- counts ------------------------------------------------------------------------------------------

    def has_own_counts(self, i: int) -> bool:
        """Return whether the prediction has counts of condition `i` itself."""
        return self.own_counts is not None and self._own_rows(i) is not None

    def predicted_counts(self, i: int) -> Any:
        """Return CSR [n, G], the prediction's own counts of condition `i`, else generated ones.

        Own cells that come without counts are no counts: these are generated from their mean.

        Raises
        ------
        MetricError
            If the data set keeps no counts.
        """
        if self.own is None or self.own_counts is not None:
            self.reads["counts"] += 1
        if self.has_own_counts(i):
            return self.own_counts[self._own_rows(i)]
        if self.counts is None:
            msg = "the data set keeps no counts, so that none can be generated; import it with --space counts"
            raise MetricError(msg)
        profile, place = self._control_profiles[self.contexts[i]]
        source = profile.counts[place[self.template_rows[i]]]
        order = self.gene_order
        delta = self.delta[i].astype(np.float64)
        delta = delta if order is None else delta[order]
        drawn = draw_counts(self.generator.counts, source, profile, delta, self._rng(i, 2))
        if order is not None:
            drawn = sp.csr_array((drawn.data, order[drawn.indices], drawn.indptr), shape=drawn.shape)
        return drawn

    @cached_property
    def _control_profiles(self) -> dict[str, tuple[ControlProfile, IntArray]]:
        """Return what count generators know of each context's input controls, and the place there of each row [N].

        Genes are in the order of their names, so that what is drawn does not depend on their order in the data.
        """
        out = {}
        for context, rows in self.input_rows.items():
            counts, log_mean = self.counts[rows], np.zeros(self.counts.shape[1])
            if len(rows):
                log_mean = np.asarray(self.X[rows].mean(axis=0, dtype=np.float64)).reshape(-1)
            if self.gene_order is not None:
                counts, log_mean = counts[:, self.gene_order], log_mean[self.gene_order]
            # Generators draw in the order of storage, which data in memory, and a new order of genes, may leave unsorted.
            counts.sort_indices()
            place = np.zeros(self.counts.shape[0], dtype=np.int64)
            place[rows] = np.arange(len(rows))
            out[context] = ControlProfile(counts, log_mean, self.target_sum), place
        return out

    @property
    def generates(self) -> bool:
        """Return whether cells or counts of any condition are generated."""
        return self.n_own < len(self) or (self.counts is not None and self.own_counts is None)

    @property
    def generated_by(self) -> dict[str, Any] | None:
        """Return the generator of what is generated, as it is recorded; None where nothing is."""
        return self.generator.model_dump(mode="json") if self.generates else None


def cells_of(
    ds: PerturbDataset,
    conditions: pd.DataFrame,
    rows: IntArray,
    codes: IntArray,
    delta: FloatArray,
    var: FloatArray,
    generator: Generator,
    own: PredictedCells | None = None,
    also: IntArray | None = None,
) -> Cells | None:
    """Return the cells of test conditions, None for data without single cells and controls.

    Parameters
    ----------
    ds
        The data set.
    conditions
        Condition table [C], index = key.
    rows, codes
        Row positions of the test cells [N] and the condition (0 to C - 1) of each.
    delta, var
        Predicted delta and variance [C, G], log1p units.
    generator
        How predicted cells are made, where the prediction has none.
    own
        The prediction's own cells, if it has some.
    also
        Further rows of the data set that the caller reads (see `Cells.position`).
    """
    if ds.metadata.level != "cell" or not ds.has_controls:
        return None
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(conditions) + 1))
    truth_rows = [np.sort(rows[order[a:b]]) for a, b in pairwise(bounds)]
    contexts = [str(c) for c in conditions[schema.CONTEXT_ID].astype(str)]
    row_context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()
    roles = ds.controls.roles
    number = {c: i for i, c in enumerate(ds.contexts)}
    control_rows: dict[str, IntArray] = {}
    input_rows: dict[str, IntArray] = {}
    for context in sorted(set(contexts)):
        mine = row_context == number[context]
        control_rows[context] = np.flatnonzero(mine & ds.is_control)
        pool = np.flatnonzero(mine & ((roles == INPUT) | (roles == SHARED)))
        # Sorted by a hash of the row ids, so that the cells drawn do not depend on the order of rows.
        input_rows[context] = pool[np.argsort(row_rank_hash(ds.row_ids[pool], generator.seed), kind="stable")]
    read = [rows, *control_rows.values(), *input_rows.values(), *([] if also is None else [also])]
    kept = kept_rows(ds, np.concatenate(read))
    X, counts, row_ids = ds.streamed_expression, ds.streamed.counts, ds.row_ids
    if kept is not None:
        X, counts, row_ids = kept.expression, kept.counts, row_ids[kept.rows]
        truth_rows = [kept.position(r) for r in truth_rows]
        control_rows = {context: kept.position(r) for context, r in control_rows.items()}
        input_rows = {context: kept.position(r) for context, r in input_rows.items()}
    keys = tuple(str(k) for k in conditions.index)
    normalization = ds.metadata.normalization
    by_name = np.argsort(ds.genes, kind="stable")
    made = Cells(
        *(X, truth_rows, control_rows, input_rows, contexts, delta, var, generator, keys),
        counts=counts,
        target_sum=1e4 if normalization is None else normalization.target_sum,
        gene_order=None if np.array_equal(by_name, np.arange(ds.n_genes)) else by_name,
        row_ids=row_ids,
        kept=kept,
    )
    if own is None:
        return made
    own_rows = [own.rows.get(k) for k in keys]
    return replace(made, own=own.X, own_rows=own_rows, own_counts=own.counts)
