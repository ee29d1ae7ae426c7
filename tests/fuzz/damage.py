"""Ways to damage a file that hold for any format: bytes, kinds of file, and the values of JSON and YAML."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

# ---- bytes -----------------------------------------------------------------------------------------------------


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flipped_head(data: bytes, rng: random.Random) -> bytes:
    """Flip where headers are: in the first kilobyte or the last."""
    out = bytearray(data)
    at = rng.randrange(min(1024, len(out)))
    out[at if rng.random() < 0.6 else -at - 1] = rng.randrange(256)
    return bytes(out)


def inserted(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 64)))) + data[at:]


def removed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 4, 64)) :]


def overwritten(data: bytes, rng: random.Random) -> bytes:
    """Write a run of one byte over a part."""
    at, n = rng.randrange(len(data)), rng.choice((4, 16, 64))
    return data[:at] + rng.choice((b"\0", b"\xff", b" ", b"9")) * min(n, len(data) - at) + data[at + n :]


def with_nul(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + b"\0" + data[at:]


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncated,
    "flipped": flipped,
    "flipped-head": flipped_head,
    "inserted": inserted,
    "removed": removed,
    "overwritten": overwritten,
    "nul": with_nul,
    "empty": lambda data, rng: b"",
    "mark": lambda data, rng: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data, rng: data.decode("latin-1").encode("utf-16"),
    "latin-1": lambda data, rng: data + b"\n\xe9\xff\xfe",
    "doubled": lambda data, rng: data + data,
}


# ---- kinds of file -----------------------------------------------------------------------------------------------


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)


KINDS: dict[str, Callable[[Path], None]] = {
    "folder": _folder,
    "pipe": os.mkfifo,
    "loop": _loop,
    "dangling": _dangling,
    "huge": _huge,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


def put(path: Path, data: bytes) -> None:
    """Write a file anew; it may have been a link."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def damage_file(path: Path, rng: random.Random) -> str:
    """Damage any file in one way; return which."""
    if rng.random() < 0.15:
        name = rng.choice(sorted(KINDS))
        path.unlink()
        KINDS[name](path)
        return name
    name = rng.choice(sorted(BYTES))
    put(path, BYTES[name](path.read_bytes(), rng))
    return name


# ---- values ------------------------------------------------------------------------------------------------------

