"""Growth of cost with size: one process per measurement, the slope on a log-log scale, a table that docs can carry.

A case is a generator function of one size: what it does before its ``yield`` is preparation, what it does
after it, up to its end or a second ``yield``, is measured. It is named as ``module:function``, so that each size runs in a process of its own and
its peak memory is its own.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.paths import REPO

# Where the tables are written.
TABLES = REPO / ".benchmarks" / "growth"


@dataclass(frozen=True)
class Cost:
    """What the measured part of a case took in a process of its own.

    Attributes
    ----------
    size
        Cells, conditions or runs.
    cpu_s
        CPU-seconds after the preparation, children included.
    peak_mb
        Peak memory of the process, imports and inputs included.
    input_mb
        Memory that the process had taken at most when the preparation ended.
    """

    size: int
    cpu_s: float
    peak_mb: float
    input_mb: float


def sizes(*full: int) -> list[int]:
    """Return the sizes to run: those up to ``GROWTH_MAX`` (default: all), the two smallest in any case."""
    limit = int(os.environ.get("GROWTH_MAX") or max(full))
    return [s for i, s in enumerate(sorted(full)) if i < 2 or s <= limit]


def cost(case: str, size: int, *args: object) -> Cost:
    """Run a case at one size in a process of its own.

    Parameters
    ----------
    case
        ``module:function`` of the generator function.
    size
        First argument of the function.
    *args
        Further arguments, as text.
    """
    argv = [sys.executable, "-m", __name__, case, str(size), *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def exponent(costs: Sequence[Cost], what: str = "cpu_s") -> float:
    """Return the least-squares slope of log cost over log size; NaN below two sizes.

    The memory that every size pays (imports) is not taken off, so slopes of memory are lower bounds.
    """
    x = np.log([c.size for c in costs])
    y = np.log([max(getattr(c, what), 1e-3) for c in costs])
    return float(np.polyfit(x, y, 1)[0]) if len(costs) > 1 else float("nan")


def load() -> str:
    """Return the machine's load and number of processors, for the head of a table."""
    return f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"


def write_table(name: str, unit: str, rows: dict[str, list[Cost]]) -> Path:
    """Write a table of costs by size with the exponents as markdown, print it, and return the file.

    Parameters
    ----------
    name
        Name of the file.
    unit
        What the sizes count, e.g. ``cells``.
    rows
        {what was measured: its costs by ascending size}.
    """
    known = sorted({c.size for costs in rows.values() for c in costs})
    lines = [
        f"| {unit} | {' | '.join(f'{s:,}' for s in known)} | exponent |",
        "|---|" + "---|" * (len(known) + 1),
    ]
    for what, costs in rows.items():
        by_size = {c.size: c for c in costs}
        for label, key, form in ((f"{what}, CPU-s", "cpu_s", "{:.2f}"), ("… peak MB", "peak_mb", "{:.0f}")):
            cells = [form.format(getattr(by_size[s], key)) if s in by_size else "" for s in known]
            lines.append(f"| {label} | {' | '.join(cells)} | {exponent(costs, key):.2f} |")
    TABLES.mkdir(parents=True, exist_ok=True)
    path = TABLES / f"{name}.md"
    path.write_text("\n".join([*lines, "", f"({load()})", ""]))
    print("\n" + path.read_text())
    return path


def _cpu() -> float:
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in spent)


def _peak_mb() -> float:
    return (
        max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    )


def main(argv: Sequence[str]) -> None:
    """Run one case at one size and print its cost as the last line, in JSON."""
    module, function = argv[0].split(":")
    steps = getattr(importlib.import_module(module), function)(int(argv[1]), *argv[2:])
    next(steps)
    before, start = _peak_mb(), _cpu()
    next(steps, None)
    spent, peak = _cpu() - start, _peak_mb()
    steps.close()
    print(json.dumps({"size": int(argv[1]), "cpu_s": spent, "peak_mb": peak, "input_mb": before}))


if __name__ == "__main__":
    main(sys.argv[1:])
