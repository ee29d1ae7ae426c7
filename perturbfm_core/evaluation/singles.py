"""Train conditions with the parts of a combination as single perturbations, of the same modality and dose."""

from __future__ import annotations

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_parts
from perturbfm_core.data.quantities import split_doses

Part = tuple[str, str, str]


def parts_of(conditions: pd.DataFrame) -> list[list[Part]]:
    """Return (perturbation, modality, dose) of every part of each condition."""
    columns = (conditions[c].astype(str) for c in (schema.PERT_ID, schema.MODALITY, schema.DOSES))
    out = []
    for pert, modality, written in zip(*columns, strict=True):
        parts = pert_parts(pert)
        doses = split_doses(written) if written else [""] * len(parts)
        if len(doses) != len(parts):
            doses = [written] * len(parts)
        out.append([(part, modality, dose) for part, dose in zip(parts, doses, strict=True)])
    return out


class Singles:
    """Rows of train conditions by single perturbation.

    Activation and repression of the same gene are never averaged; doses must be equal where both are known.

    Parameters
    ----------
    conditions
        Condition table of train.
    """

    def __init__(self, conditions: pd.DataFrame) -> None:
        self._contexts = [str(c) for c in conditions[schema.CONTEXT_ID]]
        self._rows: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for row, parts in enumerate(parts_of(conditions)):
            if len(parts) == 1:
                ((pert, modality, dose),) = parts
                self._rows.setdefault((pert, modality), []).append((row, dose))

    def rows(self, part: Part, context: str | None = None, *, any_dose: bool = False) -> list[int]:
        """Return the rows of a part.

        Parameters
        ----------
        part
            Its perturbation, modality and dose.
        context
            Only rows of this context; of all contexts by default.
        any_dose
            Whether rows of other doses are taken too.
        """
        pert, modality, dose = part
        return [
            row
            for row, own in self._rows.get((pert, modality), [])
            if (context is None or self._contexts[row] == context)
            and (any_dose or not dose or not own or own == dose)
        ]
