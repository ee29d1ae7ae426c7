"""A parity case of cell-eval: its cells, labels and numbers, read from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.errors import DatasetError
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.panels.virtual_cell.parity_files import read_prediction
from perturbfm_core.evaluation.panels.virtual_cell.parity_scale import (
    ControlsInDouble,
    as_log1p,
    compared_in_double,
    libm_log1p,
)
from perturbfm_core.evaluation.panels.virtual_cell.profiles import ControlCells, Sample
from perturbfm_core.schema import StrArray


@dataclass(frozen=True, eq=False)
class Case:
    """The files of a case."""

    expected: dict[str, Any]
    names: StrArray
    genes: StrArray
    X: Any
    labels: StrArray
    predicted: Any
    pred_labels: StrArray

    def sample(self, X: Any, labels: StrArray) -> Sample:
        """Return one side with its own controls."""
        rows = [np.flatnonzero(labels == name) for name in self.names]
        control = np.flatnonzero(labels == self.expected["control"])
        known = compared_in_double(X, rows, control)
        controls = (ControlCells if known is None else ControlsInDouble)(X[control])
        return Sample(CellGroups.of_rows(X, rows), controls, literal=True, known=known)

    def baseline(self, real: Sample) -> Sample:
        """Return the mean baseline: as many cells as observed, all equal, with the observed controls."""
        vector = np.asarray(self.expected["cell_eval_baseline"]["vector"], dtype=self.X.dtype)
        sizes = real.groups.sizes
        groups = CellGroups(sizes, len(vector), lambda i: np.tile(vector, (int(sizes[i]), 1)))
        return Sample(groups, real.control, literal=True)


def read_case(folder: Path, log1p: Callable[[Any], Any] = libm_log1p) -> Case:
    """Return the content of a case folder.

    Parameters
    ----------
    folder
        The case.
    log1p
        The function for counts, of `LOG1P`.

    Raises
    ------
    DatasetError
        If the prediction has other genes than the measured cells.
    """
    import anndata

    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    real = anndata.read_h5ad(folder / "real.h5ad")
    labels = np.asarray(real.obs[expected["pert_col"]].astype(str), dtype=np.str_)
    X, pred_labels, pred_genes = read_prediction(folder, expected["pert_col"])
    names = np.unique(labels[labels != expected["control"]])
    genes = np.asarray(real.var_names.astype(str), dtype=np.str_)
    if not np.array_equal(genes, pred_genes):
        msg = f"{folder}: the genes of the prediction are not those of real.h5ad in their order, which cell-eval refuses"
        raise DatasetError(msg)
    return Case(expected, names, genes, as_log1p(real.X, log1p), labels, as_log1p(X, log1p), pred_labels)
