"""Design matrices of conditions: perturbations by amount, and one-hot contexts and covariates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.schema import BoolArray, FloatArray


@dataclass(frozen=True)
class Design:
    """Names of the columns of a design; what train lacks has no column, and thus only zeros.

    Attributes
    ----------
    perturbations
        Gene (or drug) and modality of every part of a train condition, as one label each.
    covariates
        Every value of context and covariates in train.
    response
        Amounts of doses.
    """

    perturbations: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    response: DoseResponse = field(default_factory=DoseResponse)

    @classmethod
    def of(cls, conditions: pd.DataFrame) -> Design:
        """Return the design of train conditions."""
        response = DoseResponse.logarithmic(conditions)
        values = {name for names in _values(conditions) for name in names}
        labels = set(interventions(conditions, response).labels)
        return cls(tuple(sorted(labels)), tuple(sorted(values)), response)

    def read(self, conditions: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
        """Return float32 ([C, P] amount of each perturbation, 1 without doses; [C, K] one-hot covariates)."""
        amount = interventions(conditions, self.response).incidence(list(self.perturbations))
        position = {name: i for i, name in enumerate(self.covariates)}
        hot = np.zeros((len(conditions), len(position)), dtype=np.float32)
        for row, names in enumerate(_values(conditions)):
            hot[row, [position[n] for n in names if n in position]] = 1.0
        return amount.astype(np.float32), hot

    def lacks(self, conditions: pd.DataFrame) -> BoolArray:
        """Return bool [C], whether a condition has a perturbation without a column."""
        parts = interventions(conditions, self.response)
        missing = ~np.isin(np.asarray(parts.labels, dtype=object), self.perturbations)
        return np.asarray(np.bincount(parts.owner[missing], minlength=parts.n) > 0, dtype=np.bool_)

    def meta(self) -> dict[str, Any]:
        """Return the names as JSON."""
        return {
            "perturbations": list(self.perturbations),
            "covariates": list(self.covariates),
            "response": self.response.meta(),
        }

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Design:
        """Return the design that `meta` described."""
        return cls(tuple(meta["perturbations"]), tuple(meta["covariates"]), DoseResponse.restored(meta))


def _values(conditions: pd.DataFrame) -> list[list[str]]:
    """Return the names of the context and of each covariate's value, per condition."""
    out = []
    for context, text in zip(conditions[schema.CONTEXT_ID], conditions[schema.COVARIATES], strict=True):
        others = parse_covariates(str(text)) if str(text) else {}
        out.append([f"{schema.CONTEXT_ID}={context}", *(f"{k}={v}" for k, v in sorted(others.items()))])
    return out
