"""Floors and ceilings of a board, pooled over its splits as the values of entries are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np

from perturbfm_core.evaluation.condition_bounds import CONTROL, HALF, NULL, TRAIN, ConditionBounds
from perturbfm_core.evaluation.reliability import noise_free
from perturbfm_core.leaderboard.fold_conditions import FoldConditions, mean_of_splits, split_weights
from perturbfm_core.leaderboard.headline import Marks, bound_name, marks_named
from perturbfm_core.leaderboard.reasons import OVER_FOLDS, OVER_FOLDS_YET
from perturbfm_core.schema import FloatArray, IntArray

# Fields of `Marks` that are the mean of one value per condition.
_KINDS = (NULL, CONTROL, TRAIN, HALF)


class PooledMarks:
    """Floors and ceilings of a board.

    Where values by condition are known of every split, each condition counts once, as in the value of an entry: what
    predicts as a floor does has its value. Else they are means over the splits.

    Parameters
    ----------
    bounds
        {split: (its ceilings, its floors)}, each None where they are unknown.
    tested
        {split: the conditions that entries are scored on}, of the same splits.
    conditions
        {split: its ceilings and floors by condition}, of the splits of which they are known.
    weights
        How each split counts in means over splits, by default as `split_weights` has it.
    """

    def __init__(
        self,
        bounds: Mapping[str, tuple[Any, Any]],
        tested: Mapping[str, Collection[str]],
        conditions: Mapping[str, ConditionBounds],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._bounds, self._tested, self._conditions = bounds, tested, conditions
        self._weights = split_weights(tested) if weights is None else dict(weights)

    def of(self, panel: str, metric: str) -> Marks:
        """Return the marks of a metric; one that is unknown on any split is None.

        Parameters
        ----------
        panel, metric
            The metric.
        """
        name = bound_name(panel, metric)
        of_splits = {h: marks_named(name, *self._bounds.get(h, (None, None))) for h in self._weights}
        known: dict[str, float | None] = {}
        for f in fields(Marks):
            values = [getattr(m, f.name) for m in of_splits.values()]
            known[f.name] = None
            if values and None not in values:
                known[f.name] = mean_of_splits(values, list(self._weights.values()))
        for kind in _KINDS if len(of_splits) > 1 else ():
            values_at = self._by_place(kind, name)
            if values_at is not None:
                known[kind] = _mean(self._places.by_condition(values_at[None])[0])
        half = self._by_place(HALF, name)
        if half is not None and known["noise_free"] is not None:
            shares = self._share_means(half)
            free = [_noise_free(metric, m, shares.get(h)) for h, m in of_splits.items()]
            known["noise_free"] = mean_of_splits(free, list(self._weights.values()))
        return Marks(**known)

    def why_over_splits(self, panel: str, metric: str) -> str | None:
        """Return why the marks of a metric are means over splits although these share conditions, None if they are not.

        Parameters
        ----------
        panel, metric
            The metric.
        """
        if not self._places.repeated:
            return None
        name = bound_name(panel, metric)
        if any(self._by_place(kind, name) is not None for kind in _KINDS):
            return None
        return OVER_FOLDS_YET if self._at is None else OVER_FOLDS

    @cached_property
    def _places(self) -> FoldConditions:
        return FoldConditions(self._tested)

    @cached_property
    def _at(self) -> Mapping[str, tuple[IntArray, IntArray]] | None:
        """{split: (places of its conditions, where its values by condition have them)}, None where one is unknown."""
        position = {key: i for i, key in enumerate(self._places.keys)}
        out = {}
        for split, keys in self._tested.items():
            found = self._conditions.get(split)
            known = {} if found is None else {key: i for i, key in enumerate(found.conditions)}
            if not known.keys() >= set(keys):
                return None
            pairs = [(position[self._places.name(key, split)], known[key]) for key in keys]
            places, rows = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
            out[split] = (places, rows)
        return out or None

    def _by_place(self, kind: str, name: str) -> FloatArray | None:
        """Return float64 [places], the values of one kind, None where they are unknown on any split."""
        if self._at is None:
            return None
        out = np.full(len(self._places.keys), np.nan)
        for split, (places, rows) in self._at.items():
            values = self._conditions[split].values.get((kind, name))
            if values is None:
                return None
            out[places] = values[rows]
        return out

    def _share_means(self, values: FloatArray) -> dict[str, float]:
        """Return {split: its mean over values [places]}, in which a condition of several splits is shared among them."""
        times: dict[str, int] = {}
        for keys in self._tested.values():
            for key in keys:
                times[key] = times.get(key, 0) + 1
        found = {}
        for split, (places, _) in (self._at or {}).items():
            shares = 1.0 / np.asarray([times[key] for key in self._tested[split]])
            own = values[places]
            ok = np.isfinite(own)
            if ok.any():
                found[split] = float(np.average(own[ok], weights=shares[ok]))
        return found


def _mean(values: FloatArray) -> float | None:
    good = values[np.isfinite(values)]
    return float(good.mean()) if len(good) else None


def _noise_free(metric: str, marks: Marks, half: float | None) -> float:
    """Return the noise-free value of a split whose conditions count as they do on the board.

    Parameters
    ----------
    metric
        Name of the metric in its panel.
    marks
        Of the split, with a noise-free value.
    half
        What halves of its cells reach where each condition counts by its share.
    """
    stored = np.nan if marks.noise_free is None else marks.noise_free
    rule = None if half is None or marks.half is None else noise_free(metric, marks.half)
    # Some noise-free values are not made of halves.
    if half is None or rule is None or not np.isclose(rule, stored, rtol=1e-9, atol=1e-12):
        return stored
    return noise_free(metric, half) or 0.0
