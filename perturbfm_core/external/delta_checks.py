"""Deltas that were scaled or centred over the rows of their file, or taken from the control of other contexts."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import FloatArray

# Fewer rows or genes than these say nothing.
_FEWEST_ROWS, _FEWEST_GENES, _FEWEST_CONDITIONS = 3, 20, 3
# Scaled values have a standard deviation of 1 at this share of the genes, to this precision; clipping changes some.
_MOST: Final = 0.95
_SCALED, _CENTRED, _ROUNDING = 0.03, 1e-3, 1e-5
_BLOCK = 4096
# What is common to the conditions of a context is a difference of two controls if that leaves less of its size than this.
_UNEXPLAINED: Final = 0.7


def check_scaled(name: str, values: Any, scale: str) -> list[str]:
    """Refuse deltas [rows, genes] that are z-scores over the rows; return whether they are centred over these.

    Parameters
    ----------
    name
        What holds them, for messages.
    values
        All rows of the file, dense or sparse.
    scale
        The scale of the data set, in words.

    Raises
    ------
    PredictionError
        If they are z-scores.
    """
    # Scaled and centred values have no zeros to leave out.
    if sp.issparse(values) or len(values) < _FEWEST_ROWS:
        return []
    n = len(values)
    total, squares = np.zeros((2, values.shape[1]))
    with np.errstate(all="ignore"):
        for block in row_blocks(n, _BLOCK):
            x = np.asarray(values[block], dtype=np.float64)
            total += x.sum(axis=0)
            squares += np.square(x).sum(axis=0)
        mean = total / n
        std = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
    varies = std > _ROUNDING * np.maximum(np.abs(mean), 1.0)
    if varies.sum() < max(_FEWEST_GENES, values.shape[1] / 2) or not np.isfinite(squares).all():
        return []
    mean, std = mean[varies], std[varies]
    # With either divisor, of n or of n - 1.
    is_one = [float((np.abs(std / one - 1) < _SCALED).mean()) for one in (1.0, np.sqrt((n - 1) / n))]
    if max(is_one) >= _MOST:
        msg = (
            f"{name} has a standard deviation of 1 over its {n} rows in {max(is_one):.0%} of the genes, as z-scores have; "
            f"predict {scale}, or differences in it to the control"
        )
        raise PredictionError(msg)
    if float((np.abs(mean) < _CENTRED * std).mean()) >= _MOST:
        return [
            "the deltas are 0 on average over the rows of the file at each gene, as values are that were centred over all of them; "
            "a delta is the difference to the control"
        ]
    return []


def of_another_control(
    delta: FloatArray, conditions: pd.DataFrame, controls: dict[str, FloatArray]
) -> list[str]:
    """Return in which contexts deltas are differences to the control of another context or of all, as a sentence.

    What all conditions of a context have in common is then the difference of the two controls.

    Parameters
    ----------
    delta
        Predicted deltas [C, G].
    conditions
        Condition table [C].
    controls
        {context: mean of its input controls [G]}.
    """
    context = conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    # Of a context without controls nothing is known.
    controls = {c: m for c, m in controls.items() if np.isfinite(m).all()}
    found = []
    for own in sorted(set(context) & set(controls)):
        rows = delta[context == own]
        if len(rows) < _FEWEST_CONDITIONS or len(controls) < 2:
            continue
        common = rows.mean(axis=0)
        others = {c: m for c, m in controls.items() if c != own}
        others["all contexts"] = np.mean(list(controls.values()), axis=0)
        away = {c: np.linalg.norm(common - (controls[own] - m)) for c, m in others.items()}
        nearest = min(away, key=lambda c: float(away[c]))
        if away[nearest] < _UNEXPLAINED * np.linalg.norm(common):
            found.append(f"{own} (the control of {nearest})")
    if not found:
        return []
    return [
        f"what the deltas of a context have in common is the difference of its control to another one, in {len(found)} "
        f"contexts, e.g. {', '.join(found[:3])}: was the control of the condition's own context subtracted?"
    ]
