"""A peer's own code, run in an environment of its own, and its values held against ours."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

needs_peers = pytest.mark.skipif(
    not os.environ.get("PEERS"), reason="PEERS is not set; run `make bench-peers`"
)


def run_peer(name, *args):
    """Return what ``time_<name>.py`` prints in the peer's environment."""
    argv = [
        Path(os.environ["PEERS"], name, "bin", "python"),
        Path(__file__).with_name(f"time_{name}.py"),
        *map(str, args),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def largest_differences(ours, theirs, *, relative):
    """Return {metric: largest difference} over perturbations; values undefined on one side only give inf."""
    out = {}
    for name, expected in theirs.items():
        x, y = np.asarray(ours[name], dtype=float), np.asarray(expected, dtype=float)
        gap = np.abs(x - y)
        if relative:
            gap = gap / np.maximum(np.abs(y), np.finfo(float).tiny)
        gap[np.isnan(x) != np.isnan(y)] = np.inf
        out[name] = float(np.nanmax(gap, initial=0.0))
    return out


def report(benchmark, peer, ours, theirs, differences):
    """Print and record CPU-seconds side by side with the differences of values."""
    lines = [f"{benchmark.name}: CPU-seconds, {peer} and ours"]
    for name, seconds in theirs.items():
        mine = ours.get(name)
        beside = "" if mine is None else f"  ours {mine:7.2f}  x{seconds / mine:.0f}"
        lines.append(f"  {name:24s} {peer} {seconds:7.2f}{beside}")
    lines += [f"  ours, {name}: {ours[name]:.2f}" for name in ours if name not in theirs]
    worst = sorted(differences.items(), key=lambda item: -item[1])
    lines.append("  largest differences: " + ", ".join(f"{name} {gap:.1e}" for name, gap in worst))
    print("\n" + "\n".join(lines))
    benchmark.extra_info |= {
        "peer": peer,
        "peer_cpu_s": theirs,
        "ours_cpu_s": ours,
        "differences": differences,
        "cpus": os.cpu_count(),
    }
