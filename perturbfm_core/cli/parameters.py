"""Command-line options made of the parameters of a model or split kind: ``--hidden-dim 32`` for `hidden_dim`."""

from __future__ import annotations

import difflib
import inspect
import types
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from typer.core import TyperCommand

from perturbfm_core.config import Frozen, documented, option_of
from perturbfm_core.errors import ConfigError
from perturbfm_core.parsing import parse_yaml

_PREFIX = "parameter_"
_CHOSEN = "perturbfm_core.cli.parameters"
# Types of several values.
_SEVERAL = (tuple, list, set, frozenset, Sequence, AbstractSet)

ParamOption = Annotated[
    list[str] | None, typer.Option("--param", help="A parameter NAME=VALUE, value as YAML (repeatable).")
]


@dataclass(frozen=True)
class Parameters:
    """The parameters of one model or split kind.

    Attributes
    ----------
    name
        Of the model or kind.
    form
        The pydantic type of its parameters.
    """

    name: str
    form: type[Frozen]

    def described(self, taken: Collection[str] = ()) -> list[dict[str, Any]]:
        """Return name, option, type, default and description of each parameter that can be given.

        Parameters
        ----------
        taken
            Options that the command has itself: a parameter of such a name is given by ``--param``.

        Raises
        ------
        ConfigError
            If the type of a parameter is not there.
        """
        text = documented(self.form)
        out = []
        for name, field in self.form.model_fields.items():
            option = option_of(name, field)
            if option.hidden:
                continue
            annotation: Any = Path if option.read is not None else field.annotation
            if isinstance(annotation, str | ForwardRef):
                msg = f"parameter {name!r} of {self.name!r} has an unknown type {_type_name(annotation)!r}; import or define it"
                raise ConfigError(msg)
            declared = _declaration(str(option.name), annotation)
            out.append(
                {
                    "parameter": name,
                    "option": f"--param {name}=" if set(taken) & set(declared.split("/")) else declared,
                    "type": _type_name(annotation),
                    "default": field.get_default(call_default_factory=True),
                    "description": field.description or text.get(name),
                }
            )
        return out

    def declarations(self, taken: Collection[str] = ()) -> list[str]:
        """Return the options, as the command line declares them beside those that are `taken`."""
        return [str(item["option"]) for item in self.described(taken)]


