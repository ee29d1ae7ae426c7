"""Ensembles of any model: member seeds, bags of units, the combined prediction, and the model `ensemble`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from perturbfm_core.config import Frozen
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ModelError
from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import MODELS, Model, Requires, new_model
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.residuals import out_of_fold
from perturbfm_core.splits.split import units_of
from perturbfm_core.splits.view import Query, TrainView

if TYPE_CHECKING:
    from perturbfm_core.splits.conditions import SplitConditions

_MIN_UNITS = 5


def member_seeds(seed: int, members: int) -> list[int]:
    """Return a different seed for each member, all derived from one."""
    return [int(s.generate_state(1, np.uint32)[0]) for s in np.random.SeedSequence(seed).spawn(members)]


def bag(units: Sequence[tuple[str, ...]], share: float, seed: int) -> BoolArray:
    """Return bool [n], the conditions of one bag, made from a random share of the units.

    A condition is in the bag if all its units are; conditions without a unit are in every bag. If there are
    several units, at least one is kept, and at least one is left out unless the share is 1.

    Parameters
    ----------
    units
        Exchangeable units of each condition [n].
    share
        Share of the units to keep, from 0 to 1.
    seed
        Seed of the draw.
    """
    names = sorted({u for us in units for u in us})
    if share >= 1 or len(names) < 2:
        return np.ones(len(units), dtype=np.bool_)
    kept = min(max(round(share * len(names)), 1), len(names) - 1)
    order = np.random.default_rng([seed, 23]).permutation(len(names))[:kept]
    inside = {names[i] for i in order}
    out = np.asarray([inside.issuperset(us) for us in units], dtype=np.bool_)
    # If every condition has several units, a small bag may contain no condition completely: then take
    # conditions with at least one unit in the bag.
    return out if out.any() else np.asarray([bool(inside & set(us)) for us in units], dtype=np.bool_)


def combine(members: Sequence[Prediction]) -> Prediction:
    """Return the mean of the members' means; variance = mean of variances + variance of means.

    This is the variance of the members' mixture distribution. `var_epistemic` is the variance of means plus
    the members' own epistemic variance, if all members report one. A condition that some members do not predict
    is predicted by the others; one that none predicts is not predicted.
    """
    means = np.stack([p.mean.astype(np.float64) for p in members])
    where, absent = _predicting(members)
    spread = means.var(axis=0, where=where)
    within = np.mean([p.var.astype(np.float64) for p in members], axis=0, where=where)
    own = [p.var_epistemic for p in members if p.var_epistemic is not None]
    # Law of total variance: the spread between members is what more data could remove.
    epistemic = spread + (np.mean(own, axis=0, where=where) if len(own) == len(members) else 0.0)
    return Prediction(
        mean=means.mean(axis=0, where=where).astype(np.float32),
        var=(within + spread).astype(np.float32),
        var_epistemic=epistemic.astype(np.float32),
        not_predicted=absent,
        warnings=tuple(dict.fromkeys(text for p in members for text in p.warnings)),
    )


def _predicting(members: Sequence[Prediction]) -> tuple[Any, BoolArray | None]:
    """Return (bool [M, C, 1], the members whose means count, or True for all; bool [C], conditions that none predicts)."""
    given = [p.not_predicted for p in members]
    if all(absent is None for absent in given):
        return True, None
    absent = np.stack(
        [
            np.zeros(len(p.mean), dtype=np.bool_) if a is None else a
            for p, a in zip(members, given, strict=True)
        ]
    )
    none: BoolArray = np.asarray(absent.all(axis=0), dtype=np.bool_)
    # Where none predicts, all say that of the control.
    return (~absent | none)[:, :, None], none if none.any() else None


@MODELS.register("ensemble")
class Ensemble(Model):
    """Predicts the mean of models fitted on bags of train units; their disagreement is epistemic variance."""

    family = "learned"

    class Params(Frozen):
        """Parameters of `Ensemble`: model, its parameters, number of members, share of units per bag.

        Attributes
        ----------
        model
            Registered model of the members.
        params
            Parameters of the members, as a mapping.
        members
            Number of members.
        bag
            Share of the exchangeable units that each member is fitted on.
        """

        model: str = "ridge"
        params: dict[str, Any] = Field(default_factory=dict)
        members: int = Field(default=5, ge=2, le=100)
        bag: float = Field(default=0.8, gt=0, le=1)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._members: list[Model] = []
        if MODELS.get(self.params.model).asks_ahead:
            msg = (
                f"model {self.params.model!r} is no member of an ensemble: it predicts the conditions of its split once, "
                "when it is fitted; leave out --members and give the entry several seeds"
            )
            raise ModelError(msg)

    def needs(self) -> Needs:
        """Return the side information that the members need."""
        return self._member().needs()

    def requirements(self) -> Requires:
        """Return what the members require of data and split."""
        return self._member().requirements()

    def modules(self) -> tuple[str, ...]:
        """Return this module and those of the members' model."""
        return (*super().modules(), *self._member().modules())

    def identity(self) -> dict[str, str]:
        """Return what decides a fit of the members."""
        return self._member().identity()

    def absent(self) -> str | None:
        """Return what the members lack on this machine."""
        return self._member().absent()

    def cannot(self, conditions: SplitConditions) -> str | None:
        """Return why the members cannot predict some test conditions."""
        return self._member().cannot(conditions)

    def _member(self) -> Model:
        return new_model(self.params.model, self.params.params)

    def _fit(self, view: TrainView, seed: int) -> None:
        self._members = self._fit_members(view, seed)
        self.training["members"] = [m.training for m in self._members]

    def _fit_members(self, view: TrainView, seed: int) -> list[Model]:
        units = units_of(view.conditions, view.unit)
        if len({u for us in units for u in us}) < _MIN_UNITS:
            # Bags of very few contexts would leave the members too few conditions.
            units = units_of(view.conditions, "perturbation")
        members = []
        for own in member_seeds(seed, self.params.members):
            member = self._member()
            member.side_info = self.side_info
            member.fit(view.subset(bag(units, self.params.bag, own)), own)
            members.append(member)
        return members

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        """Compute out-of-fold predictions with ensembles that leave out each inner fold.

        The members bring their own variance.
        """
        parts = []
        for fit, held in view.inner:
            members = self._fit_members(view.subset(fit), seed)
            query = view.subset(held).query()
            parts.append((fit, held, combine([m.predict(query) for m in members])))
        self.oof = out_of_fold(view, parts)
        self.training["variance"] = {
            "source": self._members[0].training.get("variance", {}).get("source", "unknown"),
            "members": len(self._members),
            "conditions": len(self.oof) if self.oof is not None else 0,
            "inner_folds": len(view.inner),
        }

    def _predict(self, query: Query) -> Prediction:
        return combine([member.predict(query) for member in self._members])

    def arrays(self) -> dict[str, FloatArray]:
        """Return the members' arrays, prefixed by the number of the member."""
        return {f"{i}.{k}": v for i, m in enumerate(self._members) for k, v in m.arrays().items()}

    def meta(self) -> dict[str, Any]:
        """Return the members' states."""
        return {
            "members": [
                {"params": m.params.model_dump(mode="json"), "state": m.meta()} for m in self._members
            ]
        }

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the members from `arrays` and `meta`."""
        self._members = []
        for i, state in enumerate(meta["members"]):
            member = new_model(self.params.model, state["params"])
            member.genes = self.genes
            prefix = f"{i}."
            mine = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            member.restore(mine, state["state"])
            self._members.append(member)
