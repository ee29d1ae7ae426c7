"""Conformal intervals: quantiles of calibration residuals in units of the predicted standard deviation.

``pooled``
    Weight 1/n per unit and 1/(n G) per gene. Asymptotic: no finite-sample guarantee.
``hierarchical``
    Weight 1/(n + 1) per unit and 1/(n + 1) at infinity. Guaranteed for a random gene of a new exchangeable
    unit if the residuals come from a calibration fold and nothing else was fitted on them; no interval where
    n units are too few to reach a level. Source: conformal prediction for hierarchical data (Dunn, Wasserman
    and Ramdas 2023; Lee, Barber and Willett 2023).
``mondrian``
    `pooled` within groups of conditions. A group with too few units takes the quantiles of the next coarser
    group, and ultimately of all units.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.uncertainty.config import GENE_SCALE, ConformalConfig, Group
from perturbfm_core.uncertainty.groups import (
    Novelty,
    effect_edges,
    effect_groups,
    effect_size,
    novelty,
    novelty_of_residuals,
)
from perturbfm_core.uncertainty.quantiles import binned_quantiles, n_units, row_weights, unit_weights

_VAR_FLOOR = 1e-12
Path = tuple[str, ...]


def scores_of(residuals: OutOfFold) -> FloatArray:
    """Return float64 [n, G], absolute residuals in units of the predicted standard deviation."""
    sigma = np.sqrt(np.maximum(residuals.prediction.var.astype(np.float64), _VAR_FLOOR))
    return np.asarray(np.abs(residuals.residual) / sigma)


@dataclass(frozen=True, eq=False)
class Conformal:
    """Fitted quantiles of `pooled`, `hierarchical` or `mondrian`.

    Attributes
    ----------
    axes
        Grouping variables of conditions, coarsest first; empty except for `mondrian`.
    levels
        float64 [L], nominal coverage.
    paths
        Names of the groups that have their own quantiles, ``()`` for all units; a path has one label per
        axis.
    table
        float64 [groups, L, bins], half-widths in predicted standard deviations; NaN where there is no
        guarantee.
    units
        Number of units of each group, including the groups that are too small.
    gene_bin
        int16 [G], bin of each gene.
    edges
        Boundaries of predicted effect size, in log1p units.
    fitted
        Perturbations that the final model was fitted on.
    """

    axes: tuple[Group, ...]
    levels: FloatArray
    paths: list[Path]
    table: FloatArray
    units: dict[Path, int]
    gene_bin: IntArray
    edges: FloatArray
    fitted: frozenset[str]

    @classmethod
    def fit(
        cls,
        residuals: OutOfFold,
        config: ConformalConfig,
        levels: FloatArray,
        gene_bin: IntArray,
        fitted: frozenset[str],
    ) -> Conformal:
        """Fit the quantiles of every group that is large enough.

        Parameters
        ----------
        residuals
            Residuals [n, G] of conditions that their predictor was not fitted on.
        config
            Method, groups and minimum group size.
        levels
            float64 [L], nominal coverage.
        gene_bin
            int16 [G], bin of each gene.
        fitted
            Perturbations that the final model was fitted on.
        """
        bins = gene_bin if GENE_SCALE in config.groups else np.zeros_like(gene_bin)
        n_bins = int(bins.max(initial=0)) + 1
        scores = scores_of(residuals)
        weights, n = unit_weights(residuals.units)
        size = effect_size(residuals.prediction.mean)
        edges = effect_edges(size, weights, residuals.fold) if "effect" in config.axes else np.zeros(0)
        names = _labels(config.axes, residuals.conditions, novelty_of_residuals(residuals), size, edges)
        # The new unit is one more exchangeable unit of unknown score: its weight is placed at infinity.
        at_infinity = 1.0 / (n + 1) if config.method == "hierarchical" else 0.0
        quantiles = [binned_quantiles(scores, weights, levels, bins, n_bins, at_infinity=at_infinity)]
        paths: list[Path] = [()]
        units: dict[Path, int] = {(): n}
        # All prefixes of the labels, from coarse to fine: every one is a candidate group.
        for path in sorted({name[:d] for name in names for d in range(1, len(config.axes) + 1)}):
            rows = np.asarray([name[: len(path)] == path for name in names], dtype=np.bool_)
            units[path] = n_units(list(itertools.compress(residuals.units, rows)))
            if units[path] >= config.min_units:
                # Units are weighted anew within the group: a unit counts by its rows in the group only.
                inside, _ = row_weights(residuals.units, rows)
                paths.append(path)
                quantiles.append(binned_quantiles(scores, inside, levels, bins, n_bins))
        return cls(config.axes, levels, paths, np.stack(quantiles), units, bins, edges, fitted)

    def apply(self, prediction: Prediction, conditions: pd.DataFrame) -> Prediction:
        """Return the prediction with intervals.

        Each condition takes the quantiles of its finest group that has its own.
        """
        position = {path: i for i, path in enumerate(self.paths)}
        names = _labels(
            self.axes,
            conditions,
            novelty(conditions, self.fitted),
            effect_size(prediction.mean),
            self.edges,
        )
        # Longest prefix of the labels that has quantiles; () always has.
        group = [next(position[n[:d]] for d in range(len(n), -1, -1) if n[:d] in position) for n in names]
        # [groups, L, bins] indexed by condition is [R, L, bins]; `Intervals` expects [L, R, bins].
        factor = self.table[np.asarray(group, dtype=np.int64)].transpose(1, 0, 2)
        behind = np.asarray([self.units[self.paths[g]] for g in group], dtype=np.float32)
        intervals = Intervals(self.levels, factor.astype(np.float32), self.gene_bin, effective=behind)
        return replace(prediction, intervals=intervals)

    def describe(self) -> dict[str, Any]:
        """Return the content for ``calibration.json``: groups with their units, and the fitted quantiles."""
        return {
            "groups": [
                {"group": " / ".join(path), "n_units": n, "own_quantiles": path in self.paths}
                for path, n in self.units.items()
                if path
            ],
            "gene_bins": int(self.table.shape[2]),
            "factors": {
                " / ".join(path) or "all": {
                    f"{level:g}": _list(row) for level, row in zip(self.levels, q, strict=True)
                }
                for path, q in zip(self.paths, self.table, strict=True)
            },
        }

    def arrays(self) -> dict[str, Any]:
        """Return the arrays to save."""
        return {
            "conformal.levels": self.levels,
            "conformal.table": self.table,
            "conformal.gene_bin": self.gene_bin.astype(np.int16),
            "conformal.edges": self.edges,
        }

    def meta(self) -> dict[str, Any]:
        """Return the names to save."""
        return {
            "axes": list(self.axes),
            "paths": [list(p) for p in self.paths],
            "units": [[list(p), n] for p, n in self.units.items()],
            "fitted": sorted(self.fitted),
        }

    @classmethod
    def restore(cls, arrays: dict[str, Any], meta: dict[str, Any]) -> Conformal:
        """Restore the state that `arrays` and `meta` returned."""
        return cls(
            axes=tuple(meta["axes"]),
            levels=arrays["conformal.levels"],
            paths=[tuple(p) for p in meta["paths"]],
            table=arrays["conformal.table"],
            units={tuple(p): int(n) for p, n in meta["units"]},
            gene_bin=arrays["conformal.gene_bin"],
            edges=arrays["conformal.edges"],
            fitted=frozenset(meta["fitted"]),
        )


def _labels(
    axes: tuple[Group, ...], conditions: pd.DataFrame, new: Novelty, size: FloatArray, edges: FloatArray
) -> list[Path]:
    """Return the label of each condition on each axis."""
    columns: dict[Group, list[str]] = {
        "stratum": new.strata,
        "context": conditions[schema.CONTEXT_ID].astype(str).tolist(),
        "effect": effect_groups(size, edges),
    }
    return [tuple(columns[axis][i] for axis in axes) for i in range(len(conditions))]


def _list(values: FloatArray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