class ParameterCommand(TyperCommand):
    """A command whose options depend on the model or split kind that its command line names."""

    noun = "model"

    @abstractmethod
    def parameters_of(self, args: Sequence[str]) -> Parameters | None:
        """Return the parameters of what the command line names, None if it names nothing known."""

    def others(self) -> list[Parameters]:
        """Return parameters whose options the help lists where nothing is named; none by default."""
        return []

    def elsewhere(self, option: str, name: str) -> str | None:
        """Return what to say of an option that `name` lacks and another has, None if there is nothing."""
        return None

    def is_misnamed(self, args: Sequence[str]) -> bool:
        """Return whether the command line names something unknown, which is to be said before anything else."""
        return False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the options of what is named; what they were given is in `given_parameters`."""
        found = self.parameters_of(args)
        own = {o for p in super().get_params(ctx) for o in (*p.opts, *p.secondary_opts)}
        ctx.meta[_CHOSEN] = [] if found is None else _options([found], own)
        if found is None and "--help" in args:
            ctx.meta[_CHOSEN] = _options(self.others(), own)
        if found is None and self.is_misnamed(args):
            ctx.ignore_unknown_options = ctx.allow_extra_args = True
        if found is not None:
            known = own | {o for p in ctx.meta[_CHOSEN] for o in (*p.opts, *p.secondary_opts)}
            self._refuse_unknown(args, known, found, own)
        rest: list[str] = super().parse_args(ctx, args)
        given = {}
        for option in ctx.meta[_CHOSEN]:
            value = ctx.params.pop(option.name, None)
            if value is not None and value not in ((), []):
                name = option.name.removeprefix(_PREFIX)
                given[name] = value if found is None else _from_option(found.form, name, value)
        ctx.meta[_CHOSEN] = given
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own options and those of the parameters."""
        own = super().get_params(ctx)
        extra = ctx.meta.get(_CHOSEN, [])
        # Help comes last, as everywhere.
        return [*own[:-1], *extra, *own[-1:]] if isinstance(extra, list) else list(own)

    def _refuse_unknown(
        self, args: Sequence[str], known: set[str], found: Parameters, taken: Collection[str]
    ) -> None:
        for arg in args:
            name = arg.partition("=")[0]
            if not name.startswith("--") or name in known or name == "--help":
                continue
            if (said := self.elsewhere(name, found.name)) is not None:
                raise ConfigError(said)
            close = difflib.get_close_matches(name, sorted(known), n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            own = ", ".join(sorted(found.declarations(taken)))
            msg = f"{self.noun} {found.name!r} has no option {name}{hint} (its parameters: {own or 'none'})"
            raise ConfigError(msg)


def given_parameters(ctx: typer.Context) -> dict[str, Any]:
    """Return {parameter: text, texts or flag} that the command line gave as options of the parameters."""
    return dict(ctx.meta.get(_CHOSEN, {}))


def typed(form: type[Frozen], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return given parameters in a form that their types are validated from; unknown names as they are.

    Parameters
    ----------
    form
        The pydantic type of the parameters.
    given
        {parameter: value}; text is read by the type of the parameter, a path by its reader.
    """
    out = {}
    for name, value in given.items():
        field = form.model_fields.get(name)
        if field is None:
            out[name] = value
            continue
        read = option_of(name, field).read
        is_path = read is not None and isinstance(value, str | Path)
        out[name] = (
            read(Path(value)) if read is not None and is_path else _read(field.annotation, name, value)
        )
    return out


def stated(form: type[Frozen], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return given parameters as `typed` does, with the defaults that a request states in any case."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in form.model_fields.items()
        if option_of(name, field).stated
    }
    return {**defaults, **typed(form, given)}


# ---- options -----------------------------------------------------------------------------------------------


def _options(several: Iterable[Parameters], taken: set[str]) -> list[Any]:
    """Return an option per parameter, save those whose names are taken already."""
    taken = set(taken)
    hints: dict[str, Any] = {}
    for found in several:
        for item in found.described():
            declaration, flag = item["option"], "/" in item["option"]
            if taken & set(declaration.split("/")):
                continue
            taken |= set(declaration.split("/"))
            kept = item["default"]
            shown = (
                "" if flag or kept is None or kept in ((), {}, frozenset()) else f" (default {_plain(kept)})"
            )
            option = typer.Option(
                declaration,
                metavar=None if flag else f"<{item['type'].removesuffix('...')}>",
                help=(item["description"] or f"Parameter {item['parameter']} of {found.name}.") + shown,
                show_default=False,
            )
            repeated = item["type"].endswith("...")
            form = bool | None if flag else list[str] | None if repeated else str | None
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


def _declaration(option: str, annotation: Any) -> str:
    return f"{option}/--no-{option[2:]}" if annotation is bool else option


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
        elif origin in _SEVERAL:
            inner = _type_name(get_args(part)[0]) if get_args(part) else "text"
            words.append("list..." if inner.endswith("...") else inner + "...")
        elif part in _SEVERAL:
            words.append("text...")
        elif isinstance(part, type) and issubclass(part, BaseModel):
            words.append("mapping")
        elif isinstance(part, str | ForwardRef):
            words.append(part if isinstance(part, str) else part.__forward_arg__)
        elif origin is dict or part is dict:
            words.append("mapping")
        elif str(origin).endswith("Literal"):
            words += [str(x) for x in get_args(part)]
        elif origin is not None:
            # Annotated[int, ...] and the like.
            words.append(_type_name(get_args(part)[0]))
        else:
            plain = {"str": "text", "int": "integer", "float": "number", "Path": "file"}
            name = getattr(part, "__name__", str(part))
            words.append(plain.get(name, name))
    return "|".join(words)


def _from_option(form: type[Frozen], name: str, value: Any) -> Any:
    """Return what an option was given, read as YAML where the parameter's type is not validated from text."""
    field = form.model_fields[name]
    if option_of(name, field).read is not None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _yaml(name, value) if _takes_yaml(field.annotation) else value
    inner = [a for part in _parts(field.annotation) if get_origin(part) in _SEVERAL for a in get_args(part)]
    inner = [a for a in inner if a is not ...]
    nested = any(get_origin(part) in _SEVERAL for a in inner for part in _parts(a))
    if not nested and not any(_takes_yaml(a) for a in inner):
        return value
    items = [_yaml(name, text) for text in value]
    # Given once, it may be the whole list as well as its only member.
    whole = (
        len(items) == 1
        and isinstance(items[0], list)
        and (not nested or all(type(x) is list for x in items[0]))
    )
    return items[0] if whole else items


def _takes_yaml(annotation: Any) -> bool:
    """Return whether text is not enough for a type: a mapping, numbers to choose from, or text beside numbers."""
    parts = _parts(annotation)
    if annotation is Any or (str in parts and {int, float, bool} & set(parts)):
        return True
    for part in parts:
        origin = get_origin(part)
        if origin is Annotated and _takes_yaml(get_args(part)[0]):
            return True
        if origin is Literal and not all(isinstance(x, str) for x in get_args(part)):
            return True
        if isinstance(part, type) and issubclass(part, BaseModel):
            return True
    return False


def _yaml(name: str, text: str) -> Any:
    return parse_yaml(text, f"--{name} {text[:200]!r}: the value")


def _read(annotation: Any, name: str, value: Any) -> Any:
    """Return the value of an option in a form that the parameter's type is validated from."""
    kinds = _parts(annotation)
    if isinstance(value, str) and value.lower() in ("none", "null") and type(None) in kinds:
        return None
    if isinstance(value, str) and any(k is dict or get_origin(k) is dict for k in kinds):
        return _yaml(name, value)
    return value


def _plain(value: Any) -> str:
    return (
        ", ".join(str(x) for x in value) if isinstance(value, tuple | list | set | frozenset) else str(value)
    )
