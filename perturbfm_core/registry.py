"""Named collections that find their members: a package's modules, installed plug-ins, files of the user's own.

A member registers itself with a decorator, so adding one is adding a file. Modules are imported when a registry is
first read, in this order: the modules of the registry's package, entry points of its group, and the files of the
plug-in folder (``PERTURBFM_PLUGINS``, default ``<home>/.perturbfm/plugins``) if that folder exists.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Generic, TypeVar

from perturbfm_core.errors import ConfigError, PerturbFMError

T = TypeVar("T")

PLUGIN_PACKAGE = "perturbfm_plugins"


class Discovery:
    """Where the members of one or more registries are found.

    Parameters
    ----------
    package
        Package whose modules register members when they are imported.
    folder_module
        A sub-package that has modules of this name (a pattern such as ``parity*``) is searched in these modules
        only; any other sub-package is searched as a whole. None to search no sub-package in part.
    group
        Entry-point group of installed packages that register members, None if there is none.
    """

    def __init__(self, package: str, folder_module: str | None = None, group: str | None = None) -> None:
        self._package = package
        self._folder_module = folder_module
        self._group = group
        self._done = False

    def run(self) -> None:
        """Import everything that may register a member; once per process."""
        if self._done:
            return
        # Set first: a module that reads the registry while it is imported must not start again.
        self._done = True
        try:
            self._walk(self._package)
            if self._group is not None:
                _load_entry_points(self._group)
                load_plugin_files()
        except BaseException:
            self._done = False
            raise

    def _walk(self, package: str) -> None:
        found = importlib.import_module(package)
        for module in pkgutil.iter_modules(found.__path__, f"{package}."):
            if not module.ispkg:
                importlib.import_module(module.name)
                continue
            inner = importlib.import_module(module.name)
            named = [
                m.name for m in pkgutil.iter_modules(inner.__path__, f"{module.name}.") if self._is_named(m)
            ]
            for name in named:
                importlib.import_module(name)
            if not named:
                self._walk(module.name)

    def _is_named(self, module: pkgutil.ModuleInfo) -> bool:
        return self._folder_module is not None and fnmatch(
            module.name.rpartition(".")[2], self._folder_module
        )


def _load_entry_points(group: str) -> None:
    for point in metadata.entry_points(group=group):
        try:
            point.load()
        except PerturbFMError as error:
            msg = f"plug-in {point.value!r} (entry point of {group}): {error}"
            raise type(error)(msg) from error
        except Exception as error:
            msg = (
                f"plug-in {point.value!r} (entry point of {group}) cannot be imported: "
                f"{type(error).__name__}: {error}; repair or uninstall it"
            )
            raise ConfigError(msg) from error


def plugin_folder() -> Path:
    """Return the folder of the user's own plug-in files, which need not exist."""
    if named := os.environ.get("PERTURBFM_PLUGINS"):
        return Path(named)
    return Path(os.environ.get("PERTURBFM_HOME") or ".") / ".perturbfm" / "plugins"


def plugin_files() -> dict[str, Path]:
    """Return {module name: file} of the user's own plug-ins, in order of file name; empty without the folder."""
    folder = plugin_folder()
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    return {f"{PLUGIN_PACKAGE}_{file.stem}": file.resolve() for file in files}


def plugin_digests() -> dict[str, str]:
    """Return {file name: SHA-256 of its content} of the user's own plug-ins; recorded in every run."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in plugin_files().values()}


def load_plugin_files() -> None:
    """Import the files of the plug-in folder that are not imported yet.

    Raises
    ------
    ConfigError
        If a file cannot be imported, naming it.
    """
    for name, file in plugin_files().items():
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            msg = f"plug-in {file} cannot be read as a Python module"
            raise ConfigError(msg)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except PerturbFMError as error:
            del sys.modules[name]
            msg = f"plug-in {file}: {error}"
            raise type(error)(msg) from error
        except Exception as error:
            del sys.modules[name]
            msg = f"plug-in {file} cannot be imported: {type(error).__name__}: {error}; repair or remove it"
            raise ConfigError(msg) from error


class Registry(Generic[T]):
    """Maps names to objects; a name is written once, where its object is registered.

    Parameters
    ----------
    what
        What is registered, as a singular noun for messages ("model").
    error
        Raised for an unknown name.
    discovery
        Where members are found when the registry is first read, None if they are all there by then.
    """

    def __init__(
        self,
        what: str,
        error: type[PerturbFMError] = ConfigError,
        discovery: Discovery | None = None,
    ) -> None:
        self.what = what
        self._error = error
        self._discovery = discovery
        self._members: dict[str, T] = {}
        self._order: dict[str, int] = {}

    def add(self, name: str, item: T, order: int = 0) -> T:
        """Register `item` under `name`.

        Parameters
        ----------
        name, item
            The name, and what is found by it.
        order
            Members are listed by it, then as they were registered.

        Raises
        ------
        ConfigError
            If the name is taken.
        """
        if name in self._members:
            msg = f"{self.what} {name!r} is registered twice; choose another name"
            raise ConfigError(msg)
        self._members[name] = item
        self._order[name] = order
        return item

    def register(self, name: str, order: int = 0) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name` (see `add`)."""
        return lambda item: self.add(name, item, order)

    @property
    def _items(self) -> dict[str, T]:
        if self._discovery is not None:
            self._discovery.run()
        return self._members

    def get(self, name: str) -> T:
        """Return the object called `name`, or raise with the known names."""
        try:
            return self._items[name]
        except KeyError:
            close = difflib.get_close_matches(name, self._items, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            msg = f"unknown {self.what} {name!r}{hint}; known: {', '.join(self.names())}"
            raise self._error(msg) from None

    def names(self) -> list[str]:
        """Return the registered names in order."""
        return sorted(self._items, key=self._order.__getitem__)

    def items(self) -> list[tuple[str, T]]:
        """Return (name, object) pairs in order."""
        return [(name, self._items[name]) for name in self.names()]

    def values(self) -> list[T]:
        """Return the objects in order."""
        return [self._items[name] for name in self.names()]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._items)
