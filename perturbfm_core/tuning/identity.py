"""Identity of a search: everything that its values depend on, the same for a search to be continued."""

from __future__ import annotations

from typing import Any

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import ConfigError
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.code import code_of
from perturbfm_core.tuning.validation import Validation


def identity_of(entry: ModelEntry, ds: PerturbDataset, split: FrozenSplit, seed: int) -> dict[str, Any]:
    """Return what every value depends on, whatever is searched.

    Parameters
    ----------
    entry
        The entry that is tuned, or that a grid departs from.
    ds, split
        Data and split.
    seed
        Seed of the search.
    """
    model = new_model(entry.model, entry.params, entry.name)
    return {
        "entry": entry.name,
        "model": entry.model,
        "parameters": model.params.model_dump(mode="json"),
        "data": ds.content_sha256,
        "split": split.hash,
        "seed": seed,
        "code": code_of(Validation.__module__, *model.modules(), *PANELS.get("delta").modules).digest,
    }


def check_identity(what: str, found: dict[str, Any], wanted: dict[str, Any], other: str) -> None:
    """Refuse to continue a search of another identity.

    Parameters
    ----------
    what
        The search, for the message.
    found, wanted
        Its identity, and the one that is asked for.
    other
        The option that gives another search, for the message.

    Raises
    ------
    ConfigError
        If they differ, naming in what.
    """
    different = [key for key in sorted(found | wanted) if found.get(key) != wanted.get(key)]
    if different:
        msg = f"{what} was made with other {', '.join(different)}; its values do not compare, give another {other}"
        raise ConfigError(msg)
