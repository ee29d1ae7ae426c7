"""Values of the peer's metrics: the truth prepared once, and any number of predictions compared with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from perturbfm_core.evaluation.differential.comparison import DifferentialTest
from perturbfm_core.evaluation.panels.cell_eval2.bulk import Profiles, profiles
from perturbfm_core.evaluation.panels.cell_eval2.catalog import (
    METRICS,
    NORM,
    NORM_PARTS,
    VCC2026,
    Inputs,
)
from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells, check_pair
from perturbfm_core.evaluation.panels.cell_eval2.differential import (
    ControlReference,
    DifferentialExpression,
    control_reference,
    differential_expression,
)
from perturbfm_core.evaluation.panels.cell_eval2.expression import pair_profiles, ratio_of_sums
from perturbfm_core.evaluation.panels.cell_eval2.tables import TablePair
from perturbfm_core.evaluation.panels.cell_eval2.targets import ANY, target_columns
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray


@dataclass(frozen=True, eq=False)
class Values:
    """Values of metrics, and those of all perturbations together.

    Attributes
    ----------
    names
        str [P], the perturbations.
    values
        Metric -> float64 [P], NaN where undefined.
    present
        Metric -> bool [P], perturbations that have a row at all.
    panel
        Metric -> its value, of those that have none per perturbation.
    """

    names: StrArray
    values: dict[str, FloatArray]
    present: dict[str, BoolArray]
    panel: dict[str, float]


@dataclass(frozen=True, eq=False)
class Truth:
    """Measured cells, and what is computed of them once.

    Attributes
    ----------
    cells
        The cells.
    test
        How groups are compared with controls.
    target_genes
        See `target_columns`.
    """

    cells: LabelledCells
    test: DifferentialTest = field(default_factory=DifferentialTest)
    target_genes: Mapping[str, str | None] | None = None

    @cached_property
    def profiles(self) -> Profiles:
        """Return the measured profiles."""
        return profiles(self.cells)

    @cached_property
    def reference(self) -> ControlReference:
        """Return the measured controls."""
        return control_reference(self.cells, self.test)

    @cached_property
    def table(self) -> DifferentialExpression:
        """Return the measured differential expression."""
        return differential_expression(self.cells, self.reference)

    def released(self) -> Truth:
        """Return the same truth without its cells: only what predictions are compared with is kept."""
        kept = {name: getattr(self, name) for name in ("profiles", "table", "target", "tested_target")}
        cells = replace(self.cells, X=self.cells.X[:0], origin=None)
        out = replace(self, cells=cells)
        out.__dict__.update(kept, reference=replace(self.reference, origin=cells))
        return out

    @cached_property
    def target(self) -> IntArray:
        """Return int64 [P], column of each target gene, -1 without one."""
        return target_columns(self.cells.perturbations, self.cells.genes, self.target_genes)

    @cached_property
    def tested_target(self) -> IntArray:
        """Return int64 [P], `target` where the gene is in the measured table or the map names it."""
        named = self.target_genes or {}
        given = np.asarray(
            [str(n) in named or ANY in named for n in self.cells.perturbations], dtype=np.bool_
        )
        return np.where(given | self.table.tested[self.target], self.target, -1)


def evaluate(
    truth: Truth, pred: LabelledCells, metrics: Iterable[str] = VCC2026, *, own_control: bool = False
) -> Values:
    """Return the values of a prediction.

    Parameters
    ----------
    truth
        The measured cells.
    pred
        The predicted cells, with the genes and labels of the truth.
    metrics
        Names of the metrics; what others are made of is added.
    own_control
        Whether the prediction is compared with its own controls, as halves of one data set are.
    """
    wanted = list(metrics)
    inputs = compare_cells(truth, pred, wanted, own_control=own_control)
    return values_of(truth.cells.perturbations, inputs, wanted)


def compare_cells(
    truth: Truth, pred: LabelledCells, metrics: Iterable[str], *, own_control: bool = False
) -> Inputs:
    """Return what metrics are computed from.

    Parameters are those of `evaluate`.
    """
    check_pair(truth.cells, pred)
    needs_tables = {METRICS[m].needs_tables for m in metrics}
    tables = profile_pair = None
    if True in needs_tables:
        reference = control_reference(pred, truth.test) if own_control else truth.reference
        tables = TablePair(truth.table, differential_expression(pred, reference), truth.tested_target)
    if False in needs_tables:
        groups = truth.cells.perturbed, truth.cells.control
        profile_pair = pair_profiles(
            truth.profiles, profiles(pred), groups, truth.target, own_control=own_control
        )
    return Inputs(profile_pair, tables)


def values_of(names: StrArray, inputs: Inputs, metrics: Iterable[str]) -> Values:
    """Return the values of metrics.

    Parameters
    ----------
    names
        Labels of the perturbations [P].
    inputs
        What they are computed from.
    metrics
        Names of the metrics; what others are made of is added.
    """
    wanted = list(dict.fromkeys(metrics))
    if NORM in wanted:
        wanted += [part for part in NORM_PARTS if part not in wanted]
    values, present = {}, {}
    for name in wanted:
        compute = METRICS[name].compute
        if compute is not None:
            values[name], present[name] = compute(inputs)
    panel = {NORM: ratio_of_sums(*(values[part] for part in NORM_PARTS))} if NORM in wanted else {}
    return Values(names, values, present, panel)
