"""The replicate anchor: what one half of the measured cells scores as a prediction of the other half."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.catalog import LFC_NMAE, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells
from perturbfm_core.evaluation.panels.cell_eval2.differential import DifferentialExpression
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, compare_cells, values_of
from perturbfm_core.evaluation.panels.cell_eval2.significance import normalized_error
from perturbfm_core.schema import FloatArray, StrArray

N_SPLITS = 5


@dataclass(frozen=True)
class SplitValue:
    """Value of one metric in one split.

    Attributes
    ----------
    split
        Number of the split.
    seed
        Seed of its draw.
    metric
        Name of the metric.
    value
        Mean over perturbations.
    n_perturbations
        Perturbations with a defined value, None for metrics of all together.
    """

    split: int
    seed: int
    metric: str
    value: float
    n_perturbations: int | None


def split_seeds(base_seed: int = 0, n: int = N_SPLITS) -> list[int]:
    """Return the seeds of the splits, derived from one."""
    return [int(s) for s in np.random.SeedSequence(base_seed).generate_state(n)]


def disjoint_halves(
    cells: LabelledCells, seed: int, order: Sequence[str] | StrArray | None = None
) -> tuple[LabelledCells, LabelledCells]:
    """Return two halves of every group, drawn as the peer draws them; of odd groups one cell is left out.

    Parameters
    ----------
    cells
        The measured cells.
    seed
        Seed of the draw.
    order
        Order in which groups are drawn, that of the categories in the file (default: ascending).

    Raises
    ------
    MetricError
        If a group has one cell only.
    """
    thin = np.flatnonzero(cells.sizes < 2)
    if len(thin):
        msg = f"{str(cells.names[thin[0]])!r} has one cell, which has no halves; the replicate anchor needs 2 of every label"
        raise MetricError(msg)
    rng = np.random.default_rng(seed)
    place = {str(name): k for k, name in enumerate(cells.names)}
    halves = [np.empty(0, dtype=np.int64) for _ in place], [np.empty(0, dtype=np.int64) for _ in place]
    for name in cells.names if order is None else order:
        k = place.get(str(name))
        if k is not None:
            drawn = rng.permutation(cells.rows[k])
            half = len(drawn) // 2
            halves[0][k], halves[1][k] = drawn[:half], drawn[half : 2 * half]
    return cells.only(halves[0]), cells.only(halves[1])


def anchor_splits(
    truth: Truth,
    metrics: Iterable[str] = VCC2026,
    *,
    order: Sequence[str] | StrArray | None = None,
    base_seed: int = 0,
    n_splits: int = N_SPLITS,
) -> list[SplitValue]:
    """Return the value of every metric in every split.

    Each half has its own controls. The error of fold changes takes genes and denominators from all cells.

    Parameters
    ----------
    truth
        The measured cells.
    metrics
        Names of the metrics.
    order
        See `disjoint_halves`.
    base_seed
        Seed that those of the splits are derived from.
    n_splits
        Number of splits.
    """
    wanted = list(metrics)
    out = []
    for i, seed in enumerate(split_seeds(base_seed, n_splits)):
        first, second = disjoint_halves(truth.cells, seed, order)
        inputs = compare_cells(Truth(first, truth.test, truth.target_genes), second, wanted, own_control=True)
        values = values_of(first.perturbations, inputs, wanted)
        means = aggregates(values)["mean"]
        counts: dict[str, int | None] = {m: int((~np.isnan(v)).sum()) for m, v in values.values.items()}
        if inputs.tables is not None and LFC_NMAE in means:
            errors = halves_error(truth, inputs.tables.real, inputs.tables.pred)
            means[LFC_NMAE], counts[LFC_NMAE] = float(errors.mean()) if len(errors) else np.nan, len(errors)
        out += [SplitValue(i, seed, m, means[m], counts.get(m)) for m in means]
    return out


def halves_error(truth: Truth, first: DifferentialExpression, second: DifferentialExpression) -> FloatArray:
    """Return [n], the error of fold changes between halves, of perturbations with enough significant genes.

    Parameters
    ----------
    truth
        All measured cells.
    first, second
        Tables of the halves.
    """
    table = truth.table
    chosen = table.significant & np.isfinite(table.lfc)
    rows = np.flatnonzero(truth.tested_target >= 0)
    chosen[rows, truth.tested_target[rows]] = False
    sides = [np.where(t.tested & np.isfinite(t.lfc), t.lfc, 0.0) for t in (first, second)]
    values, valid = normalized_error(sides[1], sides[0], chosen, table.lfc)
    return np.asarray(values[valid])


def anchor_means(splits: Sequence[SplitValue]) -> dict[str, float]:
    """Return the mean of each metric over the splits."""
    by_metric: dict[str, list[float]] = {}
    for entry in splits:
        by_metric.setdefault(entry.metric, []).append(entry.value)
    return {metric: float(np.mean(values)) for metric, values in by_metric.items()}
