"""Condition values of a board by metric, condition and entry, for comparisons of two sides."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perturbfm_core.data.condition import parse_key, pert_genes
from perturbfm_core.evaluation.metric import Metric
from perturbfm_core.schema import CONTEXT_ID, PERT_ID, FloatArray


class ConditionTable:
    """Condition values of a board as one array per metric, averaged over the runs that share a key.

    Attributes
    ----------
    keys, entries
        Conditions and entries, sorted.
    metrics
        {(panel, metric): its direction and version}, in order of appearance.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        key_codes, keys = pd.factorize(scores["key"], sort=True)
        entry_codes, entries = pd.factorize(scores["entry"], sort=True)
        names = pd.MultiIndex.from_frame(scores[["panel", "metric"]])
        metric_codes, metrics = pd.factorize(names)
        self.keys, self.entries = [str(k) for k in keys], [str(e) for e in entries]
        first = scores[~pd.Series(metric_codes, index=scores.index).duplicated()]
        self.metrics = {
            (str(row.panel), str(row.metric)): {
                "direction": str(row.direction),
                "metric_version": str(row.metric_version),
            }
            for row in first.itertuples(index=False)
        }
        self._position = {(str(p), str(m)): i for i, (p, m) in enumerate(metrics)}
        shape = (len(metrics), len(keys), len(entries))
        flat = (metric_codes * shape[1] + key_codes) * shape[2] + entry_codes
        values = scores["value"].to_numpy(dtype=np.float64)
        good = np.isfinite(values)
        size = int(np.prod(shape))
        n = np.bincount(flat[good], minlength=size)
        total = np.bincount(flat[good], weights=values[good], minlength=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._values = np.where(n > 0, total / n, np.nan).reshape(shape)

    def values(self, panel: str, metric: str) -> FloatArray | None:
        """Return float64 [C, E], None if the metric was not scored."""
        at = self._position.get((panel, metric))
        return None if at is None else self._values[at]


def ratio_parts(
    table: ConditionTable, panel: str, metric: Metric | None
) -> tuple[list[FloatArray], list[FloatArray]] | None:
    """Return numerators and denominators [C, E] of a ratio of means, None for a plain mean.

    Parameters
    ----------
    table
        Values by condition and entry.
    panel, metric
        Name of the panel; the metric, None if it is not registered.
    """
    if metric is None or not metric.ratio_of:
        return None
    pairs = [(table.values(panel, above), table.values(panel, below)) for above, below in metric.ratio_of]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(whole) < len(pairs):
        return None
    return [a for a, _ in whole], [b for _, b in whole]


def units_of_key(key: str, unit: str) -> tuple[str, ...]:
    """Return the bootstrap units of a condition: its context if `unit` is ``context``, otherwise its genes."""
    fields = parse_key(key)
    return (fields[CONTEXT_ID],) if unit == "context" else tuple(pert_genes(fields[PERT_ID]))
