"""The scale of panel `vcc2026`: baseline at 0, replicate at 1, clamps, contexts, and what does not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.evaluation.comparison import compare
from perturbfm_core.evaluation.panel import evaluate as evaluate_panels
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.anchor import anchor_means, anchor_splits
from perturbfm_core.evaluation.panels.cell_eval2.baseline import mean_response_cells
from perturbfm_core.evaluation.panels.cell_eval2.catalog import LFC_NMAE, NORM, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.challenge_file import write_challenge_file
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate
from perturbfm_core.evaluation.panels.cell_eval2.files import read_cells
from perturbfm_core.evaluation.panels.cell_eval2.samples import samples_of
from perturbfm_core.evaluation.panels.cell_eval2.scale import (
    SCORED,
    mean_score,
    scale_of_contexts,
    scaled,
)
from tests.support.counts_screen import GENES, counts_dataset, counts_screen
from tests.support.factories import prediction_of, split_one

pytestmark = pytest.mark.slow
HELD = list(GENES[12:18])


def dataset(drop=()):
    screen = counts_screen(GENES[10:18], ("A549", "K562"))
    keys = list(zip(screen.obs["target"], screen.obs["line"], strict=True))
    return counts_dataset(screen[[k not in drop for k in keys]].copy())


def comparison(ds, held=HELD):
    split = split_one(ds, "perturbation_ood", {"holdout": list(held)}, val_frac=0.0, calib_frac=0.0)
    rows = split.rows(ds, "test")
    rng = np.random.default_rng(3)
    keys = sorted(set(ds.conditions.index[ds.condition_codes[rows]]))
    truth = {k: ds.delta(rows[ds.conditions.index[ds.condition_codes[rows]] == k]).mean(axis=0) for k in keys}
    noise = {k: 0.3 * rng.standard_normal(ds.n_genes) for k in keys}
    by_gene = np.argsort(np.argsort(ds.genes))
    guess = {k: 0.6 * truth[k] + noise[k][by_gene] for k in keys}
    return compare(ds, split, prediction_of(ds, split, guess))


@pytest.fixture(scope="module")
def ds():
    """Return two contexts, of which one lacks two of the tested perturbations."""
    return dataset(drop={(HELD[0], "K562"), (HELD[1], "K562")})


@pytest.fixture(scope="module")
def c(ds):
    return comparison(ds)


@pytest.fixture(scope="module")
def scale(c):
    return scale_of_contexts(c)


def test_the_baseline_scores_0(c, scale):
    for sample in samples_of(c):
        base = aggregates(evaluate(sample.truth, mean_response_cells(sample.truth), VCC2026))["mean"]
        scores = scaled(base, scale[sample.context])
        assert scores == dict.fromkeys(SCORED, 0.0)
        assert mean_score(scores) == 0


def test_replicates_score_1(c, scale):
    for sample in samples_of(c):
        of = scale[sample.context]
        assert scaled({m: of[m]["anchor"] for m in SCORED}, of) == dict.fromkeys(SCORED, 1.0)
        splits = anchor_splits(sample.truth, VCC2026)
        each = [mean_score(scaled({s.metric: s.value for s in splits if s.split == i}, of)) for i in range(5)]
        # Single halves scatter around their mean; an error below it scores 1 at most.
        assert np.mean(each) == pytest.approx(1, abs=0.1)
        assert min(each) > 0.7


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        (NORM, 50.0, 0.0),
        (NORM, -9.0, 1.0),
        (LFC_NMAE, 500.0, -6.0),
        (LFC_NMAE, math.nan, -6.0),
        ("pds_cosine", math.nan, "as 0"),
        ("de_wilcoxon_sig_jaccard", math.nan, "as 0"),
    ],
)
def test_clamps_and_undefined_values(scale, metric, value, expected):
    of = scale["A549"]
    means = {m: of[m]["anchor"] for m in SCORED}
    if expected == "as 0":
        expected = scaled({**means, metric: 0.0}, of)[metric]
        assert expected < 0
    assert scaled({**means, metric: value}, of)[metric] == pytest.approx(expected)


def test_better_than_replicates_is_above_1_but_for_the_error_of_effects(scale):
    of = scale["A549"]
    perfect = dict.fromkeys(SCORED, 1.0) | {NORM: -1.0, LFC_NMAE: 0.0}
    scores = scaled(perfect, of)
    assert scores[NORM] == 1
    assert scores[LFC_NMAE] > 1
    assert scores["de_wilcoxon_sig_jaccard"] > 1


def test_a_metric_whose_baseline_is_as_good_as_replicates_has_no_score(scale):
    of = {**scale["A549"], "pds_cosine": {"baseline": 1.0, "anchor": 1.0}}
    scores = scaled({m: of[m]["anchor"] for m in SCORED}, of)
    assert math.isnan(scores["pds_cosine"])
    assert math.isnan(mean_score(scores))
    assert scores[NORM] == 1
    assert all(map(math.isnan, scaled(dict.fromkeys(SCORED, 1.0), {"reason": "none"}).values()))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_rows_and_genes_does_not_matter(ds, scale, seed):
    rng = np.random.default_rng(seed)
    rows, genes = rng.permutation(ds.n_obs), rng.permutation(ds.n_genes)
    counts = ds.values.counts[rows][:, genes]
    other = PerturbDataset(ds.obs.iloc[rows], ds.genes[genes], Values(counts=counts), ds.metadata)
    found = scale_of_contexts(comparison(other))
    for context, of in scale.items():
        for metric, ends in of.items():
            for end, value in ends.items():
                # Sums are added in another order.
                assert found[context][metric][end] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_a_file_in_this_order_has_the_same_draw(c, scale, tmp_path):
    """The peer draws by the order of categories and rows of its file."""
    for sample in samples_of(c):
        path = tmp_path / f"{sample.context}.h5ad"
        write_challenge_file(
            path, sample.truth.cells, pert_col="target", control_label="nt", context=sample.context
        )
        cells, order = read_cells(path, "target", "nt")
        found = anchor_means(anchor_splits(Truth(cells), VCC2026, order=order))
        for metric, ends in scale[sample.context].items():
            assert found[metric] == pytest.approx(ends["anchor"], rel=1e-12)


def test_contexts_count_alike(c, scale):
    scores = evaluate_panels(c, ["vcc2026"]).table()
    of = scores[scores["metric"] == "vcc2026_score"].set_index(["scope", "key"])["value"]
    by_context = of["context"]
    assert set(by_context.index) == {"A549", "K562"} == set(scale)
    assert by_context["A549"] != by_context["K562"]
    assert of["global"]["all"] == pytest.approx(by_context.mean())
    for key, value in of["condition"].items():
        assert value == pytest.approx(by_context[key.split("|")[0]])
    # Six of them make the score.
    parts = scores[scores["metric"].str.startswith("score_") & (scores["scope"] == "context")]
    assert parts["metric"].nunique() == 6
    for context, group in parts.groupby("key"):
        assert group["value"].mean() == pytest.approx(by_context[context])
    defined = scores[scores["status"] != "ok"]
    assert set(defined["metric"]) <= {NORM}


def test_without_halves_there_is_a_reason(ds):
    keys = ds.conditions.index[ds.condition_codes]
    drop = np.flatnonzero((keys == ds.conditions.index[ds.condition_codes.max()]) & (ds.condition_codes >= 0))
    # One cell is left of one condition of the second context.
    keep = np.setdiff1d(np.arange(ds.n_obs), drop[1:])
    thin = PerturbDataset(ds.obs.iloc[keep], ds.genes, Values(counts=ds.values.counts[keep]), ds.metadata)
    c = comparison(thin)
    scale = scale_of_contexts(c)
    assert f"{HELD[-1]!r} has one cell, which has no halves" in scale["K562"]["reason"]
    assert "reason" not in scale["A549"]
    scores = evaluate_panels(c, ["vcc2026"]).table().set_index(["metric", "scope", "key"])
    assert math.isnan(scores.loc[("vcc2026_score", "context", "K562"), "value"])
    row = scores.loc[("vcc2026_score", "global", "all")]
    assert row["value"] == pytest.approx(scores.loc[("vcc2026_score", "context", "A549"), "value"])
    assert "has no scale" in row["reason"]


def test_one_perturbation_has_no_mean_response_of_others(ds):
    c = comparison(ds, [HELD[3]])
    assert "every perturbation targets" in scale_of_contexts(c)["A549"]["reason"]


def test_without_counts_the_score_does_not_apply(ds):
    plain = PerturbDataset(
        ds.obs,
        ds.genes,
        Values(expression=ds.expression),
        ds.metadata.model_copy(update={"space": "log1p", "normalization": None}),
    )
    c = comparison(plain)
    assert scale_of_contexts(c)["A549"] == {"reason": "the data set keeps no counts"}
    scores = evaluate_panels(c, ["vcc2026"]).table()
    rows = scores[scores["metric"].isin(["vcc2026_score", *(f"score_{m}" for m in SCORED)])]
    assert set(rows["status"]) == {"not_applicable"}
    assert rows["reason"].str.contains("keeps no counts").all()