# Each is the text of a value; `json` has no way to write most of them.
RAW = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "minus one": "-1",
    "fraction": "0.5",
    "large": "1" + "0" * 30,
    "largest": "9223372036854775807",
    "digits": "9" * 100_000,
    "fraction digits": "0." + "3" * 100_000,
    "overflow": "1e999",
    "nan": "NaN",
    "infinity": "-Infinity",
    "text": '"x"',
    "empty text": '""',
    "space": '" "',
    "number as text": '"12"',
    "long text": '"' + "ab" * 50_000 + '"',
    "half a character": '"\\ud800"',
    "nul": '"a\\u0000b"',
    "newline": '"a\\nb"',
    "path": '"../../etc/passwd"',
    "bars": '"a|b|c|d|e"',
    "pluses": '"A++B"',
    "list": "[]",
    "table": "{}",
    "nested list": "[[1], [2]]",
    "nested table": '{"a": {"b": [1]}}',
    "mixed list": '[1, "a", null, {}]',
    "deep": "[" * 500 + "]" * 500,
    "very deep": "[" * 100_000 + "]" * 100_000,
    "deep table": '{"a":' * 5000 + "1" + "}" * 5000,
    "date": '"2020-01-01"',
}
_MARK = "@@here@@"


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value; of a long list, of the first and the last three only."""
    out = [at]
    if isinstance(value, dict):
        for key, inner in value.items():
            out += places(inner, (*at, key))
    elif isinstance(value, list):
        for i in sorted({*range(min(len(value), 3)), *range(max(len(value) - 3, 0), len(value))}):
            out += places(value[i], (*at, i))
    return out


def _replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    out = dict(value) if isinstance(value, dict) else list(value)
    out[at[0]] = _replaced(value[at[0]], at[1:], new)
    return out


def _without(value: Any, at: tuple[Any, ...]) -> Any:
    out = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1:
        del out[at[0]]
    else:
        out[at[0]] = _without(value[at[0]], at[1:])
    return out


def damage_value(value: Any, rng: random.Random) -> tuple[str, str]:
    """Return (what was done, JSON text) of a value damaged in one place."""
    known = places(value)
    # Values near the top are fewer and matter more.
    at = min((rng.choice(known) for _ in range(rng.choice((1, 2)))), key=len)
    where = ".".join(map(str, at)) or "top"
    how = rng.random()
    if how < 0.1 and at:
        return f"without {where}", json.dumps(_without(value, at))
    if how < 0.2:
        inner = value
        for key in at:
            inner = inner[key]
        if isinstance(inner, dict) and inner:
            first = rng.choice(sorted(inner))
            text = json.dumps(_replaced(value, at, {**inner, _MARK: 1}))
            other = rng.choice(sorted(RAW))
            return f"{where}.{first} twice, {other}", text.replace(
                f'"{_MARK}": 1', f"{json.dumps(first)}: {RAW[other]}"
            )
        if isinstance(inner, list):
            return f"{where} repeated", json.dumps(_replaced(value, at, inner + inner))
    if how < 0.25:
        inner = value
        for key in at:
            inner = inner[key]
        if isinstance(inner, dict):
            return f"{where} with more", json.dumps(_replaced(value, at, {**inner, "more": 1}))
    name = rng.choice(sorted(RAW))
    return f"{where}={name}", json.dumps(_replaced(value, at, _MARK)).replace(f'"{_MARK}"', RAW[name])


def damage_json(path: Path, rng: random.Random) -> str:
    """Damage a JSON file in its values, or as any file; return how."""
    if rng.random() < 0.3:
        return damage_file(path, rng)
    what, text = damage_value(json.loads(path.read_text()), rng)
    put(path, text.encode())
    return what


def _bomb(n: int, width: int = 9) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, n)]
    return "\n".join(lines)


YAML: dict[str, str] = {
    "bomb": _bomb(9),
    "merge bomb": "a: &a {x: 1}\n" + "\n".join(f"b{i}: &b{i} {{<<: [*a, *a, *a]}}" for i in range(50)),
    "alias of itself": "a: &a [*a]",
    "python tag": "!!python/object/apply:os.system ['echo harm']",
    "unknown tag": "name: !secret x",
    "binary": "name: !!binary aGVsbG8=",
    "set": "name: !!set {a, b}",
    "date": "name: 2020-01-01\ndescription: 2020-13-45",
    "time": "name: 2001-12-14t21:59:43.10-05:00",
    "base 60": "name: 1" + ":59" * 5000,
    "hexadecimal": "name: 0x" + "f" * 100_000,
    "binary digits": "seeds: [0b" + "1" * 50_000 + "]",
    "underscores": "name: 0b_",
    "several documents": "name: a\n---\nname: b",
    "repeated": "name: a\nname: b",
    "numbers as keys": "1: a\n2.5: b\nnull: c\ntrue: d",
    "lists as keys": "? [a, b]\n: 1",
    "deep list": "[" * 50_000,
    "deep dashes": "- " * 5_000 + "x",
    "deep question marks": "? " * 3_000,
    "open quote": "name: '" + "x" * 10_000,
    "tabs": "\tname: x",
    "directive": "%YAML 3.0\n---\nname: x",
    "equals": "name: =",
    "merge key alone": "name: <<",
    "infinite": "name: .inf\nseeds: [.nan]",
    "long": "name: x\n" * 100_000,
    "nothing": "",
    "comment": "# nothing",
    "text": "hello",
    "control character": "name: \x01",
    "escapes": 'name: "\\0\\uD800"',
}


def damage_yaml(path: Path, rng: random.Random) -> str:
    """Damage a YAML file in its values, in its notation, or as any file; return how."""
    import yaml

    how = rng.random()
    if how < 0.2:
        return damage_file(path, rng)
    if how < 0.5:
        name = rng.choice(sorted(YAML))
        put(path, YAML[name].encode())
        return name
    # JSON is YAML, save for the numbers.
    what, text = damage_value(yaml.safe_load(path.read_text()), rng)
    put(path, text.encode())
    return what
