"""Checks of the deltas that are scored, the same for outputs of external models and for prediction files."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.prediction_controls import logs_of_means, of_other_contexts
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.delta_checks import of_another_control
from perturbfm_core.external.detectors import flat_contexts
from perturbfm_core.external.noise_checks import within_noise
from perturbfm_core.schema import FloatArray, IntArray


def delta_warnings(
    delta: FloatArray,
    asked: Asked,
    present: IntArray,
    *,
    given_as_delta: bool,
    of_cells: bool,
    n_cells: IntArray | None = None,
    own_delta: FloatArray | None = None,
) -> list[str]:
    """Return what predicted deltas look like that no model means, as sentences.

    Parameters
    ----------
    delta
        Predicted deltas [n, G], to the matched real control where `asked` has one.
    asked
        The conditions asked for, with their controls.
    present
        Positions there of the conditions that are predicted [n].
    given_as_delta
        Whether deltas to the real control were handed in, which had been subtracted elsewhere.
    of_cells
        Whether they are means over log1p values, and not made of mean counts.
    n_cells
        Predicted cells behind each [n], None for means that were predicted as such.
    own_delta
        Predicted deltas to the model's own control [n, G], None where that is unknown.
    """
    conditions = asked.conditions.iloc[present]
    out, control = [], None if asked.control is None else asked.control[present].astype(np.float64)
    if control is not None:
        if given_as_delta and asked.controls is not None:
            out += of_another_control(delta, conditions, asked.controls())
        out += of_other_contexts(delta + control, control, conditions)
        if of_cells and asked.cell_var is not None:
            out += logs_of_means(delta, asked.cell_var, conditions)
    out += flat_contexts(delta, conditions)
    if n_cells is not None and asked.cell_var is not None:
        values = delta if given_as_delta or control is None else delta + control
        to_real = None if control is None else delta
        out += within_noise(values, own_delta, to_real, n_cells, asked.cell_var, conditions)
    return out
