"""Kind and scale of predictions: what is taken as a delta, as expression, or refused as another scale."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.prediction_scale import scale_of
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import observed
from perturbfm_core.pipeline.submission import read_submission
from tests.support.factories import screen, split_one

G = 80
GENES = [f"g{i}" for i in range(G)]


class Made:
    """A screen of log1p expression of counts scaled to 10000, and the means of its test conditions in any scale."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        base = rng.gamma(1.5, 3.0, G)
        rows = [("control", "x")] * 200 + [(p, "x") for p in "ABCD" for _ in range(40)]
        effect = {p: np.exp(rng.normal(0, 0.6, G) * (rng.random(G) < 0.4)) for p in "ABCD"}
        mu = np.stack([base * effect.get(p, 1.0) for p, _ in rows])
        self.counts = rng.poisson(mu * rng.gamma(8, 1 / 8, (len(rows), 1))).astype(float)
        self.counts[:, 0] += 1
        self.share = self.counts / self.counts.sum(axis=1, keepdims=True)
        self.labels = np.asarray([p for p, _ in rows])
        self.ds = screen(rows, X=np.log1p(1e4 * self.share), genes=GENES)
        self.split = split_one(self.ds, "perturbation_ood", {"holdout": ["A", "B"]})
        self.control = observed(self.ds, self.split).input_control[0]

    def mean(self, cells):
        return np.stack([cells[self.labels == p].mean(axis=0) for p in "AB"])

    @property
    def delta(self):
        return self.mean(np.log1p(1e4 * self.share)) - self.control


@pytest.fixture(scope="module")
def made():
    return Made()


