"""Text files as values: JSON and YAML bounded in size, depth and numbers, with one line for whatever is wrong."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

from perturbfm_core.errors import ConfigError

MAX_DEPTH = 64
MAX_JSON_BYTES = 1 << 30
MAX_YAML_BYTES = 1 << 20
# The header of a table of all genes has a tenth of it.
MAX_LINE_BYTES = 1 << 22
# Whole numbers beyond 64 bits fit no array and no table.
_MAX_INTEGER = 1 << 64
_MAX_DIGITS = 20
_SHOWN = 40

# Byte order marks and what they announce; Excel writes the first (as "CSV UTF-8") and the second ("Unicode text").
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


# ---- files -----------------------------------------------------------------------------------------------------


def open_regular(path: Path, error: type[Exception] = ConfigError) -> BinaryIO:
    """Open a regular file for reading; anything else (a folder, a pipe, a loop of links) is refused.

    Raises
    ------
    error
        If there is no such file, or it is of another kind or cannot be opened.
    """
    try:
        # A pipe without a writer would block on opening.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        msg = f"{path} does not exist"
        raise error(msg) from None
    except (OSError, ValueError) as exc:
        msg = f"{path} cannot be opened ({getattr(exc, 'strerror', None) or exc})"
        raise error(msg) from exc
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        msg = f"{path} is {kind}, not a file; give the path of a file"
        raise error(msg)
    return os.fdopen(handle, "rb")


def read_text(path: Path, error: type[Exception] = ConfigError, limit: int = MAX_JSON_BYTES) -> str:
    """Return the text of a regular file in UTF-8, or in UTF-16 with a byte order mark, which is dropped.

    Parameters
    ----------
    path
        The file.
    error
        Type of the errors raised.
    limit
        Largest size in bytes.

    Raises
    ------
    error
        If the file is missing, is no regular file, is too large or is not text.
    """
    with open_regular(path, error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            msg = f"{path} has {size} bytes, too many for a file of its kind (at most {limit})"
            raise error(msg)
        data = file.read(limit + 1)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        msg = f"{path} is not UTF-8 text ({exc.reason} at byte {exc.start}); save it as UTF-8"
        raise error(msg) from exc


def check_table(path: Path, error: type[Exception] = ConfigError) -> None:
    """Check that a file begins as a table of text does, before all of it is read: with a line of bounded length.

    Raises
    ------
    error
        If it is missing, is no regular file, or does not.
    """
    with open_regular(path, error) as file:
        first = file.readline(MAX_LINE_BYTES)
    encoded = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if len(first) == MAX_LINE_BYTES or (b"\0" in first and not encoded):
        msg = f"{path} is no table: its first line is not one of text; save it as CSV in UTF-8"
        raise error(msg)


# ---- JSON ------------------------------------------------------------------------------------------------------


def parse_json(text: str, source: str, error: type[Exception] = ConfigError, hint: str = "") -> Any:
    """Return the value of a JSON text.

    Refused are, beside what is not JSON: a name twice in one table, NaN and infinity, whole numbers beyond 64 bits,
    more than `MAX_DEPTH` levels, and text that is not Unicode or holds NUL.

    Parameters
    ----------
    text
        The text.
    source
        Where it is from, for the message.
    error
        Type of the errors raised.
    hint
        What to do about it, for the message.

    Raises
    ------
    error
        If the text is refused; the message is one line.
    """
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=_table,
        )
        _check_depth(value)
        if "\\u" in text or "\0" in text:
            _check_texts(value)
    except RecursionError:
        msg = f"{source} is not valid JSON (more than {MAX_DEPTH} levels deep){hint}"
        raise error(msg) from None
    except ValueError as exc:
        msg = f"{source} is not valid JSON ({exc}){hint}"
        raise error(msg) from exc
    return value


def read_json_file(path: Path, error: type[Exception] = ConfigError, hint: str = "") -> Any:
    """Return the value of a JSON file.

    Parameters
    ----------
    path
        The file, read by `read_text`.
    error
        Type of the errors raised.
    hint
        What to do about it, for the message (see `parse_json`).
    """
    return parse_json(read_text(path, error), str(path), error, hint)


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS + 1 or not -_MAX_INTEGER < int(text) < _MAX_INTEGER:
        msg = f"{_short(text)} is beyond 64 bits"
        raise ValueError(msg)
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        msg = f"{_short(text)} is not finite"
        raise ValueError(msg)
    return value


def _refuse_constant(text: str) -> NoReturn:
    msg = f"{text} is no number of JSON"
    raise ValueError(msg)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in out if names.count(name) > 1)
        msg = f"{_short(twice)!r} occurs twice in one table"
        raise ValueError(msg)
    return out


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _children(level: list[Any]) -> list[Any]:
    """Return the tables and lists that those of one level hold."""
    return [
        inner
        for outer in level
        for inner in (outer.values() if type(outer) is dict else outer)
        if type(inner) is dict or type(inner) is list
    ]


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            msg = f"more than {MAX_DEPTH} levels deep"
            raise ValueError(msg)
        level = _children(level)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every name and every plain value."""
    level: list[Any] = [[value]]
    while level:
        for outer in level:
            yield from (*outer, *outer.values()) if isinstance(outer, dict) else outer
        level = _children(level)


