"""Progress on the terminal: a line for the stage, a bar for counted stages, a bar for the epochs of a training."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from perturbfm_core.progress import WAITING, WARNING, EpochReport, OnEpoch


class Display:
    """A progress display: called with the name of a stage, `epoch` called after every epoch of a training.

    With a total, every call that begins with ``done:`` advances the bar of stages.
    """

    epoch: OnEpoch | None

    def __init__(self, bar: Progress, total: int | None) -> None:
        self._bar = bar
        self._stage = bar.add_task("starting", total=total)
        self._training: TaskID | None = None
        # Nobody sees it: epochs are not reported.
        self.epoch = None if bar.disable else self._epoch

    def __call__(self, text: str) -> None:
        """Name the stage."""
        if self._training is not None:
            self._bar.remove_task(self._training)
            self._training = None
        if self._bar.disable and text.startswith(WAITING):
            # Whoever waits sees it, whatever standard error is.
            print(text, file=sys.stderr, flush=True)
        if text.startswith(WARNING):
            # It stays on the terminal, above the bars.
            print(text, file=sys.stderr, flush=True) if self._bar.disable else self._bar.console.print(
                text, markup=False, highlight=False, soft_wrap=True
            )
        elif text.startswith("done:"):
            self._bar.advance(self._stage)
        else:
            self._bar.update(self._stage, description=text)

    def _epoch(self, report: EpochReport) -> None:
        text = f"{report.phase}: loss {report.loss:.4g}"
        if report.score is not None:
            text += f", validation {report.score:.4f}"
        if self._training is None:
            self._training = self._bar.add_task(text, total=report.epochs)
        self._bar.update(self._training, description=text, total=report.epochs, completed=report.epoch)


class _Counted(ProgressColumn):
    """A column that only tasks with a known end have."""

    def __init__(self, column: ProgressColumn) -> None:
        self._column = column
        super().__init__()

    def render(self, task: Task) -> RenderableType:
        return Text() if task.total is None else self._column(task)


def columns() -> list[ProgressColumn]:
    """Return the columns of a progress display."""
    return [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        _Counted(BarColumn()),
        _Counted(MofNCompleteColumn()),
        TimeElapsedColumn(),
    ]


@contextlib.contextmanager
def display(total: int | None, *, silent: bool) -> Iterator[Display]:
    """Show stages and epochs on standard error, if it is a terminal (see `perturbfm_core.cli.output.progress`)."""
    with Progress(
        *columns(),
        console=Console(stderr=True),
        transient=True,
        disable=silent or not sys.stderr.isatty(),
    ) as bar:
        yield Display(bar, total)
