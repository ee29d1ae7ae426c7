"""A parity case of cell-eval: its cells, labels and numbers, read from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.errors import DatasetError, MetricError
from perturbfm_core.evaluation.panels.virtual_cell import aggregate
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.panels.virtual_cell.parity_files import read_prediction
from perturbfm_core.evaluation.panels.virtual_cell.parity_scale import (
    ControlsInDouble,
    as_log1p,
    compared_in_double,
    libm_log1p,
)
from perturbfm_core.evaluation.panels.virtual_cell.profiles import ControlCells, Sample
from perturbfm_core.schema import FloatArray, StrArray


@dataclass(frozen=True, eq=False)
class Case:
    """The files of a case.

    Attributes
    ----------
    half
        The measured cells as the peer averages them for its mean baseline, where that is in half precision.
    categories
        The labels in the order of the file, None where it has no list of them.
    """

    expected: dict[str, Any]
    names: StrArray
    genes: StrArray
    X: Any
    labels: StrArray
    predicted: Any
    pred_labels: StrArray
    half: Any = None
    categories: tuple[str, ...] | None = None

    def sample(self, X: Any, labels: StrArray) -> Sample:
        """Return one side with its own controls."""
        rows = [np.flatnonzero(labels == name) for name in self.names]
        control = np.flatnonzero(labels == self.expected["control"])
        known = compared_in_double(X, rows, control)
        controls = (ControlCells if known is None else ControlsInDouble)(X[control])
        return Sample(CellGroups.of_rows(X, rows), controls, literal=True, known=known)

    def mean_vector(self, real: Sample) -> FloatArray:
        """Return [G], the cells of the mean baseline; of half precision are the means of groups as well as their mean."""
        if self.half is None:
            return aggregate.mean_vector(np.vstack([real.mean, real.control.ranked.mean]))
        groups = [self.half[self.labels == name] for name in (*self.names, self.expected["control"])]
        means = np.stack([X.mean(axis=0, dtype=np.float64).astype(np.float16) for X in groups])
        return aggregate.mean_vector(means).astype(np.float64)

    def baseline(self, real: Sample) -> Sample:
        """Return the mean baseline: as many cells as observed, all equal, with the observed controls.

        Raises
        ------
        MetricError
            If the case's vector has not one number for each gene.
        """
        given = section(self.expected, "cell_eval_baseline", "vector")
        vector = np.asarray(given or self.mean_vector(real), dtype=self.X.dtype)
        if vector.shape != self.genes.shape:
            msg = f"a baseline vector of shape {vector.shape} for {len(self.genes)} genes"
            raise MetricError(msg)
        sizes = real.groups.sizes
        groups = CellGroups(sizes, len(vector), lambda i: np.tile(vector, (int(sizes[i]), 1)))
        control = real.control
        if self.half is not None:
            control = ControlCells(self.half[self.labels == self.expected["control"]].astype(np.float32))
        return Sample(groups, control, literal=True)


def section(expected: Any, *names: str) -> Any:
    """Return a part of the expected values by the names that lead to it, None where the case has none."""
    for name in names:
        expected = expected.get(name) if isinstance(expected, dict) else None
    return expected


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
        If the prediction has other genes or labels than the measured cells, there are no controls, or there is not one
        label for each cell.
    """
    import anndata

    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    real = anndata.read_h5ad(folder / "real.h5ad")
    labels = np.asarray(real.obs[expected["pert_col"]].astype(str), dtype=np.str_)
    X, pred_labels, pred_genes = read_prediction(folder, expected["pert_col"])
    # The peer draws halves of the cells in this order, where labels are categories.
    listed = getattr(real.obs[expected["pert_col"]], "cat", None)
    categories = None if listed is None else tuple(str(name) for name in listed.categories)
    names = np.unique(labels[labels != expected["control"]])
    genes = np.asarray(real.var_names.astype(str), dtype=np.str_)
    if not np.array_equal(genes, pred_genes):
        msg = f"{folder}: the genes of the prediction are not those of real.h5ad in their order, which cell-eval refuses"
        raise DatasetError(msg)
    if np.shape(X) != (len(pred_labels), len(genes)):
        msg = f"{folder}: predicted cells of shape {np.shape(X)} with {len(pred_labels)} labels and {len(genes)} genes"
        raise DatasetError(msg)
    sides = {"real.h5ad": set(labels.tolist()), "the prediction": set(pred_labels.tolist())}
    for name, has in sides.items():
        if lacking := sorted({str(expected["control"])}.union(*sides.values()) - has):
            msg = f"{folder}: {name} has no cells labelled {lacking[0]!r}, which cell-eval refuses"
            raise DatasetError(msg)
    cells, predicted = as_log1p(real.X, log1p), as_log1p(X, log1p)
    half = as_log1p(real.X, log1p, half=True) if _averaged_in_half(real.X, expected) else None
    return Case(expected, names, genes, cells, labels, predicted, pred_labels, half, categories)


def _averaged_in_half(X: Any, expected: dict[str, Any]) -> bool:
    """Return whether the case's mean baseline was made of cells in half precision.

    The peer's evaluation turns the cells that it is given into single precision, for a baseline made after it as well.
    """
    if X.dtype != np.float16:
        return False
    vector = np.asarray(section(expected, "cell_eval_baseline", "vector") or [], dtype=np.float64)
    return bool((vector == vector.astype(np.float16)).all())
