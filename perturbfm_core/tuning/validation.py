"""Validation score of a model configuration on held-out conditions of a split, without test rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.graphs.side_info import Needs, SideInfo
from perturbfm_core.models.base import Model, new_model
from perturbfm_core.pipeline.gene_graph import gather
from perturbfm_core.pipeline.registered import resolved_params
from perturbfm_core.progress import Progress, epoch_listener, quiet, run_of
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.split import FrozenSplit, units_of
from perturbfm_core.splits.view import TrainView, train_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.machine import cores


@dataclass(frozen=True)
class FoldScore:
    """Scores of a configuration on one validation fold.

    Attributes
    ----------
    pearson
        Per exchangeable unit, the mean over its conditions of the Pearson correlation of centred deltas.
        Where it is undefined (the prediction is the mean training delta up to a constant), the condition
        counts as 0.
    mse
        Per exchangeable unit, the mean squared error of the delta over genes and conditions.
    conditions
        Number of conditions that were scored.
    undefined
        Number of these that count as 0.
    """

    pearson: tuple[float, ...]
    mse: tuple[float, ...]
    conditions: int
    undefined: int

    def to_json(self) -> dict[str, Any]:
        """Return the scores in the form that is stored with a trial."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FoldScore:
        """Return the scores from the form that `to_json` returns."""
        return cls(tuple(value["pearson"]), tuple(value["mse"]), value["conditions"], value["undefined"])


def value_of(scores: list[FoldScore]) -> float:
    """Return the value of a configuration: the mean over folds of the mean correlation over units."""
    return float(np.mean([np.mean(s.pearson) for s in scores]))


@dataclass(frozen=True, eq=False)
class _Part:
    """One validation fold.

    Attributes
    ----------
    fit, held
        Conditions to fit on and held-out conditions [C].
    unit
        int [C], exchangeable unit of each held-out condition.
    scored
        bool [C], whether the observed deltas of a held-out condition allow a score.
    """

    fit: TrainView
    held: TrainView
    unit: IntArray
    scored: BoolArray


