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
    ds, split, side, *_ = known
    given = RowPrediction(
        mean=mean.astype(np.float32),
        var=(np.ones_like(mean) if var is None else var).astype(np.float32),
        idx=side.rows,
        row=side.codes,
        var_filled=var is None,
        kind="delta",
    )
    return submitted(ds, split, replace(given, intervals=intervals), side).warnings


@pytest.mark.parametrize("factor", [1.0, 0.99, 0.3, 2.0])
@pytest.mark.parametrize(("share", "flagged"), [(0.1, True), (0.3, True), (1.0, False)])
def test_the_test_cells_with_some_noise_are_recognised(known, share, flagged, factor):
    side = known[2]
    noise = share * np.sqrt(side.s2) * np.random.default_rng(0).standard_normal(side.observed.shape)
    found = warned(known, factor * (side.observed + noise))
    said = "nearer to what was measured of the test condition than its own sampling noise allows"
    assert [said in w for w in found] == [True] * flagged


@pytest.mark.parametrize("factor", [1.0, 0.99, 0.5, 3.0])
def test_the_test_cells_at_another_amplitude_are_recognised(known, factor):
    (found,) = warned(known, factor * known[2].observed)
    assert found.startswith("3 of 3 predictions are what was measured of the test condition itself")


def of_two_lines(seed):
    """Return a screen of two lines and many perturbations as `known` does, and the effects that train has on average."""
    rng = np.random.default_rng(seed)
    perts = [f"P{i}" for i in range(24)]
    rows = grid_rows(perts, ["x", "y"], reps=10, controls=60)
    common = {c: rng.normal(0, 0.3, GENES) for c in "xy"}
    effect = {(p, c): common[c] + rng.normal(0, 0.4, GENES) for p in perts for c in "xy"}
    X = 6 + np.asarray([effect.get(r[:2], np.zeros(GENES)) for r in rows])
    ds = screen(rows, X=X + rng.normal(0, 1.0, X.shape), genes=GENES)
    split = split_one(ds, "perturbation_ood", {"holdout": perts[:8]})
    side = observed(ds, split)
    names = list(zip(side.conditions["pert_id"].astype(str), side.conditions["context_id"], strict=True))
    train = np.stack([np.mean([effect[p, c] for p in perts[8:]], axis=0) for _, c in names])
    return ds, split, side, np.asarray([effect[n] for n in names]), train


@pytest.fixture(scope="module")
def two_lines():
    return of_two_lines(0)


def test_half_of_the_test_cells_is_recognised(two_lines):
    _, _, side, truth, train = two_lines
    (found,) = warned(two_lines, 0.5 * side.observed + 0.5 * train)
    assert "more than a noise-free predictor could" in found
    assert warned(two_lines, truth) == []


@pytest.mark.parametrize("of", ["context", "all"])
def test_the_mean_of_the_test_cells_is_recognised(two_lines, of):
    _, _, side, truth, _train = two_lines
    line = side.conditions["context_id"].astype(str).to_numpy()
    mean = np.tile(side.observed.mean(axis=0), (len(line), 1))
    if of == "context":
        mean = np.stack([side.observed[line == c].mean(axis=0) for c in line])
    # With a little of a real prediction, conditions differ.
    away = truth - truth.mean(axis=0) + 0.3 * np.random.default_rng(0).standard_normal(truth.shape)
    found = warned(two_lines, 0.9 * mean + 0.1 * away)
    where = "x, y" if of == "context" else "all together"
    assert [where in w for w in found if "that of the measured test conditions" in w] == [True]


@pytest.mark.parametrize("seed", range(6))
def test_honest_predictions_are_not_taken_for_copies(seed):
    """The truth itself, the train mean, both at other amplitudes, and between the two."""
    made = of_two_lines(seed)
    truth, train = made[3:]
    for mean in (truth, 0.5 * truth, 2 * truth, 0.5 * truth + 0.5 * train):
        assert warned(made, mean) == []
    same = warned(made, train)
    assert len(same) == 1
    assert same[0].startswith("all conditions of a context have the same prediction")


def test_one_prediction_of_two_perturbations_is_said(two_lines):
    _, _, side, truth, _ = two_lines
    line, pert = (side.conditions[c].astype(str).to_numpy() for c in ("context_id", "pert_id"))
    two = np.flatnonzero(line == "x")[:2]
    mean = truth.copy()
    mean[two[1]] = mean[two[0]]
    said = "2 of 16 conditions have the same prediction as another perturbation of their context"
    assert [w[: len(said)] for w in warned(two_lines, mean)] == [said]
    # A perturbation may do the same in both contexts, and controls that are copied are said once.
    both = truth.copy()
    both[line == "y"] = both[line == "x"]
    assert sorted(pert[line == "x"]) == sorted(pert[line == "y"])
    assert not any("same prediction" in w for w in warned(two_lines, both))
    mean[two] = 0.0
    assert not any("same prediction" in w for w in warned(two_lines, mean))


def test_the_truth_itself_and_half_of_it_are_no_copies(known):
    for mean in (known[3], 0.5 * known[3]):
        assert warned(known, mean) == []


def test_variances_of_nothing_are_said(known):
    var = np.full_like(known[3], 0.1)
    assert warned(known, known[3], var) == []
    # What a mean of ten thousand times as many cells would have pays as well.
    for small in (0.0, 1e-8, 1e-4 * float(known[2].s2.min())):
        var[:, :15] = small
        (said,) = warned(known, known[3], var)
        assert said.startswith(
            "0.25 of the predicted variances are 0 or nearly so, below a hundredth of the sampling"
        )
    assert warned(known, known[3], known[2].s2) == []


def test_intervals_of_the_easy_values_alone_are_said(known):
    var = np.full_like(known[3], 0.1)
    factor = np.ones((2, len(var), 2), dtype=np.float32)
    bins = np.asarray([0] * 45 + [1] * 15, dtype=np.int16)
    whole = Intervals(np.asarray([0.5, 0.9]), factor, bins)
    assert warned(known, known[3], var, whole) == []
    factor[1, :, 1] = np.nan
    (said,) = warned(known, known[3], var, Intervals(whole.levels, factor, bins))
    assert said.startswith("0.25 of the values have no calibrated interval of some level")
