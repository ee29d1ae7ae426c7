"""Attacks on predicted cells: what they do to counts, to the headline, and which of them are flagged in submissions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.prediction import PredictedCells
from perturbfm_core.data.table import condition_table
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.prediction_flags import warnings_of
from perturbfm_core.evaluation.probes import ATTACKS, probe
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.view import Query, train_view
from tests.support.attacks import ON_CELLS
from tests.support.factories import prediction_of, simulated, split_one

SEEDS = (1, 2)
SIX = (
    "pds_cosine",
    "expr_mse_unbiased_capped_norm",
    "de_wilcoxon_lfc_nmae",
    "de_wilcoxon_direction_fidelity_yield_raw",
    "de_wilcoxon_direction_reach_raw",
    "de_wilcoxon_sig_jaccard",
)
# What each attack is flagged as. `exact_mean` cannot be told from an honest draw; `cells_drawn` is one.
FLAGGED = {
    "noise_free_tiles": "without noise",
    "inflated_dispersion": "times the dispersion of control cells",
    "spiked_targets": "the genes that other conditions perturb",
    "low_genes_raised": "nearly every gene that control cells hardly express",
    "all_tied": "copied control",
    "controls_pasted": "consist of measured control cells",
    "genes_left_out": "no predicted cell has any of",
    "perturbations_left_out": "copied control",
    "depth_multiplied": "times the counts of control cells",
    "depth_thinned": "times the counts of control cells",
}


class Case:
    """A simulated screen with a split of combinations, and the predictions that entries make of it."""

    def __init__(self, seed, **config):
        wanted = {
            "n_obs": 6000,
            "n_genes": 200,
            "n_contexts": 1,
            "n_perts": 20,
            "n_combos": 40,
            "dispersion": 2.0,
        }
        self.ds = simulated(**{**wanted, **config}, seed=seed)
        self.split = split_one(self.ds, "combo_ood", {}, folds=4, fold=0)
        self.side = observed(self.ds, self.split)

    def of(self, delta):
        by_key = dict(zip(self.side.conditions.index, delta.astype(np.float32), strict=True))
        return compare(self.ds, self.split, prediction_of(self.ds, self.split, by_key), self.side)

    def entry(self, name):
        model = new_model(name)
        model.fit(train_view(self.ds, self.split), 0)
        control = condition_table(self.ds, self.split.rows(self.ds, "test")).control.get("input")
        return self.of(model.predict(Query(self.side.conditions, self.ds.genes, control)).mean)

    def flags(self, c):
        cells = None
        if c.cells.own is not None:
            rows = dict(zip(c.cells.keys, c.cells.own_rows, strict=True))
            cells = PredictedCells(c.cells.own, rows, c.cells.own_counts)
        return warnings_of(self.ds, self.side, c.predicted, np.arange(len(c)), cells)


@pytest.fixture(scope="module")
def cases():
    return {seed: Case(seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def moderate(cases):
    return cases[1].entry("additive")


def attacked(c, name):
    made = ATTACKS.get(name).function(c)
    assert made is not None
    return made


def counts_of(c):
    """Return the counts of each condition, dense."""
    return [c.cells.predicted_counts(i).toarray() for i in range(len(c))]


# ---- the headline ------------------------------------------------------------------------------------------


def headline(c):
    rows = evaluate(c, [HEADLINE_PANEL]).table()
    row = rows[(rows["metric"] == HEADLINE_METRIC) & (rows["scope"] == "condition")]
    return row["value"].to_numpy(dtype=np.float64)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_headline_of_a_moderate_predictor_is_improved_by_no_attack_on_cells(cases, seed):
    table = probe(cases[seed].entry("additive"), [HEADLINE_PANEL], attacks=ON_CELLS)
    rows = table[table["metric"] == HEADLINE_METRIC].set_index("attack")
    assert rows["headline"].sum() in (0, len(rows))
    assert rows["before"].iloc[0] > 0.5
    assert rows["reason"].isna().all()
    assert set(rows.index) == set(ON_CELLS)
    behind = rows["undefined_after"] > rows["undefined_before"]
    assert rows.index[behind].tolist() == ["perturbations_left_out"]
    assert ((rows["after"] < rows["before"]) | behind).all(), rows[["before", "after"]]
    assert not rows["improved"].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_attacks_on_the_train_mean_reach_no_more_than_predicting_no_change(cases, seed):
    case = cases[seed]
    c = case.entry("global_mean")
    # The train mean is undefined for the headline, and no attack on it is better than the control, which every page
    # shows beside the headline; conditions that stay undefined count as 0 here.
    assert not np.isfinite(headline(c)).any()
    floor = headline(case.of(np.zeros_like(case.side.observed))).mean()
    noise = 3.0 * np.std([headline(case.of(rng_delta(case, s))).mean() for s in range(20)])
    for name in ON_CELLS:
        assert np.nan_to_num(headline(attacked(c, name))).mean() < floor + noise, name
    table = probe(c, [HEADLINE_PANEL], attacks=ON_CELLS)
    assert not table[table["metric"] == HEADLINE_METRIC]["improved"].any()


def rng_delta(case, seed):
    return case.side.train_mean + np.random.default_rng(seed).normal(0, 0.05, case.side.observed.shape)


def test_left_out_conditions_count_against_the_prediction(cases, moderate):
    c = attacked(moderate, "perturbations_left_out")
    left_out = ~c.predicted.any(axis=1)
    assert left_out.sum() == len(c) // 2
    assert (c.not_predicted == left_out).all()
    after = headline(c)
    assert np.isnan(after[left_out]).all()
    assert after[~left_out] == pytest.approx(headline(moderate)[~left_out])
    # Errors are those of the control, as for whoever predicts no change.
    rmse = evaluate(c, ["delta"]).table().query("metric == 'rmse' and scope == 'global'")["value"].iloc[0]
    as_control = evaluate(replace(c, not_predicted=None, shared={}), ["delta"]).table()
    assert rmse == as_control.query("metric == 'rmse' and scope == 'global'")["value"].iloc[0]
    table = probe(moderate, ["delta"], attacks=["perturbations_left_out"])
    assert not table[table["metric"] == HEADLINE_METRIC]["improved"].any()


# ---- the metrics of the peer -------------------------------------------------------------------------------


@pytest.mark.slow
def test_spread_and_improvement_of_the_six_metrics(moderate):
    table = probe(moderate, ["vcc2026"], attacks=["exact_mean", "depth_multiplied", "all_tied"], draws=4)
    of = table.set_index(["attack", "metric"])
    for name in SIX:
        assert of.loc[("depth_multiplied", name), "after"] == pytest.approx(
            of.loc[("depth_multiplied", name), "before"], rel=1e-6
        )
    # Cells whose sum is the predicted mean get the correction for noise that their sum does not have.
    exact = of.loc[("exact_mean", "expr_mse_unbiased_capped_norm")]
    assert exact["after"] < exact["before"] - 3 * exact["spread"]
    assert exact["spread"] > 0
    assert exact["improved"]
    assert of.loc[("all_tied", "pds_cosine"), "after"] == pytest.approx(0.5)
    assert not of.loc["all_tied"]["improved"].any()
    assert of.loc[("all_tied", "vcc2026_score"), "headline"]


def test_without_repeated_draws_there_is_no_spread(moderate):
    table = probe(moderate, ["delta"], attacks=["added_noise"], draws=3)
    assert (table["spread"] == 0).all()


# ---- what attacks do to cells ------------------------------------------------------------------------------


def test_attacks_that_keep_sums_keep_them_and_change_the_rest(moderate):
    drawn = counts_of(moderate)
    pooled = counts_of(attacked(moderate, "inflated_dispersion"))
    exact = counts_of(attacked(moderate, "exact_mean"))
    for i, (before, wide, even) in enumerate(zip(drawn, pooled, exact, strict=True)):
        assert wide.shape == before.shape
        assert (wide.sum(axis=0) == before.sum(axis=0)).all()
        assert wide.var(axis=0).sum() > 2 * before.var(axis=0).sum()
        share = moderate.cells._control_profiles[moderate.cells.contexts[i]][0].composition(
            moderate.cells.delta[i]
        )
        assert np.abs(even.sum(axis=0) - share * before.sum()).max() <= 0.5 + 1e-6
        assert (even >= 0).all()
        assert even.var(axis=0).sum() > 0.5 * before.var(axis=0).sum()


def test_attacks_that_change_single_genes_change_only_these(moderate):
    drawn = counts_of(moderate)
    genes = {str(g): j for j, g in enumerate(moderate.genes)}
    spiked = counts_of(attacked(moderate, "spiked_targets"))
    targets = {p: [genes[g] for g in str(p).split("+") if g in genes] for p in moderate.perturbations}
    everything = {j for own in targets.values() for j in own}
    for i, pert in enumerate(moderate.perturbations):
        changed = set(np.flatnonzero((spiked[i] != drawn[i]).any(axis=0)))
        assert changed
        assert changed <= everything - set(targets[pert])
    raised = counts_of(attacked(moderate, "low_genes_raised"))
    level = moderate.cells.counts[moderate.cells.input_rows[moderate.cells.contexts[0]]].sum(axis=0)
    for before, after in zip(drawn, raised, strict=True):
        changed = np.flatnonzero((after != before).any(axis=0))
        assert level[changed].max() <= np.quantile(level, 0.1) + 1
    kept = counts_of(attacked(moderate, "genes_left_out"))
    silent = (np.concatenate(kept).sum(axis=0) == 0).sum()
    assert silent >= len(moderate.genes) // 2
    # the honest draw is not changed by what was made of it
    for before, again in zip(drawn, counts_of(moderate), strict=True):
        assert (before == again).all()


def test_depth_changes_by_ten(moderate):
    drawn = np.concatenate(counts_of(moderate)).sum()
    assert np.concatenate(counts_of(attacked(moderate, "depth_multiplied"))).sum() == 10 * drawn
    thinned = np.concatenate(counts_of(attacked(moderate, "depth_thinned"))).sum()
    assert thinned == pytest.approx(drawn / 10, rel=0.02)
    tiles = counts_of(attacked(moderate, "noise_free_tiles"))
    assert all((t == t[0]).all() for t in tiles)


def test_data_without_counts_has_no_attacks_on_cells(moderate):
    c = replace(moderate, cells=replace(moderate.cells, counts=None), shared={})
    for name in set(ON_CELLS) - {"perturbations_left_out"}:
        assert ATTACKS.get(name).function(c) is None
        assert "counts" in ATTACKS.get(name).impossible


# ---- flags -------------------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[
        {"seed": 1},
        {"seed": 2, "n_obs": 3000, "n_genes": 100},
        {"seed": 4, "n_obs": 4000, "n_genes": 300, "depth": 300.0},
        {"seed": 5, "n_obs": 6000, "n_genes": 120, "n_contexts": 2, "n_perts": 10, "n_combos": 20},
    ],
    ids=["plain", "few cells", "shallow", "two contexts"],
)
def screened(request):
    return Case(**request.param)


def test_attacked_cells_are_flagged(screened):
    honest = screened.of(screened.side.observed)
    for name, said in FLAGGED.items():
        flags = screened.flags(attacked(honest, name))
        assert any(said in f for f in flags), (name, flags)


@pytest.mark.parametrize("generator", ["multinomial", "negative_binomial", "redraw", "scaled"])
def test_honest_cells_are_not_flagged(screened, generator):
    truth, rng = screened.side.observed, np.random.default_rng(0)
    predictions = {
        "good": truth,
        "half": truth / 2,
        "noise": rng.normal(0, 0.3, truth.shape),
        "wrong way": -truth,
        "train mean": np.broadcast_to(screened.side.train_mean, truth.shape),
    }
    for name, delta in predictions.items():
        c = screened.of(np.asarray(delta))
        c = replace(c, cells=replace(c.cells, generator=Generator(counts=generator)), shared={})
        flags = screened.flags(attacked(c, "cells_drawn"))
        # The measured means stand for a good prediction, which is said of them where there is little but noise.
        assert [f for f in flags if "did the model see the test cells" not in f] == [], name


def test_measured_cells_are_not_flagged(screened):
    order = np.argsort(screened.side.codes, kind="stable")
    ends = np.searchsorted(screened.side.codes[order], np.arange(len(screened.side.conditions) + 1))
    rows = {
        str(k): screened.side.rows[order[a:b]]
        for k, a, b in zip(screened.side.conditions.index, ends[:-1], ends[1:], strict=True)
    }
    n = np.arange(len(screened.side.conditions))
    for counts in (screened.ds.values.counts, None):
        cells = PredictedCells(screened.ds.expression, rows, counts)
        found = warnings_of(screened.ds, screened.side, screened.side.observed, n, cells)
        # Only for what they are.
        assert [w.split(";")[0] for w in found] == [
            f"{len(n)} of {len(n)} predictions are what was measured of the test condition itself"
        ]


def test_cells_of_log_values_are_flagged_as_well(cases):
    case = cases[1]
    c = attacked(case.of(case.side.observed), "cells_drawn")
    rows = dict(zip(c.cells.keys, c.cells.own_rows, strict=True))
    X = c.cells.own.toarray()
    flags = {}
    for name, factor in (("as drawn", 1.0), ("still", 0.05), ("wide", 3.0)):
        moved = X.copy()
        for r in rows.values():
            mean = X[r].mean(axis=0)
            moved[r] = mean + factor * (X[r] - mean)
        n = np.arange(len(c))
        flags[name] = warnings_of(
            case.ds, case.side, c.predicted, n, PredictedCells(np.maximum(moved, 0), rows)
        )
    assert flags["as drawn"] == []
    assert any("without noise" in f for f in flags["still"])
    assert any("times the dispersion" in f for f in flags["wide"])
