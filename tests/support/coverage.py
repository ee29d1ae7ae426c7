"""Calibrated predictions of several folds, pooled over their test conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.panels.uncertainty import clusters, coverage, novelty, selective
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.prediction import predict_rows
from perturbfm_core.pipeline.trained_model import fit_calibrator
from perturbfm_core.schema import COVERAGE_LEVELS
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view

LEVELS = np.asarray(COVERAGE_LEVELS)
TERCILES = ("low", "middle", "high")


@dataclass(frozen=True, eq=False)
class Measured:
    """What one entry's intervals do on all folds.

    Attributes
    ----------
    hits, widths
        float [C, levels], coverage and mean width of each test condition.
    tercile
        [C], tercile of predicted effect size among the conditions of its fold, empty where it does not vary.
    perts, fold
        [C], perturbation and fold of each condition.
    excess_aurc, detection
        [folds], NaN where undefined.
    """

    hits: Any
    widths: Any
    tercile: Any
    perts: Any
    fold: Any
    excess_aurc: Any
    detection: Any

    def marginal(self) -> list[dict[str, Any]]:
        """Return the clustered coverage of each level."""
        return [clusters.clustered_mean(self.hits[:, i], self.perts) for i in range(len(LEVELS))]

    def gap(self) -> float:
        """Return the largest distance of pooled coverage from its level."""
        return float(np.abs(self.hits.mean(axis=0) - LEVELS).max())

    def tercile_gap(self) -> float:
        """Return the same in the worst tercile of predicted effect size, NaN where it does not vary."""
        gaps = [
            np.abs(self.hits[self.tercile == t].mean(axis=0) - LEVELS).max()
            for t in TERCILES
            if (self.tercile == t).any()
        ]
        return float(max(gaps)) if gaps else float("nan")


def measure(ds: PerturbDataset, folds: Sequence[FrozenSplit], model: str, **entry: Any) -> Measured:
    """Fit, calibrate and predict each fold with the default calibration unless another is given."""
    (config,) = model_configs(ModelEntry(name="e", description="x", model=model, **entry))
    parts: list[tuple[Any, ...]] = []
    excess, detection = [], []
    for i, split in enumerate(folds):
        view = train_view(ds, split)
        fitted = config.new_model()
        fitted.fit(view, config.seed)
        calibrator = fit_calibrator(ds, split, view, fitted, config)
        c = compare(ds, split, predict_rows(ds, split, fitted, calibrator=calibrator), observed(ds, split))
        half = [h for level in COVERAGE_LEVELS if (h := coverage.interval_half_width(c, level)) is not None]
        tercile = coverage.predicted_effect(c)
        parts.append(
            (
                np.stack([coverage.inside(c, h) for h in half], axis=1),
                np.stack([2 * h.mean(axis=1) for h in half], axis=1),
                np.asarray([tercile.get(str(k), "") for k in c.conditions.index]),
                c.perturbations,
                np.full(len(c), i),
            )
        )
        risk, sigma = np.sqrt(((c.observed - c.predicted) ** 2).mean(axis=1)), novelty.sigma(c)
        excess.append(selective.excess_aurc(risk, sigma))
        detection.append(selective.error_detection(risk, sigma))
    pooled = [np.concatenate(x) for x in zip(*parts, strict=True)]
    return Measured(*[*pooled, np.asarray(excess), np.asarray(detection)])


def table(rows: Sequence[tuple[str, Measured]], beside: Measured) -> str:
    """Return the benchmark's table: coverage with clustered intervals, worst tercile, width beside another's."""
    lines = []
    for name, found in rows:
        cells = [
            f"{level:g}: {m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
            for level, m in zip(COVERAGE_LEVELS, found.marginal(), strict=True)
        ]
        width = found.widths.mean(axis=0) / beside.widths.mean(axis=0)
        lines.append(
            f"{name:42s} {'  '.join(cells)}  gap {found.gap():.3f}  worst tercile {found.tercile_gap():.3f}  "
            f"width {' '.join(f'{w:.2f}' for w in width)} of the train mean's  "
            f"excess AURC {_mean(found.excess_aurc)}  error detection {_mean(found.detection)}"
        )
    return "\n".join(lines)


def _mean(values: Any) -> str:
    """Return the mean over folds with its 95 % interval."""
    m = clusters.clustered_mean(values, np.arange(len(values)).astype(str), (0.0, 10.0))
    return "undefined" if m["low"] is None else f"{m['value']:.2f} [{m['low']:.2f}, {m['high']:.2f}]"
