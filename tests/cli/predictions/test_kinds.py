"""Predictions from elsewhere as cells, means, effects or expression: what a file is taken for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from tests.support.prediction_files import GENES, adata, of


def four_times(X, code):
    mean = np.stack([X[code == i].mean(axis=0) for i in range(4)])[code]
    return mean + 4 * (X - mean)


def test_cells_are_scored_as_cells(s):
    np.savez("same.npz", mean=s.delta, idx=s.rows, genes=s.ds.genes)
    np.savez("wide.npz", mean=four_times(s.delta, s.code), idx=s.rows, genes=s.ds.genes)
    np.savez("mean.npz", mean=s.mean_delta[s.code], idx=s.rows, genes=s.ds.genes)
    same, exact, record = s.score("same.npz")
    assert "cells of its own for 4 conditions" in Path("OUT/report.html").read_text()
    _, wide, _ = s.score("wide.npz")
    drawn, from_mean, drawn_record = s.score("mean.npz")
    for name in ("scperturbench.edistance_top20", "scperturbench.sym_kldiv_top20", "perturbench.mmd_none"):
        assert of(exact, name) == pytest.approx(0, abs=1e-6)
        assert of(wide, name) > 2 * of(from_mean, name) > 0
    assert of(exact, "virtual_cell.overlap_at_N") == 1
    assert same["cells"] == "the prediction's own"
    assert (
        same["cell_panels"]
        == ["scperturbench", "perturbench", "virtual_cell"]
        == record["notes"]["own_cells"]["panels"]
    )
    # Own cells without counts: panels of counts draw theirs from the mean of each condition.
    assert record["generator"]["counts"] == "multinomial"
    # Means alone get drawn cells, and that is said.
    assert drawn["cells"] == "drawn from control cells (control_shift)"
    assert drawn_record["generator"]["name"] == "control_shift"
    assert "own_cells" not in drawn_record["notes"]
    # Means are those of the cells in either form.
    assert of(exact, "delta.pearson") == pytest.approx(of(from_mean, "delta.pearson"))


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_cells_of_an_h5ad_with_its_controls(s, sparse):
    """All cells of the experiment, as other tools write them: controls and train conditions are left out."""
    X = s.ds.expression.toarray()
    more = np.concatenate([X, X[s.rows][::2] + 0.1])
    labels = ["ctrl" if p == "control" else p for p in s.ds.obs["pert_id"].astype(str)]
    obs = {
        "gene": labels + [labels[r] for r in s.rows[::2]],
        "cell_type": [*s.ds.obs["context_id"].astype(str), *s.obs["context_id"].astype(str)[::2]],
    }
    order = np.random.default_rng(1).permutation(40)
    a = adata(
        sp.csr_matrix(more[:, order]) if sparse else more[:, order],
        obs,
        var=pd.DataFrame(index=np.asarray(GENES)[order]),
    )
    a.write_h5ad("all.h5ad")
    out, metrics, record = s.score("all.h5ad", "--pert-col", "gene", "--context-col", "cell_type")
    assert (out["kind"], out["kind_from"]) == ("expression", "recognised")
    assert out["control_rows_dropped"] == 240
    assert out["conditions_not_asked_for"] == 8
    assert record["notes"]["own_cells"]["conditions"] == 4
    # 45 cells for 30 true ones, half of them a little higher.
    assert 0 < of(metrics, "scperturbench.edistance_top20") < 0.5
    a[:360].copy().write_h5ad("one.h5ad")
    assert "lacks 60 of 120 test rows, in 2 of 4 conditions" in s.refused(
        "one.h5ad", "--pert-col", "gene", "--context-col", "cell_type"
    )


def test_cells_below_zero_are_cut_and_counted(s):
    np.savez("wide.npz", mean=four_times(s.X, s.code), idx=s.rows, genes=s.ds.genes, kind="expression")
    out, _, _ = s.score("wide.npz")
    assert out["cell_values_cut_at_0"] == int((four_times(s.X, s.code) < 0).sum())


# ---- delta or expression -----------------------------------------------------------------------------------------


def test_expression_for_delta_is_refused_with_the_option_that_fits(s):
    np.savez("p.npz", mean=s.mean[s.code].astype("f4"), idx=s.rows, genes=np.asarray(GENES))
    line = s.refused("p.npz")
    assert "looks like expression, not like a delta (its correlation with the control is 0." in line
    assert "give --kind expression" in line
    np.savez("d.npz", mean=s.mean_delta[s.code], idx=s.rows, genes=np.asarray(GENES))
    out, metrics, _ = s.score("p.npz", "--kind", "expression")
    _, as_delta, _ = s.score("d.npz")
    assert (out["kind"], out["kind_from"]) == ("expression", "option")
    for name in ("delta.pearson", "delta.rmse", "systema.corr_all_allpert", "perturbench.cosine_logfc"):
        assert of(metrics, name) == pytest.approx(of(as_delta, name), abs=1e-4)
    assert of(metrics, "delta.pearson") > 0.9
    # The same declared in the file, by float16 in Fortran order, and by a table.
    np.savez(
        "k.npz",
        mean=np.asfortranarray(s.mean[s.code].astype("f2")),
        idx=s.rows,
        genes=np.asarray(GENES),
        kind="expression",
    )
    s.table(s.mean, condition=s.keys, kind=["expression"] * 4).to_csv("k.csv", index=False)
    s.table(s.mean).to_parquet("k.parquet")
    for file, options in (("k.npz", ()), ("k.csv", ()), ("k.parquet", ("--kind", "expression"))):
        assert of(s.score(file, *options)[1], "delta.pearson") == pytest.approx(
            of(as_delta, "delta.pearson"), abs=1e-3
        )
    assert "give --kind expression" in s.refused("k.parquet")


def test_kind_that_the_numbers_contradict(s):
    np.savez("d.npz", mean=s.mean_delta[s.code], idx=s.rows, genes=np.asarray(GENES))
    assert (
        "% of it is negative and it is unlike the control; differences to the control are --kind delta"
        in s.refused("d.npz", "--kind", "expression")
    )
    np.savez("p.npz", mean=s.mean[s.code], idx=s.rows, genes=np.asarray(GENES), kind="delta")
    assert "give --kind expression" in s.refused("p.npz")
    # The option is the last word.
    out, _, record = s.score("p.npz", "--kind", "delta")
    assert "is scored as a delta as --kind says" in out["warnings"][0]
    assert record["notes"]["warnings"] == out["warnings"]
    np.savez("w.npz", mean=s.mean[s.code], idx=s.rows, genes=np.asarray(GENES), kind="rates")
    assert "kind must be delta or expression, found 'rates'" in s.refused("w.npz")


@pytest.mark.parametrize("dtype", ["i4", "f4"])
def test_counts_are_not_the_scale_of_the_data(s, dtype):
    counts = s.ds.values.counts[s.rows].toarray().astype(dtype)
    np.savez("c.npz", mean=counts, idx=s.rows, genes=np.asarray(GENES))
    for options in ((), ("--kind", "expression")):
        line = s.refused("c.npz", *options)
        assert "looks like counts (whole numbers, maximum" in line
        assert "scored in log1p of counts scaled to 10000 per cell" in line


def test_kind_of_an_h5ad_that_cannot_be_recognised(s):
    adata(np.full((4, 40), 1.5, np.float32), {"condition": s.keys}, var=pd.DataFrame(index=GENES)).write_h5ad(
        "u.h5ad"
    )
    X = np.zeros((4, 40), np.float32)
    X[:, 0] = 1.5
    adata(X, {"condition": s.keys}, var=pd.DataFrame(index=GENES)).write_h5ad("u.h5ad")
    assert "say what it is: --kind expression or --kind delta" in s.refused("u.h5ad")
    adata(s.mean_delta, {"condition": s.keys}, var=pd.DataFrame(index=GENES)).write_h5ad("d.h5ad")
    assert s.score("d.h5ad")[0]["kind"] == "delta"
