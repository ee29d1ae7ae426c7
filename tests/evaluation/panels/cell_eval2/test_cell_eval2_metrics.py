"""Values of the challenge's metrics worked out by hand, and the degenerate cases."""

import math

import numpy as np
import pytest

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2 import expression, significance
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import statistics
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, PROFILES
from perturbfm_core.evaluation.panels.cell_eval2.cells import label_cells
from perturbfm_core.evaluation.panels.cell_eval2.differential import DifferentialExpression
from perturbfm_core.evaluation.panels.cell_eval2.direction import Fidelity
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate
from perturbfm_core.evaluation.panels.cell_eval2.expression import ProfilePair, ratio_of_sums
from perturbfm_core.evaluation.panels.cell_eval2.scores import is_of_challenge, scale_score, score_table
from perturbfm_core.evaluation.panels.cell_eval2.tables import TablePair


def profile_pair(real, pred, target=None, **other):
    real, pred = np.asarray(real, float), np.asarray(pred, float)
    zero = np.zeros(real.shape[1])
    n = len(real)
    fields = {
        "real_control": zero,
        "pred_control": zero,
        "real_correction": np.zeros(n),
        "pred_correction": np.zeros(n),
        "control_correction": 0.0,
        "mass_target": 1.0,
        **other,
    }
    return ProfilePair(real, pred, target=np.asarray([-1] * n if target is None else target), **fields)


def table(p_adj, lfc, genes=None):
    """Return a table of adjusted p-values, which stand for the p-values as well."""
    p, lfc = np.asarray(p_adj, float), np.asarray(lfc, float)
    names = np.asarray([f"P{i}" for i in range(len(p))])
    genes = np.asarray(genes or [f"G{j:02}" for j in range(p.shape[1])])
    return DifferentialExpression(names, genes, ~np.isnan(p[0]), np.zeros(p.shape), p, p, lfc)


def tables(real, pred, target=None):
    return TablePair(
        table(*real), table(*pred), np.asarray([-1] * len(real[0]) if target is None else target)
    )


# ---- 1. pds_cosine --------------------------------------------------------------------------------------------


def test_discrimination_by_cosine():
    real = [[1, 0, 9], [0, 1, 9], [1, 1, -9]]
    pred = [[2, 0, 0], [2, 0, 0], [0, 0, 0]]
    # The last gene is the first perturbation's target, and so left out for all. The first prediction is nearest to its
    # own truth, the second farthest from it, and the third, without an effect, as far from all: half of its places.
    pair = profile_pair(real, pred, [2, -1, -1])
    np.testing.assert_array_equal(expression.discrimination(pair, "cosine"), [1.0, 0.0, 0.5])
    np.testing.assert_array_equal(expression.discrimination(pair, "l1"), [1.0, 0.0, 0.0])


def test_discrimination_of_one_perturbation_and_without_genes():
    assert expression.discrimination(profile_pair([[1.0, 2.0]], [[0.0, 0.0]]), "l2") == [1.0]
    with pytest.raises(MetricError, match="all 1 genes are targets"):
        expression.discrimination(profile_pair([[1.0]], [[1.0]], [0]), "l2")


# ---- 2. expr_mse_unbiased_capped_norm -------------------------------------------------------------------------


