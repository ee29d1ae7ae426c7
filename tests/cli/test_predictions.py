"""Predictions made elsewhere, as typed: what each file is taken for, what is refused, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.dataset import open_dataset
from tests.support.command import VARIABLES, attempt, perturbfm

GENES = [f"G{i}" for i in range(40)]


def screen(seed=0):
    """Return a small screen of counts: 2 cell lines, 6 perturbations, 30 cells of each and 120 controls."""
    rng = np.random.default_rng(seed)
    effect = {p: np.exp(rng.normal(0, 0.6, 40) * (rng.random(40) < 0.4)) for p in GENES[1:7]}
    rows, X = [], []
    for line in ("A549", "K562"):
        base = rng.gamma(2.0, 3.0, 40)
        for pert in ("ctrl", *effect):
            n = 120 if pert == "ctrl" else 30
            mu = base * (1 if pert == "ctrl" else effect[pert])
            X.append(rng.poisson(mu * rng.gamma(20, 1 / 20, (n, 1))))
            rows += [(pert, line)] * n
    obs = pd.DataFrame(
        rows, columns=["target", "line"], index=pd.Index([f"cell{i}" for i in range(len(rows))], dtype=object)
    )
    return anndata.AnnData(np.vstack(X).astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("screen")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        screen().write_h5ad("in.h5ad")
        columns = ("--pert-col", "target", "--context-col", "line", "--control-label", "ctrl")
        perturbfm("data", "import", "in.h5ad", "--out", "D", *columns, "--space", "counts")
        held = ("--holdout-perturbation", "G1", "--holdout-perturbation", "G2")
        split = perturbfm("splits", "create", "--data", "D", "--spec", "perturbation_ood", *held)
    return path, split.values["split_hash"]


class Screen:
    """The data set, its test cells, and how a file is scored."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.ds: PerturbDataset = open_dataset(Path("D"))
        self.rows = np.flatnonzero(np.isin(self.ds.obs["pert_id"].astype(str), ["G1", "G2"]))
        self.X = self.ds.expression[self.rows].toarray()
        self.code = np.unique(self.ds.condition_codes[self.rows], return_inverse=True)[1]
        self.keys = self.ds.conditions.index[np.unique(self.ds.condition_codes[self.rows])].tolist()
        self.delta = self.ds.delta(self.rows)
        self.mean = np.stack([self.X[self.code == i].mean(axis=0) for i in range(4)])
        self.mean_delta = np.stack([self.delta[self.code == i].mean(axis=0) for i in range(4)])
        self.obs = self.ds.obs.iloc[self.rows]

    def line(self, file, *options):
        return [
            "eval",
            "predictions",
            "--data",
            "D",
            "--split",
            self.split,
            "--preds",
            file,
            "--out",
            "OUT",
            *options,
        ]

    def score(self, file, *options):
        """Return (what was printed, metrics.json, config.json)."""
        shutil.rmtree("OUT", ignore_errors=True)
        out = perturbfm(*self.line(file, *options), "--json").json
        return out, *(json.loads(Path(f"OUT/{name}.json").read_text()) for name in ("metrics", "config"))

    def refused(self, file, *options):
        """Return the one line with which a file is refused."""
        shutil.rmtree("OUT", ignore_errors=True)
        answer = attempt(*self.line(file, *options))
        assert answer.code == 2, answer.out
        assert answer.err.count("\n") == 1
        assert not Path("OUT").exists()
        return answer.err

    def table(self, values, **labels):
        labels = labels or {"condition": self.keys}
        return pd.concat([pd.DataFrame(labels), pd.DataFrame(values, columns=GENES)], axis=1)


