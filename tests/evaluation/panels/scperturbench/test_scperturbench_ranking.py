import numpy as np
import pytest

from perturbfm_core.evaluation.panels.scperturbench.ranking import published_scores


def test_scores_and_ranks_by_hand():
    out = published_scores(
        {
            "pearson_distance": np.asarray([0.2, 1.5, np.nan]),
            "edistance": np.asarray([1.0, 3.0, 2.0]),
            "mse": np.asarray([4.0, 4.0, 0.0]),
        }
    )
    np.testing.assert_allclose(out["cor"], [0.8, -0.5, 0.0])
    np.testing.assert_allclose(out["edistance_score"], [1.0, 0.0, 0.5])
    np.testing.assert_allclose(out["mse_score"], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(out["ac_score"], [0.6, -0.5 / 3, 0.5])
    np.testing.assert_array_equal(out["Rank_cor"], [1, 3, 2])
    np.testing.assert_array_equal(out["Rank_mse_score"], [2, 2, 1])
    np.testing.assert_allclose(out["ac_rank"], [4 / 3, 8 / 3, 5 / 3])
    np.testing.assert_array_equal(out["Rank"], [1, 3, 2])


def test_undefined_and_equal_values_are_left_out_of_the_means():
    out = published_scores(
        {
            "edistance": np.asarray([1.0, np.nan, 2.0]),
            "wasserstein": np.asarray([7.0, 7.0, 7.0]),
            "common_degs": np.asarray([0.3, 0.1, 0.2]),
        }
    )
    assert np.isnan(out["was_score"]).all()
    assert np.isnan(out["Rank_was_score"]).all()
    np.testing.assert_allclose(out["ac_score"], [0.65, 0.1, 0.1])
    np.testing.assert_array_equal(out["Rank_edistance_score"], [1, np.nan, 2])
    np.testing.assert_allclose(out["ac_rank"], [1, 3, 2])


def test_another_method_changes_the_scores_of_the_others():
    two = published_scores({"mse": np.asarray([1.0, 2.0])})
    three = published_scores({"mse": np.asarray([1.0, 2.0, 11.0])})
    np.testing.assert_allclose(two["mse_score"], [1.0, 0.0])
    np.testing.assert_allclose(three["mse_score"], [1.0, 0.9, 0.0])


def test_items_are_scored_apart_and_methods_in_any_order(rng):
    raw = {m: rng.random((3, 5)) for m in ("pearson_distance", "edistance", "mse", "sym_kldiv")}
    together = published_scores(raw)
    order = rng.permutation(5)
    for column, values in published_scores({m: x[1, order] for m, x in raw.items()}).items():
        assert values == pytest.approx(together[column][1, order])
