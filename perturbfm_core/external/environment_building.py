"""Building and removing environments of external models.

An environment is built where it stays, as its programs name its folder; the file that marks it as built is written
last and removed first, so that a part of one is never taken for the whole. What was downloaded is kept by the
installer, so a build that was interrupted goes on from there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from perturbfm_core.errors import ExternalError
from perturbfm_core.external.environments import (
    BUILT,
    MARKER,
    EnvironmentState,
    ask,
    building_lock,
    environment_folder,
    environment_root,
    older_folders,
    state_of,
)
from perturbfm_core.external.installers import Installer, installer
from perturbfm_core.external.interpreters import find_interpreter
from perturbfm_core.external.known_environments import (
    KnownEnvironment,
    known_environment,
    licence_notice,
    lock_hash,
    lock_path,
    locked_versions,
)
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_atomic, write_json
from perturbfm_core.store.disk import amount, disk_error, free_space, size_of, writing
from perturbfm_core.store.locks import file_lock, to_console

# Compares what is installed with the lock ("name==version" each), and imports what no model does without.
_VERIFY = """
import importlib, importlib.metadata as m, importlib.util as u, json, sys
wrong = []
n = int(sys.argv[1])
for pair in sys.argv[2 + n:]:
    name, _, version = pair.partition("==")
    try:
        found = m.version(name)
    except m.PackageNotFoundError:
        wrong.append(name + " is not installed"); continue
    norm = lambda v: [p.lstrip("0") or "0" for p in (v if "+" in version else v.split("+")[0]).split(".")]
    if norm(found) != norm(version):
        wrong.append(name + " is " + found + " in place of " + version)
for name in sys.argv[2:2 + n]:
    if u.find_spec(name) is None:
        wrong.append("there is no module " + name)
    elif name in ("numpy", "anndata", "torch"):
        importlib.import_module(name)
