"""Space and kind that an external model declares of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perturbfm_core import schema
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.raw import Raw
from perturbfm_core.schema import PredictionKind

LOG1P: Final = "log1p"
COUNTS: Final = "counts"
LATENT: Final = ("latent", "embedding", "pca", "hidden")


@dataclass(frozen=True)
class Declared:
    """What the numbers are said to be.

    Attributes
    ----------
    kind
        Expression, or differences.
    counts
        Whether they are counts, of which log1p in the scale of the data is taken.
    own_control
        Whether differences are to the model's own control.
    """

    kind: PredictionKind
    counts: bool
    own_control: bool


def declared_of(raw: Raw, asked: Asked) -> Declared:
    """Return what a raw output says of its numbers.

    Raises
    ------
    PredictionError
        If it does not say so, or what it says cannot be brought to the scale of the data.
    """
    space, kind = (str(raw.meta.get(name) or "").strip().casefold() for name in ("space", "kind"))
    if not space:
        msg = f"{raw.source} does not say in which space its numbers are; write space (log1p, counts) and kind into raw.json"
        raise PredictionError(msg)
    if space in LATENT or space.startswith(LATENT):
        msg = f"{raw.source} is in a latent space ({space}); decode it to the genes of the data set first"
        raise PredictionError(msg)
    if space in schema.PREDICTION_KINDS and kind in ("", space):
        # An earlier form states the kind in place of the space.
        space, kind = LOG1P if asked.control is not None else asked.space, space
    kind = kind or "expression"
    if kind not in schema.PREDICTION_KINDS:
        msg = f"{raw.source}: kind must be {' or '.join(schema.PREDICTION_KINDS)}, found {kind!r}"
        raise PredictionError(msg)
    if space not in (LOG1P, COUNTS, asked.space):
        msg = f"{raw.source}: unknown space {space!r}; bring the numbers to {words_of(asked)} and declare log1p, or declare counts"
        raise PredictionError(msg)
    if space == COUNTS and kind == "delta":
        msg = f"{raw.source}: differences of counts cannot be brought to {words_of(asked)}; write the counts (kind expression)"
        raise PredictionError(msg)
    if asked.control is None and (kind == "expression" or space != asked.space):
        msg = f"{raw.source} is {kind} in {space}, but the data set is scored in {asked.space} without controls; predict deltas of it"
        raise PredictionError(msg)
    stated = str(raw.meta.get("control") or "real").strip().casefold()
    return Declared(
        kind="delta" if kind == "delta" else "expression",
        counts=space == COUNTS,
        own_control=stated.startswith(("own", "model", "decoded")),
    )


def words_of(asked: Asked) -> str:
    """Return the scale that the data are scored in, in words."""
    if asked.target_sum is not None:
        return f"log1p of counts scaled to {asked.target_sum:g} per cell"
    return "log1p expression" if asked.space == LOG1P else asked.space