@pytest.fixture
def s(made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return Screen(made[1])


def of(metrics, name):
    panel, metric = name.split(".")
    return metrics[panel]["global"][metric]


def adata(X, obs, **more):
    return anndata.AnnData(
        X, obs=pd.DataFrame(obs).set_index(pd.Index([f"p{i}" for i in range(X.shape[0])])), **more
    )


# ---- cells -------------------------------------------------------------------------------------------------------


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


# ---- formats and labels ------------------------------------------------------------------------------------------


@pytest.fixture
def expected(s):
    np.savez("d.npz", mean=s.mean_delta[s.code], idx=s.rows, genes=np.asarray(GENES))
    return of(s.score("d.npz")[1], "delta.pearson")


def perts(s):
    return [k.split("|")[1] for k in s.keys], [k.split("|")[0] for k in s.keys]


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


# ---- missing and further conditions ------------------------------------------------------------------------------


def test_missing_conditions_are_refused_or_counted(s):
    s.table(s.mean_delta).iloc[1:].to_csv("f.csv", index=False)
    kept = s.code > 0
    np.savez("f.npz", mean=s.delta[kept], idx=s.rows[kept], genes=np.asarray(GENES))
    zero = s.mean_delta.copy()
    zero[0] = 0
    s.table(zero).to_csv("zero.csv", index=False)
    full = s.score("zero.csv")[1]
    for file in ("f.csv", "f.npz"):
        line = s.refused(file)
        assert "lacks 30 of 120 test rows, in 1 of 4 conditions, ['A549|G1|||']" in line
        assert "--missing control" in line
        out, metrics, record = s.score(file, "--missing", "control")
        assert out["missing_as_control"] == record["notes"]["missing_as_control"] == 1
        assert "1 of 4 test conditions are not predicted and scored as their control" in out["warnings"][0]
        assert of(metrics, "delta.rmse") == pytest.approx(of(full, "delta.rmse"), abs=1e-6)
    assert (
        out["cells"]
        == "the prediction's own for 3 of 4 conditions, else drawn from control cells (control_shift)"
    )
    np.savez("part.npz", mean=s.delta[3:], idx=s.rows[3:], genes=np.asarray(GENES))
    assert "that it has other rows of" in s.refused("part.npz", "--missing", "control")
    s.table(s.mean_delta, condition=["x"] * 4).iloc[:1].to_csv("none.csv", index=False)
    line = s.refused("none.csv", "--missing", "control")
    assert "has none of the 4 test conditions" in line
    assert "unknown to the data set, e.g. ['x']" in line


def test_further_conditions_are_ignored_and_counted(s, expected):
    more = [*s.keys, s.ds.conditions.index[-1], "A549|G99|||"]
    s.table(np.vstack([s.mean_delta, np.full((2, 40), 9.0)]), condition=more).to_csv("f.csv", index=False)
    out, metrics, record = s.score("f.csv")
    assert of(metrics, "delta.pearson") == pytest.approx(expected, abs=1e-6)
    assert (out["conditions_not_asked_for"], out["unknown_conditions"]) == (1, 1)
    assert record["notes"]["unknown"] == ["A549|G99|||"]
    assert "unknown to the data set and left out, e.g. ['A549|G99|||']" in out["warnings"][0]


# ---- predictions that predict nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "warning"),
    [
        (lambda s: np.zeros((4, 40)), (), "4 of 4 predictions are a copied control"),
        (lambda s: s.mean - s.mean_delta, ("--kind", "expression"), "4 of 4 predictions are a copied control"),
        (
            lambda s: np.stack([s.ds.expression[np.flatnonzero(s.ds.is_control & (s.ds.obs["context_id"] == c))].toarray().mean(axis=0) for c in perts(s)[1]]),
            ("--kind", "expression"),
            "4 of 4 predictions are a copied control",
        ),
        (lambda s: np.vstack([np.full((2, 40), 0.3), s.mean_delta[2:]]), (), "2 of 4 predictions are constant over genes"),
        (lambda s: np.tile(s.mean_delta[:1], (4, 1)), (), "all 4 conditions have the same prediction"),
        (lambda s: s.mean_delta[[0, 0, 2, 3]], (), "all conditions of a context have the same prediction, in 1 of 2 contexts (A549)"),
    ],
    ids=["zero", "input-control", "all-controls", "constant", "one-for-all", "one-per-context"],
)  # fmt: skip
def test_degenerate_predictions_are_flagged(s, values, options, warning):
    s.table(values(s)).to_csv("f.csv", index=False)
    out, _, record = s.score("f.csv", *options)
    assert warning in out["warnings"][0]
    assert record["notes"]["warnings"] == out["warnings"]
    assert warning in Path("OUT/report.html").read_text()