def read(made, values, form="csv", kind=None, copies=False):
    """Return (kind, warnings) of predicted means of A and B, in a file of a form."""
    if form == "csv":
        pd.DataFrame(values, columns=GENES).assign(perturbation=["A", "B"]).to_csv("f.csv", index=False)
    elif form == "npz":
        np.savez("f.npz", mean=values, genes=GENES, perturbation=["A", "B"])
    else:
        obs = pd.DataFrame({"perturbation": ["A", "B"]}, index=["a", "b"])
        anndata.AnnData(values.astype("f4"), obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad("f.h5ad")
    out = read_submission(made.ds, made.split, Path(f"f.{form}"), kind=kind)
    # Predictions here are what was measured with some change, which is said of some of them.
    known = ("nearer to what was measured", *(() if copies else ("are what was measured of the test",)))
    return out.notes["kind"], [w for w in out.warnings if not any(k in w for k in known)]


SCALES = {
    "log2": (lambda m: np.log2(1 + 1e4 * m.share), "log2"),
    "log10": (lambda m: np.log10(1 + 1e4 * m.share), "log10"),
    "cpm": (lambda m: np.log1p(1e6 * m.share), None),
    "median": (lambda m: np.log1p(np.median(m.counts.sum(axis=1)) * m.share), None),
    "raw": (lambda m: np.log1p(m.counts), None),
    "linear": (lambda m: 100 * m.share, "linear"),
    "root": (lambda m: np.sqrt(1e4 * m.share) / 3, "square roots"),
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize(
    ("form", "kind", "shift"),
    [("csv", "expression", 0), ("h5ad", None, 0), ("h5ad", None, -0.02), ("npz", None, -0.02)],
)
def test_expression_in_another_scale_is_refused(made, name, form, kind, shift):
    cells, named = SCALES[name]
    with pytest.raises(PredictionError) as caught:
        read(made, made.mean(cells(made)) + shift, form, kind)
    message = str(caught.value)
    assert "another scale" in message
    assert "rows sum to" in message
    assert named is None or named in message


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_expression_in_the_scale_of_the_data(made, noise):
    values = made.mean(np.log1p(1e4 * made.share))
    values = np.maximum(values + np.random.default_rng(1).normal(0, noise, values.shape), 0)
    assert read(made, values, "h5ad") == ("expression", [])
    assert read(made, values, "csv", "expression") == ("expression", [])
    with pytest.raises(PredictionError, match="give --kind expression, which subtracts the control"):
        read(made, values, "csv")


@pytest.mark.parametrize(
    ("factor", "outcome"), [(1.9, "warned"), (0.6, "warned"), (2.2, "refused"), (0.4, "refused")]
)
def test_depth_of_expression(made, factor, outcome):
    """A factor of up to 2 in depth may be real; it is pointed out beyond a half."""
    values = np.log1p(factor * np.expm1(np.tile(made.control, (2, 1))))
    if outcome == "refused":
        with pytest.raises(PredictionError, match="in another scale than the data set: its rows sum to"):
            read(made, values, "csv", "expression")
    else:
        assert (
            "may be in another scale than the data set: its rows sum to"
            in read(made, values, "csv", "expression")[1][0]
        )


def test_row_sums_are_measured(made):
    control = np.tile(made.control, (3, 1))
    found = scale_of(np.log1p(np.expm1(control) * [[0.1], [3.0], [1.2]]), control)
    assert found.ratio == pytest.approx(1.2)
    assert found.control == pytest.approx(np.expm1(made.control).sum())
    assert (found.outside, found.fits, found.other) == (2, True, None)
    assert scale_of(control, np.zeros_like(control)) is None


@pytest.mark.parametrize(
    ("factor", "named"), [(1 / np.log(2), "log2(x + 1)"), (1 / np.log(10), "log10(x + 1)"), (1.0, None)]
)
def test_another_logarithm_shows_where_row_sums_do_not(factor, named):
    """Low expression: the sums after expm1 differ by less than a factor of 2."""
    rng = np.random.default_rng(0)
    control = np.tile(rng.uniform(0.0, 0.6, 300), (4, 1))
    if named == "log10(x + 1)":
        control[:, :2] = 1.0
    found = scale_of(np.maximum(control + rng.normal(0, 0.01, control.shape), 0) * factor, control)
    assert found.other == named
    assert found.fits is (named is None)
    assert named != "log2(x + 1)" or 1 < found.ratio < 2


def test_deltas_are_deltas(made):
    for form in ("csv", "npz", "h5ad"):
        assert read(made, 1.01 * made.delta, form) == ("delta", [])
        assert read(made, np.zeros((2, G)), form) == (
            "delta",
            ["2 of 2 predictions are a copied control (their delta is 0)"],
        )


def test_what_was_measured_is_no_prediction(made):
    """The file of the measured cells in place of the predicted ones scores best of all."""
    measured = "2 of 2 predictions are what was measured of the test condition itself; was the file of the "
    for form in ("csv", "npz", "h5ad"):
        ((warning,),) = read(made, made.delta, form, copies=True)[1:]
        assert warning.startswith(measured)
    ((warning,),) = read(made, made.mean(np.log1p(1e4 * made.share)), "h5ad", copies=True)[1:]
    assert warning.startswith(measured)


def test_a_delta_along_the_control_is_one_if_it_is_declared(made):
    """A global up-regulation, as 0.2 of the control, is like expression at another length."""
    up = np.stack([0.2 * made.control, 0.3 * made.control]) + np.random.default_rng(2).normal(0, 0.05, (2, G))
    for form in ("csv", "npz", "h5ad"):
        with pytest.raises(
            PredictionError, match=r"looks like expression in another scale.*give --kind delta if it holds"
        ):
            read(made, up, form)
        kind, warnings = read(made, up, form, "delta")
        assert kind == "delta"
        assert "is scored as a delta as --kind says" in warnings[0]
    assert read(made, -up)[0] == "delta"


@pytest.mark.parametrize("form", ["csv", "npz", "h5ad"])
def test_positive_values_are_no_deltas_unless_declared(made, form):
    for values in (np.exp(made.delta), np.abs(made.delta), np.exp2(made.delta) - 0.001):
        with pytest.raises(PredictionError, match="no value is negative, as of fold changes"):
            read(made, values, form)
        kind, warnings = read(made, values, form, "delta")
        assert kind == "delta"
        assert "is negative, as of expression or fold changes" in warnings[0]


@pytest.mark.parametrize("form", ["csv", "npz", "h5ad"])
@pytest.mark.parametrize("sign", [1, -1])
def test_deltas_beyond_log1p_are_refused_unless_declared(made, form, sign):
    """Differences of linear expression: negative ones as well, and hundreds."""
    linear = sign * (np.expm1(made.control + made.delta) - np.expm1(made.control))
    assert linear.min() < -25
    with pytest.raises(PredictionError, match=r"differences of counts or linear.*give --kind delta"):
        read(made, linear, form)
    kind, warnings = read(made, linear, form, "delta")
    assert kind == "delta"
    assert "is beyond 25); it is scored as a delta as --kind says" in warnings[0]
    largest = made.delta * 25 / np.abs(made.delta).max()
    assert read(made, largest.astype("f4"), form) == ("delta", [])


@pytest.mark.parametrize(("space", "warned"), [("log1p", True), ("delta", False), ("zscore", False)])
def test_other_scales_than_log1p_have_no_bound(made, space, warned):
    rows = [("control", "x")] * 4 if space == "log1p" else []
    ds = screen(
        rows + [(p, "x") for p in "ABC" for _ in range(3)], space=space, level="condition", genes=GENES
    )
    other = type("Other", (), {"ds": ds, "split": split_one(ds, "perturbation_ood", {"holdout": ["A", "B"]})})
    kind, warnings = read(other, 100 * made.delta, "csv", "delta")
    assert (kind, bool(warnings)) == ("delta", warned)


@pytest.mark.parametrize("form", ["csv", "npz", "h5ad"])
def test_data_of_differences(form, made):
    ds = screen([(p, "x") for p in "ABC" for _ in range(3)], space="delta", level="condition", genes=GENES)
    other = type("Other", (), {"ds": ds, "split": split_one(ds, "perturbation_ood", {"holdout": ["A", "B"]})})
    expression = made.mean(np.log1p(1e4 * made.share))
    for values in (expression, np.exp(made.delta), expression - 0.005):
        with pytest.raises(PredictionError, match=r"has no controls to subtract .delta.; predict deltas"):
            read(other, values, form)
    assert read(other, expression, form, "delta")[0] == "delta"
    assert read(other, made.delta, form) == ("delta", [])
    assert read(other, np.zeros((2, G)), form)[0] == "delta"
