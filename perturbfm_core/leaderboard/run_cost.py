"""Cost of runs: CPU time, memory and number of fitted parameters, from what the runs hold."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.store.run_record import RunRecord

# A header is read into memory; those of models are a few kB.
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class RunCost:
    """What a run, or several, cost; None where it was not recorded.

    Attributes
    ----------
    cpu_s
        CPU seconds of fitting and predicting, over all threads.
    peak_bytes
        Largest resident memory of the process while it fitted, its data included.
    parameters
        Numbers in the fitted arrays.
    """

    cpu_s: float | None = None
    peak_bytes: int | None = None
    parameters: int | None = None

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields by name."""
        return asdict(self)


def run_cost(folder: Path, record: RunRecord) -> RunCost:
    """Return what a run cost; one of an earlier version, or made elsewhere, has no time and memory."""
    fit, predict = record.cost.get("fit_cpu_s"), record.cost.get("predict_cpu_s")
    peak = record.cost.get("fit_peak_bytes")
    return RunCost(
        cpu_s=None if fit is None else float(fit) + float(predict or 0.0),
        peak_bytes=None if peak is None else int(peak),
        parameters=count_parameters(folder / schema.MODEL_FILE),
    )


def total_cost(costs: Iterable[RunCost]) -> RunCost:
    """Return the mean CPU time of several runs, and the largest memory and number of parameters; None without any."""
    known = list(costs)
    cpu = [c.cpu_s for c in known if c.cpu_s is not None]
    return RunCost(
        cpu_s=sum(cpu) / len(cpu) if cpu else None,
        peak_bytes=max((c.peak_bytes for c in known if c.peak_bytes is not None), default=None),
        parameters=max((c.parameters for c in known if c.parameters is not None), default=None),
    )


def count_parameters(file: Path) -> int | None:
    """Return how many numbers a safetensors file holds, from its header alone; None if it is none."""
    try:
        with file.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(size)) if size < _MAX_HEADER else None
    except (OSError, ValueError, struct.error):
        return None
    if not isinstance(header, dict):
        return None
    shapes = [value["shape"] for name, value in header.items() if name != "__metadata__"]
    return sum(math.prod(int(n) for n in shape) for shape in shapes)