print(json.dumps(wrong))
"""


def check_consent(name: str, *, size: bool = False, licence: bool = False) -> None:
    """Refuse to build a big environment, or one whose licence forbids commercial use, that was not agreed to.

    Parameters
    ----------
    name
        The model.
    size, licence
        Whether the size, and the licence, have been accepted.

    Raises
    ------
    ExternalError
        If something has still to be accepted.
    """
    known = known_environment(name)
    notice = licence_notice(name)
    if notice is not None and not licence:
        msg = f"{notice}; repeat with --accept-licence if that fits your use"
        raise ExternalError(msg)
    if known.big and not size:
        msg = f"the environment of {known.name} takes about {amount(known.size)} of disk; repeat with --yes to build it"
        raise ExternalError(msg)


def create_environment(
    name: str,
    store: ArtifactStore,
    *,
    python: Path | None = None,
    index: Sequence[str] = (),
    tell: Progress = quiet,
) -> EnvironmentState:
    """Build the environment of a model, or return it if it is built.

    Parameters
    ----------
    name
        The model; what must be accepted first is `check_consent`.
    store
        The store that it is for.
    python
        Interpreter to use, by default one that is found.
    index
        Further package indexes: addresses, or folders of wheels.
    tell
        Called with lines of progress.

    Raises
    ------
    ExternalError
        If there is no interpreter of the needed version, or the packages cannot be installed.
    DiskError
        If there is no room for it.
    """
    known = known_environment(name)
    with file_lock(building_lock(name, store), what=f"the environment of {known.name}", tell=to_console):
        folder = environment_folder(name, store)
        root = environment_root(store)
        # The lock is this process's own: nobody else is building.
        there = state_of(name, store, ask_lock=False)
        if there.state == BUILT:
            return there
        free = free_space(root)
        if free is not None and free < known.size:
            raise disk_error(folder, "the disk is too full", known.size)
        tool = installer()
        interpreter = find_interpreter(known.python, python, with_pip=not tool.uv, uv=tool.uv)
        if folder.exists():
            tell(f"going on with {folder.name}: what was downloaded is kept")
            _clear(folder)
        began = time.monotonic()
        to_console(f"licence of {known.package}: {known.licence}")
        tell(f"building {folder.name} with {tool} for {interpreter}, about {amount(known.size)}")
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            log = root / f"{folder.name}.log"
            _install(known, tool, interpreter, folder, log, index, tell)
        tell("looking whether everything is there")
        _verify(known, folder, log)
        write_json(
            folder / MARKER,
            {
                "format": 1,
                "name": known.name,
                "lock": lock_hash(name),
                "python": known.python,
                "interpreter": str(interpreter),
                "installer": str(tool),
                "licence": known.licence,
                "folder": str(folder),
                "seconds": round(time.monotonic() - began, 1),
                "bytes": size_of(folder),
                "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )
        log.unlink(missing_ok=True)
        return state_of(name, store, ask_lock=False)


def remove_environment(name: str, store: ArtifactStore) -> list[Path]:
    """Remove the environment of a model, those of older locks too; return the folders.

    Raises
    ------
    ExternalError
        If there is none, or it is being built.
    """
    known = known_environment(name)
    with file_lock(building_lock(name, store), wait=False, what=f"removal of {known.name}") as free:
        if not free:
            msg = f"the environment of {known.name} is being built or removed; wait until that has ended"
            raise ExternalError(msg)
        current = environment_folder(name, store)
        folders = [f for f in (current, *older_folders(name, store)) if f.is_dir()]
        if not folders:
            msg = f"there is no environment of {known.name} below {current.parent}; nothing was removed"
            raise ExternalError(msg)
        for folder in folders:
            _clear(folder)
            folder.with_name(folder.name + ".log").unlink(missing_ok=True)
        return folders


def _clear(folder: Path) -> None:
    """Remove an environment: first the file that says that it is whole."""
    with writing(folder):
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _install(
    known: KnownEnvironment,
    tool: Installer,
    interpreter: Path,
    folder: Path,
    log: Path,
    index: Sequence[str],
    tell: Progress,
) -> None:
    """Make an environment and install its lock, with what the installer says in a log."""
    write_atomic(log, "")
    variables = tool.variables()
    lock = lock_path(known.name)
    status = _run(tool.make(folder, interpreter), log, variables, tell)
    filled = status == 0
    if filled:
        status = _run(
            tool.fill(folder, lock, dependencies=known.dependencies, index=index), log, variables, tell
        )
    cpu = "+cpu" in locked_versions(known.name).get("torch", "")
    about_torch = cpu and "torch" in _last_error(log)
    if filled and status and tool.uv and about_torch and not index:
        tell("torch is not in the configured index; asking where its makers publish it")
        fill = tool.fill(folder, lock, dependencies=known.dependencies, torch="cpu")
        status = _run(fill, log, variables, tell)
    if status:
        hint = "; --index takes an address or folder with CPU builds of torch" if about_torch else ""
        msg = f"the environment of {known.name} cannot be built: {_last_error(log)} (all of it: {log}){hint}; repeat the command to go on"
        raise ExternalError(msg)


def _verify(known: KnownEnvironment, folder: Path, log: Path) -> None:
    pairs = [f"{p}=={v}" for p, v in sorted(locked_versions(known.name).items())]
    wrong = ask(folder / "bin" / "python", _VERIFY, str(len(known.modules)), *known.modules, *pairs)
    if wrong:
        msg = f"the environment of {known.name} is not what its lock says: {'; '.join(wrong[:3])} (all of it: {log}); repeat the command"
        raise ExternalError(msg)


def _last_error(log: Path) -> str:
    """Return the line of a log that says best why a build failed."""
    lines = [
        re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in log.read_text(errors="replace").splitlines()
    ]
    lines = [line for line in lines if line]
    named = [line for line in lines if re.search(r"(?i)\berror\b|no solution|because|not found", line)]
    return (named or lines or ["no word of the installer"])[-1][:300]


def _run(command: Sequence[str], log: Path, variables: dict[str, str], tell: Progress) -> int:
    """Run an installer, its output into a log; it ends with this process, however that ends."""
    with log.open("a", encoding="utf-8") as out:
        child = subprocess.Popen(  # noqa: S603 - uv or pip with arguments of this package
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=variables,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_dies_with_parent(),
        )
        try:
            assert child.stdout is not None  # noqa: S101 - it is a pipe
            for line in child.stdout:
                out.write(line)
                text = line.strip()
                if text and not text.startswith(("+ ", "Requirement already", "Looking in")):
                    tell(text[:120])
            return child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _dies_with_parent() -> Callable[[], None] | None:
    """Return what makes a child end when this process is killed (Linux), None elsewhere."""
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    set_parent_death_signal = 1

    def wish() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)

    return wish
