"""Content of ``calibration.json``: how well the variance and the intervals of a prediction are calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panel import PANELS, Strata
from perturbfm_core.store.atomic import read_json

# The panel whose report is ``calibration.json``.
CALIBRATION_PANEL = "uncertainty"


def calibration_json(
    comparison: Comparison,
    metrics: Mapping[str, Any],
    strata: Strata,
    *,
    variance_source: str,
    calibrator: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of ``calibration.json``.

    Parameters
    ----------
    comparison
        Aligned truth and prediction.
    metrics
        Content of ``metrics.json``, of which some values of the panel are repeated.
    strata
        {stratum: {condition key: value}} of the split.
    variance_source
        Where the variance comes from.
    calibrator
        What the calibrator says of itself, None without one.
    """
    report = PANELS.get(CALIBRATION_PANEL).report
    uncertainty = metrics.get(CALIBRATION_PANEL, {})
    return {
        **(calibrator or {"method": "as given" if comparison.intervals else "none"}),
        "variance": "filled constant" if comparison.var_filled else variance_source,
        "n_test_conditions": len(comparison),
        **{name: uncertainty.get(name) for name in ("coverage", "conformal_coverage", "nll", "crps")},
        **({} if report is None else report(comparison, strata)),
    }


def source_of_variance(model_path: Path) -> str:
    """Return where the variance of the model in a folder comes from, as ``calibration.json`` names it."""
    meta = model_path / schema.MODEL_META_FILE
    training = read_json(meta).get("training", {}) if meta.is_file() else {}
    source = str(training.get("variance", {}).get("source", "unknown"))
    # Models that run elsewhere say it in words.
    return source if " " in source else f"{source} residuals"
