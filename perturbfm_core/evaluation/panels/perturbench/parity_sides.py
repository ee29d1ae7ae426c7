"""The reference and the models of a PerturBench parity case: groups of cells with the controls of their covariates."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from perturbfm_core.evaluation.panels.perturbench.aggregate import Version
from perturbfm_core.evaluation.panels.perturbench.parity_moments import in_precision
from perturbfm_core.evaluation.panels.perturbench.parity_records import label_name
from perturbfm_core.evaluation.panels.perturbench.population import Matrix, Population, table_population
from perturbfm_core.evaluation.parity_npz import read_arrays
from perturbfm_core.schema import IntArray, StrArray

REFERENCE = "ref"
_WITH_CONTROL_ROWS = ("average", "scaled", "var")


@dataclass(frozen=True, eq=False)
class Side:
    """The reference or one model: groups (covariate, perturbation) and their cells, log1p and not.

    Controls have all covariates of a group; those of `matched` and `matched_raw`, with which V2 compares, only its
    covariates that are no numbers.
    """

    labels: list[tuple[str, str]]
    genes: Any
    cells: Population
    raw: Population
    matched: Population
    matched_raw: Population
    levels: list[str]
    n_covariates: int
    ctrl: str
    dtype: Any
    # All cells once, where some groups are controls.
    whole: Population | None = None

    def as_in(self, version: Version, method: str, listed: Container[str]) -> Side:
        """Return the side with the groups that a version scores.

        V1 reads covariates and perturbation back from a row's name at its underscores. Where one is within a name, the
        controls are not recognised as such and stay, in the aggregations that make a row of them.

        Parameters
        ----------
        version, method
            PerturBench's version, and the method of the aggregation.
        listed
            Names of the rows that the case has of it: of the controls none is expected that is not there.
        """
        if version != "V1" or method not in _WITH_CONTROL_ROWS:
            return self
        kept = [k for k, label in enumerate(self.labels) if self._read(label)[1] != self.ctrl]
        own = [
            v
            for v, level in enumerate(self.levels)
            if self._read((level, self.ctrl))[1] != self.ctrl
            and label_name((level, self.ctrl), version) in listed
            and self.cells.controls.moments.n[v]
        ]
        groups = [*((False, k) for k in kept), *((True, v) for v in own)]

        def block(i: int) -> Matrix:
            is_control, at = groups[i]
            return self.cells.controls.block(at) if is_control else self.cells.block(at)

        covariate = np.asarray([*self.cells.covariate[kept], *own], dtype=np.int64)
        labels = [*(self.labels[k] for k in kept), *((self.levels[v], self.ctrl) for v in own)]
        cells = Population(block, covariate, self.cells.controls)
        return replace(self, labels=labels, cells=cells, whole=self.cells)

    @property
    def has_own_controls(self) -> bool:
        """Return whether each group has controls of all its covariates."""
        return bool((self.cells.controls.moments.n[self.cells.covariate] > 0).all())

    def with_own_controls(self) -> Side:
        """Return the side with groups that are compared with controls of all their covariates in V2, too."""
        return replace(self, matched=self.cells, matched_raw=self.raw)

    def scope(self, label: tuple[str, str], version: Version) -> str:
        """Return the covariates that a group is ranked in."""
        return self._read(label)[0] if version == "V1" else label[0]

    def _read(self, label: tuple[str, str]) -> tuple[str, str]:
        """Return (covariates, perturbation) as V1 reads them from the name of a row."""
        parts = label_name(label, "V1").split("_")
        return "_".join(parts[: self.n_covariates]), parts[self.n_covariates]

    def take(self, values: NDArray[Any], labels: list[tuple[str, str]]) -> NDArray[Any]:
        """Return the rows of some groups."""
        position = {label: i for i, label in enumerate(self.labels)}
        return np.asarray(values[[position[label] for label in labels]])


@dataclass(frozen=True, eq=False)
class _Columns:
    """Covariates, those of them that are no numbers, and perturbation of each cell."""

    covariates: StrArray
    categories: StrArray
    perturbations: StrArray

    @classmethod
    def of(cls, columns: dict[str, Any], settings: dict[str, Any], n: int) -> _Columns:
        """Return them of the columns of a table of `n` cells."""
        names = settings["cov_cols"]
        categorical = [name for name in names if not pd.api.types.is_numeric_dtype(columns[name])]

        def joined(of: list[str]) -> StrArray:
            parts = [np.asarray(columns[name], dtype=np.str_) for name in of]
            return np.asarray(["_".join(row) for row in zip(*parts, strict=True)] or [""] * n, dtype=np.str_)

        perturbations = np.asarray(columns[settings["pert_col"]], dtype=np.str_)
        return cls(joined(names), joined(categorical), perturbations)


@np.errstate(over="ignore", invalid="ignore")
def _side(
    X: Matrix,
    genes: Any,
    columns: _Columns,
    settings: dict[str, Any],
    levels: tuple[StrArray, StrArray],
    reference: Side | None,
) -> Side:
    ctrl = str(settings["ctrl"])
    if reference:
        # The peer joins the controls to the predictions, in the wider of their types.
        X = X.astype(np.result_type(X.dtype, reference.dtype), copy=False)
    dtype, by_gene = X.dtype, getattr(X, "format", None) == "csc"
    X = X.tocsr() if hasattr(X, "tocsr") else X
    pairs = list(zip(columns.covariates.tolist(), columns.perturbations.tolist(), strict=True))
    labels = sorted({pair for pair in pairs if pair[1] != ctrl})
    number = {label: i for i, label in enumerate(labels)}
    group: IntArray = np.asarray([number.get(pair, -1) for pair in pairs], dtype=np.int64)
    raw = X.expm1() if hasattr(X, "expm1") else np.expm1(X)
    # The peer squares the values of a matrix that is stored by gene in double precision, others in their own.
    X = X.astype(np.float64) if by_gene else X

    def population(A: Matrix, all_of: bool, joined: Population | None) -> Population:
        names = levels[0] if all_of else levels[1]
        codes = np.searchsorted(names, columns.covariates if all_of else columns.categories)
        controls = in_precision(joined.controls, A.dtype) if joined else None
        return table_population(A, group, codes, len(labels), controls, n_covariates=len(names))

    cells = population(X, True, reference.cells if reference else None)
    unlogged = population(raw, True, reference.raw if reference else None)
    matched, matched_raw = cells, unlogged
    if (columns.categories != columns.covariates).any():
        matched = population(X, False, reference.matched if reference else None)
        matched_raw = population(raw, False, reference.matched_raw if reference else None)
    return Side(
        labels,
        genes,
        cells,
        unlogged,
        matched,
        matched_raw,
        levels[0].tolist(),
        len(settings["cov_cols"]),
        ctrl,
        dtype,
    )


def _stored_as(reference: Matrix, X: Matrix, settings: dict[str, Any]) -> Matrix:
    """Return predicted cells in the form of the reference's: an npz holds no sparse matrix, the peer's predictions were one.

    Parameters
    ----------
    reference, X
        Cells of the reference and predicted ones [n, G].
    settings
        Settings of the case.
    """
    if not sp.issparse(reference):
        return X
    # Joining the controls makes a matrix that is stored by cell.
    return (sp.csr_matrix if settings["append_reference_controls"] else type(reference))(X)


def read_sides(folder: Path, settings: dict[str, Any]) -> dict[str, Side]:
    """Return the reference and the models by name, genes in the reference's order."""
    import anndata

    table = anndata.read_h5ad(folder / "reference.h5ad")
    genes = table.var_names.astype(str).tolist()
    tables = {REFERENCE: (table.X, _Columns.of(dict(table.obs.items()), settings, table.n_obs))}
    for path in sorted(folder.glob("predictions_*.npz")):
        file = read_arrays(path)
        X, names = file["X"], file["var_names"].tolist()
        of_cells = {str(c): file[f"obs__{c}"] for c in file["obs_columns"]}
        # An npz has no sparse matrices; the peer had the predictions in the form of the reference.
        X = _stored_as(table.X, X[:, [names.index(g) for g in genes]], settings)
        tables[path.stem.removeprefix("predictions_")] = (X, _Columns.of(of_cells, settings, X.shape[0]))
    levels = (
        np.unique(np.concatenate([c.covariates for _, c in tables.values()])),
        np.unique(np.concatenate([c.categories for _, c in tables.values()])),
    )
    out: dict[str, Side] = {}
    for name, (X, columns) in tables.items():
        joined = out[REFERENCE] if out and settings["append_reference_controls"] else None
        out[name] = _side(X, table.var_names, columns, settings, levels, joined)
    return out
