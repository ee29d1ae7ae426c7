"""Options of ``train`` and ``run`` that come from the chosen model's parameters: ``--hidden-dim 32`` for `hidden_dim`."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import typer
import yaml
from typer.core import TyperCommand

from perturbfm_core.catalog import load_catalog
from perturbfm_core.config import ModelEntry, check_key, content_hash, documented, parse
from perturbfm_core.errors import ConfigError, ModelError
from perturbfm_core.models import MODELS, Model, new_model
from perturbfm_core.uncertainty import UncertaintyConfig

_PREFIX = "parameter_"
_CHOSEN = "perturbfm_core.cli.model_options"
_SUFFIX = 6
# Options before whose value no model is looked for.
_OTHER_VALUES = ("--data", "--split", "--name", "--param", "--seed", "--study", "--register")


class ModelCommand(TyperCommand):
    """A command whose options depend on the model or entry that its command line names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the options of the named model; what they were given is in `given_parameters`."""
        kind = _named(args)
        own = {o for p in super().get_params(ctx) for o in (*p.opts, *p.secondary_opts)}
        ctx.meta[_CHOSEN] = [] if kind is None else _options(kind, own)
        if kind is None and args and (not args[0].startswith("-") or "--entry" in args):
            # The name is wrong: that is to be said, not that its options are unknown.
            ctx.ignore_unknown_options = ctx.allow_extra_args = True
        if kind is not None:
            known = own | {o for p in ctx.meta[_CHOSEN] for o in (*p.opts, *p.secondary_opts)}
            _refuse_unknown(args, known, kind)
        rest: list[str] = super().parse_args(ctx, args)
        given = {}
        for option in ctx.meta[_CHOSEN]:
            value = ctx.params.pop(option.name, None)
            if value is not None and value not in ((), []):
                given[option.name.removeprefix(_PREFIX)] = value
        ctx.meta[_CHOSEN] = given
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own options and those of the model."""
        own = super().get_params(ctx)
        extra = ctx.meta.get(_CHOSEN, [])
        # Help comes last, as everywhere.
        return [*own[:-1], *extra, *own[-1:]] if isinstance(extra, list) else list(own)


def given_parameters(ctx: typer.Context) -> dict[str, Any]:
    """Return {parameter: text, texts or flag} that the command line gave as options of the model."""
    return dict(ctx.meta.get(_CHOSEN, {}))


def find_entry(name: str) -> ModelEntry:
    """Return the catalog entry called `name`, else an entry of the registered model of that name with defaults."""
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


def configured(
    base: ModelEntry,
    given: dict[str, Any],
    *,
    name: str | None = None,
    conformal: str | None = None,
    ensemble: int | None = None,
    seed: int | None = None,
) -> ModelEntry:
    """Return an entry with some parameters changed.

    Where anything is changed, its name gets a short suffix made of the changes, unless `name` gives another.

    Parameters
    ----------
    base
        The entry that it departs from.
    given
        Changed parameters; text is read by the type of the parameter.
    name
        Name in the leaderboard.
    conformal, ensemble
        Method of intervals, and number of members, in the entry's ``uncertainty`` block.
    seed
        The only seed (default: those of the entry).

    Raises
    ------
    ConfigError
        If a value is not what the parameter takes, or the name is no key.
    """
    kind = MODELS.get(base.model)
    fields = kind.Params.model_fields
    changes = {k: _read(fields[k].annotation, k, v) if k in fields else v for k, v in given.items()}
    old = new_model(base.model, base.params).params.model_dump(mode="json")
    params = {**base.params, **changes}
    new = new_model(base.model, params).params.model_dump(mode="json")
    uncertainty = dict(base.uncertainty)
    if conformal is not None:
        old_method = uncertainty.get("conformal", {}).get("method", "mondrian")
        kept = uncertainty.get("conformal", {})
        # Groups are of one method; another has its own.
        kept = {k: v for k, v in kept.items() if k != "groups" or conformal == old_method}
        uncertainty["conformal"] = {**kept, "method": conformal}
    if ensemble is not None:
        uncertainty["ensemble"] = ensemble
    asked = [parse(UncertaintyConfig, u, "--conformal") for u in (base.uncertainty, uncertainty)]
    different = {k: v for k, v in new.items() if old[k] != v}
    if asked[0] != asked[1]:
        different["uncertainty"] = asked[1].model_dump(mode="json")
    suffix = f"-{content_hash(different)[:_SUFFIX]}" if different else ""
    values: dict[str, Any] = {
        **base.model_dump(),
        "name": check_key(name, "--entry") if name is not None else base.name + suffix,
        "params": params if different else base.params,
        "uncertainty": uncertainty if different else base.uncertainty,
    }
    if new != old:
        # What a search selected is something else now.
        values["tuned"] = None
    if seed is not None:
        values["seeds"] = (seed,)
    return parse(ModelEntry, values, "train options")


