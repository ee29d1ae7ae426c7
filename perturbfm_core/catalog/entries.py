"""Schemas of catalog entries: data sets, models, gene graphs, gene features and benchmark suites."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from perturbfm_core.config import Frozen, check_key
from perturbfm_core.schema import CountGenerator


class DatasetEntry(Frozen):
    """One data set of the catalog (``catalog/datasets/<name>.yaml``).

    Data sets from ``synth`` are simulated on first use and must have a `content_sha256`; those from
    ``artifact`` are at `path` (relative to the home of the artifact store unless absolute).
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
    """Origin of the tuned parameters of a model entry.

    Attributes
    ----------
    study
        Name of the study.
    split, data_content_sha256
        Hashes of the split on whose validation they were selected, and of its data set.
    trial, trials
        The selected trial, None if the entry's own parameters were best; number of trials.
    value
        Mean Pearson correlation of centred deltas of the selected parameters on validation.
    """

    study: str
    split: str
    data_content_sha256: str
    trial: int | None
    trials: int
    value: float


class ModelEntry(Frozen):
    """One model configuration of the catalog (``catalog/models/<entry>.yaml``): a leaderboard entry.

    `uncertainty` configures the calibration of its variance (`perturbfm_core.uncertainty.config`), which is
    on by default. `generator` names how counts are drawn of its predictions where they are scored, None for the default
    (see `perturbfm_core.evaluation.count_generators`). `tuned` records the study that its parameters come from, if any.
    """

    name: str
    description: str
    model: str
    inputs: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    uncertainty: dict[str, Any] = Field(default_factory=dict)
    generator: CountGenerator | None = Field(default=None, exclude_if=lambda g: g is None)
    seeds: tuple[int, ...] = (0,)
    tuned: Tuned | None = None
    owner: str = "team:perturbfm"

    @field_validator("name")
    @classmethod
    def _key(cls, value: str) -> str:
        # It is part of a path: of a run, of a lock.
        return check_key(value, "name of a model entry")

    @field_validator("seeds")
    @classmethod
    def _some_seed(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value) or min(value) < 0:
            msg = "seeds must be one or more different numbers of at least 0"
            raise ValueError(msg)
        return value


class SourceFile(Frozen):
    """One file of a public source: its role, where it was read from, its SHA-256 and bytes."""

    role: str
    place: str
    sha256: str
    size: int


class Origin(Frozen):
    """Public source of a gene graph or a table of gene features (see `perturbfm_core.graphs.sources`).

    Attributes
    ----------
    source, title
        Its word on the command line, and what it is called.
    version
        What its files state, else when they were read.
    organism, identifiers
        Of its genes, and the kind of their names.
    terms, citation
        What its licence asks for, and what to cite.
    files
        What it was made from.
    options
        How it was converted, as far as that differs from the default.
    notes
        What was left out or joined.
    """

    source: str
    title: str
    version: str
    organism: str
    identifiers: str
    terms: str = ""
    citation: str = ""
    files: tuple[SourceFile, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class GraphEntry(Frozen):
    """One gene graph of the catalog (``catalog/graphs/<name>.yaml``).

    `path` is the path of its npz file (relative to the home of the artifact store unless absolute), `sha256`
    the hash of its genes, edges and weights, `kind` the way it was built, `source` what it was built from. `origin`
    is set for those of public sources, which models take by ``auto``.
    """

    name: str
    description: str
    path: str
    sha256: str
    kind: str
    source: str = ""
    licence: str = "unknown"
    origin: Origin | None = None


class FeaturesEntry(Frozen):
    """One table of gene features (``catalog/features/<name>.yaml``), with fields as in `GraphEntry`."""

    name: str
    description: str
    path: str
    sha256: str
    kind: str = "table"
    source: str = ""
    licence: str = "unknown"
    origin: Origin | None = None


class SplitSpec(Frozen):
    """Specification of splits to freeze: a kind with its parameters, from ``splits create`` or a suite."""

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


class SuiteFile(Frozen):
    """A file of the user's own that a suite imports once, as the data set of its name.

    Attributes
    ----------
    name
        Name of the h5ad file in the folder that the user gives.
    about
        What it holds, for those who have to find it.
    mapping
        Fields of the mapping of its columns, as options of ``perturbfm data import``.
    """

    name: str
    about: str
    mapping: dict[str, Any]


class SuiteSplits(Frozen):
    """Splits of a suite on one data set: of the catalog, or made of a `file` of the user's own."""

    dataset: str
    splits: tuple[SplitSpec, ...]
    file: SuiteFile | None = None


class SuiteEntry(Frozen):
    """A benchmark suite (``catalog/suites/<name>.yaml``): model entries, times splits of data sets.

    Runs are scored by every panel; `panels` are those whose headline metrics its scorecard shows beside the primary one.
    """

    name: str
    description: str
    grid: tuple[SuiteSplits, ...]
    models: tuple[str, ...]
    panels: tuple[str, ...] = ()
    refresh_cron: str | None = None
    owner: str = "team:perturbfm"
