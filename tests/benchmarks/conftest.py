"""Benchmarks measure whole commands in their own process: wall time, CPU time, peak memory."""

import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import pytest


@dataclass(frozen=True)
class Usage:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def measure(argv, cwd=None):
    """Run one process to its end and return its usage."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process.stdout, process.stderr:
        out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, err[-2000:] + out[-500:]
    return Usage(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@pytest.fixture
def record(benchmark):
    """Measure a perturbfm command once under pytest-benchmark and keep its usage with the machine's figures."""

    def run(*args, cwd=None):
        argv = [sys.executable, "-m", "perturbfm_core.cli.main", *map(str, args)]
        usages = []
        benchmark.pedantic(lambda: usages.append(measure(argv, cwd)), rounds=1, iterations=1)
        benchmark.extra_info |= asdict(usages[-1]) | {"cpus": os.cpu_count(), "processor": _processor()}
        print(f"\n{benchmark.name}: {usages[-1]}")
        return usages[-1]

    return run


def _processor():
    try:
        with open("/proc/cpuinfo") as handle:
            return next(line.split(":", 1)[1].strip() for line in handle if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
