"""Table of the models that run in environments of their own: package, Python, size, licence."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core.errors import ExternalError

LOCKS = Path(__file__).parent / "locks"
_GB = 10**9


@dataclass(frozen=True)
class KnownEnvironment:
    """One model and what its environment needs.

    Attributes
    ----------
    name
        Name of the environment; the entry of the grid is ``external-NAME``.
    package
        Distribution that brings the model.
    python
        Minor version of Python that the lock was made for.
    size
        Bytes on disk, about.
    licence, licence_source
        Licence of the model's code, and where it is stated.
    non_commercial
        Whether that licence forbids commercial use.
    big
        Whether the environment is built only when its size has been accepted.
    modules
        Modules that its worker imports.
    dependencies
        Whether the lock leaves packages to what others ask for (the CUDA libraries of a build of torch).
    """

    name: str
    package: str
    python: str
    size: int
    licence: str
    licence_source: str
    non_commercial: bool
    big: bool
    modules: tuple[str, ...]
    dependencies: bool = False


KNOWN: dict[str, KnownEnvironment] = {
    known.name: known
    for known in (
        KnownEnvironment(
            name="gears",
            package="cell-gears",
            python="3.11",
            size=int(1.4 * _GB),
            licence="MIT",
            licence_source="licence file of cell-gears 0.1.2",
            non_commercial=False,
            big=False,
            modules=("gears", "torch", "torch_geometric", "scanpy", "anndata", "numpy"),
        ),
        KnownEnvironment(
            name="scgen",
            package="scgen",
            python="3.11",
            size=int(1.8 * _GB),
            licence="GPL-3.0",
            licence_source="licence file of scgen 2.1.0 (its metadata say MIT)",
            non_commercial=False,
            big=False,
            modules=("scgen", "scvi", "torch", "anndata", "numpy"),
        ),
        KnownEnvironment(
            name="state",
            package="arc-state",
            python="3.11",
            size=int(2.0 * _GB),
            licence="CC BY-NC-SA 4.0",
            licence_source="licence file of arc-state 0.11.1",
            non_commercial=True,
            big=False,
            modules=("state", "cell_load", "lightning", "torch", "anndata", "numpy"),
        ),
        KnownEnvironment(
            name="cpa",
            package="cpa-tools",
            python="3.10",
            size=int(5.9 * _GB),
            licence="BSD-3-Clause",
            licence_source="licence file of cpa-tools 0.8.8 (its metadata say MIT)",
            non_commercial=False,
            big=True,
            modules=("cpa", "scvi", "torch", "anndata", "numpy"),
            dependencies=True,
        ),
    )
}


def known_environment(name: str) -> KnownEnvironment:
    """Return what the environment of a model needs; ``external-NAME`` is taken as ``NAME``.

    Raises
    ------
    ExternalError
        If no such model is known.
    """
    short = name.removeprefix("external-")
    if short in KNOWN:
        return KNOWN[short]
    near = difflib.get_close_matches(short, KNOWN, 1)
    hint = f"did you mean {near[0]!r}?" if near else "a model of your own runs with --env PATH"
    msg = f"no environment is known as {name!r}, only {', '.join(sorted(KNOWN))}; {hint}"
    raise ExternalError(msg)


def locked_versions(name: str) -> dict[str, str]:
    """Return {distribution: version} of the lock of a model."""
    lines = lock_path(name).read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in map(str.strip, lines) if line and not line.startswith("#"))
    return {package: version for package, _, version in pairs}


def lock_path(name: str) -> Path:
    """Return the lock file of a model: names and versions of the packages that it was tried with."""
    return LOCKS / f"{known_environment(name).name}.txt"


def lock_hash(name: str) -> str:
    """Return the beginning of the SHA-256 of a model's lock and Python, which names its environment on disk."""
    known = known_environment(name)
    text = "\n".join([known.python, *(f"{p}=={v}" for p, v in sorted(locked_versions(name).items()))])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def licence_notice(name: str) -> str | None:
    """Return the line to show before a model is used whose licence forbids commercial use, None for others."""
    known = known_environment(name)
    if not known.non_commercial:
        return None
    return f"{known.package} forbids commercial use: {known.licence} ({known.licence_source})"
