"""The form of catalog entries: data sets, models, graphs, gene features, suites of splits and models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from perturbfm_core.config import Frozen


class DatasetEntry(Frozen):
    """One data set of the catalog (``catalog/datasets/<name>.yaml``).

    ``synth`` data sets are made by the simulator on first use and must have `content_sha256`; ``artifact``
    data sets lie at `path` (relative to the artifact store's home unless absolute).
    """

    name: str
    description: str
    source: Literal["synth", "artifact"]
    path: str | None = None
    synth: dict[str, Any] = Field(default_factory=dict)
    storage: Literal["npz", "zarr"] = "zarr"
    content_sha256: str | None = None
    owner: str = "team:perturbfm"


class Tuned(Frozen):
    """Where the parameters of a model entry were selected.

    Attributes
    ----------
    study
        The study.
    split, data_content_sha256
        Hashes of the split on whose validation they were selected, and of its data.
    trial, trials
        The selected trial, None where the entry's own parameters stayed best; how many were tried.
    value
        Its mean Pearson correlation of centred deltas on validation.
    """

    study: str
    split: str
    data_content_sha256: str
    trial: int | None
    trials: int
    value: float


class ModelEntry(Frozen):
    """One model configuration of the catalog (``catalog/models/<entry>.yaml``): a leaderboard entry.

    `uncertainty` says how its variance is calibrated (`perturbfm_core.uncertainty.config`); by default it is.
    `tuned` says where its parameters come from, if from a study.
    """

    name: str
    description: str
    model: str
    inputs: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    uncertainty: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    tuned: Tuned | None = None
    owner: str = "team:perturbfm"

    @field_validator("seeds")
    @classmethod
    def _some_seed(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value) or min(value) < 0:
            msg = "seeds must be one or more different numbers of at least 0"
            raise ValueError(msg)
        return value


class GraphEntry(Frozen):
    """One gene graph of the catalog (``catalog/graphs/<name>.yaml``).

    `path` is that of its npz (relative to the artifact store's home unless absolute), `sha256` that of its genes,
    edges and weights, `kind` how it was built, `source` what from.
    """

    name: str
    description: str
    path: str
    sha256: str
    kind: str
    source: str = ""
    licence: str = "unknown"


class FeaturesEntry(Frozen):
    """One table of gene features of the catalog (``catalog/features/<name>.yaml``); fields as in `GraphEntry`."""

    name: str
    description: str
    path: str
    sha256: str
    kind: str = "table"
    source: str = ""
    licence: str = "unknown"


class SplitSpec(Frozen):
    """What to freeze: a kind with its parameters, as ``splits create`` or a suite states it."""

    kind: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    folds: int | None = Field(default=None, ge=2)
    fold: int | None = Field(default=None, ge=0)
    val_frac: float = Field(default=0.1, ge=0, lt=1)
    calib_frac: float = Field(default=0.1, ge=0, lt=1)
    validation: Literal["auto", "fold", "inner_cv", "none"] = "auto"
    calibration: Literal["auto", "fold", "inner_cv", "none"] = "auto"
    fit_rows: Literal["train", "train+val"] = "train"
    transductive: bool = False


class SuiteSplits(Frozen):
    """The splits that a suite freezes on one data set."""

    dataset: str
    splits: tuple[SplitSpec, ...]


class SuiteEntry(Frozen):
    """A benchmark (``catalog/suites/<name>.yaml``): data sets and their splits, times model entries."""

    name: str
    description: str
    grid: tuple[SuiteSplits, ...]
    models: tuple[str, ...]
    refresh_cron: str | None = None
    owner: str = "team:perturbfm"