def parameters(kind: type[Model]) -> list[dict[str, Any]]:
    """Return name, option, type, default and description of each parameter of a model."""
    told = documented(kind.Params)
    return [
        {
            "parameter": name,
            "option": _declaration(name, field.annotation, field.default),
            "type": _type_name(field.annotation),
            "default": field.get_default(call_default_factory=True),
            "description": field.description or told.get(name),
        }
        for name, field in kind.Params.model_fields.items()
    ]


# ---- options -----------------------------------------------------------------------------------------------


def _named(args: Sequence[str]) -> type[Model] | None:
    """Return the model that a command line names, by itself or by an entry; None if it names none."""
    entries = load_catalog().models
    before = ""
    for arg in args:
        word = arg.partition("=")[2] if arg.startswith(("--entry=", "--baseline=")) else arg
        if before not in _OTHER_VALUES and not word.startswith("-"):
            name = entries[word].model if word in entries else word
            if name in MODELS:
                return MODELS.get(name)
        before = arg
    return None


def _options(kind: type[Model], taken: set[str]) -> list[Any]:
    """Return an option per parameter, save those whose names the command has already."""
    hints: dict[str, Any] = {}
    for item in parameters(kind):
        declaration, flag = item["option"], "/" in item["option"]
        if taken & set(declaration.split("/")):
            continue
        kept = item["default"]
        shown = "" if flag or kept is None or kept in ((), {}) else f" (default {_plain(kept)})"
        option = typer.Option(
            declaration,
            metavar=None if flag else f"<{item['type'].removesuffix('...')}>",
            help=(item["description"] or f"Parameter {item['parameter']} of {kind.name}.") + shown,
            show_default=False,
        )
        several = item["type"].endswith("...")
        form = bool | None if flag else list[str] | None if several else str | None
        hints[_PREFIX + item["parameter"]] = Annotated[form, option]

    def declared() -> None:
        """Nothing: it lends its signature, which Typer makes options of."""

    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature(
        [inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in hints.items()]
    )
    vars(declared).update(__signature__=signature)
    declared.__annotations__ = hints
    # Completion is of the whole command line.
    lent = typer.Typer(add_completion=False)
    lent.command(add_help_option=False)(declared)
    return list(typer.main.get_command(lent).params)


def _refuse_unknown(args: Sequence[str], known: set[str], kind: type[Model]) -> None:
    for arg in args:
        name = arg.partition("=")[0]
        if not name.startswith("--") or name in known or name == "--help":
            continue
        close = difflib.get_close_matches(name, sorted(known), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        own = ", ".join(
            sorted(_declaration(k, f.annotation, f.default) for k, f in kind.Params.model_fields.items())
        )
        msg = f"model {kind.name!r} has no option {name}{hint} (its parameters: {own or 'none'})"
        raise ConfigError(msg)


def _declaration(name: str, annotation: Any, default: Any) -> str:
    option = "--" + name.replace("_", "-")
    if annotation is not bool:
        return option
    negative = f"--no-{option[2:]}"
    return f"{option}/{negative}"


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(x for a in get_args(annotation) for x in _parts(a))
    return (annotation,)


def _type_name(annotation: Any) -> str:
    """Return a type as people write it; several values end in an ellipsis."""
    words = []
    for part in _parts(annotation):
        origin = get_origin(part)
        if part is type(None):
            words.append("none")
        elif origin in (tuple, list):
            words.append(_type_name(get_args(part)[0]) + "...")
        elif origin is dict or part is dict:
            words.append("mapping")
        elif str(origin).endswith("Literal"):
            words += [str(x) for x in get_args(part)]
        elif origin is not None:
            # Annotated[int, ...] and the like.
            words.append(_type_name(get_args(part)[0]))
        else:
            words.append(
                {"str": "text", "int": "integer", "float": "number"}.get(part.__name__, part.__name__)
            )
    return "|".join(words)


def _read(annotation: Any, name: str, value: Any) -> Any:
    """Return the value of an option in a form that the parameter's type is validated from."""
    kinds = _parts(annotation)
    if isinstance(value, str) and value.lower() in ("none", "null") and type(None) in kinds:
        return None
    if isinstance(value, str) and any(k is dict or get_origin(k) is dict for k in kinds):
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as error:
            msg = f"--{name} {value!r}: not a YAML mapping ({' '.join(str(error).split())[:100]})"
            raise ConfigError(msg) from error
    return value


def _plain(value: Any) -> str:
    return ", ".join(str(x) for x in value) if isinstance(value, tuple | list) else str(value)
