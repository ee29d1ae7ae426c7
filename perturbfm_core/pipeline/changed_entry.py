"""A model entry with some settings changed, under a name that tells it apart from the entry that it departs from."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import content_hash, parse
from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.parameters import every_parameter
from perturbfm_core.schema import DEFAULT_GENERATOR
from perturbfm_core.uncertainty.config import UncertaintyConfig

_SUFFIX = 6


class Settings(TypedDict, total=False):
    """Settings of an entry beside the parameters of its model; each keeps that of the entry where it is None.

    Attributes
    ----------
    name
        Name in the leaderboard.
    conformal, ensemble
        Method of intervals, and number of members, in the entry's ``uncertainty`` block.
    seed
        The only seed.
    generator
        How counts are drawn of its predictions.
    """

    name: str | None
    conformal: str | None
    ensemble: int | None
    seed: int | None
    generator: str | None


def plain_value(value: Any) -> Any:
    """Return a value with numpy numbers, arrays, series and sets in it as plain numbers and lists, sets sorted."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | pd.Series | pd.Index):
        return plain_value(value.tolist())
    if isinstance(value, dict):
        return {plain_value(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        items = [plain_value(item) for item in value]
        try:
            return sorted(items)
        except TypeError:
            return sorted(items, key=repr)
    if type(value) in (list, tuple):
        return type(value)(plain_value(item) for item in value)
    return value


def changed_entry(base: ModelEntry, changes: dict[str, Any], **settings: Unpack[Settings]) -> ModelEntry:
    """Return an entry with some settings changed.

    Where a setting differs from that of `base` once defaults are filled in, the name gets a short suffix made of the
    differences, unless `name` gives another.

    Parameters
    ----------
    base
        The entry that it departs from.
    changes
        Changed parameters of the model.
    **settings
        Other settings (see `Settings`).

    Raises
    ------
    ConfigError
        If a value is not what the parameter takes, or the name is no key or that of an entry of another model.
    """
    name, conformal, ensemble = (settings.get(k) for k in ("name", "conformal", "ensemble"))
    seed, generator = settings.get("seed"), settings.get("generator")
    old = every_parameter(base.model, base.params, base.name)
    params = {**base.params, **{k: plain_value(value) for k, value in changes.items()}}
    new = every_parameter(base.model, params, base.name)
    uncertainty = dict(base.uncertainty)
    if conformal is not None:
        old_method = uncertainty.get("conformal", {}).get("method", "mondrian")
        kept = uncertainty.get("conformal", {})
        # Groups are of one method; another has its own.
        kept = {k: v for k, v in kept.items() if k != "groups" or conformal == old_method}
        uncertainty["conformal"] = {**kept, "method": conformal}
    if ensemble is not None:
        uncertainty["ensemble"] = ensemble
    source = f"uncertainty of entry {base.name!r}"
    asked = [parse(UncertaintyConfig, u, source) for u in (base.uncertainty, uncertainty)]
    different = {k: v for k, v in new.items() if old[k] != v}
    changed = bool(different)
    if asked[0] != asked[1]:
        different["uncertainty"] = asked[1].model_dump(mode="json")
    if generator is not None and generator != (base.generator or DEFAULT_GENERATOR):
        different["generator"] = generator
    suffix = f"-{content_hash(different)[:_SUFFIX]}" if different else ""
    values: dict[str, Any] = {
        **base.model_dump(),
        "name": name if name is not None else base.name + suffix,
        "params": params if different else base.params,
        "uncertainty": uncertainty if different else base.uncertainty,
    }
    if changed:
        # What a search selected is something else now.
        values["tuned"] = None
    if seed is not None:
        values["seeds"] = (seed,)
    if generator is not None:
        values["generator"] = generator
    entry = parse(ModelEntry, values, f"entry {values['name']!r}")
    if name is not None:
        _check_name(entry)
    return entry


def _check_name(entry: ModelEntry) -> None:
    """Refuse the name of another model, under which readers of the leaderboard would take its scores for that model's."""
    known = load_catalog().models
    owner = (
        known[entry.name].model
        if entry.name in known
        else entry.name
        if entry.name in MODELS
        else entry.model
    )
    if owner != entry.model:
        msg = (
            f"entry {entry.name!r} of the catalog is of model {owner!r}, and this is one of {entry.model!r}; "
            "give another name (--name)"
        )
        raise ConfigError(msg)
