"""Audit checks of a run's records: the rows that its inputs were made from and the rows that it read."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.controls import REFERENCE
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.schema import BoolArray
from perturbfm_core.splits.audit.core import RUN_CHECKS, Finding, NotApplicable, finding, fold_codes, in_folds
from perturbfm_core.splits.audit.run import (
    PREPARED,
    PRETRAINED,
    STATISTICS,
    FitRecord,
    RunEvidence,
    rows_record,
)
from perturbfm_core.splits.open_controls import in_closed_batches, open_rows
from perturbfm_core.splits.split import FrozenSplit

# Fields of a query: all that a model may read of the conditions to predict.
QUERY_FIELDS = frozenset({"conditions", "genes", "control", "control_cells"})


@RUN_CHECKS.register("reference_controls_read", order=40)
def reference_controls_read(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find reference controls, which are subtracted in the scored deltas, that were read by the model.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.

    Raises
    ------
    NotApplicable
        If there are no separate reference controls, or the run does not declare the controls that it read.
    """
    if not ds.has_controls:
        msg = "the data set has no control rows"
        raise NotApplicable(msg)
    reference = ds.controls.roles == REFERENCE
    if not reference.any():
        msg = "all contexts share their controls between the roles"
        raise NotApplicable(msg)
    roles, rows = run.records.control_roles, _rows_read(ds, run)
    if roles is None and rows is None:
        msg = "the run does not declare which controls it read (control_roles, rows_read)"
        raise NotApplicable(msg)
    hit = [] if rows is None else ds.row_ids[rows & reference].tolist()
    hit = hit or (["role reference"] if "reference" in (roles or ()) else [])
    return finding(
        "reference_controls_read",
        hit,
        f"the run read reference controls ({hit[:1]}), its errors and the truth's are then related; use the role input",
    )


