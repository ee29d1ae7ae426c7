"""Every error that a user can cause, one class per part of the platform.

A message says what is wrong, what was found and what to do; the command line prints it as one line.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator


class PerturbFMError(Exception):
    """Base of all errors that are the input's fault, not the program's."""


class DatasetError(PerturbFMError):
    """A data set, or a file to be imported as one, breaks the contract."""


class SplitError(PerturbFMError):
    """A split cannot be made, found, or trusted."""


class NotApplicableError(SplitError):
    """A model entry cannot run on a split; `reason` says what it needs ("needs ...")."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class GraphError(PerturbFMError):
    """A gene graph does not fit its data set or split."""


class ModelError(PerturbFMError):
    """A model cannot be built, fitted or loaded."""


class PredictionError(PerturbFMError):
    """A prediction does not cover, or does not belong to, what is to be scored."""


class MetricError(PerturbFMError):
    """A metric or panel is misdeclared or incomplete."""


class ConfigError(PerturbFMError):
    """A configuration, catalog file or option is not valid."""


class StoreError(PerturbFMError):
    """An artifact is missing, damaged, or in use by someone else."""


class DiskError(StoreError):
    """A file cannot be written: the disk is full, read-only, over its quota, or not permitted.

    Attributes
    ----------
    path
        The file or folder, "" where it is not known.
    reason
        Why the disk refused it.
    needed
        Bytes that it needs, None where that is not known.
    """

    path: str = ""
    reason: str = ""
    needed: int | None = None


class DownloadError(PerturbFMError):
    """A public file cannot be fetched, or is not the file that it should be."""


class ClusterError(PerturbFMError):
    """Jobs cannot be submitted, asked about or cancelled."""


class ExternalError(PerturbFMError):
    """An external model's environment, worker or output is not there, or does not do its part."""


class MissingExtraError(PerturbFMError):
    """A package that only some verbs need is not installed."""

    @classmethod
    def of(cls, error: ModuleNotFoundError) -> MissingExtraError:
        """Return the error of a failed import, which names the extra that brings the package."""
        package = (error.name or "").partition(".")[0]
        extra = next((name for name, packages in EXTRAS.items() if package in packages), None)
        if extra is None:
            return cls(f"package {package!r} is not installed; reinstall perturbfm")
        return cls(f"this needs {package}, which is not installed: pip install 'perturbfm[{extra}]'")


# Packages that only some verbs need, by the extra of the distribution that brings them.
EXTRAS: dict[str, tuple[str, ...]] = {
    "models": ("torch",),
    "tune": ("optuna",),
    "download": ("pooch", "requests"),
    "cluster": ("submitit",),
    "external": ("uv",),
    "dagster": ("dagster", "dagster_webserver", "dagster_graphql", "dagster_pipes"),
}


def of_package(module: str) -> bool:
    """Return whether a module is one of this package, not a plug-in."""
    return module.partition(".")[0] == __name__.partition(".")[0]


@contextlib.contextmanager
def named_fault(what: str, module: str, error: type[PerturbFMError], hint: str = "") -> Iterator[None]:
    """Raise whatever fails in a plug-in as `error`, in one line that names it.

    Errors of this package, of the disk and of memory pass, as does everything that fails in the package's own code.

    Parameters
    ----------
    what
        What runs, for the message ("model 'mine', _fit").
    module
        Module that defines it.
    error
        Class of what is raised.
    hint
        What to do, at the end of the message.
    """
    try:
        yield
    except (PerturbFMError, OSError, MemoryError):
        raise
    except Exception as fault:
        if of_package(module) or _is_extra(fault):
            raise
        file = getattr(sys.modules.get(module), "__file__", None)
        lines = [f.lineno for f in traceback.extract_tb(fault.__traceback__) if f.filename == file]
        place = f" ({file}, line {lines[-1]})" if lines else ""
        msg = f"{what} fails: {type(fault).__name__}: {fault}{place}{hint}"
        raise error(msg) from fault


def _is_extra(fault: Exception) -> bool:
    """Return whether a package is missing that an extra of the distribution brings."""
    if not isinstance(fault, ModuleNotFoundError):
        return False
    package = (fault.name or "").partition(".")[0]
    return any(package in packages for packages in EXTRAS.values())
