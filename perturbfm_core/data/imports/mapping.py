"""Mapping of an h5ad file's columns: which column is what, and which scale the values have."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
from pydantic import Field, field_validator

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.data.space import STORED, ImportSpace
from perturbfm_core.data.text import column_text
from perturbfm_core.schema import Level, Space


class ColumnMapping(Frozen):
    """Meaning of the columns of an h5ad file, and scale of its values.

    Attributes
    ----------
    pert_col, context_col, batch_col, dose_col, time_col, modality_col, weight_col
        obs columns; only `pert_col` is required. `covariate_cols` are kept as further covariates.
    dose_unit, dose_unit_col, time_unit
        Unit of doses and times that are written without one, for all rows or by row.
    control_label
        Perturbation labels of control cells, one or several; not needed for delta and z-score data.
    guide_col
        obs column of the guide, where `pert_col` names its gene.
    guides
        Whether guides of one gene are one perturbation (``merge``) or several (``separate``).
    keep_labels
        Labels that are labels although they read like a missing value or the control label in another case.
    drop_labels
        Perturbation labels whose rows are left out; one that means a missing value stands for missing ones too.
    accept
        Findings of the audit that are accepted for these data; they are shown, and block nothing.
    modality
        One modality for all rows, instead of `modality_col`.
    separators
        Texts that join the parts of a combination; a single text counts as its characters. None keeps names
        whole. By default ``+``.
    split_known_only
        Part a label only if all its parts are measured genes or perturbations of the file.
    space
        Declared scale of the values; it is checked, never guessed.
    layer
        Layer to read instead of ``X``; ``raw`` is the matrix of `raw`, with its genes.
    gene_col
        var column with gene ids, instead of the index.
    target_sum
        Counts per cell after normalisation (``space: counts`` only).
    aliases
        {other name of a perturbation or of a part: name to use}.
    alias_modality
        {perturbation label: modality of its rows}.
    """

    pert_col: str
    context_col: str | None = None
    batch_col: str | None = None
    control_label: tuple[str, ...] = ()
    dose_col: str | None = None
    dose_unit: str = ""
    dose_unit_col: str | None = None
    time_col: str | None = None
    time_unit: str = ""
    modality_col: str | None = None
    modality: str = ""
    weight_col: str | None = None
    guide_col: str | None = None
    guides: Literal["merge", "separate"] = "merge"
    covariate_cols: tuple[str, ...] = ()
    separators: tuple[str, ...] = (schema.COMBO_SEPARATOR,)
    split_known_only: bool = False
    keep_labels: tuple[str, ...] = ()
    drop_labels: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    space: ImportSpace = "log1p"
    level: Level | None = None
    layer: str | None = None
    gene_col: str | None = None
    target_sum: float = Field(default=1e4, gt=0)
    aliases: dict[str, str] = Field(default_factory=dict)
    alias_modality: dict[str, str] = Field(default_factory=dict)

    @field_validator("control_label", mode="before")
    @classmethod
    def _labels(cls, value: Any) -> Any:
        """Take one label as well as several, without spaces around them, each once."""
        labels = _several(value)
        if not isinstance(labels, tuple):
            return labels
        return tuple(dict.fromkeys(x.strip() if isinstance(x, str) else x for x in labels))

    @field_validator("covariate_cols", "keep_labels", "drop_labels", "accept", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Take one text as well as several."""
        return _several(value)

    @field_validator("separators", mode="before")
    @classmethod
    def _characters(cls, value: Any) -> Any:
        """Take a text as its characters."""
        return tuple(value) if isinstance(value, str) else _several(value)

    @property
    def stored_space(self) -> Space:
        """Return the scale in which the values are stored."""
        stored: Space = STORED.get(self.space, self.space)  # type: ignore[arg-type]
        return stored

    @property
    def is_difference(self) -> bool:
        """Return whether the values are differences to controls."""
        return self.stored_space in schema.DELTA_SPACES


def _several(value: Any) -> Any:
    """Return one text or number, or several in whatever holds them, as a tuple of texts; what is neither as it is.

    Numbers are written as the text of a column of them is. An array is what files make of a list.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        return ()
    if isinstance(value, str | bool | int | float):
        value = (value,)
    if not isinstance(value, list | tuple | set | frozenset):
        return value
    return tuple(
        column_text(pd.Series([x]), "label").iloc[0] if isinstance(x, bool | int | float) else x
        for x in value
    )
