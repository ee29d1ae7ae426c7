"""Predictions from elsewhere as CSV, Parquet, npz and h5ad: every form scores the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.prediction_files import GENES, adata, of, perts


def keyed_csv(s):
    """A byte order mark, semicolons, genes in another order and one that is not measured."""
    table = s.table(s.mean_delta).assign(OTHER=1.0)
    table = table[["condition", *table.columns[:0:-1]]]
    Path("f.csv").write_text(table.to_csv(index=False, sep=";"), encoding="utf-8-sig")
    return "f.csv"


def unnamed_index_of_keys(s):
    pd.DataFrame(s.mean_delta, index=s.keys, columns=GENES).to_csv("f.csv")
    return "f.csv"


def names_of_the_imported_file(s):
    pert, context = perts(s)
    s.table(s.mean_delta, target=pert, line=context).to_csv("f.tsv", index=False, sep="\t")
    return "f.tsv"


def own_names(s):
    pert, context = perts(s)
    s.table(s.mean_delta, KO=[f"{p}+ctrl" for p in pert], sample=context).to_csv("f.csv", index=False)
    return "f.csv", "--pert-col", "KO", "--context-col", "sample"


def long_parquet(s):
    wide = s.table(s.mean_delta).melt(id_vars="condition", var_name="gene", value_name="mean")
    wide.sample(frac=1, random_state=0).to_parquet("f.parquet", index=False)
    return "f.parquet"


def indexed_parquet(s):
    pd.DataFrame(s.mean_delta, index=pd.Index(s.keys, name="condition"), columns=GENES).to_parquet(
        "f.parquet"
    )
    return "f.parquet"


def keyed_npz(s):
    np.savez(
        "f.npz",
        mean=s.mean_delta[::-1],
        genes=np.asarray(GENES).astype("S"),
        condition=np.asarray(s.keys[::-1]).astype("S"),
    )
    return "f.npz"


def labelled_npz(s):
    pert, context = perts(s)
    np.savez(
        "f.npz",
        mean=s.mean_delta,
        genes=np.asarray(GENES),
        perturbation=np.asarray(pert),
        cell_line=np.asarray(context),
    )
    return "f.npz"


def h5ad_in_a_layer(s):
    pert, context = perts(s)
    a = adata(
        np.zeros((4, 40), np.float32),
        {"pert_id": pert, "cell_line": context},
        var=pd.DataFrame({"symbol": GENES}, index=[f"ENSG{i}" for i in range(40)]),
    )
    a.layers["change"] = s.mean_delta.astype("f8")
    a.write_h5ad("f.h5ad")
    return "f.h5ad", "--layer", "change", "--gene-col", "symbol"


def bytes_by_row(s):
    np.savez(
        "f.npz",
        mean=s.mean_delta[s.code],
        idx=s.rows,
        genes=np.asarray(GENES, dtype="S"),
        row_id=np.asarray(s.obs.index, dtype="S"),
    )
    return "f.npz"


@pytest.mark.parametrize(
    "write",
    [keyed_csv, unnamed_index_of_keys, names_of_the_imported_file, own_names, long_parquet, indexed_parquet, keyed_npz, labelled_npz, h5ad_in_a_layer, bytes_by_row],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_every_form_scores_the_same(s, expected, write):
    file = write(s)
    file, *options = (file,) if isinstance(file, str) else file
    out, metrics, _ = s.score(file, *options)
    assert of(metrics, "delta.pearson") == pytest.approx(expected, abs=1e-6)
    assert (out["alignment"], out["kind"]) == ("by_name", "delta")
    # It is the truth, which is pointed out.
    assert [w.split(";")[0] for w in out["warnings"]] == [
        "4 of 4 predictions are what was measured of the test condition itself"
    ]


def test_cells_named_by_their_rows(s):
    """The cells of the experiment by name, as `DataFrame.to_csv` writes them."""
    pd.DataFrame(s.X, index=s.obs.index, columns=GENES).to_csv("cells.csv")
    _, metrics, _ = s.score("cells.csv", "--kind", "expression")
    assert of(metrics, "scperturbench.edistance_top20") == pytest.approx(0, abs=1e-6)
    # Bare numbers name nothing.
    pd.DataFrame(s.X, columns=GENES).to_csv("cells.csv")
    assert "does not say which condition its rows are" in s.refused("cells.csv", "--kind", "expression")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda s: np.save("f.npy", s.mean_delta), "f.npy is a single array (.npy), which names no rows and genes: save mean, idx and genes"),
        (lambda s: np.savez("f.npz", mean=s.delta, idx=s.rows, genes=pd.Index(GENES, dtype=object)), "array 'genes' in f.npz holds pickled objects, which are never loaded; save names by .astype(str)"),
        (lambda s: np.savez("f.npz", mean=s.delta.astype(object), idx=s.rows), "array 'mean' in f.npz holds pickled objects"),
        (lambda s: pd.to_pickle(s.table(s.mean_delta), "f.pkl"), "f.pkl is a pickle, which is never loaded: write npz, h5ad, parquet or CSV"),
        (lambda s: s.table(s.mean_delta).T.to_csv("f.csv"), "f.csv has none of the 40 genes as a column"),
        (lambda s: s.table(s.mean_delta).drop(columns="G7").to_csv("f.csv"), "lacks 1 of 40 genes, e.g. ['G7']"),
        (lambda s: s.table(s.mean_delta).assign(G3=["1", "2", "x", "4"]).to_csv("f.csv"), "column 'G3' holds text, e.g. 'x'"),
        (lambda s: s.table(s.mean_delta).iloc[[0, 1, 2, 3, 3]].to_csv("f.csv"), "repeats 1 of them, e.g. ['K562|G2|||']"),
        (lambda s: s.table(np.where(np.eye(4, 40), np.nan, s.mean_delta)).to_csv("f.csv"), "NaN or infinite in 4 conditions"),
        (lambda s: s.table(s.mean_delta).assign(condition=[k.lower() for k in s.keys]).to_csv("f.csv", index=False), "unknown to the data set, e.g. ['a549|g1|||'"),
        (lambda s: s.table(s.mean_delta, perturbation=perts(s)[0]).to_csv("f.csv", index=False), "perturbation 'G1' fits 2 conditions of the data set; add a context column (--context-col)"),
        (lambda s: adata(s.mean, {"x": list("abcd")}, var=pd.DataFrame(index=GENES)).write_h5ad("f.h5ad"), "does not say which condition its rows are (label columns: 'x'"),
        (lambda s: Path("f.csv").write_text(s.table(s.mean_delta).to_csv(index=False).replace("|G2|||,", "|G2|||,0,")), "f.csv has 42 fields in line 3 and 41 in its header; name every column"),
        (lambda s: Path("f.tsv").write_text(s.table(s.mean_delta).to_csv(sep="\t").partition("\t")[2]), "f.tsv has 42 fields in line 2 and 41 in its header; name every column, that of row names too (in R"),
        (lambda s: Path("f.csv").write_bytes(b"\x00\x01\x02 nothing"), "has no table with a header line"),
        (lambda s: Path("f.parquet").write_bytes(b"PAR1 nothing"), "f.parquet cannot be read as Parquet"),
        (lambda s: Path("f.h5ad").write_bytes(b"nothing"), "f.h5ad cannot be read as h5ad"),
        (lambda s: Path("f.xlsx").write_bytes(b"nothing"), "f.xlsx is no known prediction file: write npz, h5ad, parquet or CSV"),
    ],
    ids=["npy", "object-names", "object-mean", "pickle", "transposed", "gene-missing", "text", "twice", "nan", "unknown", "no-context", "no-labels", "longer-row", "r-row-names", "binary-csv", "bad-parquet", "bad-h5ad", "xlsx"],
)  # fmt: skip
def test_files_that_are_refused(s, write, message):
    write(s)
    (file,) = (p.name for p in Path().glob("f.*"))
    assert message in s.refused(file)


def test_column_that_is_not_there(s):
    s.table(s.mean_delta).to_csv("f.csv", index=False)
    assert "f.csv has no column 'KO'; columns: condition, G0" in s.refused("f.csv", "--pert-col", "KO")
    adata(s.mean, {"x": list("abcd")}, var=pd.DataFrame(index=GENES)).write_h5ad("f.h5ad")
    assert "f.h5ad has no column 'KO'; columns: x" in s.refused("f.h5ad", "--pert-col", "KO")
