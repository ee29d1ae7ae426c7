"""Files of predicted cells as counts: recognised, kept as they are, and brought to the scale of the data set."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values, normalize_log1p
from perturbfm_core.data.metadata import Normalization
from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import compare
from perturbfm_core.pipeline.submission import read_submission
from tests.support.counts_screen import GENES, counts_dataset, counts_screen
from tests.support.factories import split_one

HELD = list(GENES[12:15])
CONTROL = "non-targeting"


@pytest.fixture(scope="module")
def screen():
    return counts_screen(cells=12, controls=104)


@pytest.fixture(scope="module")
def ds(screen):
    made = counts_dataset(screen)
    # Another depth than the default, which the file does not name.
    metadata = made.metadata.model_copy(update={"normalization": Normalization(target_sum=2000.0)})
    return PerturbDataset(made.obs, made.genes, made.values, metadata)


@pytest.fixture(scope="module")
def split(ds):
    return split_one(ds, "perturbation_ood", {"holdout": HELD}, val_frac=0.0, calib_frac=0.0)


@pytest.fixture
def submission(screen):
    """Return a submission: other cells of each tested perturbation, and the measured controls."""
    other = counts_screen(cells=9, controls=104, seed=0)
    rng = np.random.default_rng(5)
    kept = other[other.obs["target"].isin([*HELD, CONTROL])].copy()
    moved = (kept.obs["target"] != CONTROL).to_numpy()
    X = kept.X.toarray()
    X[moved] = rng.poisson(X[moved] + 0.2)
    kept.X = sp.csr_matrix(X.astype(np.float32))
    return kept


def read(ds, split, data, path="pred.h5ad", **columns):
    data.write_h5ad(path)
    return read_submission(ds, split, Path(path), columns=LabelColumns(**columns))


def check(ds, split, data, read_in):
    """Check that the counts of each tested condition are those of the file, and its expression theirs."""
    assert (read_in.notes["kind"], read_in.notes["kind_from"]) == ("counts", "recognised")
    c = compare(ds, split, read_in.prediction)
    order = [list(data.var_names).index(str(g)) for g in ds.genes]
    X = data.X.toarray() if sp.issparse(data.X) else np.asarray(data.X)
    for i, pert in enumerate(c.perturbations):
        mine = X[(data.obs.iloc[:, 0].astype(str) == pert).to_numpy()][:, order]
        assert c.cells.has_own_counts(i)
        found = c.cells.predicted_counts(i)
        assert found.dtype.kind == "i"
        assert np.array_equal(found.toarray(), mine)
        scaled = normalize_log1p(sp.csr_array(mine.astype(np.int64)), 2000.0).toarray()
        assert np.allclose(c.cells.predicted(i), scaled, rtol=1e-6)
        control = np.asarray(c.cells.X[c.cells.input_rows["A549"]].mean(axis=0)).ravel()
        assert np.allclose(c.predicted[i], scaled.mean(axis=0) - control, atol=1e-5)
    return c


FORMS = {
    "float32": lambda X: X.astype(np.float32),
    "float64": lambda X: X.astype(np.float64),
    "int32": lambda X: X.astype(np.int32),
    "uint16": lambda X: X.astype(np.uint16),
    "csc": sp.csc_matrix,
    "dense": lambda X: X.toarray(),
    "dense int64": lambda X: X.toarray().astype(np.int64),
}


@pytest.mark.parametrize("form", FORMS)
def test_counts_of_any_type_are_recognised_and_kept(ds, split, submission, form):
    submission.X = FORMS[form](submission.X)
    found = read(ds, split, submission)
    check(ds, split, submission, found)
    assert found.notes["control_rows_dropped"] == 104
    assert "control_rows_not_measured" not in found.notes
    assert found.warnings == []


def test_genes_in_another_order_and_more_of_them(ds, split, submission):
    rng = np.random.default_rng(0)
    shuffled = submission[:, rng.permutation(submission.n_vars)].copy()
    more = anndata.AnnData(
        sp.csr_matrix((submission.n_obs, 2), dtype=np.float32)
        + sp.csr_matrix(np.ones((submission.n_obs, 2))),
        var=pd.DataFrame(index=["MT-1", "MT-2"]),
        obs=submission.obs,
    )
    wide = anndata.concat([more, shuffled], axis=1, merge="same")
    found = read(ds, split, wide)
    check(ds, split, wide, found)
    assert found.notes["genes_not_asked_for"] == 2
    # The measured controls are known in any order of genes.
    assert "control_rows_not_measured" not in found.notes


@pytest.mark.parametrize(
    ("label", "given"),
    [
        ("non-targeting", None),
        ("Non-Targeting", None),
        ("non_targeting", None),
        ("NTC", None),
        ("ctrl", None),
        ("negative control", None),
        ("DMSO", None),
        ("my own cells", "my own cells"),
    ],
)
@pytest.mark.parametrize("column", ["target", "perturbation", "gene"])
def test_names_of_controls_and_columns(ds, split, submission, label, given, column):
    names = submission.obs["target"].astype(str).replace(CONTROL, label)
    submission.obs = pd.DataFrame({column: names}, index=submission.obs_names)
    found = read(ds, split, submission, control_label=given)
    check(ds, split, submission, found)
    assert found.notes["control_rows_dropped"] == 104
    assert "unknown_conditions" not in found.notes


def test_a_gene_that_reads_like_a_control_is_no_control(ds, split, submission):
    """A perturbation of the data set is one, whatever its name; an unknown one is left out and named."""
    names = submission.obs["target"].astype(str)
    names.iloc[-2:] = "TP53"
    submission.obs["target"] = names
    found = read(ds, split, submission)
    assert found.notes["unknown"] == ["TP53"]
    assert found.notes["kind"] == "counts"


@pytest.mark.parametrize("change", ["one cell", "all", "fewer", "twice"])
def test_controls_that_were_not_measured_are_said(ds, split, submission, change):
    controls = np.flatnonzero((submission.obs["target"] == CONTROL).to_numpy())
    expected = 0
    if change == "fewer":
        submission = submission[np.setdiff1d(np.arange(submission.n_obs), controls[:30])].copy()
    elif change == "twice":
        again = submission[controls[:3]].copy()
        submission = anndata.concat([submission, again], index_unique="-")
        expected = 3
    else:
        X = submission.X.tolil()
        chosen = controls[:1] if change == "one cell" else controls
        for i in chosen:
            X[i, 7] = X[i, 7] + 1
        submission.X = X.tocsr()
        expected = len(chosen)
    found = read(ds, split, submission)
    check(ds, split, submission, found)
    assert found.notes.get("control_rows_not_measured", 0) == expected
    said = [w for w in found.warnings if "control cells of the file are not measured ones" in w]
    assert len(said) == (expected > 0)
    if said:
        assert said[0].startswith(f"{expected} of {found.notes['control_rows_dropped']} control cells")


def test_without_control_cells_nothing_is_said_of_them(ds, split, submission):
    bare = submission[(submission.obs["target"] != CONTROL).to_numpy()].copy()
    found = read(ds, split, bare)
    check(ds, split, bare, found)
    assert not {"control_rows_dropped", "control_rows_not_measured"} & set(found.notes)


def test_equal_cells_are_scored_as_they_are(ds, split, submission):
    """Tiles of one profile, as a file without noise has them."""
    X = submission.X.toarray()
    for pert in HELD:
        mine = (submission.obs["target"] == pert).to_numpy()
        X[mine] = np.rint(X[mine].mean(axis=0))
    submission.X = sp.csr_matrix(X)
    check(ds, split, submission, read(ds, split, submission))


def test_sparse_counts_of_0_and_1_and_empty_cells(ds, split, submission):
    X = np.minimum(submission.X.toarray(), 1)
    X[(submission.obs["target"] == HELD[0]).to_numpy().nonzero()[0][0]] = 0
    submission.X = sp.csr_matrix(X)
    found = read(ds, split, submission)
    check(ds, split, submission, found)
    assert found.notes["control_rows_not_measured"] > 90


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv"])
def test_tables_of_cells_may_hold_counts_as_well(ds, split, submission, suffix):
    table = pd.DataFrame(submission.X.toarray().astype(int), columns=submission.var_names)
    table.insert(0, "target", submission.obs["target"].astype(str).to_numpy())
    path = Path(f"pred.{suffix}")
    if suffix == "parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    check(ds, split, submission, read_submission(ds, split, path))


# ---- what is refused ---------------------------------------------------------------------------------------------


def _deep(data):
    X = data.X.tolil()
    X[0, 0] = 1_000_001
    data.X = X.tocsr()
    return data


def _negative(data):
    X = data.X.tolil()
    X[0, 0] = -1
    data.X = X.tocsr()
    return data


def _fractions(data):
    data.X = data.X * 0.5
    return data


def _means(data):
    """One row per condition: the sum of its cells."""
    names = data.obs["target"].astype(str)
    labels = sorted(set(names) - {CONTROL})
    X = np.stack([data.X[(names == n).to_numpy()].toarray().sum(axis=0) for n in labels])
    return anndata.AnnData(
        X.astype(np.float32), obs=pd.DataFrame({"target": labels}, index=labels), var=data.var
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_deep, r"has a cell with 1\.00\d+e\+06 counts; at most 1e\+06 are allowed"),
        (_fractions, "scale|counts"),
        (_means, "looks like counts"),
        (lambda d: d[:, 1:].copy(), "prediction lacks 1 of 80 genes"),
        (
            lambda d: d[(d.obs["target"] != HELD[1]).to_numpy()].copy(),
            "prediction lacks 12 of 36 test rows, in 1 of 3 conditions",
        ),
    ],
)
def test_refused(ds, split, submission, change, message):
    if change is _deep:
        first = np.flatnonzero((submission.obs["target"] == HELD[0]).to_numpy())
        submission = submission[
            np.concatenate([first, np.setdiff1d(np.arange(submission.n_obs), first)])
        ].copy()
    with pytest.raises(PredictionError, match=message):
        read(ds, split, change(submission))


@pytest.mark.parametrize("kind", ["expression", "delta"])
def test_counts_that_are_declared_as_something_else(ds, split, submission, kind):
    submission.uns["kind"] = kind
    if kind == "expression":
        with pytest.raises(PredictionError, match="looks like counts"):
            read(ds, split, submission)
    else:
        with pytest.raises(PredictionError, match=r"give --kind expression|looks like"):
            read(ds, split, submission)


def test_negative_values_are_no_counts(ds, split, submission):
    first = np.flatnonzero((submission.obs["target"] == HELD[0]).to_numpy())
    data = submission[np.concatenate([first, np.setdiff1d(np.arange(submission.n_obs), first)])].copy()
    with pytest.raises(PredictionError, match=r"scale|counts"):
        read(ds, split, _negative(data))


def test_counts_for_data_without_counts_are_refused(ds, submission):
    plain = PerturbDataset(
        ds.obs,
        ds.genes,
        Values(expression=ds.expression),
        ds.metadata.model_copy(update={"space": "log1p", "normalization": None}),
    )
    split = split_one(plain, "perturbation_ood", {"holdout": HELD}, val_frac=0.0, calib_frac=0.0)
    with pytest.raises(PredictionError, match="looks like counts"):
        read(plain, split, submission)
