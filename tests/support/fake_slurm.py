"""Stand-ins for Slurm's commands on PATH, which keep what they were given and print what a test wrote for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SBATCH = """#!/bin/sh
[ -f "{root}/refuse" ] && {{ cat "{root}/refuse" >&2; exit 1; }}
n=$(( $(cat "{root}/jobs" 2>/dev/null || echo 40) + 1 ))
echo "$n" > "{root}/jobs"
for last; do :; done
if [ -f "$last" ]; then cat "$last" > "{root}/$n.sh"; else cat > "{root}/$n.sh"; fi
echo "$@" > "{root}/$n.args"
case " $* " in *" --parsable "*) echo "$n" ;; *) echo "Submitted batch job $n" ;; esac
"""
_PRINTS = """#!/bin/sh
echo "{name} $*" >> "{root}/calls"
[ -f "{root}/{name}.fails" ] && {{ cat "{root}/{name}.fails" >&2; exit 1; }}
cat "{root}/{name}.out" 2>/dev/null || true
"""


class FakeSlurm:
    """A folder of stand-ins.

    Parameters
    ----------
    root
        Where they lie, with what they were given.
    patch
        What puts them on PATH.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        binaries = root / "bin"
        binaries.mkdir(parents=True)
        scripts = {"sbatch": _SBATCH.format(root=root)}
        scripts |= {
            name: _PRINTS.format(root=root, name=name)
            for name in ("squeue", "sacct", "scancel", "srun", "scontrol")
        }
        for name, text in scripts.items():
            (binaries / name).write_text(text)
            (binaries / name).chmod(0o755)
        patch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")

    def prints(self, name: str, *lines: str) -> None:
        """Let a command print these lines from now on."""
        (self.root / f"{name}.out").write_text("".join(f"{line}\n" for line in lines))

    def fails(self, name: str, message: str | None) -> None:
        """Let a command fail with a message from now on, or not any more."""
        path = self.root / ("refuse" if name == "sbatch" else f"{name}.fails")
        path.unlink(missing_ok=True)
        if message is not None:
            path.write_text(message + "\n")

    @property
    def scripts(self) -> dict[str, str]:
        """Return what sbatch was given, by the number of the job."""
        return {p.stem: p.read_text() for p in sorted(self.root.glob("*.sh"))}

    def arguments(self, job: str) -> str:
        """Return the arguments of sbatch for a job."""
        return (self.root / f"{job}.args").read_text().strip()

    @property
    def calls(self) -> list[str]:
        """Return the other calls, in order."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.is_file() else []
