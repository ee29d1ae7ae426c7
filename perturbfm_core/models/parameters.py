"""All parameters of a model as plain values, those among them that a configuration leaves out at their default."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import new_model


def every_parameter(model: str, params: dict[str, Any], entry: str | None = None) -> dict[str, Any]:
    """Return {parameter: value as JSON} of a registered model, validated.

    Parameters are those of `new_model`.
    """
    found = new_model(model, params, entry).params
    return {
        name: recorded(to_jsonable_python(value), value)
        for name in type(found).model_fields
        for value in [getattr(found, name)]
    }


def recorded(as_json: Any, value: Any) -> Any:
    """Return the JSON form of a value as a configuration holds it.

    Members of sets are in order, since their own order differs between processes.

    Parameters
    ----------
    as_json
        What pydantic makes of the value.
    value
        The value itself, which shows where the sets are.

    Raises
    ------
    ConfigError
        If it holds a number that is not finite, which has no JSON form.
    """
    if isinstance(value, float) and not math.isfinite(value):
        msg = f"a parameter of the model is {value}, which no configuration can hold; use a finite number, or none for no limit"
        raise ConfigError(msg)
    if isinstance(value, set | frozenset) and isinstance(as_json, list):
        like = next(iter(value), None)
        # Members are of one kind as a rule; only sets among them have an order to mend.
        members = [recorded(m, like) for m in as_json] if isinstance(like, frozenset) else as_json
        return sorted(members, key=lambda m: json.dumps(m, sort_keys=True))
    if isinstance(value, BaseModel) and isinstance(as_json, dict):
        return {name: recorded(part, getattr(value, name, None)) for name, part in as_json.items()}
    if isinstance(value, dict) and isinstance(as_json, dict) and len(value) == len(as_json):
        return {
            key: recorded(part, own) for (key, part), own in zip(as_json.items(), value.values(), strict=True)
        }
    if isinstance(value, list | tuple) and isinstance(as_json, list) and len(value) == len(as_json):
        return [recorded(part, own) for part, own in zip(as_json, value, strict=True)]
    return as_json
