"""Named collections that find their members: a package's modules, installed plug-ins, files of the user's own.

A member registers itself with a decorator, so adding one is adding a file. Modules are imported when a registry is
first read, in this order: the modules of the registry's package, entry points of its group, and the files of the
plug-in folder (``PERTURBFM_PLUGINS``, default ``<home>/.perturbfm/plugins``) if that folder exists. What plug-ins and
the local modules that they import were executed from is kept: an edit counts from the next start of Python.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib import metadata
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, Generic, TypeVar

from perturbfm_core.errors import ConfigError, PerturbFMError
from perturbfm_core.registry.sources import PLUGIN_PACKAGE, Source, keep_source, plugin_sources, sources_kept

T = TypeVar("T")

# Held while members are looked for: another thread waits for all of them, the same thread enters again.
_LOOKING = threading.RLock()

# Plug-in folders whose files are imported.
_SEARCHED: set[Path] = set()
_REGISTRIES: list[Registry[Any]] = []


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
        # Whether members are being looked for; what is registered is then not yet all.
        self.running = False

    def run(self) -> None:
        """Import everything that may register a member; once per process."""
        if self._done:
            return
        with _LOOKING:
            # A module that reads the registry while it is imported must not start again.
            if self._done or self.running:
                return
            self.running = True
            try:
                self._walk(self._package)
                if self._group is not None:
                    _load_entry_points(self._group)
                    load_plugin_files()
                self._done = True
            finally:
                self.running = False
                if not self._done:
                    _discard_unfinished()

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


@contextmanager
def _importing(plugin: str, repair: str) -> Iterator[None]:
    """Keep the sources of what a plug-in imports, and name it in the error where it fails."""
    try:
        with sources_kept(PLUGIN_PACKAGE):
            yield
    except PerturbFMError as error:
        error.args = (f"plug-in {plugin}: {error}",)
        raise
    except Exception as error:
        msg = f"plug-in {plugin} cannot be imported: {type(error).__name__}: {error}; {repair} it"
        raise ConfigError(msg) from error


def _load_entry_points(group: str) -> None:
    for point in metadata.entry_points(group=group):
        with _importing(f"{point.value!r} (entry point of {group})", "repair or uninstall"):
            point.load()


def plugin_folder() -> Path:
    """Return the folder of the user's own plug-in files, which need not exist."""
    if named := os.environ.get("PERTURBFM_PLUGINS"):
        return Path(named)
    return Path(os.environ.get("PERTURBFM_HOME") or ".") / ".perturbfm" / "plugins"


def plugin_files() -> dict[str, Path]:
    """Return {module name: file} of the user's own plug-ins, in order of file name; empty without the folder.

    Hidden files are left out: editors and file managers put locks and copies beside a file under such names.
    """
    folder = plugin_folder()
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    return {
        f"{PLUGIN_PACKAGE}_{file.stem}": file.absolute()
        for file in files
        if not file.name.startswith(".") and not file.is_dir()
    }


def loaded_plugin_digests() -> dict[str, str]:
    """Return {file name: SHA-256 of the content that was executed} of imported plug-ins; recorded in every run."""
    return {s.file.name: hashlib.sha256(s.content).hexdigest() for s in plugin_sources().values()}


def plugin_digests() -> dict[str, str]:
    """Return the digests of the plug-ins that this process works with: those of the files where none is imported yet."""
    loaded = loaded_plugin_digests()
    if plugin_folder().absolute() in _SEARCHED:
        return loaded
    files = {file.name: hashlib.sha256(_read(file)).hexdigest() for file in plugin_files().values()}
    return dict(sorted((files | loaded).items()))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        msg = f"plug-in {file} cannot be read: {error.strerror or error}; repair or remove it"
        raise ConfigError(msg) from error


class _Loader(SourceFileLoader):
    """Executes the content that was read, whatever the file or a cached bytecode file holds by then."""

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name, str(source.file))
        self._content = source.content

    def get_code(self, fullname: str) -> CodeType:
        """Return the module's compiled code."""
        return self.source_to_code(self._content, self.get_filename(fullname))


def load_plugin_files() -> None:
    """Import the files of the plug-in folder that are not imported yet.

    A file that fails leaves no member behind, so that it can be repaired and imported again.

    Raises
    ------
    ConfigError
        If a file cannot be imported, naming it.
    """
    with _LOOKING:
        for name, file in plugin_files().items():
            if name not in sys.modules:
                _load_plugin(name, file)
        _SEARCHED.add(plugin_folder().absolute())


def _load_plugin(name: str, file: Path) -> None:
    if "." in file.stem:
        new = file.stem.replace(".", "_")
        msg = f"plug-in {file}: a module has no dots in its name; rename it to {new}.py"
        raise ConfigError(msg)
    source = Source(file, _read(file))
    loader = _Loader(name, source)
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(file)))
    module.__file__ = str(file)
    sys.modules[name] = module
    keep_source(name, source)
    try:
        with _importing(str(file), "repair or remove"):
            loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        _discard_unfinished()
        raise


def _discard_unfinished() -> None:
    """Remove the members whose modules were not imported to their end."""
    for registry in _REGISTRIES:
        registry.discard_unfinished()


def defined_in(module: str) -> list[tuple[str, str]]:
    """Return (what, name) of the members whose class or function a module defines."""
    return [(r.what, name) for r in _REGISTRIES for name in r.defined_in(module)]


def _importing_module() -> str | None:
    """Return the name of the module whose top level is being executed, None if there is none."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return None if frame is None else frame.f_globals.get("__name__")


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
        self._modules: dict[str, str | None] = {}
        _REGISTRIES.append(self)

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
        self._modules[name] = _importing_module()
        return item

    def register(self, name: str, order: int = 0) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name` (see `add`)."""
        return lambda item: self.add(name, item, order)

    def discard_unfinished(self) -> None:
        """Remove the members whose modules are not imported any more, as those that failed half-way."""
        gone = [name for name, module in self._modules.items() if module and module not in sys.modules]
        for name in gone:
            for held in (self._members, self._order, self._modules):
                held.pop(name, None)

    def defined_in(self, module: str) -> list[str]:
        """Return the names whose class or function a module defines."""
        return [
            name
            for name, item in self._members.items()
            if getattr(getattr(item, "function", item), "__module__", None) == module
        ]

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