def test_unbiased_errors():
    pair = profile_pair(
        [[1.0, 2.0, 5.0], [3.0, 0.0, 1.0]],
        [[2.0, 4.0, 0.0], [3.0, 2.0, 1.0]],
        [2, -1],
        real_correction=np.asarray([1.0, 2.0]),
        pred_correction=np.asarray([3.0, 1.0]),
        control_correction=0.5,
    )
    # Squares 1 + 4 over two genes, and 0 + 4 + 0 over three.
    np.testing.assert_allclose(expression.expr_mse_unbiased(pair), [(5 - 3 - 1) / 2, (4 - 1 - 2) / 3])
    # The prediction's corrections are at most 1 and 1; together they claim 1/2 + 1/3. The predicted profiles spread
    # by weights 1/2 and 1/3 in the first two genes: w1 w2 / (w1 + w2) = 1/5 of squared gaps 1 + 4. The third gene is
    # scored by one perturbation only.
    rho = min(1.0, (5 / 5) / (5 / 6))
    np.testing.assert_allclose(
        expression.expr_mse_unbiased_capped(pair), [(5 - rho - 1) / 2, (4 - rho - 2) / 3]
    )
    np.testing.assert_allclose(expression.expr_distance_unbiased(pair), [(5 - 1.5) / 2, (10 - 2.5) / 3])
    norm = ratio_of_sums(expression.expr_mse_unbiased_capped(pair), expression.expr_distance_unbiased(pair))
    assert norm == pytest.approx(((5 - rho - 1) / 2 + (4 - rho - 2) / 3) / (1.75 + 2.5), rel=1e-14)


