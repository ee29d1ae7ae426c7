"""Progress of a suite: a bar with the time left on a terminal, a line per cell where there is none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from perturbfm_core.cli.display import Display
from perturbfm_core.cli.output import progress
from perturbfm_core.pipeline.suite_run import CellOutcome


@dataclass
class SuiteProgress:
    """What is shown while cells run.

    Attributes
    ----------
    total, jobs
        Number of cells, and of processes.
    tell
        What shows a line of text.
    lines
        Whether every outcome is a line on standard error.
    outcomes
        What is known so far.
    """

    total: int
    jobs: int
    tell: Display
    lines: bool
    outcomes: list[CellOutcome] = field(default_factory=list)

    def each(self, outcome: CellOutcome) -> None:
        """Count a cell whose outcome is known."""
        self.outcomes.append(outcome)
        self.tell("done:")
        self.tell(f"{self._left() or 'running'}")
        if self.lines:
            print(self._line(outcome), file=sys.stderr, flush=True)

    def _left(self) -> str:
        """Return how long the other cells will take, as long as those that were made; empty where none was."""
        made = [o.seconds for o in self.outcomes if o.state == "made"]
        left = self.total - len(self.outcomes)
        if not made or not left:
            return ""
        return f"about {duration(sum(made) / len(made) * left / self.jobs)} left"

    def _line(self, outcome: CellOutcome) -> str:
        width = len(str(self.total))
        parts = [f"[{len(self.outcomes):>{width}}/{self.total}] {outcome.state}: {outcome.cell.label}"]
        if outcome.state == "made":
            parts.append(f"{outcome.seconds:.1f} s")
        if outcome.reason is not None:
            parts.append(" ".join(outcome.reason.split()))
        if left := self._left():
            parts.append(left)
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 3 min, 2 h 5 min."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def suite_progress(total: int, jobs: int, *, silent: bool) -> Iterator[SuiteProgress]:
    """Show the progress of a suite.

    Parameters
    ----------
    total, jobs
        Number of cells, and of processes.
    silent
        Show nothing, whatever standard error is.
    """
    with progress(total, silent=silent) as tell:
        yield SuiteProgress(total, jobs, tell, lines=not silent and not sys.stderr.isatty())
