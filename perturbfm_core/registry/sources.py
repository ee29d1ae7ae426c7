"""Sources of local modules as they were executed: of plug-ins, and of the user's own modules that they import.

Python keeps neither the text nor the time of an import, and results are known by the code that made them. So the text of
plug-ins and of what is imported while they run is kept, and the time of every other import: a file that was changed later
is not what runs.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from perturbfm_core.errors import of_package

PLUGIN_PACKAGE = "perturbfm_plugins"


class Source(NamedTuple):
    """What an imported module was executed from: its file, and the content of the file at that time."""

    file: Path
    content: bytes


# {module: source}, {module: how often it was executed}, and {module: when its import began, in seconds since 1970}.
_SOURCES: dict[str, Source] = {}
_EXECUTED: dict[str, int] = {}
_IMPORTED: dict[str, float] = {}


class _Clock:
    """Notes when modules are imported, and finds none."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Note the time; what was kept of an earlier import of the module is not what is executed now."""
        _IMPORTED[name] = time.time()
        if _SOURCES.pop(name, None) is not None:
            _EXECUTED[name] = _EXECUTED.get(name, 0) + 1


sys.meta_path.insert(0, _Clock)


def _process_start() -> float:
    """Return when this process began, in seconds since 1970; now, where the system does not say."""
    try:
        # The command, in parentheses, may hold spaces; the start, in ticks since boot, is the 20th field after it.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.time()


# Modules without a time in `_IMPORTED` were imported after this.
_BEGAN = _process_start()


def source_of(module: str) -> Source | None:
    """Return what an imported module was executed from, None where that was not kept."""
    return _SOURCES.get(module) if module in sys.modules else None


def plugin_sources() -> dict[str, Source]:
    """Return {module: source} of the imported plug-ins, by name."""
    return {
        n: s for n, s in sorted(_SOURCES.items()) if n.startswith(f"{PLUGIN_PACKAGE}_") and n in sys.modules
    }


def executed_source(module: str, file: Path) -> Source | None:
    """Return what an imported module was executed from, None where its file was changed since and nothing was kept."""
    if source_of(module) is None and (source := _as_imported(module, file)) is not None:
        _SOURCES[module] = source
    return source_of(module)


def _as_imported(module: str, file: Path) -> Source | None:
    """Return the content of a module's file, None where it was changed since the module was imported."""
    with suppress(OSError):
        content = file.read_bytes()
        # After reading, so that a change meanwhile is seen.
        if file.stat().st_mtime <= _IMPORTED.get(module, _BEGAN):
            return Source(file, content)
    return None


def sources_seen() -> int:
    """Return a number that changes when a plug-in or a local module that it imports is executed."""
    return sum(_EXECUTED.values())


def keep_source(module: str, source: Source) -> None:
    """Keep what a module is executed from."""
    _SOURCES[module] = source
    _EXECUTED[module] = _EXECUTED.get(module, 0) + 1


@contextmanager
def sources_kept(module: str) -> Iterator[None]:
    """Keep the sources of the local modules that are imported while code of `module` runs, if it is no module of the core."""
    if of_package(module):
        yield
        return
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in sorted(set(sys.modules) - before):
            origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
            if of_package(name) or name.startswith(f"{PLUGIN_PACKAGE}_") or not str(origin).endswith(".py"):
                continue
            file = Path(str(origin))
            if is_local(file) and (source := _as_imported(name, file)) is not None:
                keep_source(name, source)


def is_local(file: Path) -> bool:
    """Return whether a source file is the user's own: neither of Python nor of an installed package."""
    file = file.absolute()
    if {"site-packages", "dist-packages"} & set(file.parts):
        return False
    return not any(file.is_relative_to(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib"))
