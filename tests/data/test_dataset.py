"""`PerturbDataset`: rows in canonical form, validation, expression, deltas, and the check of scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values, as_csr, normalize_log1p, row_blocks
from perturbfm_core.data.metadata import DatasetMetadata, Normalization
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.space import check_space
from perturbfm_core.errors import DatasetError

Make = Callable[..., PerturbDataset]

X = np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0], [0.0, 2.5, 0.0]], dtype=np.float32)
PERTS = ["control", "A", "B"]
DELTA = {"space": "delta", "control_policy": "none"}


# ---- rows ------------------------------------------------------------------------------------------------


def test_make_obs_fills_what_is_missing() -> None:
    obs = make_obs({"pert_id": PERTS}, ["x", "y", "z"])
    assert tuple(obs.columns) == schema.OBS_COLUMNS
    assert obs["is_control"].tolist() == [True, False, False]
    assert obs["context_id"].tolist() == obs["batch_id"].tolist() == ["all"] * 3
    assert obs[["modality", "doses", "covariates"]].astype(str).eq("").to_numpy().all()
    assert obs.index.tolist() == ["x", "y", "z"]


def test_make_obs_sorts_and_prunes_categories() -> None:
    obs = make_obs({"pert_id": ["B", "control", "A"], "context_id": [10, 9, 9]}, [1, 2, 3])
    assert obs["pert_id"].cat.categories.tolist() == ["A", "B", "control"]
    assert obs["context_id"].cat.categories.tolist() == ["10", "9"]
    part = obs.iloc[1:]
    again = make_obs({c: part[c].array for c in part.columns}, list(part.index))
    assert again["context_id"].cat.categories.tolist() == ["9"]
    assert again.index.tolist() == ["2", "3"]


def test_shape_and_names(make_dataset: Make) -> None:
    ds = make_dataset(X, PERTS, context_id=["c2", "c1", "c2"], metadata=DELTA, values=Values(delta=X))
    assert (ds.name, ds.n_obs, ds.n_genes) == ("made", 3, 3)
    assert ds.contexts == ["c1", "c2"]
    assert ds.row_ids.tolist() == ["r0", "r1", "r2"]
    assert ds.is_control.tolist() == [True, False, False]
    assert ds.conditions.index.tolist() == ["c1|A|||", "c2|B|||"]
    assert ds.condition_codes.tolist() == [-1, 0, 1]


def test_values_cannot_be_written(make_dataset: Make) -> None:
    dense = make_dataset(X.copy(), PERTS)
    sparse = make_dataset(sp.csr_array(X), PERTS)
    for array in (dense.values.expression, sparse.values.expression.data, dense.genes):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9


def test_values_are_loaded_and_checked_on_first_use(make_dataset: Make) -> None:
    calls = []

    def load() -> Values:
        calls.append(1)
        return Values(expression=-X)

    ds = make_dataset(X, PERTS, values=load)
    assert ds.conditions.index.tolist() == ["all|A|||", "all|B|||"]
    assert ds.controls.shared.all()
    assert not calls
    with pytest.raises(DatasetError, match=r"negative values, first -1\.0 at row 'r0', gene 'g0'"):
        _ = ds.values
    assert calls == [1]


# ---- validation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"row_ids": ["a", "b", "a"]}, "1 duplicate row ids, e.g. \\['a'\\]", id="row-ids"),
        pytest.param({"genes": ["g", "g", "g"]}, "1 duplicate gene ids, e.g. \\['g'\\]", id="gene-ids"),
        pytest.param(
            {"genes": ["g0", "g1"]}, r"expression .* is \(3, 3\), rows and genes say \(3, 2\)", id="shape"
        ),
        pytest.param(
            {"pert_id": ["control"] * 3}, "control rows only; nothing is perturbed", id="nothing-perturbed"
        ),
        pytest.param(
            {"is_control": [True, True, False]},
            "row 'r1' has pert_id and is_control in disagreement",
            id="is-control",
        ),
        pytest.param(
            {"is_control": [False, False, False]},
            "row 'r0' has pert_id and is_control in",
            id="is-no-control",
        ),
        pytest.param(
            {"pert_id": ["A", "B", "C"]}, "no control rows in context 'all' of data set", id="no-controls"
        ),
        pytest.param(
            {"context_id": ["a", "b", "c"]},
            r"no control rows in context 'b' and 1 more of .*--space delta",
            id="no-controls-in-two-contexts",
        ),
        pytest.param({"weight": [1.0, 0.0, 1.0]}, "weights that are not positive", id="zero-weight"),
        pytest.param({"weight": [1.0, np.nan, 1.0]}, "weights that are not positive", id="missing-weight"),
        pytest.param({"weight": [1.0, np.inf, 1.0]}, "weights that are not positive", id="infinite-weight"),
        pytest.param({"values": Values(x_control=X)}, "neither expression nor delta", id="no-values"),
        pytest.param(
            {"metadata": DELTA}, "declares space 'delta' but has no delta", id="delta-space-without-delta"
        ),
        pytest.param(
            {"metadata": {"space": "zscore"}, "values": Values(delta=X)},
            "its control policy must be 'none' or 'file'",
            id="delta-space-with-matching",
        ),
        pytest.param(
            {"metadata": {"space": "counts"}}, "declares space 'counts' but has no counts", id="no-counts"
        ),
    ],
)
def test_inconsistent_parts_are_refused(make_dataset: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        make_dataset(X, **{"pert_id": PERTS, **options})


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=["rows", "genes"])
def test_an_empty_data_set_is_refused(make_dataset: Make, shape: tuple[int, int]) -> None:
    with pytest.raises(DatasetError, match=rf"is empty \({shape[0]} rows, {shape[1]} genes\)"):
        make_dataset(np.zeros(shape, dtype=np.float32), PERTS[: shape[0]])


def test_missing_column_is_refused() -> None:
    obs = make_obs({"pert_id": PERTS}, ["a", "b", "c"]).drop(columns=["batch_id", "doses"])
    with pytest.raises(DatasetError, match=r"lack the columns \['batch_id', 'doses'\]"):
        PerturbDataset(obs, ["g0", "g1", "g2"], Values(expression=X), DatasetMetadata(name="made"))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, "non-finite values, first nan"),
        (np.inf, "non-finite values, first inf"),
        (-0.5, "negative values, first -0.5"),
    ],
    ids=["nan", "inf", "negative"],
)
def test_first_bad_value_is_named(
    make_dataset: Make, form: Callable[..., Any], value: float, problem: str
) -> None:
    bad = X.copy()
    bad[1, 2] = bad[2, 1] = value
    with pytest.raises(DatasetError, match=f"expression .* has {problem} at row 'r1', gene 'g2'"):
        make_dataset(form(bad), PERTS)


def test_bad_value_is_named_beyond_the_first_block(make_dataset: Make) -> None:
    n = 8192 + 5
    tall = np.ones((n, 2), dtype=np.float32)
    tall[n - 2, 1] = np.nan
    with pytest.raises(DatasetError, match=f"first nan at row 'r{n - 2}', gene 'g1'"):
        make_dataset(tall, ["control"] + ["A"] * (n - 1))


def test_negative_differences_are_welcome(make_dataset: Make) -> None:
    ds = make_dataset(-X, ["A", "B", "C"], values=Values(delta=-X), metadata=DELTA)
    assert np.array_equal(ds.delta(np.arange(3)), -X)


# ---- expression and deltas -------------------------------------------------------------------------------


def test_counts_are_served_as_log1p(make_dataset: Make) -> None:
    counts = np.array([[1, 3, 0], [0, 0, 0], [2, 0, 2]], dtype=np.int32)
    ds = make_dataset(
        counts,
        PERTS,
        values=Values(counts=sp.csr_array(counts)),
        metadata={"space": "counts", "normalization": Normalization(target_sum=100)},
    )
    expected = np.log1p([[25.0, 75.0, 0.0], [0.0, 0.0, 0.0], [50.0, 0.0, 50.0]])
    np.testing.assert_allclose(ds.expression.toarray(), expected, rtol=1e-6)
    assert ds.expression.dtype == np.float32


def test_counts_without_normalisation_are_refused(make_dataset: Make) -> None:
    counts = sp.csr_array(X.astype(np.int32))
    ds = make_dataset(X, PERTS, values=Values(counts=counts), metadata={"space": "counts"})
    with pytest.raises(DatasetError, match=r"has counts but no normalization; set metadata\.normalization"):
        _ = ds.expression


def test_normalisation_by_given_totals() -> None:
    counts = sp.csr_array(np.array([[1, 3]]))
    out = normalize_log1p(counts, 10.0, totals=np.array([20.0]))
    np.testing.assert_allclose(out.toarray(), np.log1p([[0.5, 1.5]]), rtol=1e-6)


def test_delta_subtracts_the_mean_control(make_dataset: Make) -> None:
    tall = np.concatenate([X[:1] * 3, X]).astype(np.float32)
    for M in (tall, sp.csr_array(tall)):
        ds = make_dataset(M, ["control", *PERTS])
        rows = np.array([3, 2])
        np.testing.assert_allclose(ds.delta(rows), tall[rows] - 2 * X[0], rtol=1e-6)
        np.testing.assert_allclose(ds.x_control(rows), np.stack([2 * X[0]] * 2), rtol=1e-6)


def test_weighted_controls(make_dataset: Make) -> None:
    ds = make_dataset(X, ["control", "control", "A"], weight=[3.0, 1.0, 1.0])
    np.testing.assert_allclose(ds.x_control(np.array([2]))[0], (3 * X[0] + X[1]) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(Values(expression=X, x_control=X / 2), id="expression-and-control"),
        pytest.param(Values(expression=X, delta=X / 2), id="expression-and-delta"),
        pytest.param(Values(delta=X / 2, x_control=X / 2), id="delta-and-control"),
        pytest.param(Values(expression=sp.csr_array(X), delta=X / 2), id="sparse-expression"),
        pytest.param(Values(expression=X, delta=X / 2, x_control=X / 2), id="all-three"),
    ],
)
def test_any_two_matrices_of_a_file_imply_the_third(make_dataset: Make, values: Values) -> None:
    ds = make_dataset(X, ["A", "B", "C"], values=values, metadata={"control_policy": "file"})
    rows = np.array([2, 0])
    assert not ds.has_controls
    np.testing.assert_allclose(ds.delta(rows), X[rows] / 2)
    np.testing.assert_allclose(ds.x_control(rows), X[rows] / 2)
    expression = ds.expression
    np.testing.assert_allclose(expression.toarray() if sp.issparse(expression) else expression, X)


@pytest.mark.parametrize("policy", ["none", "file"])
def test_differences_alone_have_no_control(make_dataset: Make, policy: str) -> None:
    metadata = {"space": "delta", "control_policy": policy}
    ds = make_dataset(X, ["A", "B", "C"], values=Values(delta=X), metadata=metadata)
    assert ds.expression is None
    assert not ds.x_control(np.array([0, 1])).any()
    assert ds.given_control(np.array([0])) is None


# ---- the check of scales ---------------------------------------------------------------------------------

COUNTS = np.array([[0.0, 3.0], [7.0, 1.0]])
LOG1P = np.array([[0.0, 1.1], [2.2, 0.3]])
SIGNED = np.array([[0.0, -1.1], [2.2, 0.3]])


@pytest.mark.parametrize(
    ("values", "space", "message"),
    [
        pytest.param(
            COUNTS,
            "log1p",
            r"looks like counts \(whole numbers, maximum 7\).*--space counts",
            id="counts-as-log1p",
        ),
        pytest.param(
            LOG1P * 15,
            "log1p",
            r"has values up to 33, which no log1p value is; declare --space normalized",
            id="large-as-log1p",
        ),
        pytest.param(
            SIGNED, "log1p", r"negative values \(minimum -1.1\).*--space delta or zscore", id="delta-as-log1p"
        ),
        pytest.param(LOG1P, "counts", "has fractions, counts have none.*--space log1p", id="log1p-as-counts"),
        pytest.param(SIGNED, "counts", "has negative values, counts have none", id="delta-as-counts"),
        pytest.param(
            COUNTS * 1e9, "counts", "counts up to 7e[+]09, more than a count can be", id="huge-as-counts"
        ),
        pytest.param(
            LOG1P, "delta", r"no negative value \(minimum .*\), which delta data have", id="log1p-as-delta"
        ),
        pytest.param(
            COUNTS, "zscore", "which zscore data have; declare --space counts", id="counts-as-zscore"
        ),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
def test_wrong_space_is_refused(
    values: np.ndarray, space: str, message: str, form: Callable[..., Any]
) -> None:
    with pytest.raises(DatasetError, match=f"X of f .*{message}"):
        check_space(form(values), space, "X of f")


@pytest.mark.parametrize(
    ("values", "space"),
    [
        pytest.param(COUNTS, "counts", id="counts"),
        pytest.param(LOG1P, "log1p", id="log1p"),
        pytest.param((COUNTS > 0) * 1.0, "log1p", id="ones-may-be-log1p"),
        pytest.param(SIGNED, "delta", id="delta"),
        pytest.param(SIGNED, "zscore", id="zscore"),
        pytest.param(sp.csr_array((2, 2)), "log1p", id="nothing-stored"),
    ],
)
def test_right_space_passes(values: Any, space: str) -> None:
    before = values.copy()
    check_space(values, space, "X")
    assert abs(values - before).sum() == 0


# ---- matrices --------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(1, 20))
def test_row_blocks_cover_all_rows_once(n: int, size: int) -> None:
    blocks = row_blocks(n, size)
    assert [i for b in blocks for i in range(n)[b]] == list(range(n))
    assert all(0 < b.stop - b.start <= size for b in blocks)


def test_as_csr_leaves_its_argument_alone() -> None:
    messy = sp.csr_array((np.array([1.0, 2.0, 0.0]), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 2))
    clean = as_csr(messy)
    assert clean.data.tolist() == [3.0]
    assert clean.indices.tolist() == [1]
    assert messy.data.tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.bool_])
def test_repeated_entries_of_small_integers_do_not_wrap_around(dtype: type) -> None:
    most = 1 if dtype is np.bool_ else int(np.iinfo(dtype).max)
    X = sp.csr_array((np.asarray([most, most, 1], dtype=dtype), [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    assert as_csr(X).toarray().tolist() == [[2 * most, 0], [0, 1]]
    assert X.dtype == dtype
