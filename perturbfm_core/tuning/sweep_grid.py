"""Declared grid of a sweep: an entry, lists of values of its parameters, and the configurations that they make."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import content_hash, load_yaml, parse
from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.parameters import every_parameter
from perturbfm_core.pipeline.experiment import model_configs

# More than this is a mistake in the grid, or a search for `perturbfm tune`.
MAX_CELLS = 1000
_SUFFIX = 6


@dataclass(frozen=True)
class SweepCell:
    """One configuration of a sweep.

    Attributes
    ----------
    entry
        The entry with its parameters; its name has a suffix made of what differs from the base.
    values
        What the grid gave it.
    config_hash
        Identity of the configuration, with the first seed of the entry.
    """

    entry: ModelEntry
    values: dict[str, Any]
    config_hash: str


def load_base(source: str) -> ModelEntry:
    """Return the entry that a sweep departs from: a YAML file of a model entry, or the name of one of the catalog.

    Raises
    ------
    ConfigError
        If it is neither, or a file takes the name of another entry.
    """
    path, catalog = Path(source), load_catalog()
    if not path.is_file():
        if source in catalog.models:
            return catalog.models[source]
        msg = f"--base {source!r} is neither a file nor an entry of the catalog; entries: {', '.join(catalog.models)}"
        raise ConfigError(msg)
    given = load_yaml(path)
    if isinstance(given, dict):
        given = {"name": path.stem, "description": f"base of a sweep, {path.name}", **given}
    entry = parse(ModelEntry, given, str(path))
    MODELS.get(entry.model)
    known = catalog.models.get(entry.name)
    if known is not None and model_configs(known) != model_configs(entry):
        msg = f"{path} names itself {entry.name!r}, an entry of the catalog with other parameters; give it another name"
        raise ConfigError(msg)
    return entry


def load_grid(path: Path) -> list[dict[str, list[Any]]]:
    """Return the grids of a YAML file: {parameter: values}, or a list of such mappings.

    Raises
    ------
    ConfigError
        If it has another form.
    """
    given = load_yaml(path)
    grids = given if isinstance(given, list) and given else [given]
    for grid in grids:
        if not isinstance(grid, dict) or not grid:
            msg = f"{path} is no grid; it holds one `parameter: [value, value]` a line, or a list of such mappings"
            raise ConfigError(msg)
        for name, values in grid.items():
            if not isinstance(values, list) or not values:
                msg = f"{path}: parameter {name!r} needs a list of values, found {str(values)[:60]!r}"
                raise ConfigError(msg)
    return [{str(name): values for name, values in grid.items()} for grid in grids]


def sweep_cells(base: ModelEntry, grids: Sequence[Mapping[str, list[Any]]]) -> list[SweepCell]:
    """Return the configurations of a grid in its order, equal ones once.

    Raises
    ------
    ConfigError, ModelError
        If a parameter is unknown, a value is none of it, or there are too many.
    """
    own = every_parameter(base.model, base.params, base.name)
    for name in {name for grid in grids for name in grid} - set(own):
        msg = f"model {base.model!r} has no parameter {name!r}; it has: {', '.join(own) or 'none'}"
        raise ConfigError(msg)
    cells: dict[str, SweepCell] = {}
    for values in _combinations(grids):
        params = every_parameter(base.model, {**base.params, **values}, base.name)
        different = {name: value for name, value in params.items() if own[name] != value}
        suffix = f"-{content_hash(different)[:_SUFFIX]}" if different else ""
        entry = base.model_copy(
            update={
                "name": base.name + suffix,
                "params": {**base.params, **{n: params[n] for n in values}} if different else base.params,
                "tuned": None if different else base.tuned,
            }
        )
        key = model_configs(entry)[0].config_hash
        cells.setdefault(key, SweepCell(entry, {n: params[n] for n in values}, key))
        if len(cells) > MAX_CELLS:
            msg = f"the grid has more than {MAX_CELLS} configurations; give fewer values, or search with `perturbfm tune`"
            raise ConfigError(msg)
    return list(cells.values())


def _combinations(grids: Sequence[Mapping[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    for grid in grids:
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))
