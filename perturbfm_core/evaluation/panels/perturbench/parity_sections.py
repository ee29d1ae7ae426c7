"""Sections of PerturBench's parity cases beside the values: its errors and its summary table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from perturbfm_core.evaluation.panels.perturbench.aggregate import Version
from perturbfm_core.evaluation.panels.perturbench.parity_records import NOISE_BESIDE, within
from perturbfm_core.evaluation.parity import UNKNOWN, Record, not_compared

_PEER_RAISES = "the peer raises an error"
_NO_RANKS = "'dict' object has no attribute 'ndim'"
_PEER_FAILS = "the peer's V2 raises on ranks where there are no covariates"


def error_records(errors: Any, version: Version) -> Iterator[Record]:
    """Yield one record for each metric, aggregation or section that the peer has an error for in place of numbers."""
    for key, message in errors.items() if isinstance(errors, dict) else ():
        parts, text = str(key).split("/"), " ".join(str(message).split())
        reason = _PEER_FAILS if _NO_RANKS in text and version == "V2" else f"{_PEER_RAISES}: {text}"
        name = "{1}_{2}_{0}".format(*parts) if len(parts) == 3 else str(key)
        yield not_compared(f"{version}.{name}", str(key), reason)
    if not isinstance(errors, dict):
        yield not_compared(f"{version}.errors", "errors", f"{UNKNOWN}: {type(errors).__name__} of errors")


def summary_records(
    summary: dict[str, dict[str, float]],
    means: dict[str, dict[str, Record]],
    version: Version,
    doubtful: set[tuple[str, str]],
) -> Iterator[Record]:
    """Yield the records of the peer's summary table, which has four significant digits.

    Parameters
    ----------
    summary
        The peer's {model: {metric: value}}.
    means
        {model: {metric: record of the mean over conditions}}.
    version
        PerturBench's version.
    doubtful
        (model, metric) whose mean is not compared.
    """
    for model, row in summary.items():
        for metric, value in row.items():
            if (model, f"{version}.{metric}") in doubtful:
                yield not_compared(f"{version}.summary", f"{model}|{metric}", NOISE_BESIDE)
                continue
            mean = means[model][f"{version}.{metric}"]
            ours = mean.got
            reach = None if mean.low is None or mean.high is None else (mean.low, mean.high)
            # Half a unit of the last digit, and what the mean itself may differ by.
            digit = {"rtol": 1e-5, "atol": 0.5 * 10.0 ** (np.floor(np.log10(abs(ours))) - 3) if ours else 0.0}
            yield within(f"{version}.summary", f"{model}|{metric}", value, ours, reach, digit)
