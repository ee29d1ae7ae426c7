"""Configurations that cross a file: immutable, closed, hashed by their canonical JSON."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import rfc8785
from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError
from pydantic.fields import FieldInfo

from perturbfm_core.errors import ConfigError
from perturbfm_core.parsing import MAX_YAML_BYTES, parse_yaml, read_text

# As many faults of one value as a line has room for.
_SHOWN_ERRORS = 8
KEY_PATTERN = re.compile(r"^[a-z0-9][a-z0-9_.-]*$")
# File systems take 255 bytes, and a run's folder has its time, split and configuration beside the key.
_LONGEST_KEY = 200


class Frozen(BaseModel):
    """Base of every configuration: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Frozen)


@dataclass(frozen=True)
class CommandOption:
    """How a parameter appears on the command line, as metadata of its field (``Annotated[T, CommandOption(...)]``).

    Attributes
    ----------
    name
        The option, None for the parameter's own name.
    read
        Turns the path that the option is given into the parameter's value; None where it takes the value itself.
    hidden
        Whether the command line cannot give it: the program knows it.
    stated
        Whether its default is written into the request, so that a later default would not change old requests.
    """

    name: str | None = None
    read: Callable[[Path], Any] | None = None
    hidden: bool = False
    stated: bool = False


def option_of(name: str, field: FieldInfo) -> CommandOption:
    """Return how a field of a configuration appears on the command line."""
    own = next((m for m in field.metadata if isinstance(m, CommandOption)), CommandOption())
    return own if own.name is not None else replace(own, name="--" + name.replace("_", "-"))


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 form of a JSON value: the same bytes for the same content.

    Raises
    ------
    ConfigError
        If it holds what has no such form: a number that is not finite, or a whole one beyond 2^53.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        msg = f"a value has no canonical form ({error}); use finite numbers below 2^53, and text"
        raise ConfigError(msg) from error


def content_hash(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def check_key(key: str, what: str) -> str:
    """Return `key` if it can be a partition key and a file name, else raise `ConfigError`."""
    if not KEY_PATTERN.fullmatch(key) or ".." in key:
        msg = (
            f"{what} {key[:_LONGEST_KEY]!r} cannot be a key; use lower-case letters, digits, '_', '-' and '.', "
            "beginning with a letter or digit"
        )
        raise ConfigError(msg)
    if len(key) > _LONGEST_KEY:
        msg = f"{what} '{key[:20]}...' has {len(key)} characters; give at most {_LONGEST_KEY}"
        raise ConfigError(msg)
    return key


def slug(name: str) -> str:
    """Return `name` as a key: lower case, every run of other characters a hyphen.

    Raises
    ------
    ConfigError
        If it has no letter or digit.
    """
    out = re.sub(r"[^a-z0-9_.]+", "-", name.lower())
    out = re.sub(r"\.{2,}", ".", out).strip("-._")
    if not out:
        msg = f"name {name!r} has no letter or digit to make a key of"
        raise ConfigError(msg)
    return out


def one_line(error: ValidationError) -> str:
    """Return a pydantic error as one line: field, problem, value found."""
    parts = []
    for item in error.errors():
        where = ".".join(str(x) for x in item["loc"]) or "(top level)"
        found = "" if item["type"] == "missing" else f", found {str(item['input'])[:60]!r}"
        parts.append(f"{where[:120]}: {item['msg']}{found}")
    # A file of another kind has hundreds of unknown names.
    more = f"; and {len(parts) - _SHOWN_ERRORS} more" if len(parts) > _SHOWN_ERRORS else ""
    return "; ".join(parts[:_SHOWN_ERRORS]) + more


def parse(model: type[C], value: Any, source: str) -> C:
    """Return a value validated as a configuration.

    Parameters
    ----------
    model
        Type of the configuration.
    value
        What was read.
    source
        Where from, for the message.

    Raises
    ------
    ConfigError
        If it is not valid, naming field, problem and value found in one line.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        msg = f"{source} is not a valid {model.__name__}: {one_line(error)}"
        raise ConfigError(msg) from error
    except PydanticUserError as error:
        # A type that its annotations name is not there, for instance.
        msg = f"{source} cannot be read: {str(error).splitlines()[0]}"
        raise ConfigError(msg) from error


def load_yaml(path: Path) -> Any:
    """Read one YAML file (see `perturbfm_core.parsing.parse_yaml`).

    A file that does not exist or is refused raises `ConfigError`.
    """
    return parse_yaml(read_text(path, ConfigError, MAX_YAML_BYTES), str(path))


def documented(model: type[Frozen]) -> dict[str, str]:
    """Return {field: description} from the "Attributes" of a configuration's docstring and of those it extends.

    Fields that share a description have the whole of it.
    """
    out: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
        if "Attributes" not in lines or kind.__module__.startswith("pydantic"):
            continue
        names: list[str] = []
        text: dict[str, list[str]] = {}
        for line, following in pairwise([*lines[lines.index("Attributes") + 2 :], "", ""]):
            if following.startswith("---"):
                break
            if line and not line.startswith(" "):
                names = [name.strip() for name in line.split(",")]
                text.update({name: [] for name in names})
            elif line:
                for name in names:
                    text[name].append(line.strip())
        out.update({name: " ".join(parts) for name, parts in text.items()})
    return {name: text for name, text in out.items() if name in model.model_fields}
