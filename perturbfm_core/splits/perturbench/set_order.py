"""The order of a Python set of texts in another process, which depends on its hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from perturbfm_core.errors import SplitError

# The operations are PerturBench's, since the order depends on how a set has grown, too.
_CODE = """
import json, sys
singles, control, combos = json.load(sys.stdin)
kept = set(singles)
kept.add(control)
json.dump(list(kept.union(combos)), sys.stdout)
"""


def union_order(singles: Sequence[str], control: str, combos: Sequence[str], hash_seed: str) -> list[str]:
    """Return single perturbations, the control and combinations in the order of PerturBench's set of them.

    Parameters
    ----------
    singles, combos
        Perturbations in the order in which they were drawn.
    control
        Label of the control.
    hash_seed
        ``PYTHONHASHSEED`` of the PerturBench process.

    Raises
    ------
    SplitError
        If it is no hash seed.
    """
    if not hash_seed.isdigit() or int(hash_seed) > 2**32 - 1:
        msg = f"the hash seed must be a whole number up to 4294967295, found {hash_seed!r}"
        raise SplitError(msg)
    done = subprocess.run(  # noqa: S603 - this interpreter and a fixed program
        [sys.executable, "-S", "-c", _CODE],
        input=json.dumps([list(singles), control, list(combos)]),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return [str(pert) for pert in json.loads(done.stdout)]
