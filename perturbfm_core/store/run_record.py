"""The content of a run's ``config.json``: one type, written by stage `report` and `submission`, read by everyone else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from perturbfm_core import schema
from perturbfm_core.config import Frozen, one_line
from perturbfm_core.errors import StoreError
from perturbfm_core.store.atomic import file_digest, read_json, write_atomic

Family = Literal["baseline", "learned", "external"]


class _Part(Frozen):
    """A part of the record; a field of a later version is ignored, so that old programs read new runs."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class DatasetRecord(_Part):
    """The data set of a run: name, content hash, size and origin; `path` is where it lay."""

    name: str
    content_sha256: str
    level: str | None = None
    space: str | None = None
    n_obs: int | None = None
    n_genes: int | None = None
    source: str | None = None
    licence: str | None = None
    path: str | None = None


class SplitRecord(_Part):
    """The split of a run; `cv` is its place in a cross-validation."""

    hash: str
    key: str
    kind: str
    cv: dict[str, Any] | None = None


class Flags(_Part):
    """What every reader of the scores must see.

    Attributes
    ----------
    no_signal
        Whether two halves of a condition hardly agree; None where the data allow no ceiling.
    shared_control
        Whether too few control cells are there to keep those of models and of the truth apart.
    """

    no_signal: bool | None = None
    shared_control: bool = False


class ObjectKeys(_Part):
    """Keys of the immutable objects that a run was copied from.

    `scores` is one key over all `panels`, `strata` that of the split's groups of conditions behind them.
    """

    model: str
    prediction: str
    scores: str
    strata: str | None = None
    panels: dict[str, str] = Field(default_factory=dict)


class SubmissionRecord(_Part):
    """The file behind a run of family ``external``.

    Attributes
    ----------
    file, sha256
        Name and SHA-256 of the file as it was handed in.
    note, url
        What its author says of it, and where more is to be found.
    options
        How it was read: ``kind``, ``missing``, names of columns, as far as they were given.
    """

    file: str
    sha256: str
    note: str | None = None
    url: str | None = None
    options: dict[str, str] = Field(default_factory=dict)


class RunRecord(_Part):
    """What is recorded of a run.

    Attributes
    ----------
    run_id, created, parent_run
        Its name, UTC time, and the run of the same configuration whose scores it replaces.
    data_hash, split_hash, config_hash, entry_hash, graph_hash
        Content of the data, of the split, of the configuration with and without its seed, and of all graphs.
    dataset, split, flags, objects, submission
        See their types; `objects` is None for predictions made elsewhere, `submission` for all others.
    files
        {name: SHA-256} of the other files of the run.
    entry, model, family, params, uncertainty, tuned, seed
        The resolved configuration.
    side_info
        {kind: {name: SHA-256}} of graphs, gene features, encoder, masks and borrowed effects.
    sources
        Graphs and features of public sources: name, source, version, hash, licence, and how many perturbed genes each has.
    code, libraries, plugins, environment
        Digest of the code by stage; versions of the numeric libraries; digests of plug-in files; the machine.
    alignment, var_filled, generator, notes
        How the prediction was aligned to the truth, and what was filled in.
    audit, fallback_control_rows, inner_folds, timings, cost
        Warnings of the leakage audit, rows without controls of their own batch, scores on inner folds, seconds, and what
        the fit cost: CPU seconds (``fit_cpu_s``, ``predict_cpu_s``) and bytes (``fit_peak_bytes``).
    rescored_from
        The run whose fit and prediction this one has, scored again later; None for all others.
    """

    schema_version: int = schema.RUN_SCHEMA_VERSION
    run_id: str
    created: str
    data_hash: str
    split_hash: str
    config_hash: str
    entry_hash: str
    graph_hash: str | None = None
    dataset: DatasetRecord
    split: SplitRecord
    entry: str
    model: str
    family: Family
    params: dict[str, Any] = Field(default_factory=dict)
    uncertainty: dict[str, Any] = Field(default_factory=dict)
    tuned: dict[str, Any] | None = None
    seed: int = 0
    flags: Flags
    objects: ObjectKeys | None = None
    submission: SubmissionRecord | None = None
    files: dict[str, str] = Field(default_factory=dict)
    parent_run: str | None = None
    side_info: dict[str, dict[str, str]] = Field(default_factory=dict)
    sources: list[dict[str, Any]] = Field(default_factory=list)
    code: dict[str, str] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    plugins: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    alignment: str
    var_filled: bool = False
    generator: dict[str, Any] | None = None
    notes: dict[str, Any] = Field(default_factory=dict)
    audit: list[dict[str, Any]] = Field(default_factory=list)
    fallback_control_rows: int | None = None
    inner_folds: dict[str, float] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    cost: dict[str, float | None] = Field(default_factory=dict)
    rescored_from: str | None = None

    @property
    def uses_other_screens(self) -> bool:
        """Return whether the fit read effects of other data sets (``--borrow``)."""
        return bool(self.side_info.get("borrowed"))

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, value: Any) -> Any:
        """Read a record of version 1, which kept its hashes in `dataset` and `split` only."""
        if not isinstance(value, dict) or value.get("schema_version") != 1:
            return value
        dataset, split = value.get("dataset") or {}, value.get("split") or {}
        family = value.get("family")
        code = (value.get("environment") or {}).get("code")
        return {
            "data_hash": dataset.get("content_sha256"),
            "split_hash": split.get("hash"),
            "side_info": value.get("knowledge") or {},
            "code": {"all": code} if code else {},
            **value,
            "family": "learned" if family == "perturbfm" else family,
        }

    def write(self, folder: Path) -> None:
        """Write ``config.json`` into a folder."""
        write_atomic(folder / schema.CONFIG_FILE, self.to_text())

    def to_text(self) -> str:
        """Return the text of ``config.json``."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_run_record(folder: Path) -> RunRecord:
    """Read the ``config.json`` of a run directory.

    Raises
    ------
    StoreError
        If it is missing, damaged or not a run's.
    """
    file = folder / schema.CONFIG_FILE
    try:
        return RunRecord.model_validate(read_json(file))
    except ValidationError as error:
        msg = f"{file} is not the record of a run: {one_line(error)}; remove the run or make it again"
        raise StoreError(msg) from error


def is_whole(folder: Path, record: RunRecord) -> bool:
    """Return whether every file of a run is there as it was published; False for a run that does not say."""
    try:
        return bool(record.files) and all(
            file_digest(folder / name) == digest for name, digest in record.files.items()
        )
    except OSError:
        return False
