"""Deferred imports of large libraries: a verb that never uses one does not pay for it at start-up."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from threading import RLock
from types import ModuleType
from typing import Any

# Each takes a tenth of a second or more to import, and many modules of this package import them at the top.
LARGE = ("pandas", "scipy.sparse")

_lock = RLock()


class _Deferred(ModuleType):
    """Stands in ``sys.modules`` for a library until something of it is used."""

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        with _lock:
            if sys.modules.get(name) is self:
                del sys.modules[name]
            loaded = importlib.import_module(name)
            # Modules that hold the stand-in find everything in it from now on.
            self.__dict__.update(loaded.__dict__)
        return getattr(loaded, attribute)


def defer(names: tuple[str, ...] = LARGE) -> None:
    """Let ``import NAME`` return at once and load the library when it is first used.

    Libraries that are loaded already, or not installed, are left alone.

    Parameters
    ----------
    names
        Dotted names; of a sub-package the parent is imported now.
    """
    for name in names:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        module = _Deferred(name)
        module.__spec__ = spec
        sys.modules[name] = module
        parent, _, leaf = name.rpartition(".")
        if parent:
            # What an import statement would have set.
            setattr(sys.modules[parent], leaf, module)
