"""The entry that ``train``, ``run`` and ``tune`` are asked for: a catalog entry with some parameters changed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.parameters import ParameterCommand, Parameters, typed
from perturbfm_core.errors import ModelError

if TYPE_CHECKING:
    from perturbfm_core.pipeline.changed_entry import Settings

# Options before whose value no model is looked for.
_OTHER_VALUES = (
    "--data",
    "--split",
    "--name",
    "--param",
    "--seed",
    "--study",
    "--register",
    "--generator",
    "--borrow",
)


class ModelCommand(ParameterCommand):
    """A command whose options depend on the model or entry that its command line names."""

    def parameters_of(self, args: Sequence[str]) -> Parameters | None:
        """Return the parameters of the model that is named, by itself or by an entry."""
        from perturbfm_core.models.base import MODELS

        entries = load_catalog().models
        before = ""
        for arg in args:
            word = arg.partition("=")[2] if arg.startswith(("--entry=", "--baseline=")) else arg
            if before not in _OTHER_VALUES and not word.startswith("-"):
                name = entries[word].model if word in entries else word
                if name in MODELS:
                    return Parameters(name, MODELS.get(name).Params)
            before = arg
        return None

    def is_misnamed(self, args: Sequence[str]) -> bool:
        """Return whether a name is given that no model or entry has."""
        return bool(args) and (not args[0].startswith("-") or "--entry" in args)


def find_entry(name: str) -> ModelEntry:
    """Return the catalog entry called `name`, else an entry of the registered model of that name with defaults.

    Raises
    ------
    ModelError
        If there is neither.
    """
    from perturbfm_core.models.base import MODELS

    entries = load_catalog().models
    if name in entries:
        return entries[name]
    if name not in MODELS:
        others = sorted(set(entries) - set(MODELS.names()))
        more = f"; entries beside these: {', '.join(others)}" if others else ""
        close = difflib.get_close_matches(name, [*MODELS.names(), *entries], n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        msg = f"unknown model {name!r}{hint}; known: {', '.join(MODELS.names())}{more}"
        raise ModelError(msg)
    return ModelEntry(name=name, description="from the command line", model=name)


def configured(base: ModelEntry, given: dict[str, Any], **settings: Unpack[Settings]) -> ModelEntry:
    """Return an entry with some parameters changed, given as text or as values.

    Parameters
    ----------
    base
        The entry that it departs from.
    given
        Changed parameters; text is read by the type of the parameter.
    **settings
        Other settings, as of `changed_entry`.

    Raises
    ------
    ConfigError
        If a value is not what the parameter takes, or the name is no key or that of an entry of another model.
    """
    from perturbfm_core.models.base import MODELS
    from perturbfm_core.pipeline.changed_entry import changed_entry

    return changed_entry(base, typed(MODELS.get(base.model).Params, given), **settings)