def _check_texts(value: Any) -> None:
    """Check that names and texts are Unicode without NUL."""
    for leaf in _leaves(value):
        if not isinstance(leaf, str):
            continue
        if "\0" in leaf:
            msg = f"{_short(leaf)!r} holds NUL"
            raise ValueError(msg)
        if not leaf.isascii() and any("\ud800" <= c <= "\udfff" for c in leaf):
            msg = f"{_short(leaf)!r} holds half a character"
            raise ValueError(msg)


# ---- YAML ------------------------------------------------------------------------------------------------------

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_BOOLEAN = "tag:yaml.org,2002:bool"
_TRUE_OR_FALSE = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")


class _Loader(_Base):  # type: ignore[misc]
    """The safe loader, for which a date is text, on, off, yes and no are words, and a name occurs once in a table."""

    # Booleans are those of YAML 1.2; a parameter that is a boolean takes the other words all the same.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [
            (tag, _TRUE_OR_FALSE if tag == _BOOLEAN else pattern)
            for tag, pattern in known
            if tag != _TIMESTAMP
        ]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return a table."""
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)[1]
            msg = f"{_short(twice)!r} occurs twice in one table"
            raise ValueError(msg)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, source: str, error: type[Exception] = ConfigError) -> Any:
    """Return the value of a YAML text: tables, lists, texts, numbers, booleans and null; dates are text.

    Refused are, beside what is not YAML: anchors and aliases (a few hundred bytes of them can stand for gigabytes),
    tags, several documents, a name twice in one table, numbers that are not finite or beyond 64 bits, more than
    `MAX_DEPTH` levels, and text that is not Unicode or holds NUL.

    Parameters
    ----------
    text
        The text.
    source
        Where it is from, for the message.
    error
        Type of the errors raised.

    Raises
    ------
    error
        If the text is refused; the message is one line.
    """
    try:
        if len(text) > MAX_YAML_BYTES:
            msg = f"{len(text)} characters, at most {MAX_YAML_BYTES}"
            raise ValueError(msg)
        _check_events(text)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
        _check_depth(value)
        _check_texts(value)
        _check_numbers(value)
    except Exception as exc:
        # PyYAML raises KeyError, IndexError, ValueError and more besides its own errors.
        detail = " ".join(str(exc).split()) or type(exc).__name__
        msg = f"{source} is not valid YAML: {detail}"
        raise error(msg) from exc
    return value


def _check_events(text: str) -> None:
    """Check depth, aliases and tags before anything is made of the text."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = f"line {event.start_mark.line + 1}" if event.start_mark else "its beginning"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            msg = f"anchors and aliases are not read ({where}); write the value out"
            raise ValueError(msg)
        tag = getattr(event, "tag", None)
        if tag is not None:
            msg = f"tags such as {_short(str(tag))} are not read ({where}); write the plain value"
            raise ValueError(msg)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            msg = f"more than {MAX_DEPTH} levels deep ({where})"
            raise ValueError(msg)
        if isinstance(event, yaml.ScalarEvent) and not event.style and len(event.value) > 1000:
            # Plain text of this length is no number that could be meant.
            _refuse_digits(event.value, where)


def _refuse_digits(text: str, where: str) -> None:
    if text[:2].lower() in ("0x", "0b", "0o") or not text.lower().strip("+-0123456789_.:ex"):
        msg = f"{_short(text)} is beyond 64 bits ({where})"
        raise ValueError(msg)


def _check_numbers(value: Any) -> None:
    for leaf in _leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            msg = f"{leaf} is not finite"
            raise ValueError(msg)
        if isinstance(leaf, int) and not -_MAX_INTEGER < leaf < _MAX_INTEGER:
            msg = "a whole number is beyond 64 bits"
            raise ValueError(msg)
