"""Differences of z-scores to the mean control row of each context."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.imports.report import ImportReport
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

# Share of the control rows' own size that the rounding of float32 leaves of a mean of zero.
_ROUNDING = 1e-4


def minus_controls(
    delta: FloatArray, contexts: StrArray, control: BoolArray, report: ImportReport
) -> FloatArray:
    """Return differences to the mean control row of each context.

    The mean is always subtracted; where it is farther from zero than its sampling error, the report warns.

    Parameters
    ----------
    delta
        float [N, G], values of all rows.
    contexts
        str [N], context of each row.
    control
        bool [N], the control rows.
    report
        Report of the import, which names what was done.

    Raises
    ------
    DatasetError
        If a context has perturbed rows and no control row.
    """
    out = delta.copy()
    names = sorted(set(contexts.tolist()))
    shifted = []
    for context in names:
        here = contexts == context
        own = delta[here & control].astype(np.float64)
        if not len(own):
            msg = (
                f"context {context!r} has no control row, so differences to its controls cannot be made; leave its rows "
                "out, or, if the values are differences already, import without --control-label and --drop-label the controls"
            )
            raise DatasetError(msg)
        mean = own.mean(axis=0)
        error = own.std(axis=0, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.zeros_like(mean)
        # Values that are centred but for rounding stay as they are, to the last bit.
        if _size(mean) > _ROUNDING * max(_size(own), 1e-6):
            out[here] -= mean.astype(np.float32)
            z = mean / np.maximum(error, 1e-12)
            if len(own) < 3 or float(np.mean(np.square(z))) > 1 + 5 * np.sqrt(2 / len(z)):
                shifted.append(context)
    report.facts["controls_subtracted"] = f"{len(shifted)} of {len(names)} contexts"
    if shifted:
        report.warnings.append(
            f"control rows of {len(shifted)} of {len(names)} contexts are not centred on zero, so their mean was subtracted "
            "from all rows of the context"
        )
    return out


def _size(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
