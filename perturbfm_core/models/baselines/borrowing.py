"""Parameter of models that borrow effects from other data sets."""

from __future__ import annotations

from pydantic import Field

from perturbfm_core.models.named_inputs import NamedInputs


class Borrowing(NamedInputs):
    """Parameters of models that may borrow.

    Attributes
    ----------
    borrow
        Other data sets (``DATASET`` or ``DATASET:CONTEXT``) whose effects of the same genes are read.
    """

    # Not part of the configuration where nothing is borrowed, so that the identity of other runs is as it was.
    borrow: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)


def without_donor(params: Borrowing) -> str | None:
    """Return that a model of borrowed effects has no donor, None if it has one."""
    return None if params.borrow else "needs another data set to borrow effects from; give --borrow DATASET"
