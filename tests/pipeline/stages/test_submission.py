"""Predictions made elsewhere, scored as those of a run are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.data.prediction import RowPrediction, read_prediction, write_prediction
from perturbfm_core.errors import PredictionError, StoreError
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.submission import evaluate_file
from perturbfm_core.store.atomic import read_json
from tests.support.small_store import config, entry
from tests.support.stages import predict


@pytest.fixture
def prediction(store, ds, split) -> RowPrediction:
    made = predict(store, ds, split, config("per_perturbation_mean"))
    return read_prediction(made.path / schema.PREDICTIONS_FILE)


def scored(store, ds, split, prediction, out="out"):
    path = Path(f"{out}.npz")
    write_prediction(prediction, path)
    return evaluate_file(store, ds, split, path, Path(out))


def test_plain_form_without_names_scores_the_same_and_is_marked(store, ds, split, prediction):
    named = scored(store, ds, split, prediction)
    row = prediction.rows
    plain = RowPrediction(
        mean=prediction.mean[row],
        var=prediction.var[row],
        idx=prediction.idx,
        intervals=prediction.intervals.rows(row),
    )
    bare = scored(store, ds, split, plain, "bare")
    assert (named.comparison.alignment, bare.comparison.alignment) == ("by_name", "positional_unverified")
    assert read_json(Path("bare/config.json"))["alignment"] == "positional_unverified"
    pd.testing.assert_frame_equal(named.table, bare.table, atol=1e-6, rtol=1e-6)


def test_genes_and_rows_in_another_order_score_the_same(store, ds, split, prediction):
    rng = np.random.default_rng(0)
    g, r = rng.permutation(ds.n_genes), rng.permutation(len(prediction.idx))
    shuffled = RowPrediction(
        mean=prediction.mean[:, g],
        var=prediction.var[:, g],
        idx=prediction.idx[r],
        row=prediction.rows[r],
        genes=prediction.genes[g],
        row_id=prediction.row_id[r],
        intervals=replace(prediction.intervals, gene_bin=prediction.intervals.gene_bin[g]),
    )
    one, two = scored(store, ds, split, prediction), scored(store, ds, split, shuffled, "shuffled")
    assert two.comparison.alignment == "by_name"
    pd.testing.assert_frame_equal(one.table, two.table, atol=1e-12, rtol=1e-12)


def test_missing_variance_is_filled_and_marked(store, ds, split, prediction):
    np.savez("mean.npz", mean=prediction.mean[prediction.rows], idx=prediction.idx)
    scores = evaluate_file(store, ds, split, Path("mean.npz"), Path("out"))
    assert read_json(Path("out/calibration.json"))["variance"] == "filled constant"
    assert read_json(Path("out/config.json"))["var_filled"] is True
    full = scored(store, ds, split, prediction, "full")
    assert scores.metrics["delta"]["global"]["pearson"] == pytest.approx(
        full.metrics["delta"]["global"]["pearson"]
    )


def test_rows_that_were_not_asked_for_are_counted_and_ignored(store, ds, split, prediction):
    train = split.rows(ds, "train")[:5]
    more = RowPrediction(
        mean=np.concatenate([prediction.mean[prediction.rows], np.full((5, ds.n_genes), 99, np.float32)]),
        var=np.ones((len(prediction.idx) + 5, ds.n_genes), dtype=np.float32),
        idx=np.concatenate([prediction.idx, train]),
    )
    scores = scored(store, ds, split, more)
    assert scores.comparison.notes["rows_not_asked_for"] == 5
    assert np.abs(scores.comparison.predicted).max() < 99


def test_evaluation_that_fails_makes_no_folder(store, ds, split, prediction):
    with pytest.raises(PredictionError, match=r"lacks .* of .* test rows"):
        scored(store, ds, split, RowPrediction(prediction.mean[:0], prediction.var[:0], prediction.idx[:0]))
    assert not Path("out").exists()


def test_evaluation_does_not_write_into_a_run(store, ds, split, prediction):
    (run,) = run_entry(store, split.hash, entry())
    files = {p.name: p.read_bytes() for p in run.iterdir()}
    write_prediction(prediction, Path("p.npz"))
    with pytest.raises(StoreError, match="is a published run"):
        evaluate_file(store, ds, split, Path("p.npz"), run)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == files
