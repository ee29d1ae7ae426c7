"""Request for a split from Python as fields of its specification."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from perturbfm_core.errors import ConfigError
from perturbfm_core.pipeline.changed_entry import plain_value
from perturbfm_core.pipeline.python_arguments import type_name
from perturbfm_core.splits.condition_lists import read_conditions

# Arguments of `freeze` that are fields of a specification as well.
_OWN_FIELDS = ("kind", "params", "seed", "folds", "fold")


def split_fields(kind: str, folds: Any, policies: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Return the policies and parameters of a request for a split as fields of `SplitSpec`.

    Parameters
    ----------
    kind
        Kind of split.
    folds
        Number of folds, which are no list of conditions.
    policies
        Further fields.
    params
        Parameters of the kind; ``conditions`` of ``explicit`` is its list of conditions per fold, or the path of a file
        of them, as the option of the command line is.

    Raises
    ------
    ConfigError
        If policies are no dictionary or hold an argument of `freeze`, or conditions are given as folds.
    """
    given = {} if policies is None else policies
    if not isinstance(given, dict):
        msg = f"policies is a {type_name(given)}; give a dictionary, such as {{'calibration': 'inner_cv'}}"
        raise ConfigError(msg)
    if own := [name for name in _OWN_FIELDS if name in given]:
        msg = f"policies holds {own[0]!r}, which freeze takes as an argument of its own; give it there"
        raise ConfigError(msg)
    if isinstance(folds, Mapping):
        msg = "folds is a number of folds; give lists of conditions by kind 'explicit' as conditions={'test': [...]}"
        raise ConfigError(msg)
    named = dict(params)
    if kind == "explicit" and "conditions" in named:
        listed = named.pop("conditions")
        named["folds"] = read_conditions(Path(listed)) if isinstance(listed, str | PathLike) else listed
    return {"params": plain_value(named), **given}
