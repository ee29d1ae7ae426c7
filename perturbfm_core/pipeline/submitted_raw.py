"""Prediction files of models that ran elsewhere, read as raw output so that the same detectors judge them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import as_csr, normalize_log1p
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.prediction_files import PredictionTable, read_prediction_file
from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.alignment import averaged, gene_columns, row_lookup
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.evaluation.submitted import Missing, submitted
from perturbfm_core.external.raw import Raw
from perturbfm_core.external.scale_checks import log1p_of_counts
from perturbfm_core.external.spaces import COUNTS, LATENT, LOG1P
from perturbfm_core.pipeline.metric_panel import observed_side
from perturbfm_core.schema import PredictionKind
from perturbfm_core.splits.split import FrozenSplit


def raw_of_file(
    ds: PerturbDataset,
    split: FrozenSplit,
    path: Path,
    *,
    columns: LabelColumns,
    missing: Missing = "refuse",
    space: str | None = None,
    kind: PredictionKind | None = None,
) -> tuple[Raw, list[str], dict[str, int]]:
    """Read a prediction file of predicted cells or means; return it as raw output, what is to be warned of, and counts.

    The counts are of conditions that were left out as ``not_asked``, and of rows left out as ``control_rows``.

    Parameters
    ----------
    ds, split
        Data and split.
    path
        The file: npz, h5ad, parquet or CSV.
    columns
        Names of its columns, as far as they are given.
    missing
        What is done about test conditions that it lacks.
    space, kind
        What its numbers are; by default what it says, else recognised.

    Raises
    ------
    PredictionError
        If it cannot be read, does not belong to the split, has conditions that the data set does not know, or holds
        something else than it says.
    """
    wanted = columns.of(ds)
    given = read_prediction_file(path, wanted, ds.genes)
    side = observed_side(ds, split)
    given, kind = _in_log1p(ds, side, given, space, kind, path)
    read = submitted(ds, split, given, side, kind=kind, missing=missing, columns=wanted)
    if unknown := read.notes.get("unknown"):
        msg = f"{path} has {read.notes['unknown_conditions']} conditions unknown to the data set, e.g. {unknown[:3]}; leave them out"
        raise PredictionError(msg)
    raw = _as_raw(ds, side, read.prediction, expression=read.notes["kind"] != "delta", path=path)
    names = {"not_asked": "conditions_not_asked_for", "control_rows": "control_rows_dropped"}
    return raw, read.warnings, {name: int(read.notes.get(note, 0)) for name, note in names.items()}


def _in_log1p(
    ds: PerturbDataset,
    side: ObservedSide,
    given: RowPrediction | PredictionTable,
    space: str | None,
    kind: PredictionKind | None,
    path: Path,
) -> tuple[RowPrediction | PredictionTable, PredictionKind | None]:
    """Return a prediction with counts brought to log1p, and the kind that its numbers have by that."""
    own = given.space if isinstance(given, RowPrediction) else given.stated.get("space")
    found = str(space or own or "").casefold()
    if found.startswith(LATENT):
        msg = f"{path} is in a latent space ({found}); decode it to the genes of the data set first"
        raise PredictionError(msg)
    if space is not None and found not in (LOG1P, COUNTS):
        msg = f"unknown --space {space!r}; bring the numbers to log1p, or give log1p or counts"
        raise PredictionError(msg)
    if found not in (LOG1P, COUNTS):
        return given, kind
    if found == LOG1P:
        if isinstance(given, PredictionTable):
            return replace(given, stated={**given.stated, "space": None}), kind
        return replace(given, space=None), kind
    if "delta" in (kind, given.kind):
        msg = f"{path}: differences of counts cannot be brought to log1p; write the counts"
        raise PredictionError(msg)
    scaled = ds.metadata.normalization
    target = None if scaled is None else scaled.target_sum
    if isinstance(given, PredictionTable):
        used = np.flatnonzero(np.isin(given.genes, ds.genes))
        counts = as_csr(given.values)[:, used]
        _check_counts(ds, side, counts, given.genes[used], target, path)
        # Their variance is of counts.
        return replace(
            given,
            values=normalize_log1p(counts, float(target or 1.0)),
            genes=given.genes[used],
            var=None,
            stated={**given.stated, "space": None},
        ), "expression"
    _check_counts(ds, side, as_csr(given.mean), given.genes, target, path)
    mean = normalize_log1p(as_csr(given.mean), float(target or 1.0)).toarray()
    return replace(
        given, mean=mean.astype(np.float32), var=np.ones_like(given.mean), var_filled=True, space=None
    ), "expression"


def _check_counts(
    ds: PerturbDataset, side: ObservedSide, counts: Any, genes: Any, target: float | None, path: Path
) -> None:
    """Refuse what is declared as counts [n, G] and is none, by its mean over rows and the mean control."""
    if below := int((counts.data < 0).sum()):
        msg = f"{path} is declared as counts and has {below} negative values (lowest {counts.data.min():.3g}); say what it holds"
        raise PredictionError(msg)
    order, _ = gene_columns(ds, genes, counts.shape[1])
    mean = np.asarray(counts.mean(axis=0), dtype=np.float64).reshape(1, -1)
    control = None if side.input_control is None else side.input_control.mean(axis=0, keepdims=True)
    log1p_of_counts(str(path), mean if order is None else mean[:, order], control, target)


def _as_raw(
    ds: PerturbDataset, side: ObservedSide, prediction: RowPrediction, *, expression: bool, path: Path
) -> Raw:
    source = row_lookup(ds, prediction)[side.rows]
    order, _ = gene_columns(ds, prediction.genes, prediction.mean.shape[1])
    C = len(side.conditions)

    def of_conditions(values: Any) -> Any:
        out = averaged(values, source, side.codes, C)
        return out if order is None else out[:, order]

    mean = of_conditions(prediction.mean)
    if expression:
        mean = mean + side.input_control
    kept = np.ones(C, dtype=np.bool_)
    if prediction.not_predicted is not None:
        kept[side.codes[prediction.not_predicted[source]]] = False
    var = None if prediction.var_filled else of_conditions(prediction.var)[kept].astype(np.float32)
    space = LOG1P if ds.metadata.space == "counts" else ds.metadata.space
    cells = prediction.cells
    keys = [str(k) for k in side.conditions.index[kept]]
    return Raw(
        mean=mean[kept].astype(np.float32),
        key=np.asarray(keys, dtype=np.str_),
        genes=ds.genes,
        meta={"space": space, "kind": "expression" if expression else "delta"},
        var=var,
        n_cells=None if cells is None else np.asarray([len(cells.rows.get(k, ())) for k in keys]),
        source=str(path),
    )
