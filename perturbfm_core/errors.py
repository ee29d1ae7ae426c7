"""Every error that a user can cause, one class per part of the platform.

A message says what is wrong, what was found and what to do; the command line prints it as one line.
"""

from __future__ import annotations


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
