"""Predictions that do not fit their split are refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.refusals import refuse


def first(arrays, key, value):
    """Return a copy of an array with its first value replaced."""
    out = arrays[key].copy()
    out.reshape(-1)[0] = value
    return out


NO_INTERVALS = dict.fromkeys(("interval_levels", "interval_factor", "gene_bin"))
PREDICTIONS = {
    "wrong genes": (lambda a: {"genes": np.char.add(a["genes"], "x")}, "prediction lacks 50 of 50 genes, e.g. .'G00'"),
    "one gene less": (lambda a: {"genes": a["genes"][1:], "mean": a["mean"][:, 1:], "var": a["var"][:, 1:], **NO_INTERVALS}, "lacks 1 of 50 genes"),
    "unnamed genes": (lambda a: {"genes": None, "mean": a["mean"][:, 1:], "var": a["var"][:, 1:], **NO_INTERVALS}, "49 unnamed genes, the data set 50"),
    "missing rows": (lambda a: {k: a[k][3:] for k in ("idx", "row", "row_id")}, "prediction lacks 3 of \\d+ test rows"),
    "not a number": (lambda a: {"mean": first(a, "mean", np.nan)}, "NaN or infinite in 1 conditions"),
    "infinite variance": (lambda a: {"var": first(a, "var", np.inf)}, "NaN or infinite in 1 conditions"),
    "negative variance": (lambda a: {"var": first(a, "var", -1)}, "negative variance in 1 conditions"),
    "row twice": (lambda a: {"idx": first(a, "idx", a["idx"][1])}, "idx repeats 1 rows"),
    "row number too large": (lambda a: {"idx": first(a, "idx", 10**6), "row_id": None}, "idx outside the data set's rows"),
    "unknown row name": (lambda a: {"row_id": first(a, "row_id", "nobody")}, "names 1 rows that 'd' does not have, e.g. 'nobody'"),
    "row outside mean": (lambda a: {"row": first(a, "row", 99)}, "row points outside mean"),
    "one mean for all": (lambda a: {"row": None}, "give `row` or one mean per idx"),
    "flat mean": (lambda a: {"mean": a["mean"][0]}, "mean must be float32 .rows, genes."),
    "words for a mean": (lambda a: {"mean": a["mean"].astype(str)}, "mean must be float32 .rows, genes."),
    "var of another shape": (lambda a: {"var": a["var"][1:]}, "must be equal .rows, genes."),
    "no mean": (lambda a: {"mean": None}, "lacks mean; a prediction has"),
    "no idx": (lambda a: {"idx": None}, "lacks idx; a prediction has"),
    "pickled objects": (lambda a: {"mean": np.asarray([{}], dtype=object)}, "holds pickled objects, which are never loaded"),
    "another split": (lambda a: {"split_hash": np.asarray("0" * 64)}, "made for split 000000000000"),
    "another data set": (lambda a: {"data_content_sha256": np.asarray("0" * 64)}, "made for data 000000000000"),
    "another space": (lambda a: {"space": np.asarray("zscore")}, "in space 'zscore', the data set is scored in 'log1p'"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(PREDICTIONS))
def test_bad_predictions(work, case):
    change, message = PREDICTIONS[case]
    arrays = dict(np.load(f"runs/{work.run}/predictions.npz"))
    arrays = {k: v for k, v in {**arrays, **change(arrays)}.items() if v is not None}
    np.savez("bad.npz", **arrays)
    argv = ["eval", "predictions", "--data", "D", "--split", work.split, "--preds", "bad.npz", "--out", "OUT"]
    refuse(argv, message, work.path)


def test_prediction_that_is_no_npz(work):
    argv = ["eval", "predictions", "--data", "D", "--split", work.split, "--out", "OUT", "--preds"]
    whole = Path(f"runs/{work.run}/predictions.npz").read_bytes()
    Path("half.npz").write_bytes(whole[: len(whole) // 2])
    refuse([*argv, "half.npz"], "half.npz is damaged or not an npz file", work.path)
    refuse([*argv, "gone.npz"], "gone.npz does not exist", work.path)
    refuse([*argv, "D"], "D is a folder, not a file", work.path)


def test_evaluation_never_writes_into_a_run(work):
    preds = f"runs/{work.run}/predictions.npz"
    argv = ["eval", "predictions", "--data", "D", "--split", work.split, "--preds", preds, "--out"]
    refuse([*argv, f"runs/{work.run}"], "is a published run; choose another --out", work.path)
    refuse([*argv, "D/meta.json"], "D/meta.json", work.path)