def test_equal_predictions_earn_no_correction():
    pair = profile_pair(
        [[1.0, 2.0], [3.0, 0.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        real_correction=np.asarray([1.0, 1.0]),
        pred_correction=np.asarray([9.0, 9.0]),
    )
    np.testing.assert_allclose(expression.expr_mse_unbiased_capped(pair), [(1 - 0 - 1) / 2, (5 - 0 - 1) / 2])


def test_a_truth_without_effect_is_refused():
    with pytest.raises(MetricError, match="no effect beyond sampling noise"):
        ratio_of_sums(np.asarray([1.0]), np.asarray([-0.1]))


def test_leave_one_out_spread_of_two_cells():
    X = [[1, 3], [3, 1], [5, 5]]
    cells = label_cells(np.asarray(X), ["a", "a", "c"], ["G1", "G2"], "c")
    gap = math.log1p(5e4 * 3 / 4) - math.log1p(5e4 * 1 / 4)
    # Each of two genes has the values +gap/2 and -gap/2 around its mean; (n - 1) / n = 1/2. One cell has no spread.
    profiles = Truth(cells).profiles
    np.testing.assert_allclose(profiles.correction, [0.5 * 2 * 2 * (gap / 2) ** 2, 0.0], rtol=1e-13)
    np.testing.assert_allclose(profiles.means, np.full((2, 2), math.log1p(2.5e4)), rtol=1e-15)


# ---- 3. and 4.: directions ------------------------------------------------------------------------------------

# Truth: seven significant genes, the last of which is the target.
REAL = ([[0.01] * 7 + [0.5] * 3], [[1, -1, 1, -1, 1, 1, 9, 1, 0, -1]])


def test_directions_of_significant_genes():
    # Called: G00 right, G01 wrong, G02 without a sign (a miss), G06 the target, G07 right, G08 not defined in truth.
    pred = (
        [[0.001, 0.002, 0.003, 0.9, 0.9, 0.9, 0.001, 0.01, 0.01, 0.9]],
        [[2, 2, 0, -1, -1, 1, 9, 3, 4, 5]],
    )
    fidelity = Fidelity(tables(REAL, pred, [6]))
    # Six genes in the truth, four called (G00, G01, G02, G07), two right.
    assert fidelity.fidelity_yield_raw == [2 / 6]
    assert (fidelity.raw, fidelity.coverage) == ([2 / 4], [4 / 6])
    # Ranked: G00 right, G01 and G02 wrong, then by size of the change G03 right, G04 wrong, G05 right (a tie of sizes
    # goes by name). Nine tenths are right in the first only.
    assert fidelity.reach(universe=False, corrected=False) == [1 / 6]


def test_reach_goes_to_the_deepest_pure_place():
    n = 12
    real = ([[0.01] * n], [[1] * n])
    p = [[0.001 * (j + 1) for j in range(n)]]
    late = ([p[0]], [[1] * 9 + [-1] + [1, -1]])
    assert Fidelity(tables(real, late)).reach(universe=False, corrected=False) == [11 / 12]
    early = ([p[0]], [[-1] + [1] * 11])
    # 11 of 12 are right at the end, after a wrong start.
    assert Fidelity(tables(real, early)).reach(universe=False, corrected=False) == [1.0]
    wrong = ([p[0]], [[-1] * n])
    assert Fidelity(tables(real, wrong)).reach(universe=False, corrected=False) == [0.0]


def test_directions_where_one_side_has_no_gene():
    none, some = ([[0.5] * 4], [[1, 1, 1, 1]]), ([[0.01] * 4], [[1, 1, -1, 1]])
    nothing = Fidelity(tables(none, none))
    assert np.isnan(nothing.fidelity_yield_raw)
    assert (nothing.corrected, nothing.fidelity_yield) == ([1.0], [1.0])
    only_pred = Fidelity(tables(none, some))
    assert (only_pred.fidelity_yield_raw, only_pred.corrected, only_pred.fidelity_yield) == ([0.75], [0], [0])
    assert np.isnan(only_pred.reach(universe=False, corrected=False))
    only_real = Fidelity(tables(some, none))
    assert (only_real.fidelity_yield_raw, only_real.fidelity_yield) == ([0.0], [0.0])
    assert np.isnan(only_real.corrected)


# ---- 5. and 6.: sets and fold changes -------------------------------------------------------------------------


def test_jaccard_without_the_target():
    real = ([[0.01, 0.01, 0.01, 0.5], [0.5] * 4], np.ones((2, 4)))
    pred = ([[0.01, 0.5, 0.01, 0.01], [0.5] * 4], np.ones((2, 4)))
    np.testing.assert_array_equal(significance.sig_jaccard(tables(real, pred)), [2 / 4, 1.0])
    np.testing.assert_array_equal(significance.sig_jaccard(tables(real, pred, [0, -1])), [1 / 3, 1.0])


def test_error_of_fold_changes():
    lfc = np.asarray([[1.0, -2.0] * 5 + [50.0]])
    real = ([[0.01] * 11], lfc)
    pred_lfc = lfc + 0.5
    pred_lfc[0, 0], pred_lfc[0, 1] = np.nan, np.inf
    pred = ([[0.9] * 11], pred_lfc)
    # The last gene is the target. Two predictions are no numbers and count as 0: errors 1 and 2, and eight of 0.5.
    value, valid = significance.lfc_nmae(tables(real, pred, [10]))
    assert valid.all()
    assert value == pytest.approx([(1 + 2 + 8 * 0.5) / 15], rel=1e-15)
    # Nine genes are too few, and so is a truth without change.
    assert not significance.lfc_nmae(tables(([[0.01] * 10], lfc[:, :10]), ([[0.9] * 10], lfc[:, :10]), [3]))[
        1
    ].any()
    flat = np.zeros((1, 11))
    assert not significance.lfc_nmae(tables(([[0.01] * 11], flat), ([[0.9] * 11], lfc)))[1].any()


def test_genes_that_one_table_lacks():
    real = ([[0.01, 0.01, np.nan, 0.5]], [[1.0, 1.0, np.nan, 1.0]])
    pred = ([[0.01, np.nan, 0.01, 0.5]], [[1.0, np.nan, 1.0, 1.0]])
    pair = tables(real, pred)
    assert significance.sig_jaccard(pair) == [1 / 3]
    assert (pair.n_universe, Fidelity(pair).n_pred) == (4, [1])
    np.testing.assert_array_equal(pair.predicted_lfc, [[1.0, 0.0, 1.0, 1.0]])


def test_rank_curves_share_ties():
    real = ([[0.01] * 10 + [0.5] * 10], np.ones((1, 20)))
    even = ([[0.3] * 20], np.ones((1, 20)))
    assert significance.roc_auc(tables(real, even)) == [0.5]
    assert significance.pr_auc(tables(real, even)) == [0.5]
    # Zeros are as small as the smallest p-value that is not zero.
    zeros = ([[0.0] * 5 + [1e-9] * 5 + [0.5] * 10], np.ones((1, 20)))
    assert significance.roc_auc(tables(real, zeros)) == [1.0]


# ---- aggregates and scores -------------------------------------------------------------------------------------


def test_statistics_leave_out_undefined_values():
    got = statistics(np.asarray([1.0, np.nan, 2.0, 6.0]))
    assert (got["count"], got["mean"], got["median"], got["std"]) == (4, 3.0, 2.0, pytest.approx(7**0.5))
    assert np.isnan([statistics(np.asarray([np.nan]))[s] for s in ("mean", "std", "min", "max")]).all()
    assert np.isnan(statistics(np.asarray([3.0]))["std"])


@pytest.mark.parametrize(
    ("metric", "value", "base", "expected"),
    [
        ("pds_cosine", 0.9, 0.6, 0.75),
        ("pds_cosine", 0.0, 0.6, -1.5),
        ("pds_cosine", math.nan, 0.6, -1.5),
        ("pds_l1", 0.5, 0.6, 0.0),
        ("expr_mse", 3.0, 1.0, -4.0),
        ("expr_mse", 9.0, 1.0, -6.0),
        ("de_wilcoxon_lfc_nmae", 3.0, 1.0, -2.0),
        ("de_wilcoxon_lfc_nmae", 9.0, 1.0, -6.0),
        ("expr_mse_unbiased_capped_norm", -0.1, 1.0, 1.0),
        ("expr_mse_unbiased_capped_norm", 1.2, 1.0, 0.0),
        ("de_wilcoxon_direction_yield", 0.5, -0.5, 2.0),
        ("de_wilcoxon_direction_coverage", 0.75, 0.5, 0.5),
    ],
)
def test_scores_within_their_bounds(metric, value, base, expected):
    assert scale_score(value, base, METRICS[metric].scoring) == pytest.approx(expected)


def test_a_decisive_metric_without_scale_is_refused():
    means = dict.fromkeys(PROFILES["vcc2026"], 0.5)
    with pytest.raises(MetricError, match="pds_cosine has no scale: the baseline's value 1 is not worse"):
        score_table(means, {**means, "pds_cosine": 1.0}, None)


def test_the_challenge_averages_replicate_scores_only():
    scored = [m for m in PROFILES["vcc2026"] if METRICS[m].scored]
    value = dict.fromkeys(PROFILES["vcc2026"], 0.5)
    worse = {m: 0.75 if METRICS[m].scoring.better == "lower" else 0.25 for m in value}
    replicate = {m: 0.25 if METRICS[m].scoring.better == "lower" else 0.75 for m in value}
    rows = score_table(value, worse, replicate)
    assert [r.from_replicate for r in rows] == pytest.approx([0.5] * 7)
    assert {r.metric for r in rows} == {*scored, "avg_score"}
    assert rows[-1].from_baseline is None
    assert score_table(value, worse)[-1].from_baseline == pytest.approx(1 / 3)
    # Another configuration than the challenge's is no score of the challenge: the peer averages both.
    other = score_table(value, worse, replicate, of_challenge=False)[-1]
    assert (other.from_baseline, other.from_replicate) == pytest.approx((1 / 3, 0.5))


@pytest.mark.parametrize(
    ("control", "options", "own"),
    [
        ("non-targeting", {}, True),
        ("ctrl", {}, False),
        ("non-targeting", {"input_type": "lognorm"}, False),
        ("non-targeting", {"targets": False}, False),
    ],
)
def test_what_the_challenges_configuration_is(control, options, own):
    assert is_of_challenge(control, **options) is own


def test_the_truth_itself_is_a_perfect_prediction():
    rng = np.random.default_rng(0)
    labels = np.repeat(["c", "G0", "G1", "drug"], 30)
    X = rng.poisson(rng.lognormal(2, 1, (4, 25))[np.repeat(np.arange(4), 30)])
    cells = label_cells(X, labels, [f"G{j}" for j in range(25)], "c")
    values = evaluate(Truth(cells), cells, PROFILES["full"]).values
    for name, got in values.items():
        scoring = METRICS[name].scoring
        if scoring.anchor is not None:
            defined = got[~np.isnan(got)]
            assert defined == pytest.approx(np.full(len(defined), scoring.anchor), abs=1e-12), name
