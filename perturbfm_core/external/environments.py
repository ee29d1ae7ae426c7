"""Environments of external models on disk: where they lie, whether they are whole, and the user's own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core.errors import ExternalError, StoreError
from perturbfm_core.external.interpreters import clean_environment, version_of
from perturbfm_core.external.known_environments import KNOWN, KnownEnvironment, known_environment, lock_hash
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.locks import Holder, file_lock, read_holder

MARKER = "environment.json"
OLDEST_PYTHON = (3, 8)

ABSENT, BUILT, BUILDING, UNFINISHED, BROKEN, OUTDATED = (
    "not built",
    "built",
    "being built",
    "unfinished",
    "broken",
    "built from an older lock",
)


@dataclass(frozen=True)
class EnvironmentState:
    """One environment as it is on disk.

    Attributes
    ----------
    known
        What it needs.
    state
        One of the states of this module.
    folder
        Where it lies, or would.
    why
        Why it is broken, or who is building it.
    size
        Bytes it takes; before it is built, about.
    """

    known: KnownEnvironment
    state: str
    folder: Path
    why: str
    size: int

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return self.folder / "bin" / "python"


def environment_root(store: ArtifactStore) -> Path:
    """Return the folder of all environments: ``PERTURBFM_ENVS``, else ``.envs`` of the store."""
    return Path(os.path.abspath(os.environ.get("PERTURBFM_ENVS") or store.home / ".envs"))


def environment_folder(name: str, store: ArtifactStore) -> Path:
    """Return the folder of a model's environment, by the hash of its lock."""
    return environment_root(store) / f"{known_environment(name).name}-{lock_hash(name)}"


def older_folders(name: str, store: ArtifactStore) -> list[Path]:
    """Return the folders of a model's environments that another lock made."""
    current = environment_folder(name, store)
    prefix = current.name.rpartition("-")[0]
    found = current.parent.glob(f"{prefix}-*")
    return sorted(p for p in found if p != current and p.is_dir() and p.name.rpartition("-")[0] == prefix)


def building_lock(name: str, store: ArtifactStore) -> Path:
    """Return the file of the lock that is held while an environment is built or removed."""
    return environment_root(store) / ".locks" / f"{known_environment(name).name}.lock"


def state_of(name: str, store: ArtifactStore, *, ask_lock: bool = True) -> EnvironmentState:
    """Return whether the environment of a model is there and whole.

    Parameters
    ----------
    name
        The model.
    store
        The store that it is for.
    ask_lock
        Whether to ask if somebody is building it; whoever holds the lock does not.
    """
    known = known_environment(name)
    folder = environment_folder(name, store)

    def state(text: str, why: str = "", size: int | None = None) -> EnvironmentState:
        return EnvironmentState(known, text, folder, why, known.size if size is None else size)

    holder = _builder(name, store) if ask_lock else None
    if holder is not None:
        return state(BUILDING, str(holder))
    if not folder.is_dir():
        return state(OUTDATED if older_folders(name, store) else ABSENT)
    if not (folder / MARKER).is_file():
        return state(UNFINISHED, "an earlier build was interrupted")
    try:
        marker = read_json(folder / MARKER, StoreError)
        size, place = int(marker["bytes"]), str(marker["folder"])
    except (StoreError, KeyError, TypeError, ValueError):
        return state(BROKEN, f"{MARKER} cannot be read")
    if place != str(folder):
        # Programs of an environment name its folder in their first line.
        return state(BROKEN, f"it was built at {place} and moved", size)
    if not os.access(folder / "bin" / "python", os.X_OK):
        return state(BROKEN, "its interpreter has gone", size)
    return state(BUILT, "", size)


def _builder(name: str, store: ArtifactStore) -> Holder | None:
    path = building_lock(name, store)
    holder = read_holder(path)
    if holder is None:
        return None
    with file_lock(path, wait=False, what="a look") as free:
        return None if free else holder


def all_states(store: ArtifactStore) -> list[EnvironmentState]:
    """Return the state of every known environment."""
    return [state_of(name, store) for name in KNOWN]


def env_of(name: str, store: ArtifactStore) -> Path:
    """Return the interpreter of a model's environment.

    Raises
    ------
    ExternalError
        If it is not built, or not whole.
    """
    found = state_of(name, store)
    if found.state == BUILT:
        return found.python
    why = f" ({found.why})" if found.why else ""
    do = f"run `perturbfm external env create {found.known.name}`, or name one of your own with --env PATH"
    msg = f"the environment of {found.known.name} is {found.state}{why}; {do}"
    raise ExternalError(msg)


def own_environment(name: str, path: Path) -> Path:
    """Return the interpreter of an environment that the user made, in which a model must be installed.

    Parameters
    ----------
    name
        The model; of one that is not known, only numpy is looked for.
    path
        Folder of the environment, or its interpreter.

    Raises
    ------
    ExternalError
        If there is no interpreter that runs, it is too old, or the model is not installed.
    """
    # The link is kept: it is by it that Python finds the environment.
    python = Path(os.path.abspath(path / "bin" / "python" if path.is_dir() else path))
    if not python.is_file():
        msg = f"{path} has no bin/python; give the folder of an environment, or a Python interpreter"
        raise ExternalError(msg)
    found = version_of(python)
    if found is None:
        msg = f"{python} is not a Python interpreter that runs; give the folder of an environment"
        raise ExternalError(msg)
    if tuple(map(int, found[0].split("."))) < OLDEST_PYTHON:
        msg = f"{python} is Python {found[0]}; workers need {'.'.join(map(str, OLDEST_PYTHON))} or newer"
        raise ExternalError(msg)
    known = KNOWN.get(name.removeprefix("external-"))
    absent = _absent_modules(python, ("numpy",) if known is None else known.modules)
    if absent:
        what = "numpy" if known is None else f"{known.package} with what it needs"
        msg = f"{path} lacks the modules {', '.join(absent)}; install {what} there"
        raise ExternalError(
            msg + ("" if known is None else f", or `perturbfm external env create {known.name}`")
        )
    return python


_FIND = "import importlib.util as u, json, sys; print(json.dumps([m for m in sys.argv[1:] if u.find_spec(m) is None]))"
_FREEZE = (
    "import json; from importlib import metadata as m;"
    "print(json.dumps(sorted({(d.metadata['Name'] or '').lower() + '==' + d.version for d in m.distributions()})))"
)


def _absent_modules(python: Path, modules: tuple[str, ...]) -> list[str]:
    return [str(name) for name in ask(python, _FIND, *modules)]


def environment_digest(python: Path) -> str:
    """Return a digest of the names and versions of all packages of an environment."""
    return hashlib.sha256("\n".join(ask(python, _FREEZE)).encode()).hexdigest()


def ask(python: Path, code: str, *arguments: str) -> list[str]:
    """Return the list that a line of Python prints as JSON in another interpreter.

    Parameters
    ----------
    python
        The interpreter.
    code
        The line.
    *arguments
        What it finds in ``sys.argv``.

    Raises
    ------
    ExternalError
        If it fails.
    """
    try:
        done = subprocess.run(  # noqa: S603 - an interpreter that the user named or this program made
            [python, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=900,
            env=clean_environment(),
            check=True,
        )
        found: list[str] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        msg = f"{python} fails: {last[:300]}; make the environment anew"
        raise ExternalError(msg) from error
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        msg = f"{python} does not run as a Python interpreter should ({type(error).__name__}); make the environment anew"
        raise ExternalError(msg) from error
    return found
