"""Normalised scores and ceilings of the panel `virtual_cell`, in a run."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.virtual_cell.panel import pairs_of
from perturbfm_core.evaluation.panels.virtual_cell.profiles import VCC, profile
from tests.support.factories import prediction_of, simulated, split_one


def scored(share):
    """Return (comparison, values by metric) of a prediction that is a share of the true delta."""
    ds = simulated(n_obs=3000, n_genes=60, n_contexts=3, n_perts=8, n_combos=0, seed=3)
    split = split_one(ds, "context_ood", {"holdout": ["C0"]})
    truth = observed(ds, split)
    means = {key: share * delta for key, delta in zip(truth.conditions.index, truth.observed, strict=True)}
    c = compare(ds, split, prediction_of(ds, split, means), truth)
    table = evaluate(c, ["virtual_cell"]).table()
    return c, table[table["scope"] == "global"].set_index("metric")["value"]


def test_scores_rise_with_what_is_known():
    nothing, half, all_ = (scored(share)[1] for share in (0.0, 0.5, 1.0))
    for name in ("score_full", "score_vcc"):
        assert 0.0 <= nothing[name] < half[name] < all_[name] <= 1.0


def test_the_vcc_score_is_the_way_from_the_mean_baseline():
    c, values = scored(0.5)
    ((rows, real, pred),) = pairs_of(c)
    entry = {k: v.mean() for k, v in profile(real, pred, c.perturbations[rows], c.genes, VCC).items()}
    # The mean of all groups, controls among them, as every perturbation's prediction.
    vector = np.vstack([real.mean, real.control.ranked.mean]).mean(axis=0).astype(np.float32)
    mae = np.abs(real.mean - vector).mean()
    expected = max(0.0, 1 - entry["mae"] / mae)
    n = len(rows)
    # A constant prediction ties with nothing but chance decides no rank: discrimination averages (n + 1) / (2 n).
    chance = (n + 1) / (2 * n)
    expected += max(0.0, (entry["discrimination_score_l1"] - chance) / (1 - chance))
    assert values["score_vcc"] >= expected / 3 - 0.05


def test_ceilings_describe_the_data_not_the_prediction():
    first, second = scored(0.2)[1], scored(1.0)[1]
    names = [name for name in first.index if name.startswith("ceiling_")]
    assert len(names) > 10
    assert first[names].equals(second[names])
    assert first["ceiling_pearson_delta"] == pytest.approx(first["ceiling_pearson_delta"].clip(0.3, 1.0))
