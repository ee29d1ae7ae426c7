"""Variables that a worker of an external model starts with: few threads, no network, caches in its own folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

# What of this process's environment a worker may see; credentials and settings of other programs stay away.
_KEPT = (
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "NVIDIA_VISIBLE_DEVICES",
)
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB", "NUMBA", "RAYON", "POLARS_MAX")
_CACHES = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "MPLCONFIGDIR": "cache/matplotlib",
    "NUMBA_CACHE_DIR": "cache/numba",
    "TORCH_HOME": "cache/torch",
    "HF_HOME": "cache/huggingface",
    "WANDB_DIR": "wandb",
}
# Nothing listens there, so that a request fails at once.
_NOWHERE = "http://127.0.0.1:9"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "disabled", "PIP_NO_INDEX": "1"}
# Sockets that workers of a data loader make in the temporary folder have names of at most 107 bytes.
_LONGEST_TMP = 60


def worker_variables(
    python: Path, work: Path, threads: int, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a worker, whose folders are made.

    Parameters
    ----------
    python
        Its interpreter, whose programs come first on PATH.
    work
        Its own folder, which is its home.
    threads
        Threads of numeric libraries.
    extra
        Further variables.
    """
    out = {name: os.environ[name] for name in _KEPT if name in os.environ}
    out["PATH"] = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    out["HOME"] = str(work)
    for variable, folder in _CACHES.items():
        (work / folder).mkdir(parents=True, exist_ok=True)
        out[variable] = str(work / folder)
    tmp = work / "tmp"
    if len(os.fsencode(tmp)) > _LONGEST_TMP:
        tmp = Path(tempfile.mkdtemp(prefix="pfm-"))
    tmp.mkdir(exist_ok=True)
    out["TMPDIR"] = str(tmp)
    out |= {
        f"{name}_THREADS" if name.endswith("MAX") else f"{name}_NUM_THREADS": str(threads)
        for name in _THREADS
    }
    for scheme in ("http", "https", "ftp", "all"):
        out[f"{scheme}_proxy"] = out[f"{scheme.upper()}_PROXY"] = _NOWHERE
    out |= {"no_proxy": "", "NO_PROXY": "", **_OFFLINE}
    out |= {
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
    }
    return out | dict(extra or {})