@RUN_CHECKS.register("held_out_controls_read", order=40)
def held_out_controls_read(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find controls of a held-out context (or batch) that were read in fitting.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.

    Raises
    ------
    NotApplicable
        If the split is transductive, or the run does not declare the rows that it read.
    """
    if split.definition.transductive:
        msg = "the split is transductive"
        raise NotApplicable(msg)
    rows = _rows_read(ds, run)
    if rows is None:
        msg = "the run does not declare the rows it read in fitting (rows_read)"
        raise NotApplicable(msg)
    codes = fold_codes(ds, split)
    if "batch" in split.definition.ood_axes:
        closed = ds.is_control & in_closed_batches(ds, split, codes)
    else:
        context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()
        closed = ds.is_control & ~np.isin(context, np.unique(context[in_folds(codes, "train", "val")]))
    hit = ds.row_ids[rows & closed].tolist()
    return finding(
        "held_out_controls_read",
        hit,
        f"{len(hit)} control rows of held-out units were read in fitting, e.g. {hit[:1]}; "
        "leave them out, or freeze with --transductive",
    )


@RUN_CHECKS.register("test_rows_read", order=40)
def test_rows_read(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find test, calibration or unused rows that were read in fitting.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.

    Raises
    ------
    NotApplicable
        If the run does not declare the rows that it read.
    """
    rows = _rows_read(ds, run)
    if rows is None:
        msg = "the run does not declare the rows it read in fitting (rows_read)"
        raise NotApplicable(msg)
    hit = ds.row_ids[rows & in_folds(fold_codes(ds, split), "test", "calib", "unused")].tolist()
    beyond = [str(i) for i in run.records.rows_read or () if not 0 <= i < ds.n_obs]
    return [
        *finding(
            "test_rows_read",
            hit,
            f"{len(hit)} test, calibration or unused rows were read in fitting, e.g. {hit[:1]}; fit again",
        ),
        *finding(
            "test_rows_read",
            beyond,
            f"rows_read has {len(beyond)} positions that the data set of {ds.n_obs} rows does not have, e.g. {beyond[:1]}; "
            "declare positions from 0 in this data set",
        ),
    ]


@RUN_CHECKS.register("made_on_other_rows", order=40)
def made_on_other_rows(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find models and prepared inputs (graph, features, scaler, PCA, embedding, cache) made from other rows.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.
    """
    bad = _wrong(ds, split, run, (*PREPARED, "model"))
    return finding(
        "made_on_other_rows",
        bad,
        f"{len(bad)} inputs were not made for this split's fit rows: {', '.join(bad[:3])}; make them again on train",
    )


@RUN_CHECKS.register("test_statistics_in_training", order=40)
def test_statistics_in_training(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find lists of differentially expressed genes or statistics that were computed on rows outside the fit.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.
    """
    bad = _wrong(ds, split, run, STATISTICS)
    return finding(
        "test_statistics_in_training",
        bad,
        f"{len(bad)} lists or statistics were made over rows outside the fit: {', '.join(bad[:3])}; "
        "compute them on train",
    )


@RUN_CHECKS.register("pretrained_on_test", order=40)
def pretrained_on_test(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find a pre-trained encoder that was trained on rows outside the fit.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.
    """
    bad = _wrong(ds, split, run, PRETRAINED)
    return finding(
        "pretrained_on_test",
        bad,
        f"{len(bad)} pre-trained encoders saw rows outside the fit: {', '.join(bad[:3])}; use one that did not",
    )


@RUN_CHECKS.register("test_moments_read", order=40)
def test_moments_read(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find anything but names and input controls of the test conditions that was read for prediction.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.

    Raises
    ------
    NotApplicable
        If the run does not declare what it read for prediction.
    """
    reads = run.records.predict_reads
    if reads is None:
        msg = "the run does not declare what it read at prediction (predict_reads)"
        raise NotApplicable(msg)
    more = sorted(set(reads) - QUERY_FIELDS)
    return finding(
        "test_moments_read",
        more,
        f"prediction read {', '.join(more)} of the test conditions; only names and input controls may be read",
    )


def _rows_read(ds: PerturbDataset, run: RunEvidence) -> BoolArray | None:
    if run.records.rows_read is None:
        return None
    out = np.zeros(ds.n_obs, dtype=np.bool_)
    rows = np.asarray(run.records.rows_read, dtype=np.int64)
    out[rows[(rows >= 0) & (rows < ds.n_obs)]] = True
    return out


def _wrong(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence, kinds: tuple[str, ...]) -> list[str]:
    """Return the records of the given kinds that were made from other rows than the fit's, with reasons.

    Raises
    ------
    NotApplicable
        If the run declares no records, or none of these kinds.
    """
    made = None if run.records.made is None else [r for r in run.records.made if r.what in kinds]
    if made is None:
        msg = "the run does not declare what it was made from (made)"
        raise NotApplicable(msg)
    if not made:
        msg = f"the run declares no {' or '.join(kinds)}"
        raise NotApplicable(msg)
    fitted = in_folds(fold_codes(ds, split), *split.fit_folds)
    # With the input controls that a fit may read, or without.
    allowed = {
        rows_record(ds, np.flatnonzero(rows)) for rows in (fitted, open_rows(ds, split, *split.fit_folds))
    }
    return [
        f"{record.name or record.what} ({why})"
        for record in made
        if (why := _why(ds, split, record, allowed))
    ]


def _why(ds: PerturbDataset, split: FrozenSplit, record: FitRecord, allowed: set[str]) -> str:
    """Return what is wrong with a record, empty if nothing; `allowed` are the digests of permitted rows."""
    if record.content_sha256 not in (None, ds.content_sha256):
        # Made from another data set, which may contain test rows unless it is declared external.
        return "" if record.rows == "external" else f"data {str(record.content_sha256)[:12]}"
    if record.rows_sha256 is not None:
        return "" if record.rows_sha256 in allowed else "other rows"
    if record.rows == "all":
        # Whatever split it names beside that.
        return "all rows"
    if record.split_hash is not None:
        return "" if record.split_hash == split.hash else f"split {record.split_hash[:12]}"
    if record.rows == "external" and record.content_sha256 is not None:
        return "this data set, not an external one"
    return {"fit": "", "external": "", "unknown": "unknown rows"}[record.rows]
