"""``perturbfm models``: what can be trained, and with which parameters."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.model_options import find_entry
from perturbfm_core.cli.output import JsonOption, emit, emit_rows, shortened
from perturbfm_core.cli.parameters import Parameters

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Look at models and catalog entries.",
)


@app.command("list")
def models_list(as_json: JsonOption = False) -> None:
    """List the registered models and the catalog entries made of them."""
    from perturbfm_core.models.base import MODELS

    entries = load_catalog().models.values()
    rows: list[dict[str, Any]] = []
    for name, kind in MODELS.items():
        of = [e for e in entries if e.model == name]
        row: dict[str, Any] = {"model": name, "family": kind.family}
        if as_json:
            row["entries"] = ", ".join(e.name for e in of) or None
            row["parameters"] = ", ".join(kind.Params.model_fields) or None
        rows.append({**row, "description": _first_line(kind)})
        if not as_json:
            # An entry of the model's own name is the model with its defaults.
            rows += [
                {"model": f"  {e.name}", "family": "entry", "description": e.description}
                for e in of
                if e.name != name
            ]
    emit_rows(rows if as_json else shortened(rows, "description"), as_json, empty="no model is registered")


@app.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="A registered model or an entry of the catalog.")],
    as_json: JsonOption = False,
) -> None:
    """Show a model or an entry with its parameters: option, type, value and meaning of each."""
    from perturbfm_core.models.base import MODELS, Requires
    from perturbfm_core.models.parameters import every_parameter

    entry = find_entry(name)
    kind = MODELS.get(entry.model)
    values = every_parameter(entry.model, entry.params, entry.name)
    rows = [
        {**p, "default": _plain(p["default"]), "value": values[p["parameter"]]}
        for p in Parameters(entry.model, kind.Params).described(_options_of_train())
    ]
    shown: dict[str, Any] = {
        "name": name,
        "model": entry.model,
        "family": kind.family,
        "description": entry.description if name in load_catalog().models else _first_line(kind),
        "requires": {k: v for k, v in vars(kind.requires).items() if v != getattr(Requires(), k)},
        "seeds": list(entry.seeds),
        "uncertainty": entry.uncertainty,
    }
    if as_json:
        emit({**shown, "parameters": rows}, True)
        return
    emit(shown, False)
    if not rows:
        print("(no parameters)")
    for row in rows:
        value, kept = _text(row["value"]) or "none", _text(row["default"]) or "none"
        given = f"{value} (default {kept})" if value != kept else value
        print(f"\n{row['option']} {row['type']}: {given}")
        print(textwrap.fill(str(row["description"] or ""), 98, initial_indent="  ", subsequent_indent="  "))


def _options_of_train() -> set[str]:
    """Return the options that ``train`` has for every model."""
    from perturbfm_core.cli.train import train

    lent = typer.Typer(add_completion=False)
    lent.command()(train)
    return {o for p in typer.main.get_command(lent).params for o in (*p.opts, *p.secondary_opts)}


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0]


def _plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    from perturbfm_core.models.parameters import recorded

    return recorded(to_jsonable_python(value), value)


def _text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value) or None
    return str(value) if value not in ({}, None) else None
