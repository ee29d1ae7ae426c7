"""Direction in which a modality changes a perturbed gene, by which effects of two data sets belong together."""

from __future__ import annotations

import re

from perturbfm_core.data.modality import switches_off

OFF, UNKNOWN, ON = -1, 0, 1
DIRECTION_NAMES = {OFF: "switching off", UNKNOWN: "of no known direction", ON: "switching on"}

_ON_WORDS = frozenset(
    {
        *(
            "activation",
            "activator",
            "activated",
            "overexpression",
            "overexpressed",
            "oe",
            "orf",
            "orfs",
            "cdna",
        ),
        *("agonist", "gof", "gainoffunction", "vp64", "vpr", "sam", "suntag"),
    }
)
_ON_STARTS = ("crispra", "crispron", "overexpress", "orf")
_PUNCTUATION = re.compile(r"[^a-z0-9]+")


def direction_of(modality: str) -> int:
    """Return in which direction a modality changes its genes.

    Returns
    -------
    int
        `OFF` for CRISPRi, ko, Cas13d, shRNA, a degron or an inhibitor, `ON` for CRISPRa and overexpression, else
        `UNKNOWN`: a drug, or no modality.
    """
    if switches_off(modality):
        return OFF
    words = [w for w in _PUNCTUATION.split(modality.casefold()) if w]
    whole = "".join(words)
    if (
        whole.startswith(_ON_STARTS)
        or _ON_WORDS & {whole, *words}
        or any(w.startswith(_ON_STARTS) for w in words)
    ):
        return ON
    return UNKNOWN