class Validation:
    """Validation of the configurations of one entry on a split.

    With the policy ``fold``, a configuration is fitted on train and scored on the validation fold. With
    ``inner_cv``, each inner fold is held out in turn and the configuration is fitted on the rest. Deltas are
    against input controls, as in every fit; reference controls are used for test scores only and are not
    read.

    Parameters
    ----------
    store
        Store of gene graphs and other side information.
    ds
        The data set.
    split
        The split.
    entry
        The entry whose configurations are scored.
    seed
        Seed of every fit.
    tell
        Called with messages on waiting and on epochs.

    Raises
    ------
    SplitError
        If the split has no validation.
    """

    def __init__(
        self,
        store: ArtifactStore,
        ds: PerturbDataset,
        split: FrozenSplit,
        entry: ModelEntry,
        seed: int,
        tell: Progress = quiet,
    ) -> None:
        self._store, self._ds, self._split, self._entry = store, ds, split, entry
        self._seed, self._tell = seed, tell
        self._side_info: dict[Needs, SideInfo] = {}
        self.policy = split.definition.validation
        if self.policy == "none":
            msg = (
                f"split {split.definition.key} has no validation to select on; freeze one with "
                "`perturbfm splits create --validation fold` (or inner_cv)"
            )
            raise SplitError(msg)

    @cached_property
    def parts(self) -> list[_Part]:
        """Return the validation folds.

        Raises
        ------
        SplitError
            If no held-out condition can be scored.
        """
        split = self._split
        if self.policy == "fold":
            # Even if the split fits models on train and validation, the search must not fit on validation.
            definition = split.definition.model_copy(update={"fit_rows": "train"})
            view = train_view(self._ds, FrozenSplit(definition, split.row_codes))
            pairs = [] if view.validation is None or not len(view.validation) else [(view, view.validation)]
        else:
            view = train_view(self._ds, split)
            pairs = [(view.subset(fit), view.subset(held)) for fit, held in view.inner]
        found = [part for part in (self._part(fit, held) for fit, held in pairs) if part.scored.any()]
        if not found:
            msg = f"validation ({self.policy}) of split {split.definition.key} holds out nothing that can be scored"
            raise SplitError(msg)
        return found

    def __len__(self) -> int:
        return len(self.parts)

    def _part(self, fit: TrainView, held: TrainView) -> _Part:
        units = units_of(held.conditions, self._split.definition.unit)
        names = [" ".join(u) or str(k) for u, k in zip(units, held.conditions.index, strict=True)]
        truth = held.delta.astype(np.float64)
        # Conditions for which the observed deltas themselves have no defined score are left out, the same
        # ones for every configuration.
        scored = np.isfinite(_metric("pearson_centered", fit, held, truth))
        return _Part(fit, held, np.unique(np.asarray(names), return_inverse=True)[1], scored)

    def score(self, params: dict[str, Any], fold: int) -> FoldScore:
        """Fit a configuration on the training conditions of a fold, and score it on the held-out ones.

        One of the machine's training slots is occupied meanwhile.

        Raises
        ------
        ModelError
            If the configuration cannot be fitted, or predicts values that are not finite.
        """
        part = self.parts[fold]
        model = self._unfitted(params)
        model.side_info = self._gathered(model.needs())
        model.on_epoch = epoch_listener(self._tell)
        with (
            self._store.training_slot(
                run_of(self._tell, f"{self._split.hash[:7]}_{self._entry.name}_tuning"), self._tell
            ) as slots,
            threadpool_limits(limits=max(1, cores() // slots)),
        ):
            model.fit(part.fit, self._seed)
            mean = model.predict(part.held.query()).mean.astype(np.float64)
        keep, code = part.scored, part.unit[part.scored]
        pearson = _metric("pearson_centered", part.fit, part.held, mean)[keep]
        rmse = _metric("rmse", part.fit, part.held, mean)[keep]
        defined = np.isfinite(pearson)
        return FoldScore(
            _by_unit(np.where(defined, pearson, 0.0), code),
            _by_unit(rmse**2, code),
            int(keep.sum()),
            int((~defined).sum()),
        )

    def reads(self, params: dict[str, Any]) -> dict[str, dict[str, str]]:
        """Return {kind: {name: SHA-256}} of the graphs, features and donors that a configuration reads, empty if none.

        Names may stay while their content changes: a file is replaced, or ``auto`` finds one more source.
        """
        digests = self._gathered(self._unfitted(params).needs()).digests
        return {kind: found for kind, found in digests.items() if found}

    def _unfitted(self, params: dict[str, Any]) -> Model:
        name = self._entry.model
        return new_model(name, resolved_params(self._store, self._ds, name, params, self._tell))

    def _gathered(self, needs: Needs) -> SideInfo:
        if needs not in self._side_info:
            self._side_info[needs] = gather(self._store, self._ds, self._split, needs, self._tell)
        return self._side_info[needs]


def _by_unit(values: FloatArray, code: IntArray) -> tuple[float, ...]:
    """Return the mean of the values of each unit; units without values are left out."""
    total, n = np.bincount(code, weights=values), np.bincount(code)
    return tuple(float(x) for x in total[n > 0] / n[n > 0])


def _metric(name: str, fit: TrainView, held: TrainView, mean: FloatArray) -> FloatArray:
    """Return float64 [C], a metric of the panel ``delta`` on the held-out conditions."""
    metric = next(m for m in PANELS.get("delta").metrics if m.name == name)
    comparison = Comparison(
        conditions=held.conditions,
        genes=held.genes,
        observed=held.delta.astype(np.float64),
        predicted=mean,
        predicted_var=np.ones_like(mean),
        train_mean=fit.delta.mean(axis=0, dtype=np.float64),
        control=None,
        n=held.n_cells,
        shared_control=np.zeros(len(held), dtype=np.bool_),
        s2=held.s2.astype(np.float64),
    )
    return np.asarray(metric.function(comparison))
