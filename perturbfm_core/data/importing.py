"""Import of h5ad files as data sets, with a declared mapping of obs columns and scale of the values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.config import parse, slug
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.h5ad import other_matrices, read_matrix, reads_raw
from perturbfm_core.data.imports.checks import complete, level_of
from perturbfm_core.data.imports.columns import imported_columns
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.imports.report import ImportReport
from perturbfm_core.data.matrix import Values, as_csr, check_finite
from perturbfm_core.data.metadata import DatasetMetadata, GeneSelection, Normalization
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.space import check_space, to_stored
from perturbfm_core.data.text import decoded
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

if TYPE_CHECKING:
    from anndata import AnnData

# Key of `uns` under which `PerturbDataset.to_anndata` says which columns are which.
OWN_MAPPING = "perturbfm"
# Key of a data set's notes under which the report of its import is kept.
REPORT = "import_report"
# Share of the control rows' own size that the rounding of float32 leaves of a mean of zero.
_ROUNDING = 1e-4
# Types of features that are genes, in files that hold tags and guides beside them.
_GENE_TYPES = frozenset({"gene expression", "gene", "rna", "mrna", "peaks"})

__all__ = ["OWN_MAPPING", "REPORT", "ColumnMapping", "from_anndata", "import_h5ad", "read_h5ad"]


@dataclass(frozen=True)
class _Read:
    """Tables and matrix of a file or object, and where they are from."""

    obs: pd.DataFrame
    var: pd.DataFrame
    X: Any
    origin: str
    counts_in: Callable[[], Sequence[str]] = tuple
    raw: bool = False


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
        _Read(
            *(obs, var, X, path.name),
            counts_in=lambda: other_matrices(path, mapping.layer),
            raw=reads_raw(path, mapping.layer),
        ),
        mapping,
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
        _Read(adata.obs.copy(), adata.var, X.copy(), "the AnnData object"),
        columns,
        name=name,
        source=source or "AnnData object",
        licence="unknown",
        control_policy="mean",
        gene_selection=None,
    )


def _dataset(
    read: _Read,
    mapping: ColumnMapping,
    *,
    name: str,
    source: str,
    licence: str,
    control_policy: Literal["mean", "sampled"],
    gene_selection: GeneSelection | None,
) -> PerturbDataset:
    """Return the data set of tables and matrix, with the report of its import in the metadata."""
    report = ImportReport()
    obs, var, X = _without_tags(read, report)
    genes = _genes(var, mapping.gene_col)
    obs.index = pd.Index(decoded(obs.index, f"row names of {read.origin}"), dtype=object)
    columns, kept = imported_columns(obs, mapping, read.origin, genes, report)
    if kept is not None:
        X = sp.csr_array(X)[kept] if sp.issparse(X) else X[kept]
    rows = [str(r) for r in (obs.index if kept is None else obs.index[kept])]
    where = "raw.X" if read.raw else f"layer {mapping.layer!r}" if mapping.layer else "X"
    values = _values(X, mapping, f"{where} of {read.origin}", (rows, genes), read.counts_in, report)
    control = np.asarray(columns[schema.PERT_ID]) == schema.CONTROL
    if values.delta is not None and control.any():
        contexts = np.asarray(columns.get(schema.CONTEXT_ID, ["all"] * len(control)), dtype=np.str_)
        values = Values(delta=_minus_controls(values.delta, contexts, control, report))
    table = make_obs(columns, rows)
    metadata = DatasetMetadata(
        name=name,
        source=source,
        licence=licence,
        level=mapping.level or level_of(table, mapping.is_difference, report),
        space=mapping.stored_space,
        normalization=Normalization(target_sum=mapping.target_sum) if mapping.space == "counts" else None,
        control_policy="none" if mapping.is_difference else control_policy,
        gene_selection=gene_selection or GeneSelection(),
        notes={"columns": mapping.model_dump(mode="json", exclude_defaults=True), **_guide_notes(report)},
    )
    kept_counts = (
        {} if mapping.is_difference else {"counts": _where_counts_are(values, where, read.counts_in)}
    )
    report.facts = {"file": read.origin, "matrix": where, **kept_counts, **report.facts}
    ds = PerturbDataset(table, genes, values, metadata)
    complete(report, ds, _gene_columns(var, mapping.gene_col))
    # Set last, since the report describes the finished data set; notes are not part of the content hash.
    metadata.notes[REPORT] = report.to_json()
    return ds


def _values(
    X: Any,
    mapping: ColumnMapping,
    what: str,
    names: tuple[list[str], list[str]],
    counts_in: Callable[[], Sequence[str]],
    report: ImportReport,
) -> Values:
    """Return the matrix in the scale that is stored."""
    try:
        found = check_space(X, mapping.space, what)
    except DatasetError:
        # Other matrices of the file are looked at only where they may be the cure.
        check_space(X, mapping.space, what, counts_in())
        raise
    if found.standardized and mapping.is_difference and not mapping.control_label:
        msg = (
            f"{what} has mean 0 and standard deviation 1 in every gene over all rows, so its values are no differences to "
            "controls; give --control-label, whose mean row is then subtracted, or read unscaled values"
        )
        raise DatasetError(msg)
    report.warnings.extend([f"{what}: {found.mixture}"] if found.mixture else [])
    report.facts["scale"] = f"{mapping.space}, stored as {mapping.stored_space}"
    report.facts["scale_evidence"] = found.reason
    if not mapping.is_difference and mapping.space != "counts" and found.inverse is None and not found.whole:
        report.warnings.append(
            f"whether the values are {mapping.space} could not be confirmed ({found.reason}); if they are not, declare "
            "--space, or read counts"
        )
    if mapping.is_difference:
        dense = X.toarray() if sp.issparse(X) else X
        return Values(delta=np.ascontiguousarray(dense, dtype=np.float32))
    if mapping.space == "counts":
        csr = as_csr(sp.csr_array(X))
        # Checked before the cast: integers have no value for missing counts.
        ids = np.asarray(names[0], dtype=np.str_), np.asarray(names[1], dtype=np.str_)
        check_finite(csr, what, *ids, allow_negative=True)
        counts = sp.csr_array((csr.data.astype(np.int32), csr.indices, csr.indptr), shape=csr.shape)
        return Values(counts=counts)
    X = to_stored(as_csr(X) if sp.issparse(X) else np.ascontiguousarray(X), mapping.space)
    return Values(expression=X.astype(np.float32))


def _where_counts_are(values: Values, where: str, counts_in: Callable[[], Sequence[str]]) -> str:
    """Return where the counts that are kept are from, or which option would keep some."""
    if values.counts is not None:
        return f"kept, from {where}"
    found = [text for text in counts_in() if text.startswith("counts ")]
    return f"not kept; {found[0]} --space counts" if found else "not kept"


def _minus_controls(
    delta: FloatArray, contexts: StrArray, control: BoolArray, report: ImportReport
) -> FloatArray:
    """Return differences to the mean control row of each context.

    The mean is always subtracted; where it is farther from zero than its sampling error, the report warns.

    Parameters
    ----------
    delta
        float [N, G], values of all rows.
    contexts
        str [N], context of each row.
    control
        bool [N], the control rows.
    report
        Report of the import, which names what was done.

    Raises
    ------
    DatasetError
        If a context has perturbed rows and no control row.
    """
    out = delta.copy()
    names = sorted(set(contexts.tolist()))
    shifted = []
    for context in names:
        here = contexts == context
        own = delta[here & control].astype(np.float64)
        if not len(own):
            msg = (
                f"context {context!r} has no control row, so differences to its controls cannot be made; leave its rows "
                "out, or, if the values are differences already, import without --control-label and --drop-label the controls"
            )
            raise DatasetError(msg)
        mean = own.mean(axis=0)
        error = own.std(axis=0, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.zeros_like(mean)
        # Values that are centred but for rounding stay as they are, to the last bit.
        if _size(mean) > _ROUNDING * max(_size(own), 1e-6):
            out[here] -= mean.astype(np.float32)
            z = mean / np.maximum(error, 1e-12)
            if len(own) < 3 or float(np.mean(np.square(z))) > 1 + 5 * np.sqrt(2 / len(z)):
                shifted.append(context)
    report.facts["controls_subtracted"] = f"{len(shifted)} of {len(names)} contexts"
    if shifted:
        report.warnings.append(
            f"control rows of {len(shifted)} of {len(names)} contexts are not centred on zero, so their mean was subtracted "
            "from all rows of the context"
        )
    return out


def _size(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def _without_tags(read: _Read, report: ImportReport) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Return (obs, var, X) without features that a column of var says are no genes: guides, antibodies, hashtags."""
    column = next((c for c in ("feature_types", "feature_type") if c in read.var), None)
    if column is None:
        return read.obs, read.var, read.X
    kinds = read.var[column].astype(str).str.strip().str.casefold()
    genes = kinds.isin(_GENE_TYPES).to_numpy()
    if genes.all() or not genes.any():
        return read.obs, read.var, read.X
    dropped = {str(k): int(n) for k, n in kinds[~genes].value_counts().items()}
    report.facts["features_left_out"] = dropped
    shown = ", ".join(f"{n} {k}" for k, n in dropped.items())
    report.warnings.append(f"features that are no genes by var column {column!r} are left out: {shown}")
    X = sp.csr_array(read.X)[:, np.flatnonzero(genes)] if sp.issparse(read.X) else read.X[:, genes]
    return read.obs, read.var[genes], X


