"""Configuration of uncertainty: the ``uncertainty:`` block of an entry."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from perturbfm_core.config import Frozen
from perturbfm_core.schema import COVERAGE_LEVELS

Method = Literal["pooled", "hierarchical", "mondrian", "weighted", "none"]
Group = Literal["stratum", "context", "effect", "gene_scale"]
Weights = Literal["distance", "density"]

GENE_SCALE: Group = "gene_scale"


class ScaleConfig(Frozen):
    """Post-hoc scaling of the variance by gene bin, effect size and stratum, or by one factor alone."""

    gene_scale: bool = True
    effect: bool = True
    stratum: bool = True


class ConformalConfig(Frozen):
    """How intervals are made from calibration residuals.

    `groups` lists the axes with separate quantiles. Axes that divide conditions apply to `mondrian` alone, in
    the order given; the last is dropped first where a group has fewer than `min_units` units. ``gene_scale``
    applies to every method. `weights` and `min_effective` apply to `weighted`.
    """

    method: Method = "mondrian"
    groups: tuple[Group, ...] = ("stratum", "gene_scale")
    min_units: int = Field(default=20, ge=1)
    weights: Weights = "distance"
    min_effective: float = Field(default=30.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _groups_of_the_method(cls, value: Any) -> Any:
        # Other methods than Mondrian have groups only if the configuration names some.
        if isinstance(value, dict) and value.get("method", "mondrian") != "mondrian":
            return {"groups": (), **value}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ConformalConfig:
        if len(set(self.groups)) != len(self.groups):
            msg = "groups repeat an axis; name each once"
            raise ValueError(msg)
        if self.method == "mondrian" and not self.groups:
            msg = "mondrian needs groups; name some, or use method pooled"
            raise ValueError(msg)
        if self.method != "mondrian" and self.axes:
            msg = f"groups {list(self.axes)} divide conditions, which only method mondrian does"
            raise ValueError(msg)
        return self

    @property
    def axes(self) -> tuple[Group, ...]:
        """Return the groups that divide conditions, coarsest first."""
        return tuple(g for g in self.groups if g != GENE_SCALE)


class UncertaintyConfig(Frozen):
    """The ``uncertainty:`` block of an entry.

    `ensemble` members are fitted with different seeds on a share `bag` of the train units; `scale` and
    `conformal` are fitted on residuals of conditions that the predictor did not see. Genes are divided into
    `gene_bins` quantile bins by the size of their train deltas.
    """

    ensemble: int = Field(default=1, ge=1, le=100)
    bag: float = Field(default=0.8, gt=0, le=1)
    scale: ScaleConfig | None = ScaleConfig()
    conformal: ConformalConfig = ConformalConfig()
    gene_bins: int = Field(default=5, ge=1, le=100)
    levels: tuple[float, ...] = COVERAGE_LEVELS

    @field_validator("scale", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return ScaleConfig() if value else None
        return value

    @field_validator("levels")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or list(value) != sorted(set(value)) or not 0 < value[0] <= value[-1] < 1:
            msg = "levels must be different numbers between 0 and 1, ascending"
            raise ValueError(msg)
        return value