# ---- templates and exports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet", "h5ad", "npz"])
def test_template_is_filled_and_scored(s, expected, suffix):
    file = f"t.{suffix}"
    line = ("predictions", "template", "--data", "D", "--split", s.split, "--out", file)
    answer = perturbfm(*line).values
    assert (answer["conditions"], answer["genes"], answer["kind"]) == ("4", "40", "delta")
    assert "NaN or infinite in 4 conditions" in s.refused(file)
    assert "already exists" in attempt(*line).err
    fill(file, s.keys, s.mean_delta)
    out, metrics, _ = s.score(file)
    assert of(metrics, "delta.pearson") == pytest.approx(expected, abs=1e-6)
    assert out["kind_from"] == "file"
    perturbfm(*line, "--kind", "expression", "--force")
    fill(file, s.keys, s.mean)
    out, metrics, _ = s.score(file)
    assert out["kind"] == "expression"
    assert of(metrics, "delta.pearson") == pytest.approx(expected, abs=1e-4)


def fill(file, keys, values):
    """Fill in a template by its keys."""
    by_key = dict(zip(keys, values, strict=True))
    if file.endswith("npz"):
        arrays = dict(np.load(file))
        arrays["mean"] = np.stack([by_key[k] for k in arrays["condition"]])
        np.savez(file, **arrays)
    elif file.endswith("h5ad"):
        a = anndata.read_h5ad(file)
        a.X = np.stack([by_key[k] for k in a.obs["condition"]]).astype("f4")
        a.write_h5ad(file)
    else:
        table = pd.read_csv(file) if file.endswith("csv") else pd.read_parquet(file)
        table[GENES] = np.stack([by_key[k] for k in table["condition"]])
        _ = table.to_csv(file, index=False) if file.endswith("csv") else table.to_parquet(file)


def test_template_of_an_unknown_format(s):
    answer = attempt("predictions", "template", "--data", "D", "--split", s.split, "--out", "t.xlsx")
    assert answer.code == 2
    assert "unknown format '.xlsx'; the name must end in .csv, .parquet, .h5ad, .npz" in answer.err
    assert not Path("t.xlsx").exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "h5ad"])
def test_an_export_names_conditions_and_scores_as_its_run(s, suffix):
    run = perturbfm("train", "additive", "--data", "D", "--split", s.split).values["run_id"]
    perturbfm("export", run, "--out", f"e.{suffix}")
    if suffix == "h5ad":
        labels = anndata.read_h5ad("e.h5ad").obs
    else:
        labels = pd.read_csv("e.csv") if suffix == "csv" else pd.read_parquet("e.parquet")
        labels = labels.drop_duplicates("condition")
    assert labels["condition"].tolist() == s.keys
    assert labels["perturbation"].tolist() == ["G1", "G2", "G1", "G2"]
    assert labels["context"].tolist() == ["A549", "A549", "K562", "K562"]
    assert labels["n_rows"].tolist() == [30] * 4
    assert {"modality", "doses", "covariates"} <= set(labels)
    _, metrics, _ = s.score(f"e.{suffix}")
    ours = json.loads(Path(f"runs/{run}/metrics.json").read_text())
    for name in ("delta.pearson", "uncertainty.nll", "scperturbench.edistance_top20"):
        assert of(metrics, name) == pytest.approx(of(ours, name), rel=1e-5)
