"""All parameters of a model as plain values, those among them that a configuration leaves out at their default."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

from perturbfm_core.models.base import new_model


def every_parameter(model: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return {parameter: value as JSON} of a registered model, validated."""
    found = new_model(model, params).params
    return {name: to_jsonable_python(getattr(found, name)) for name in type(found).model_fields}
