"""Configurations that cross a file: immutable, closed, hashed by their canonical JSON."""

from __future__ import annotations

import hashlib
import inspect
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import rfc8785
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perturbfm_core.errors import ConfigError

KEY_PATTERN = re.compile(r"^[a-z0-9][a-z0-9_.-]*$")


class Frozen(BaseModel):
    """Base of every configuration: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Frozen)


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 form of a JSON value: the same bytes for the same content."""
    return rfc8785.dumps(value)


def content_hash(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def check_key(key: str, what: str) -> str:
    """Return `key` if it can be a partition key and a file name, else raise `ConfigError`."""
    if not KEY_PATTERN.fullmatch(key) or ".." in key:
        msg = (
            f"{what} {key!r} cannot be a key; use lower-case letters, digits, '_', '-' and '.', "
            "beginning with a letter or digit"
        )
        raise ConfigError(msg)
    return key


def slug(name: str) -> str:
    """Return `name` as a key: lower case, every run of other characters a hyphen."""
    out = re.sub(r"[^a-z0-9_.]+", "-", name.lower())
    out = re.sub(r"\.{2,}", ".", out).strip("-._")
    if not out:
        msg = f"name {name!r} has no letter or digit to make a key of"
        raise ConfigError(msg)
    return out


def one_line(error: ValidationError) -> str:
    """Return a pydantic error as one line: field, problem, value found."""
    parts = []
    for item in error.errors():
        where = ".".join(str(x) for x in item["loc"]) or "(top level)"
        found = "" if item["type"] == "missing" else f", found {str(item['input'])[:60]!r}"
        parts.append(f"{where}: {item['msg']}{found}")
    return "; ".join(parts)


def parse(model: type[C], value: Any, source: str) -> C:
    """Validate `value` as `model`; a failure raises `ConfigError` naming `source`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        msg = f"{source} is not a valid {model.__name__}: {one_line(error)}"
        raise ConfigError(msg) from error


def load_yaml(path: Path) -> Any:
    """Read one YAML file with the safe loader."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path} does not exist"
        raise ConfigError(msg) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        msg = f"{path} is not valid YAML: {detail}"
        raise ConfigError(msg) from error


def documented(model: type[Frozen]) -> dict[str, str]:
    """Return {field: description} from the "Attributes" of a configuration's docstring and of those it extends.

    Fields that share a description have the whole of it.
    """
    out: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
        if "Attributes" not in lines or kind.__module__.startswith("pydantic"):
            continue
        names: list[str] = []
        text: dict[str, list[str]] = {}
        for line, following in pairwise([*lines[lines.index("Attributes") + 2 :], "", ""]):
            if following.startswith("---"):
                break
            if line and not line.startswith(" "):
                names = [name.strip() for name in line.split(",")]
                text.update({name: [] for name in names})
            elif line:
                for name in names:
                    text[name].append(line.strip())
        out.update({name: " ".join(parts) for name, parts in text.items()})
    return {name: text for name, text in out.items() if name in model.model_fields}


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
