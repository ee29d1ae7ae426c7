"""Metadata, progress and faults of a launch that read well in the UI and on the console."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from perturbfm_core.progress import WAITING

# What markdown reads as emphasis, code, links or columns; a ``_`` inside a word is none.
_MARKS = re.compile(r"[\\`*\[\]~|]|(?<![^\W_])_|_(?![^\W_])")


class RunLog:
    """Progress in the log of a run; what it waits for is a warning, which is on the console whatever is shown there.

    Parameters
    ----------
    context
        Of the asset or op.
    """

    def __init__(self, context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
        self.run = context.run.run_id
        self._context, self._log = context, context.log

    def __call__(self, text: str) -> None:
        """Log a line."""
        if text.startswith(WAITING):
            self._log.warning(text)
        else:
            self._log.info(text)

    @contextlib.contextmanager
    def worker_session(self) -> Iterator[Mapping[str, str]]:
        """Open a session of Dagster Pipes: a worker that speaks it logs into the run, and leaves messages there.

        The process itself is started, watched and ended by the core, which also checks what it wrote.
        """
        with dg.open_pipes_session(
            self._context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=_OptionalMessages(),
        ) as session:
            yield session.get_bootstrap_env_vars()
        for message in session.get_custom_messages():
            self._log.info(f"the worker reports {message}")


class _OptionalMessages(dg.PipesTempFileMessageReader):
    """Messages of a worker that may have none."""

    def no_messages_debug_text(self) -> str:
        """Return what is said where there were none."""
        return "This worker does not speak Dagster Pipes, which it need not: its output is read and checked here."


def partition_of(context: dg.AssetExecutionContext) -> str:
    """Return the key of the one partition of a run.

    Raises
    ------
    dagster.Failure
        If the run was launched for none, or for a range of them.
    """
    if context.has_partition_key:
        key: str = context.partition_key
        return key
    found = "a range of partitions" if context.has_partition_key_range else "no partition"
    message = f"the run was launched for {found}, and makes one; launch it for one (tag dagster/partition), or several as a backfill"
    raise dg.Failure(message)


def verdict(name: str, problems: Sequence[str], metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Return the result of a check, which passes where there is no problem, and says what the problems are.

    Parameters
    ----------
    name
        Of the check.
    problems
        What was found, each in words.
    metadata
        What else is shown of it.
    """
    return dg.AssetCheckResult(
        passed=not problems, check_name=name, description="; ".join(problems) or None, metadata=metadata
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a markdown table; what would break its cells is replaced."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(_cell(c) for c in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *(line(r) for r in rows)])


def rounded(value: Any) -> Any:
    """Return a value with every number in it cut to four digits after the point, smaller ones to four that count."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return round(value, 4) if value == 0 or abs(value) >= 5e-5 else float(f"{value:.3e}")
    return value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = _MARKS.sub(r"\\\g<0>", str(value)).replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(text.splitlines())
