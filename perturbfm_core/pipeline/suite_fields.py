"""The fields of a submission's files, each checked as it is read: whoever repairs a file learns which and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturbfm_core.errors import StoreError
from perturbfm_core.parsing import read_json_file

WHERE = ("slurm", "local")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
# The first process of a host, and none at all, are no task's.
_PROCESSES = range(2, 2**31)
_SHOWN = 40


def read_fields(path: Path, cure: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Parameters
    ----------
    path
        The file.
    cure
        What to do if it is damaged, for the message.

    Raises
    ------
    StoreError
        If it cannot be read, or holds something else.
    """
    found = read_json_file(path, StoreError, f"; {cure}")
    if not isinstance(found, dict):
        raise damaged(path, f"it holds {shown(found)}, not an object", cure)
    return found


def damaged(path: Path, why: object, cure: str) -> StoreError:
    """Return the error of a file that is not as it was written.

    Parameters
    ----------
    path, why, cure
        The file, what is wrong with it, and what to do.
    """
    return StoreError(f"{path} is no record of a submission ({why}); {cure}")


def shown(value: Any) -> str:
    """Return a value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def text_field(fields: Mapping[str, Any], name: str, allowed: tuple[str, ...] = ()) -> str:
    """Return a field that is text.

    Parameters
    ----------
    fields, name
        All fields, and which one.
    allowed
        What it may be; left out: anything.

    Raises
    ------
    ValueError
        If it is missing, or something else.
    """
    value = fields.get(name)
    if isinstance(value, str) and (value in allowed or not allowed):
        return value
    msg = f"{name} is {shown(value)}, none of: {', '.join(allowed)}" if allowed else _no(name, value, "text")
    raise ValueError(msg)


def time_field(fields: Mapping[str, Any], name: str) -> float:
    """Return a field that is a time in seconds since 1970.

    Raises
    ------
    TypeError
        If it is something else.
    """
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(_no(name, value, "number"))
    return float(value)


def cells_field(fields: Mapping[str, Any], name: str) -> tuple[tuple[tuple[str, str, int], ...], ...]:
    """Return the cells (hash of the split, entry, seed) of each task.

    Raises
    ------
    ValueError
        If the field is something else.
    """
    tasks = fields.get(name)
    if not isinstance(tasks, list) or not all(isinstance(task, list) for task in tasks):
        raise ValueError(_no(name, tasks, "list of tasks"))
    return tuple(tuple(_cell(cell) for cell in task) for task in tasks)


def _cell(cell: Any) -> tuple[str, str, int]:
    match cell:
        case [str(split), str(entry), int(seed)]:
            return split, entry, seed
    raise ValueError(_no("a cell of its tasks", cell, "split, entry and seed"))


def jobs_field(fields: Mapping[str, Any], name: str, on: str, n: int) -> tuple[tuple[str, int, int], ...]:
    """Return (number of a job or process, its first task, its number of tasks) each.

    Parameters
    ----------
    fields, name
        All fields, and which one.
    on, n
        ``slurm`` or ``local``, and how many tasks there are.

    Raises
    ------
    TypeError, ValueError
        If the field is something else.
    """
    jobs = fields.get(name, [])
    if not isinstance(jobs, list):
        raise TypeError(_no(name, jobs, "list of jobs"))
    out = []
    for job in jobs:
        match job:
            case [number, int(first), int(count)] if first >= 0 and 1 <= count <= n - first:
                out.append((_number(number, on), first, count))
            case _:
                raise ValueError(_no("a job", job, f"number, first task and number of tasks, of {n}"))
    return tuple(out)


def number_field(fields: Mapping[str, Any], name: str, on: str) -> str | None:
    """Return the number of a job or process, None if there is none.

    Parameters
    ----------
    fields, name
        All fields, and which one.
    on
        ``slurm`` or ``local``.

    Raises
    ------
    ValueError
        If it is something else.
    """
    value = fields.get(name)
    return None if value is None else _number(value, on)


def _number(value: Any, on: str) -> str:
    number = str(value)
    if not _NUMBER.fullmatch(number) or (on == "local" and int(number) not in _PROCESSES):
        raise ValueError(_no("a number", value, "number of a " + ("job" if on == "slurm" else "process")))
    return number


def _no(name: str, value: Any, wanted: str) -> str:
    return f"{name} is {shown(value)}, no {wanted}"
