"""What is said of predictions that were made with the test cells at hand, or whose errors are laid out to pay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.evaluation.comparison import observed
from perturbfm_core.evaluation.submitted import submitted
from tests.support.factories import grid_rows, screen, split_one

GENES = 60
PERTS = [f"P{i}" for i in range(6)]


@pytest.fixture(scope="module")
def known():
    """Return (a screen of known effects, a split of it, its observed side, the effects of its test conditions)."""
    rng = np.random.default_rng(1)
    rows = grid_rows(PERTS, ["x"], reps=12, controls=60)
    effect = {p: rng.normal(0, 0.5, GENES) for p in PERTS} | {"control": np.zeros(GENES)}
    X = 3 + np.asarray([effect[r[0]] for r in rows]) + rng.normal(0, 0.4, (len(rows), GENES))
    ds = screen(rows, X=X, genes=GENES)
    split = split_one(ds, "perturbation_ood", {"holdout": PERTS[:3]})
    side = observed(ds, split)
    return ds, split, side, np.asarray([effect[str(p)] for p in side.conditions["pert_id"]])


def warned(known, mean, var=None, intervals=None):
    """Return the warnings of a prediction of means by condition."""
    ds, split, side, _ = known
    given = RowPrediction(
        mean=mean.astype(np.float32),
        var=(np.ones_like(mean) if var is None else var).astype(np.float32),
        idx=side.rows,
        row=side.codes,
        var_filled=var is None,
        kind="delta",
    )
    return submitted(ds, split, replace(given, intervals=intervals), side).warnings


@pytest.mark.parametrize(("share", "flagged"), [(0.1, True), (0.3, True), (1.0, False)])
def test_the_test_cells_with_some_noise_are_recognised(known, share, flagged):
    side = known[2]
    noise = share * np.sqrt(side.s2) * np.random.default_rng(0).standard_normal(side.observed.shape)
    found = warned(known, side.observed + noise)
    said = "nearer to what was measured of the test condition than its own sampling noise allows"
    assert [said in w for w in found] == [True] * flagged


def test_the_truth_itself_and_half_of_it_are_no_copies(known):
    for mean in (known[3], 0.5 * known[3]):
        assert warned(known, mean) == []


def test_variances_of_nothing_are_said(known):
    var = np.full_like(known[3], 0.1)
    assert warned(known, known[3], var) == []
    var[:, :15] = 0.0
    (said,) = warned(known, known[3], var)
    assert said.startswith(
        "0.25 of the predicted variances are 0 or nearly so; `uncertainty.nll` takes them as 1e-12"
    )


def test_intervals_of_the_easy_values_alone_are_said(known):
    var = np.full_like(known[3], 0.1)
    factor = np.ones((2, len(var), 2), dtype=np.float32)
    bins = np.asarray([0] * 45 + [1] * 15, dtype=np.int16)
    whole = Intervals(np.asarray([0.5, 0.9]), factor, bins)
    assert warned(known, known[3], var, whole) == []
    factor[1, :, 1] = np.nan
    (said,) = warned(known, known[3], var, Intervals(whole.levels, factor, bins))
    assert said.startswith("0.25 of the values have no calibrated interval of some level")