def _genes(var: pd.DataFrame, gene_col: str | None) -> list[str]:
    if gene_col is None:
        return _named_genes(var.index, "gene names")
    if gene_col not in var:
        msg = f"var has no column {gene_col!r}; columns: {', '.join(map(str, var.columns)) or 'none'}"
        raise DatasetError(msg)
    return _named_genes(var[gene_col], f"var column {gene_col!r}")


def _named_genes(values: Any, what: str) -> list[str]:
    missing = np.asarray(pd.isna(np.asarray(values, dtype=object)), dtype=np.bool_)
    names = [g.strip() for g in decoded(values, what)]
    # "NAN" could be a name; these are what programs write for none.
    n = int(missing.sum()) + sum(
        g in ("", "nan", "NaN", "NA", "<NA>", "None") for g in np.asarray(names)[~missing]
    )
    if n:
        msg = f"{what}: {n} of {len(names)} genes have no name; fill them, or leave these genes out"
        raise DatasetError(msg)
    return names


def _gene_columns(var: pd.DataFrame, used: str | None) -> dict[str, list[str]]:
    """Return the text columns of var that could name the genes, and its index if a column was used."""
    return {
        str(c): list(var[c].astype(str))
        for c in var.columns
        if str(c) != used and not pd.api.types.is_numeric_dtype(var[c].dtype)
    }


def _guide_notes(report: ImportReport) -> dict[str, Any]:
    """Return the note that the audit reads: which perturbations are guides of one gene."""
    guides = report.facts.get("guides_kept_apart")
    return {"guides": guides} if guides else {}
