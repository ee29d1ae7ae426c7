"""Import of h5ad files as data sets, with a declared mapping of obs columns and scale of the values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.config import Frozen, parse, slug
from perturbfm_core.data.condition import canonical_covariates, canonical_pert
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.h5ad import read_matrix
from perturbfm_core.data.matrix import Values, as_csr, check_finite
from perturbfm_core.data.metadata import DatasetMetadata, GeneSelection, Normalization
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.space import check_space
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import Level, Space

if TYPE_CHECKING:
    from anndata import AnnData

# Key of `uns` under which `PerturbDataset.to_anndata` says which columns are which.
OWN_MAPPING = "perturbfm"


class ColumnMapping(Frozen):
    """Meaning of the columns of an h5ad file, and scale of its values.

    Attributes
    ----------
    pert_col, context_col, batch_col, dose_col, time_col, modality_col, weight_col
        obs columns; only `pert_col` is required. `covariate_cols` are kept as further covariates.
    control_label
        Perturbation label of control cells; not needed for delta and z-score data.
    modality
        One modality for all rows, instead of `modality_col`.
    separators
        Characters that join the parts of a combination.
    space
        Declared scale of the values; it is checked, never guessed.
    layer
        Layer to read instead of ``X``.
    gene_col
        var column with gene ids, instead of the index.
    target_sum
        Counts per cell after normalisation (``space: counts`` only).
    aliases
        {other name of a perturbed gene: name to use}.
    """

    pert_col: str
    context_col: str | None = None
    batch_col: str | None = None
    control_label: str | None = None
    dose_col: str | None = None
    dose_unit: str = ""
    time_col: str | None = None
    modality_col: str | None = None
    modality: str = ""
    weight_col: str | None = None
    covariate_cols: tuple[str, ...] = ()
    separators: str = schema.COMBO_SEPARATOR
    space: Space = "log1p"
    level: Level | None = None
    layer: str | None = None
    gene_col: str | None = None
    target_sum: float = Field(default=1e4, gt=0)
    aliases: dict[str, str] = Field(default_factory=dict)


def import_h5ad(
    path: Path,
    mapping: ColumnMapping,
    *,
    name: str,
    source: str | None = None,
    licence: str = "unknown",
    control_policy: Literal["mean", "sampled"] = "mean",
    gene_selection: GeneSelection | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> PerturbDataset:
    """Read an h5ad file as a data set.

    Only the mapped obs columns, the gene ids and one matrix are kept. Everything else in the file
    (statistics, embeddings, lists of differentially expressed genes) may have been computed on all rows and
    would leak test information.

    Parameters
    ----------
    path
        The h5ad file.
    mapping
        Meaning of its columns, and scale of its values.
    name
        Name of the data set.
    source
        Origin of the data, e.g. a URL or accession (default: the file name).
    licence
        Licence of the data.
    control_policy
        Matched control of a row: the ``mean`` of its input controls, or one ``sampled`` control cell. Not
        used for delta and z-score data, which have no controls.
    gene_selection
        How the genes were selected, and on which rows (default: not selected, rows unknown).
    progress
        Called with the name of each stage.

    Raises
    ------
    DatasetError
        If the file is damaged, a column or the control label is missing, or the values are not in the
        declared scale.
    """
    progress("reading")
    obs, var, X = read_matrix(path, mapping.layer)
    progress("checking")
    return _dataset(
        (obs, var, X),
        mapping,
        origin=path.name,
        name=name,
        source=source or path.name,
        licence=licence,
        control_policy=control_policy,
        gene_selection=gene_selection,
    )


def read_h5ad(
    path: Path | str, *, preset: str | None = None, name: str | None = None, **mapping: Any
) -> PerturbDataset:
    """Read an h5ad file as a data set, by a preset or by a mapping of its columns.

    Parameters
    ----------
    path
        The h5ad file.
    preset
        Name of a preset that knows the columns (``perturbench``, ``scperturb``, ...).
    name
        Name of the data set (default: made of the file name).
    **mapping
        Fields of `ColumnMapping`: ``pert_col``, ``context_col``, ``control_label``, ``batch_col``, ``space``,
        ...

    Raises
    ------
    DatasetError, ConfigError
        If the file is damaged, a column is missing, or the values are not in the declared scale.
    """
    from perturbfm_core.data.preset import PRESETS

    path = Path(path)
    if preset is None:
        columns = parse(ColumnMapping, mapping, "mapping of columns")
    else:
        known = PRESETS.get(preset).mapping(path)
        columns = parse(ColumnMapping, {**known.model_dump(), **mapping}, "mapping of columns")
    return import_h5ad(path, columns, name=name or slug(path.stem))


def from_anndata(
    adata: AnnData, *, name: str = "anndata", source: str | None = None, **mapping: Any
) -> PerturbDataset:
    """Make a data set of an AnnData object by a mapping of its columns; the object is not changed.

    Parameters
    ----------
    adata
        Cells (or conditions) x genes.
    name, source
        Name of the data set, and where the data come from.
    **mapping
        Fields of `ColumnMapping`: ``pert_col``, ``context_col``, ``control_label``, ``batch_col``, ``space``,
        ... What `PerturbDataset.to_anndata` made needs none: it says itself which columns are which.

    Raises
    ------
    DatasetError, ConfigError
        If a column is missing, or the values are not in the declared scale.
    """
    own = adata.uns.get(OWN_MAPPING)
    if not mapping and isinstance(own, dict):
        mapping = {k: v for k, v in own.items() if k != "name"}
        name = str(own.get("name", name))
    columns = parse(ColumnMapping, mapping, "mapping of columns")
    if columns.layer is not None and columns.layer not in adata.layers:
        msg = f"the AnnData object has no layer {columns.layer!r}; layers: {sorted(adata.layers) or 'none'}"
        raise DatasetError(msg)
    X = adata.X if columns.layer is None else adata.layers[columns.layer]
    if X is None:
        msg = "the AnnData object has no X; name a layer"
        raise DatasetError(msg)
    return _dataset(
        (adata.obs.copy(), adata.var, X.copy()),
        columns,
        origin="the AnnData object",
        name=name,
        source=source or "AnnData object",
        licence="unknown",
        control_policy="mean",
        gene_selection=None,
    )


def _dataset(
    read: tuple[pd.DataFrame, pd.DataFrame, Any],
    mapping: ColumnMapping,
    *,
    origin: str,
    name: str,
    source: str,
    licence: str,
    control_policy: Literal["mean", "sampled"],
    gene_selection: GeneSelection | None,
) -> PerturbDataset:
    """Return the data set of (obs, var, X); `origin` names the file or object in messages."""
    obs, var, X = read
    genes = _genes(var, mapping.gene_col)
    delta_like = mapping.space in schema.DELTA_SPACES
    columns = _columns(obs, mapping, origin)
    where = f"layer {mapping.layer!r}" if mapping.layer else "X"
    check_space(X, mapping.space, f"{where} of {origin}")
    level: Level = mapping.level or ("condition" if delta_like else "cell")
    metadata = DatasetMetadata(
        name=name,
        source=source,
        licence=licence,
        level=level,
        space=mapping.space,
        normalization=Normalization(target_sum=mapping.target_sum) if mapping.space == "counts" else None,
        control_policy="none" if delta_like else control_policy,
        gene_selection=gene_selection or GeneSelection(),
        notes={"columns": mapping.model_dump(mode="json", exclude_defaults=True)},
    )
    if delta_like:
        dense = X.toarray() if sp.issparse(X) else X
        values = Values(delta=np.ascontiguousarray(dense, dtype=np.float32))
    elif mapping.space == "counts":
        csr = as_csr(sp.csr_array(X))
        # Checked before the cast: integers have no value for missing counts.
        names = np.asarray(obs.index, dtype=np.str_), np.asarray(genes, dtype=np.str_)
        check_finite(csr, f"{where} of {origin}", *names, allow_negative=True)
        values = Values(
            counts=sp.csr_array((csr.data.astype(np.int32), csr.indices, csr.indptr), shape=csr.shape)
        )
    else:
        X = as_csr(X) if sp.issparse(X) else np.ascontiguousarray(X)
        values = Values(expression=X.astype(np.float32))
    return PerturbDataset(make_obs(columns, [str(r) for r in obs.index]), genes, values, metadata)


def _genes(var: pd.DataFrame, gene_col: str | None) -> list[str]:
    if gene_col is None:
        return [str(g) for g in var.index]
    if gene_col not in var:
        msg = f"var has no column {gene_col!r}; columns: {', '.join(map(str, var.columns)) or 'none'}"
        raise DatasetError(msg)
    return [str(g) for g in var[gene_col]]


def _described(obs: pd.DataFrame, name: str, option: str, origin: str, control: Any) -> Any:
    """Return a column that describes the treatment, as text; only control rows may have missing values."""
    column = (
        _column(obs.loc[~control], name, option, origin)
        if name in obs
        else _column(obs, name, option, origin)
    )
    out = np.full(len(obs), "", dtype=object)
    out[~control] = _text(column).to_numpy()
    given = control & obs[name].notna().to_numpy()
    out[given] = _text(obs.loc[given, name]).to_numpy()
    return out


def _column(obs: pd.DataFrame, name: str, option: str, origin: str) -> pd.Series:
    if name not in obs:
        msg = f"{origin} has no obs column {name!r} ({option}); columns: {', '.join(map(str, obs.columns))}"
        raise DatasetError(msg)
    column = obs[name]
    if column.isna().any():
        row = obs.index[int(np.flatnonzero(column.isna().to_numpy())[0])]
        msg = f"obs column {name!r} ({option}) has {int(column.isna().sum())} missing values, first in row {row!r}; fill or drop them"
        raise DatasetError(msg)
    return column


def _text(column: pd.Series) -> pd.Series:
    """Return a column as text; whole numbers lose their decimal point ("10.0" and "10" are one dose).

    Numbers are never written with an exponent: the plus sign in "1e+06" would be read as a separator, and a
    short mantissa could merge two different ids.
    """
    dtype = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype):
        return column.astype(str)
    numbers = column.to_numpy()
    if numbers.dtype.kind != "f":
        return column.astype(str)
    text = {x: np.format_float_positional(x, precision=15, fractional=False, trim="-") for x in set(numbers)}
    return pd.Series([text[x] for x in numbers], index=column.index, dtype=object)


def _columns(obs: pd.DataFrame, m: ColumnMapping, origin: str) -> dict[str, Any]:
    labels = _text(_column(obs, m.pert_col, "--pert-col", origin))
    delta_like = m.space in schema.DELTA_SPACES
    if m.control_label is None and not delta_like:
        msg = f"--control-label is needed for {m.space} data; {m.pert_col!r} holds e.g. {_examples(labels)}"
        raise DatasetError(msg)
    if m.control_label is not None and not (labels == m.control_label).any():
        msg = f"control label {m.control_label!r} does not occur in {m.pert_col!r}; found e.g. {_examples(labels)}"
        raise DatasetError(msg)
    untreated = np.asarray(labels == m.control_label, dtype=np.bool_)
    doses = pd.Series("", index=labels.index)
    if m.dose_col is not None:
        doses = pd.Series(_described(obs, m.dose_col, "--dose-col", origin, untreated), index=labels.index)
    pert, dose = _canonical(labels, doses, m)
    columns: dict[str, Any] = {schema.PERT_ID: pert, schema.DOSES: dose}
    if m.context_col is not None:
        columns[schema.CONTEXT_ID] = _text(_column(obs, m.context_col, "--context-col", origin)).to_numpy()
    if m.batch_col is not None:
        columns[schema.BATCH_ID] = _text(_column(obs, m.batch_col, "--batch-col", origin)).to_numpy()
    control = pert == schema.CONTROL
    if m.modality_col is not None:
        modality = _described(obs, m.modality_col, "--modality-col", origin, untreated)
    else:
        modality = np.full(len(obs), m.modality, dtype=object)
    # Control cells have no modality, since they are the controls of every modality in their context.
    columns[schema.MODALITY] = np.where(control, "", modality)
    covariates = {"time": m.time_col, **{c: c for c in m.covariate_cols}}
    kept = {
        k: _described(obs, c, f"covariate {k}", origin, untreated)
        for k, c in covariates.items()
        if c is not None
    }
    if kept:
        known: dict[tuple[str, ...], str] = {}
        rows = list(zip(*kept.values(), strict=True))
        for row in set(rows):
            known[row] = canonical_covariates(dict(zip(kept, row, strict=True)))
        columns[schema.COVARIATES] = [known[row] for row in rows]
    if m.weight_col is not None:
        weight = pd.to_numeric(_column(obs, m.weight_col, "--weight-col", origin), errors="coerce").to_numpy(
            dtype=np.float64
        )
        columns[schema.WEIGHT] = weight
    return columns


def _canonical(labels: pd.Series, doses: pd.Series, m: ColumnMapping) -> tuple[Any, Any]:
    pairs = list(zip(labels.to_numpy(), doses.to_numpy(), strict=True))
    known = {}
    for label, dose in set(pairs):
        parts = [d.strip() for d in str(dose).split(schema.COMBO_SEPARATOR)] if dose else None
        if parts is not None and m.dose_unit:
            parts = [f"{d} {m.dose_unit}" for d in parts]
        known[label, dose] = canonical_pert(
            str(label), parts, control=m.control_label, separators=m.separators, aliases=m.aliases
        )
    pert = np.asarray([known[p][0] for p in pairs], dtype=object)
    dose_out = np.asarray([known[p][1] for p in pairs], dtype=object)
    return pert, dose_out


def _examples(labels: pd.Series) -> str:
    return ", ".join(repr(str(x)) for x in labels.value_counts().index[:5])
