"""The scale of values is recognised: what is declared wrongly is refused with the declaration that fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data.scale_evidence import evidence
from perturbfm_core.data.space import check_space, to_stored
from perturbfm_core.errors import DatasetError

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(1.0, 2.0, 80) * RNG.gamma(10, 0.1, (60, 1))).astype(np.float64)
COUNTS[:, 0] += 1
DEEP = RNG.poisson(COUNTS * 100 + 50).astype(np.float64)


def scaled(target: float = 1e4, genes: slice = slice(None)) -> Any:
    """Return counts normalised by depth, of some of the genes."""
    return (COUNTS / COUNTS.sum(axis=1, keepdims=True) * target)[:, genes]


WRITTEN = {
    "normalized": lambda x: x,
    "log1p": np.log1p,
    "log2p1": lambda x: np.log2(x + 1),
    "log10p1": lambda x: np.log10(x + 1),
}


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", [100, 1e4, 1e6])
@pytest.mark.parametrize("genes", [slice(None), slice(0, 50)], ids=["all genes", "some genes"])
@pytest.mark.parametrize("space", WRITTEN)
def test_a_scale_is_recognised(space: str, genes: slice, target: float, dtype: Any, form: Any) -> None:
    X = form(WRITTEN[space](scaled(target, genes)).astype(dtype))
    assert evidence(X).inverse == space
    for declared in WRITTEN:
        if declared == space:
            check_space(X, declared, "X")
        else:
            with pytest.raises(DatasetError, match=f"is not {declared}: .*declare --space {space}"):
                check_space(X, declared, "X")
    with pytest.raises(DatasetError, match=f"has fractions.*declare --space {space}"):
        check_space(X, "counts", "X")


@pytest.mark.parametrize("space", WRITTEN)
def test_converted_values_are_log1p(space: str) -> None:
    values = scaled()
    for form in (np.asarray, sp.csr_array):
        out = to_stored(form(WRITTEN[space](values)), space)
        np.testing.assert_allclose(out.toarray() if sp.issparse(out) else out, np.log1p(values), rtol=1e-10)


def test_counts_are_no_normalised_values() -> None:
    for declared in WRITTEN:
        with pytest.raises(DatasetError, match=r"looks like counts .*declare --space counts"):
            check_space(COUNTS, declared, "X")
    check_space(COUNTS, "counts", "X")


@pytest.mark.parametrize("clip", [None, 10.0, 2.0])
def test_scaled_values_are_neither_log1p_nor_differences(clip: float | None) -> None:
    X = np.log1p(scaled())
    X = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-12)
    X = X if clip is None else np.minimum(X, clip)
    for declared in ("log1p", "delta"):
        with pytest.raises(DatasetError, match=r"scaled.*--space zscore"):
            check_space(X, declared, "X")
    check_space(X, "zscore", "X")


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("clip", [None, 10.0])
def test_values_scaled_without_centring_are_in_no_scale(clip: float | None, form: Any) -> None:
    """As scanpy's scale(zero_center=False) makes them of sparse data."""
    X = np.log1p(scaled())
    X = X / np.maximum(X.std(axis=0), 1e-12)
    X = form(X if clip is None else np.minimum(X, clip))
    for declared in (*WRITTEN, "counts", "delta", "zscore"):
        with pytest.raises(
            DatasetError, match=rf"scaled without centring .* not {declared}; read unscaled values; use l"
        ):
            check_space(X, declared, "X", ["use l"])


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        (COUNTS, ""),
        (np.rint(scaled(1e3)), "no value of 1 (the smallest is "),
        (np.floor(scaled(1e6)), "no value of 1 (the smallest is "),
        (COUNTS * 10, "no value of 1 (the smallest is 10)"),
        (np.rint(DEEP / DEEP.sum(axis=1, keepdims=True) * 4000), "every row sums to 4001 within rounding"),
        (DEEP, ""),
        (COUNTS > 0, "every value is 0 or 1"),
        (COUNTS * 30 + 7, ""),
    ],
    ids=["counts", "rounded", "cut off", "multiplied", "rounded, deep", "deep", "on and off", "no zeros"],
)
def test_whole_numbers_that_are_no_counts_are_named(values: Any, doubt: str, form: Any) -> None:
    found = check_space(form(values.astype(np.float32)), "counts", "X")
    assert doubt in found.doubt
    assert bool(doubt) == bool(found.doubt)


def test_differences_are_no_scaled_values() -> None:
    X = np.log1p(scaled())
    check_space(X - X[:10].mean(axis=0), "delta", "X")


def test_counts_elsewhere_are_named() -> None:
    with pytest.raises(DatasetError, match=r"counts are read with --layer counts$"):
        check_space(np.log1p(scaled()), "counts", "X", ["counts are read with --layer counts"])


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_values_without_a_recognised_scale_are_taken_as_declared(noise: float) -> None:
    # Means over cells, or values that another program smoothed, are log1p without showing it.
    X = np.abs(np.log1p(scaled()) + RNG.normal(0, noise, COUNTS.shape))
    assert evidence(X).inverse is None
    check_space(X, "log1p", "X")
    with pytest.raises(DatasetError, match=r"values up to .*--space normalized"):
        check_space(X * 20, "log1p", "X")


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.log1p(scaled()), np.log2(scaled() + 1)),
        (np.log1p(scaled()), np.log1p(scaled(1e6))),
        (np.log1p(scaled(100)), scaled(100)),
        (np.log1p(scaled()), COUNTS),
        (np.log1p(scaled()), np.log1p(COUNTS)),
        (np.log2(scaled() + 1), np.log2(COUNTS + 1)),
    ],
    ids=[
        "two logarithms",
        "two depths",
        "no logarithm in some",
        "counts in some",
        "not scaled in some",
        "nor as log2",
    ],
)
def test_rows_in_several_scales_are_refused(one: Any, other: Any, share: float, form: Any) -> None:
    rows = np.arange(len(one)) < share * len(one)
    X = form(np.where(rows[:, None], other, one))
    for declared in (*WRITTEN, "counts"):
        with pytest.raises(DatasetError, match=r"has rows in several scales: .*bring them to one scale"):
            check_space(X, declared, "X")


def test_two_depths_that_hardly_differ_are_named() -> None:
    rows = np.arange(len(COUNTS)) % 2 == 0
    found = check_space(np.log1p(np.where(rows[:, None], scaled(1e4), scaled(1.2e4))), "log1p", "X")
    assert "rows differ in scale" in found.mixture


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_depths_that_vary_are_one_scale(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1.0, 2.0, 300), (400, 300)) * np.exp(rng.normal(0, spread, (400, 1)))
    assert evidence(np.log1p(counts)).mixture == ""
