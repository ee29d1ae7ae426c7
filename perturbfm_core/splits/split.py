"""Frozen splits: the definition of folds (train, val, calib, test, unused) and their rows in a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field, ValidationError, model_validator

from perturbfm_core import schema
from perturbfm_core.config import Frozen, content_hash, one_line, slug
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.errors import ConfigError, SplitError
from perturbfm_core.parsing import parse_json
from perturbfm_core.schema import Fold, IntArray

Policy = Literal["fold", "inner_cv", "none"]
Unit = Literal["context", "perturbation", "combo", "pair", "condition"]
# Inner folds of splits whose test conditions have a new context and a new perturbation at once.
CROSSED: Final = "context and perturbation"
InnerUnit = Unit | Literal["context and perturbation"]
Axis = Literal["context", "perturbation", "combo", "pair", "condition", "dose", "time", "batch"]


class DatasetRef(Frozen):
    """Identity of the data set that a split belongs to."""

    name: str
    content_sha256: str
    genes_sha256: str


class ConditionFolds(Frozen):
    """Folds as {fold: condition keys}, independent of the order of rows."""

    by: Literal["condition"] = "condition"
    table: dict[Fold, tuple[str, ...]]


class RowFolds(Frozen):
    """Folds as one code per row, stored in ``<hash>.npz``; valid for one order of rows only."""

    by: Literal["row"] = "row"
    n_obs: int
    rows_sha256: str
    codes_sha256: str


class CvGroup(Frozen):
    """Position of a split among the folds of one cross-validation."""

    group: str
    fold: int
    k: int
    repeat: int = 0


class InnerFolds(Frozen):
    """Grouped folds within the training conditions, for early stopping, stacking, gating and calibration.

    `folds` maps each exchangeable unit to its fold. Where contexts and perturbations are held out at once, it maps
    ``context NAME`` to a part of the contexts and ``perturbation NAME`` to a part of the perturbed genes, and each of the
    `k` folds is one part of either (`crossed_parts`).
    """

    unit: InnerUnit
    k: int
    folds: dict[str, int]


class Split(Frozen):
    """Definition of one frozen split; its identity is the hash of all its fields.

    Attributes
    ----------
    dataset
        Name and hashes of the data set.
    kind, params, seed
        Split kind, with the parameters and seed that it was made with.
    folds
        Fold of every condition or row; controls are in no fold.
    cv
        Its position in a cross-validation, None if it belongs to none.
    validation, calibration
        Which data are used: a ``fold`` of their own, the inner folds (``inner_cv``) or ``none``.
    inner
        Folds within the training conditions, grouped by the exchangeable unit.
    fit_rows
        Folds that every model is fitted on.
    ood_axes
        What is unseen in the test fold: context, perturbation, combo, pair, dose, time, batch; empty for
        i.i.d.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    schema_version: int = schema.SPLIT_SCHEMA_VERSION
    dataset: DatasetRef
    kind: str
    params: dict[str, Any]
    seed: int
    folds: Annotated[ConditionFolds | RowFolds, Field(discriminator="by")]
    cv: CvGroup | None = None
    validation: Policy
    calibration: Policy
    inner: InnerFolds | None = None
    fit_rows: Literal["train", "train+val"] = "train"
    ood_axes: tuple[Axis, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Split:
        if self.schema_version != schema.SPLIT_SCHEMA_VERSION:
            msg = f"schema version {self.schema_version} is not {schema.SPLIT_SCHEMA_VERSION}"
            raise ValueError(msg)
        if isinstance(self.folds, ConditionFolds):
            listed = [key for keys in self.folds.table.values() for key in keys]
            twice = (
                sorted({key for key in listed if listed.count(key) > 1})
                if len(set(listed)) < len(listed)
                else []
            )
            if twice:
                msg = f"conditions in two folds: {twice[:3]}"
                raise ValueError(msg)
            for fold in ("train", "test"):
                if not self.folds.table.get(fold):
                    msg = f"fold {fold} is empty"
                    raise ValueError(msg)
        if "inner_cv" in (self.validation, self.calibration) and self.inner is None:
            msg = "inner_cv is declared but there are no inner folds"
            raise ValueError(msg)
        return self

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 of the canonical JSON of all fields, which identifies the split."""
        return content_hash(self.model_dump(mode="json"))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Split:
        """Return a copy with the fields in `update` replaced, and a hash of its own."""
        out = super().model_copy(update=update, deep=deep)
        # Otherwise the copy would keep the cached hash of the original.
        out.__dict__.pop("hash", None)
        return out

    @property
    def key(self) -> str:
        """Return the partition key ``<dataset>.<kind>.<hash12>``."""
        return f"{slug(self.dataset.name)}.{self.kind}.{self.hash[:12]}"

    @property
    def transductive(self) -> bool:
        """Return whether controls of held-out contexts may be used in fitting."""
        return bool(self.params.get("transductive", False))

    @property
    def unit(self) -> Unit:
        """Return the exchangeable unit: what would be sampled anew if the experiment were repeated."""
        return unit_of_axes(self.ood_axes)

    def to_text(self) -> str:
        """Return the text of the split file: indented JSON with the hash, the only accepted form."""
        return (
            json.dumps({"hash": self.hash, **self.model_dump(mode="json")}, indent=1, ensure_ascii=False)
            + "\n"
        )

    @classmethod
    def from_text(cls, text: str, source: str) -> Split:
        """Read the text of a split file and check its hash and form; `source` names the file in messages.

        Raises
        ------
        SplitError
            If the text is not valid, or differs in any byte from what `to_text` returns for its content.
        """
        hint = "; restore it from version control"
        payload = parse_json(text, source, SplitError, hint)
        if not isinstance(payload, dict) or "hash" not in payload:
            msg = f"{source} is not a split file (it states no hash){hint}"
            raise SplitError(msg)
        stated = payload.pop("hash")
        try:
            split = cls.model_validate(payload)
            found = split.hash
        except ValidationError as error:
            msg = f"{source} is not a valid split: {one_line(error)}{hint}"
            raise SplitError(msg) from error
        except ConfigError as error:
            msg = f"{source} is not a split file ({error}){hint}"
            raise SplitError(msg) from error
        if found != stated:
            msg = f"{source} was edited: it states hash {str(stated)[:12]}, its content has {found[:12]}; restore it"
            raise SplitError(msg)
        if split.to_text() != text:
            msg = f"{source} was edited: its content has the stated hash but not the written form; restore it"
            raise SplitError(msg)
        return split


class FrozenSplit:
    """A split that can be applied to its data set, with the row codes of a by-row split.

    Parameters
    ----------
    definition
        Definition of the split: kind, folds, policies.
    codes
        int8 [N], positions in `schema.FOLDS` (-1 for controls); only for a by-row split.

    Raises
    ------
    SplitError
        If the row codes of a by-row split are missing or do not have the declared digest.
    """

    def __init__(self, definition: Split, codes: IntArray | None = None) -> None:
        self.definition = definition
        self._row_codes = codes
        if isinstance(definition.folds, RowFolds) and (
            codes is None or codes_digest(codes) != definition.folds.codes_sha256
        ):
            msg = f"row codes of split {definition.hash[:12]} are missing or changed; restore its npz"
            raise SplitError(msg)

    @property
    def hash(self) -> str:
        """Return the split's hash."""
        return self.definition.hash

    @property
    def row_codes(self) -> IntArray | None:
        """Return the fold code of every row of a by-row split, else None."""
        return self._row_codes

    def check_dataset(self, ds: PerturbDataset) -> None:
        """Check that the split was frozen on the content and genes of `ds`.

        Raises
        ------
        SplitError
            If the content hash or the genes differ.
        """
        ref = self.definition.dataset
        if ref.content_sha256 != ds.content_sha256:
            msg = (
                f"split {self.hash[:12]} belongs to data set {ref.name!r} with content {ref.content_sha256[:12]}, "
                f"this is {ds.name!r} with {ds.content_sha256[:12]}; use its own data, or `perturbfm splits migrate`"
            )
            raise SplitError(msg)
        if ref.genes_sha256 != ds.genes_sha256:
            msg = f"split {self.hash[:12]} was frozen with other genes or another gene order than {ds.name!r} has"
            raise SplitError(msg)

    def codes(self, ds: PerturbDataset) -> IntArray:
        """Return int8 [N]: each row's fold as a position in `schema.FOLDS`, -1 for control rows.

        Raises
        ------
        SplitError
            If the split was frozen on another data set, or the conditions of split and data set differ.
        """
        self.check_dataset(ds)
        folds = self.definition.folds
        if isinstance(folds, RowFolds):
            found = rows_digest(ds.row_ids)
            if ds.n_obs != folds.n_obs or found != folds.rows_sha256 or self._row_codes is None:
                msg = f"rows of {ds.name!r} are not in the order that by-row split {self.hash[:12]} was frozen with"
                raise SplitError(msg)
            return self._row_codes
        fold_of = {key: schema.FOLDS.index(fold) for fold, keys in folds.table.items() for key in keys}
        missing = [key for key in ds.conditions.index if key not in fold_of]
        extra = set(fold_of) - set(ds.conditions.index)
        if missing or extra:
            msg = (
                f"split {self.hash[:12]} and data set {ds.name!r} disagree on conditions: "
                f"{len(missing)} in no fold {missing[:2]}, {len(extra)} unknown {sorted(extra)[:2]}"
            )
            raise SplitError(msg)
        table = np.asarray([fold_of[key] for key in ds.conditions.index], dtype=np.int8)
        codes = np.full(ds.n_obs, -1, dtype=np.int8)
        treated = ds.condition_codes >= 0
        codes[treated] = table[ds.condition_codes[treated]]
        return codes

    def rows(self, ds: PerturbDataset, *folds: Fold) -> IntArray:
        """Return the row positions of the given folds, ascending."""
        wanted = [schema.FOLDS.index(f) for f in folds]
        return np.flatnonzero(np.isin(self.codes(ds), wanted))

    @property
    def fit_folds(self) -> tuple[Fold, ...]:
        """Return the folds that every model is fitted on."""
        return ("train",) if self.definition.fit_rows == "train" else ("train", "val")


def unit_of_axes(axes: Sequence[Axis]) -> Unit:
    """Return the exchangeable unit of a split: its first axis; the perturbation for dose, time and batch."""
    if not axes:
        return "condition"
    first = axes[0]
    return "perturbation" if first == "dose" or first == "time" or first == "batch" else first


def inner_unit_of_axes(axes: Sequence[Axis]) -> InnerUnit:
    """Return what inner folds of a split hold out, so that they are of the kind of its test fold."""
    return CROSSED if {"context", "perturbation"} <= set(axes) else unit_of_axes(axes)


def codes_digest(codes: IntArray) -> str:
    """Return the SHA-256 of the row codes of a by-row split."""
    return hashlib.sha256(np.ascontiguousarray(codes, dtype="<i1").tobytes()).hexdigest()


def units_of(conditions: pd.DataFrame, unit: Unit) -> list[tuple[str, ...]]:
    """Return the exchangeable units that each condition belongs to.

    Parameters
    ----------
    conditions
        Condition table [C], index = key.
    unit
        ``context``; ``perturbation`` (each perturbed gene); ``combo`` (the combination, none for single
        perturbations); ``pair`` and ``condition`` (the condition itself).
    """
    perts = conditions[schema.PERT_ID].astype(str).tolist()
    if unit == "context":
        return [(c,) for c in conditions[schema.CONTEXT_ID].astype(str)]
    if unit == "perturbation":
        return [tuple(pert_genes(p)) for p in perts]
    if unit == "combo":
        return [(p,) if schema.COMBO_SEPARATOR in p else () for p in perts]
    return [(str(key),) for key in conditions.index]
