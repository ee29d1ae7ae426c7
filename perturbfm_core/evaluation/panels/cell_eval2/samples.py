"""Measured and predicted cells of a comparison by context, as the peer's metrics read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.modality import adds_substance
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.cells import Cells
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panels.cell_eval2.cells import InputType, LabelledCells, row_totals
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth
from perturbfm_core.schema import IntArray, StrArray

_CONTROL = schema.CONTROL


@dataclass(frozen=True, eq=False)
class ContextSample:
    """The cells of one context.

    Attributes
    ----------
    context
        Name of the context.
    rows
        int64 [P], position in the comparison of the condition of each of the truth's perturbations.
    truth
        Its measured cells, the same object for every prediction of a split.
    cells
        The cells that the predicted ones are read from.
    """

    context: str
    rows: IntArray
    truth: Truth
    cells: Cells

    @cached_property
    def predicted(self) -> LabelledCells:
        """Return the predicted cells, with the measured controls."""
        truth, cells = self.truth.cells, self.cells
        if truth.input_type == "counts":
            groups = [cells.predicted_counts(int(i)) for i in self.rows]
            source = cells.counts
        else:
            groups = [sp.csr_array(cells.predicted(int(i))) for i in self.rows]
            source = cells.X
        groups.append(sp.csr_array(source[cells.control_rows[self.context]]))
        return _labelled(groups, truth.perturbations, truth.genes, truth.input_type)

    def release(self) -> None:
        """Forget the predicted cells, which are made again if they are asked for."""
        self.__dict__.pop("predicted", None)


def samples_of(c: Comparison) -> list[ContextSample]:
    """Return the cells of each context with controls, in the order of context names.

    Raises
    ------
    MetricError
        If the comparison has no cells.
    """
    cells = c.cells
    if cells is None:
        msg = "the comparison has no cells"
        raise MetricError(msg)
    truths = c.once_per_observed("cell_eval2.truths", lambda: _truths(c, cells))
    return c.once(
        "cell_eval2.samples", lambda: [ContextSample(x, rows, truth, cells) for x, rows, truth in truths]
    )


def _truths(c: Comparison, cells: Cells) -> list[tuple[str, IntArray, Truth]]:
    """Return (context, condition of each perturbation, measured cells) of each context with controls."""
    input_type: InputType = "lognorm" if cells.counts is None else "counts"
    source = cells.X if cells.counts is None else cells.counts
    out: list[tuple[str, IntArray, Truth]] = []
    for context in np.unique(c.contexts):
        control = cells.control_rows[str(context)]
        if not len(control):
            continue
        rows = np.flatnonzero(c.contexts == context)
        labels, targets = labels_of(c, rows)
        order = np.argsort(labels, kind="stable")
        rows, labels = rows[order], labels[order]
        # Halves and baselines are drawn from cells in this order, so that the order of the data set decides nothing.
        ordered = [cells.ordered(r) for r in (*(cells.truth_rows[i] for i in rows), control)]
        groups = [sp.csr_array(source[r]) for r in ordered]
        truth = Truth(_labelled(groups, labels, c.genes, input_type), target_genes=targets)
        out.append((str(context), rows, truth))
    return out


def labels_of(c: Comparison, rows: IntArray) -> tuple[StrArray, dict[str, str | None]]:
    """Return the label of each condition of one context [P], and the target gene of labels that are not genes.

    A label is the name of the perturbation, or the condition's key where conditions of the context share it (doses,
    times). A single perturbation of a gene has that gene as its target, as in the peer, where a label is a gene. A
    combination has none: the peer knows one target gene per label, and its label, as "A+B", is the name of no gene. A
    drug has none, whatever its name.

    Parameters
    ----------
    c
        The comparison.
    rows
        Conditions of the context [P].
    """
    genes = {str(g) for g in c.genes}
    names = c.perturbations[rows]
    keys = np.asarray([str(c.conditions.index[i]) for i in rows], dtype=np.str_)
    kinds = c.conditions[schema.MODALITY].astype(str).to_numpy()[rows]
    parts = [pert_genes(str(name)) for name in names]
    plain = np.asarray(
        [p[0] if len(p) == 1 else str(n) for p, n in zip(parts, names, strict=True)], dtype=np.str_
    )
    _, which, often = np.unique(plain, return_inverse=True, return_counts=True)
    labels = np.where((often[which] > 1) | (plain == _CONTROL), keys, plain)
    if len(np.unique(labels)) < len(labels):
        labels = keys
    targets: dict[str, str | None] = {}
    for label, kind, part in zip(map(str, labels), kinds, parts, strict=True):
        gene = part[0] if len(part) == 1 and not adds_substance(kind) and part[0] in genes else None
        if gene != label:
            targets[label] = gene
    return labels, targets


def _labelled(
    groups: Sequence[Any], labels: StrArray, genes: StrArray, input_type: InputType
) -> LabelledCells:
    """Return the cells of each label in ascending order, the controls last, as labelled cells.

    Unlike cells from a file they are not refused for what they hold: measured cells may have any depth.

    Parameters
    ----------
    groups
        Cells of each label, then controls, CSR [n, G] each.
    labels
        Labels in ascending order.
    genes
        Genes [G].
    input_type
        ``counts`` or ``lognorm``.
    """
    X = sp.csr_array(sp.vstack(groups, format="csr"))
    X.sort_indices()
    X.eliminate_zeros()
    names = np.unique([*labels.tolist(), _CONTROL])
    place = np.searchsorted(names, [*labels.tolist(), _CONTROL])
    group = np.repeat(place, [g.shape[0] for g in groups]).astype(np.int64)
    return LabelledCells(X, group, names, int(place[-1]), genes, input_type, row_totals(X))
