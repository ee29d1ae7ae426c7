"""Import of h5ad files as data sets, with a declared mapping of obs columns and scale of the values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.config import parse, slug
from perturbfm_core.data.anndata_object import (
    ORIGIN,
    object_matrices,
    object_matrix,
    stated_layers,
    takes_raw,
)
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.h5ad import other_matrices, read_matrix, reads_raw
from perturbfm_core.data.imports.cell_checks import check_depth
from perturbfm_core.data.imports.checks import complete, level_of
from perturbfm_core.data.imports.columns import imported_columns
from perturbfm_core.data.imports.differences import minus_controls
from perturbfm_core.data.imports.gene_names import gene_columns, gene_names
from perturbfm_core.data.imports.guides import MERGED_GUIDES
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.imports.report import ImportReport
from perturbfm_core.data.imports.values import stored_values
from perturbfm_core.data.matrix import Values, is_stored
from perturbfm_core.data.metadata import DatasetMetadata, GeneSelection, Normalization
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.own_fields import (
    GUIDES,
    OWN_MAPPING,
    check_own_depth,
    own_of_file,
    read_own,
    stated_of_file,
)
from perturbfm_core.data.text import decoded
from perturbfm_core.errors import DatasetError
from perturbfm_core.progress import Progress, quiet

if TYPE_CHECKING:
    from anndata import AnnData

# Key of a data set's notes under which the report of its import is kept.
REPORT = "import_report"
# Types of features that are genes, in files that hold tags and guides beside them.
_GENE_TYPES = frozenset({"gene expression", "gene", "rna", "mrna"})

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

    @property
    def var_name(self) -> str:
        """Return what messages call the table of genes: that of `raw` is another one."""
        return "raw.var" if self.raw else "var"


def import_h5ad(
    path: Path,
    mapping: ColumnMapping,
    *,
    name: str,
    source: str | None = None,
    licence: str = "unknown",
    control_policy: Literal["mean", "sampled"] = "mean",
    gene_selection: GeneSelection | None = None,
    tell: Progress = quiet,
    stream: bool = False,
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
    tell
        Called with the name of each stage.
    stream
        Whether the matrix stays in the file where it is large, to be read in blocks as long as the data set is used.

    Raises
    ------
    DatasetError
        If the file is damaged, a column or the control label is missing, or the values are not in the
        declared scale.
    """
    tell("reading")
    read = _file(path, mapping, stream=stream)
    tell("checking")
    return _dataset(
        read,
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
        The h5ad file, or what a preset reads in its place.
    preset
        Name of a preset that knows the columns (``perturbench``, ``scperturb``, ...).
    name
        Name of the data set (default: the one that the file states, else made of the file name).
    **mapping
        Fields of `ColumnMapping`: ``pert_col``, ``context_col``, ``control_label``, ``batch_col``, ``space``,
        ... With a preset, those that correct it (see `perturbfm_core.data.preset.corrected`). A file of what
        `PerturbDataset.to_anndata` made needs none: it says itself which columns are which.

    Raises
    ------
    DatasetError, ConfigError
        If the file is damaged, a column is missing, or the values are not in the declared scale.
    """
    from perturbfm_core.data.preset import PRESETS, corrected

    given: Any = path
    if not isinstance(given, str | PathLike):
        msg = f"read_h5ad takes the path of a file, found {type(given).__name__}; an object is read by from_anndata"
        raise DatasetError(msg)
    path = Path(path)
    if preset is None and not mapping and (own := own_of_file(path)) is not None:
        return _own_dataset(lambda m: _file(path, m), own, name, lambda: stated_of_file(path))
    name = name or slug(path.stem)
    if preset is None:
        return import_h5ad(path, parse(ColumnMapping, mapping, "mapping of columns"), name=name)
    known = PRESETS.get(preset)
    with known.opened(path) as file:
        return import_h5ad(file, corrected(known.mapping(file), mapping), name=name, source=path.name)


def from_anndata(
    adata: AnnData, *, name: str | None = None, source: str | None = None, **mapping: Any
) -> PerturbDataset:
    """Make a data set of an AnnData object by a mapping of its columns; the object is not changed.

    Parameters
    ----------
    adata
        Cells (or conditions) x genes.
    name, source
        Name of the data set, and where the data come from (default: what the object states, if `to_anndata` made it).
    **mapping
        Fields of `ColumnMapping`: ``pert_col``, ``context_col``, ``control_label``, ``batch_col``, ``space``,
        ... What `PerturbDataset.to_anndata` made needs none: it says itself which columns are which.

    Raises
    ------
    DatasetError, ConfigError
        If a column is missing, or the values are not in the declared scale.
    """
    if not hasattr(adata, "uns") or not hasattr(adata, "layers"):
        msg = (
            f"from_anndata takes an AnnData object, found {type(adata).__name__}; a file is read by read_h5ad"
        )
        raise DatasetError(msg)
    own = adata.uns.get(OWN_MAPPING)
    if not mapping and isinstance(own, dict):
        return _own_dataset(lambda m: _object(adata, m), own, name, lambda: stated_layers(adata), source)
    columns = parse(ColumnMapping, mapping, "mapping of columns")
    return _dataset(
        _object(adata, columns),
        columns,
        name=name or "anndata",
        source=source or "AnnData object",
        licence="unknown",
        control_policy="mean",
        gene_selection=None,
    )


def _file(path: Path, mapping: ColumnMapping, *, stream: bool = False) -> _Read:
    return _Read(
        *read_matrix(path, mapping.layer, stream=stream),
        path.name,
        counts_in=lambda: other_matrices(path, mapping.layer),
        raw=reads_raw(path, mapping.layer),
    )


def _object(adata: AnnData, mapping: ColumnMapping) -> _Read:
    return _Read(
        *object_matrix(adata, mapping.layer),
        ORIGIN,
        counts_in=lambda: object_matrices(adata, mapping.layer),
        raw=takes_raw(adata, mapping.layer),
    )


def _own_dataset(
    reading: Callable[[ColumnMapping], _Read],
    own: dict[str, Any],
    name: str | None,
    stated: Callable[[], Mapping[str, Any]],
    source: str | None = None,
) -> PerturbDataset:
    """Return the data set of which `PerturbDataset.to_anndata` made an object or file.

    Parameters
    ----------
    reading
        Returns tables and matrix by a mapping.
    own
        What it wrote beside them.
    name, source
        Name and origin instead of those that are stated there.
    stated
        Returns the layers with deltas and controls.
    """
    fields, mapping = read_own(own)
    known = str(mapping.pop("name", "anndata"))
    columns = parse(ColumnMapping, mapping, "mapping of columns")
    read = reading(columns)
    if columns.space == "counts":
        check_own_depth(fields, read.obs, read.X, columns.target_sum)
    made = _dataset(
        read,
        columns,
        name=name or known,
        source=source or fields.source or read.origin,
        licence=fields.licence,
        control_policy=fields.control_policy,
        control_seed=fields.control_seed,
        gene_selection=fields.gene_selection,
        stated=stated() if fields.control_policy == "file" else {},
    )
    made.metadata.notes.update(fields.notes)
    return made


def _dataset(
    read: _Read,
    mapping: ColumnMapping,
    *,
    name: str,
    source: str,
    licence: str,
    control_policy: Literal["mean", "sampled", "file"],
    control_seed: int = 0,
    gene_selection: GeneSelection | None,
    stated: Mapping[str, Any] = MappingProxyType({}),
) -> PerturbDataset:
    """Return the data set of tables and matrix, with the report of its import in the metadata.

    Controls and deltas that are `stated` are taken as they are.
    """
    report = ImportReport()
    obs, var, X = _without_tags(read, report)
    genes = gene_names(var, mapping.gene_col, report, read.var_name)
    named = obs.index.name
    obs.index = pd.Index(decoded(obs.index, f"row names of {read.origin}"), dtype=object, name=named)
    if mapping.pert_col not in obs and mapping.pert_col in var:
        msg = f"{read.origin} has {mapping.pert_col!r} in var, not in obs: rows must be cells; transpose it (adata.T) and write it again"
        raise DatasetError(msg)
    columns, kept = imported_columns(obs, mapping, read.origin, genes, report)
    if kept is not None:
        X = X.take(kept) if is_stored(X) else sp.csr_array(X)[kept] if sp.issparse(X) else X[kept]
    rows = [str(r) for r in (obs.index if kept is None else obs.index[kept])]
    if len(set(rows)) < len(rows):
        twice = [row for row, n in Counter(rows).items() if n > 1]
        msg = (
            f"{read.origin} has {len(twice)} duplicate row ids, e.g. {twice[:3]}, as where samples with the same barcodes were joined; "
            "make them unique, e.g. by adata.obs_names_make_unique()"
        )
        raise DatasetError(msg)
    where = "raw.X" if read.raw else f"layer {mapping.layer!r}" if mapping.layer else "X"
    values = stored_values(X, mapping, f"{where} of {read.origin}", (rows, genes), read.counts_in, report)
    if values.counts is not None:
        check_depth(report, values.counts, obs if kept is None else obs.iloc[kept])
    control = np.asarray(columns[schema.PERT_ID]) == schema.CONTROL
    if values.delta is not None and control.any():
        contexts = np.asarray(columns.get(schema.CONTEXT_ID, ["all"] * len(control)), dtype=np.str_)
        values = Values(delta=minus_controls(values.delta, contexts, control, report))
    values = replace(values, **stated)
    table = make_obs(columns, rows)
    metadata = DatasetMetadata(
        name=name,
        source=source,
        licence=licence,
        level=mapping.level or level_of(table, mapping.is_difference, report),
        space=mapping.stored_space,
        normalization=Normalization(target_sum=mapping.target_sum) if mapping.space == "counts" else None,
        control_policy="none" if mapping.is_difference else control_policy,
        control_seed=control_seed,
        gene_selection=gene_selection or GeneSelection(),
        notes={"columns": mapping.model_dump(mode="json", exclude_defaults=True), **_guide_notes(report)},
    )
    kept_counts = (
        {} if mapping.is_difference else {"counts": _where_counts_are(values, where, read.counts_in)}
    )
    report.facts = {"file": read.origin, "matrix": where, **kept_counts, **report.facts}
    ds = PerturbDataset(table, genes, values, metadata)
    complete(report, ds, gene_columns(var, mapping.gene_col))
    # Set last, since the report describes the finished data set; notes are not part of the content hash.
    metadata.notes[REPORT] = report.to_json()
    return ds


def _where_counts_are(values: Values, where: str, counts_in: Callable[[], Sequence[str]]) -> str:
    """Return where the counts that are kept are from, or which option would keep some."""
    if values.counts is not None:
        return f"kept, from {where}"
    found = [text for text in counts_in() if text.startswith("counts ")]
    return f"not kept; {found[0]} --space counts" if found else "not kept"


def _without_tags(read: _Read, report: ImportReport) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Return (obs, var, X) without features that a column of var says are no genes: guides, antibodies, hashtags."""
    column = next((c for c in ("feature_types", "feature_type") if c in read.var), None)
    if column is None:
        return read.obs, read.var, read.X
    kinds = read.var[column].astype(str).str.strip().str.casefold()
    genes = kinds.isin(_GENE_TYPES).to_numpy()
    if not genes.any():
        # Chromatin accessibility alone; beside genes, peaks would add to the depth of cells.
        genes = (kinds == "peaks").to_numpy()
    if genes.all() or not genes.any():
        return read.obs, read.var, read.X
    dropped = {str(k): int(n) for k, n in kinds[~genes].value_counts().items()}
    report.facts["features_left_out"] = dropped
    shown = ", ".join(f"{n} {k}" for k, n in dropped.items())
    report.warnings.append(
        f"features that are no genes by {read.var_name} column {column!r} are left out: {shown}"
    )
    places = np.flatnonzero(genes)
    X = read.X
    if is_stored(X):
        X = X.then(lambda part, _: part[:, places], len(places))
    else:
        X = sp.csr_array(X)[:, places] if sp.issparse(X) else X[:, genes]
    return read.obs, read.var[genes], X


def _guide_notes(report: ImportReport) -> dict[str, Any]:
    """Return what the audit reads, perturbations that are guides of one gene, and which guides prediction files may name."""
    found = {
        GUIDES: report.facts.get("guides_kept_apart"),
        MERGED_GUIDES: report.facts.pop("guides_merged", None),
    }
    return {name: guides for name, guides in found.items() if guides}
