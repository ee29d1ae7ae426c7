"""Panels `vcc2026` and `cell_eval2` inside the grid: cells of conditions by context, with counts and without."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata, Normalization
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.prediction import PredictedCells
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.metric import METRICS as REGISTERED
from perturbfm_core.evaluation.metric import panel_metrics
from perturbfm_core.evaluation.panel import PANELS, evaluate, metrics_json
from perturbfm_core.evaluation.panels.cell_eval2 import evaluation, samples, values
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, NORM, SOURCE, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.cells import label_cells
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth
from perturbfm_core.evaluation.panels.cell_eval2.registration import NOT_THERE
from perturbfm_core.evaluation.panels.cell_eval2.samples import labels_of, samples_of
from tests.support.factories import prediction_of, screen, split_all, split_one

BOTH = ["vcc2026", "cell_eval2"]
OF_CONDITIONS = [name for name in METRICS if name != NORM]
GENES = [f"G{i:02d}" for i in range(40)]


def counted(rows, genes=GENES, seed=0, depth=400.0, effect=1.0, counts=None):
    """Return a data set of counts of rows (pert, context[, {column: value}]); each perturbation changes genes."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1, len(genes))
    names = sorted({r[0] for r in rows} - {"control"})
    change = {n: rng.normal(0, effect, len(genes)) * (rng.random(len(genes)) < 0.4) for n in names}
    change["control"] = np.zeros(len(genes))
    if counts is None:
        rate = np.stack([base * np.exp(change[r[0]]) for r in rows])
        rate *= rng.lognormal(0, 0.2, (len(rows), 1)) * depth / base.sum()
        counts = rng.poisson(rate)
    extra = [r[2] if len(r) > 2 else {} for r in rows]
    columns = {schema.PERT_ID: [r[0] for r in rows], schema.CONTEXT_ID: [r[1] for r in rows]}
    for name in sorted({k for e in extra for k in e}):
        columns[name] = [e.get(name, "") for e in extra]
    return PerturbDataset(
        make_obs(columns, [f"r{i}" for i in range(len(rows))]),
        list(genes),
        Values(counts=sp.csr_array(np.asarray(counts, dtype=np.int32))),
        DatasetMetadata(name="counted", space="counts", normalization=Normalization(target_sum=1e4)),
    )


def grid(perts, contexts, cells=25, controls=60, extra=None):
    rows = [("control", c) for c in contexts for _ in range(controls)]
    return rows + [
        (p, c) if extra is None else (p, c, extra(p)) for c in contexts for p in perts for _ in range(cells)
    ]


def compared(ds, split, share=0.6, generator=None, side=None, **fields) -> Comparison:
    """Return the comparison of a prediction of a share of the observed change, with a little of its own."""
    side = observed(ds, split) if side is None else side
    noise = np.random.default_rng(7).normal(0, 0.1, len(ds.genes))
    order = np.argsort(ds.genes)
    own = np.empty_like(noise)
    own[order] = noise
    by_key = dict(zip(side.conditions.index, share * side.observed + own, strict=True))
    return compare(ds, split, prediction_of(ds, split, by_key, **fields), side, generator)


def scores(c, panels=BOTH):
    """Return {metric: MetricValues}."""
    return {r.metric.name: r for r in evaluate(c, panels).results}


def rows_of_scope(c, scope="condition"):
    table = evaluate(c, BOTH).table()
    table = table[table["scope"] == scope]
    return table.pivot_table(index="key", columns="metric", values="value", aggfunc="first", dropna=False)


def split_on(ds, *perts):
    """Return a split whose test fold has some perturbations."""
    return split_one(ds, "explicit", {"folds": {"test": list(perts)}}, validation="none", calibration="none")


PERTS = [*GENES[:8], "G03+G05", "G01+G09"]


@pytest.fixture(scope="module")
def case():
    ds = counted(grid(PERTS, ["A", "B"]))
    return ds, split_all(ds, "perturbation_ood", folds=2)[0]


@pytest.fixture(scope="module")
def comparison(case):
    return compared(*case)


# ---- what the panels have ------------------------------------------------------------------------------------


def test_the_panels_have_every_metric_of_the_peer_once():
    challenge, rest = ([m.name for m in panel_metrics(p)] for p in BOTH)
    # Scores on the scale between baseline and replicate are metrics of the panel as well.
    challenge = [name for name in challenge if name in METRICS]
    assert set(challenge) == set(VCC2026)
    assert all(METRICS[m].scored for m in challenge[:6])
    assert set(rest) == set(METRICS) - set(VCC2026)
    assert len(METRICS) == 54
    names = PANELS.names()
    assert names.index("cell_eval2") == names.index("vcc2026") + 1 == names.index("virtual_cell") + 2


@pytest.mark.parametrize("name", METRICS)
def test_directions_versions_and_names_are_the_peers(name):
    panel = "vcc2026" if name in VCC2026 else "cell_eval2"
    metric, peer = REGISTERED.get(f"{panel}.{name}"), METRICS[name]
    assert metric.version == SOURCE == "cell-eval2 0.20.0, rule 3"
    assert metric.needs == "cells"
    if peer.scored:
        assert metric.direction == ("max" if peer.scoring.better == "higher" else "min")
        assert peer.scoring.anchor in (None, metric.best) or metric.bounds == (None, None)
    assert (peer.v1 is not None) == ("By cell-eval 0.8" in metric.description)
    if peer.v1 is not None:
        alias = peer.v1 if peer.v1 in NOT_THERE else f"virtual_cell.{peer.v1}"
        assert metric.description.endswith(f" By cell-eval 0.8: `{alias}`.")


def test_names_of_cell_eval_are_metrics_of_its_panel_or_known_not_to_be():
    aliases = {m.v1 for m in METRICS.values() if m.v1 is not None}
    assert len(aliases) == sum(m.v1 is not None for m in METRICS.values())
    there = {m.name for m in panel_metrics("virtual_cell")}
    assert aliases - there == NOT_THERE
    # What texts point at, of either panel.
    named = [
        name
        for panel in BOTH
        for m in panel_metrics(panel)
        for name in re.findall(r"`(virtual_cell\.\w+)`", m.description)
    ]
    assert len(named) == len(aliases - NOT_THERE)
    assert all(name in REGISTERED for name in named)


# ---- parity with the peer's own way --------------------------------------------------------------------------


def by_hand(c, context, ds):
    """Return the peer's values of one context, of cells labelled by hand."""
    cells = c.cells
    rows = [i for i in range(len(c)) if c.contexts[i] == context]
    control = ds.values.counts[cells.control_rows[context]]
    sides = []
    for part in (lambda i: ds.values.counts[cells.truth_rows[i]], cells.predicted_counts):
        parts = [part(i) for i in rows]
        labels = np.repeat([*c.perturbations[rows], "control"], [p.shape[0] for p in (*parts, control)])
        sides.append(label_cells(sp.vstack([*parts, control]).tocsr(), labels, c.genes, "control"))
    combos = {str(p): None for p in c.perturbations[rows] if "+" in p}
    return evaluation.evaluate(Truth(sides[0], target_genes=combos), sides[1], METRICS), rows


def test_values_are_those_of_the_peer_on_the_same_cells(case, comparison):
    ds, _ = case
    got = scores(comparison)
    for context in ("A", "B"):
        peer, rows = by_hand(comparison, context, ds)
        order = np.argsort(comparison.perturbations[rows])
        mine = np.asarray(rows)[order]
        assert list(peer.names) == list(comparison.perturbations[mine])
        for name in METRICS:
            if name == NORM:
                value = got[name].statistic(mine)
                assert value == pytest.approx(peer.panel[name], rel=1e-12)
                assert got[name].grouped(np.zeros(len(comparison), int), 1).shape == (1,)
                continue
            expected = np.where(peer.present[name], peer.values[name], np.nan)
            np.testing.assert_allclose(got[name].values[mine], expected, rtol=1e-12, err_msg=name)
        means = aggregates(peer)["mean"]
        table = rows_of_scope(comparison, "context")
        for name in VCC2026:
            assert table.loc[context, name] == pytest.approx(means[name], rel=1e-12, nan_ok=True), name


def test_groups_of_the_summed_error_are_ratios_of_sums(comparison):
    got = scores(comparison)
    above, below = got["expr_mse_unbiased_capped"].values, got["expr_distance_unbiased"].values
    statistic = got[NORM].statistic
    for chosen in (np.arange(len(comparison)), np.array([0, 3, 4])):
        assert statistic(chosen) == pytest.approx(above[chosen].sum() / below[chosen].sum())
    assert REGISTERED.get(f"vcc2026.{NORM}").ratio_of == (
        ("expr_mse_unbiased_capped", "expr_distance_unbiased"),
    )
    assert np.isnan(got[NORM].values).all()


def test_a_small_example_by_hand():
    """Two perturbations of two cells each, two genes that are no targets, own counts of the prediction."""
    rows = [(p, "A") for p in ("control", "P", "Q", "Z") for _ in range(2)]
    truth = [[10, 10], [10, 10], [20, 20], [20, 0], [0, 20], [20, 20], [9, 9], [9, 9]]
    ds = counted(rows, ["a", "b"], counts=truth)
    split = split_on(ds, "P", "Q")
    counts = sp.csr_array(np.array([[30, 10], [30, 10], [30, 10], [30, 10]], dtype=np.int32))
    side = observed(ds, split)
    keys = list(side.conditions.index)
    own = PredictedCells(
        counts.astype(np.float32), {k: np.arange(2 * i, 2 * i + 2) for i, k in enumerate(keys)}, counts
    )
    c = compared(ds, split, side=side, cells=own)
    got = {n: r.values for n, r in scores(c).items()}
    log = lambda x: np.log1p(5e4 * np.asarray(x))  # noqa: E731
    control, p, q, pred = log([0.5, 0.5]), log([2 / 3, 1 / 3]), log([1 / 3, 2 / 3]), log([0.75, 0.25])
    np.testing.assert_allclose(got["expr_mse"], [((pred - x) ** 2).mean() for x in (p, q)])
    np.testing.assert_allclose(got["delta_mae"], [np.abs(pred - x).mean() for x in (p, q)])
    cosine = lambda x: 1 - (pred - control) @ x / np.linalg.norm(pred - control) / np.linalg.norm(x)  # noqa: E731
    assert cosine(p - control) < cosine(q - control)
    np.testing.assert_array_equal(got["pds_cosine"], [1.0, 0.0])
    np.testing.assert_allclose(got["expr_real_mass_ratio"], 1.0)
    np.testing.assert_array_equal(got["de_wilcoxon_sig_jaccard"], 1.0)
    assert np.isnan(got["de_wilcoxon_lfc_nmae"]).all()


# ---- what labels and targets are -----------------------------------------------------------------------------


def test_a_combination_has_no_target_gene_and_a_single_gene_has_one(comparison):
    (first, *_) = samples_of(comparison)
    target = dict(zip(first.truth.cells.perturbations, first.truth.target, strict=True))
    assert {n: GENES[j] if j >= 0 else None for n, j in target.items()} == {
        n: None if "+" in n else n for n in target
    }
    assert any("+" in n for n in target)


@pytest.mark.parametrize("kind", ["drug", "Compound", "small molecule"])
def test_a_drug_has_no_target_even_by_the_name_of_a_gene(kind):
    ds = counted(grid(GENES[:6], ["A"], extra=lambda p: {schema.MODALITY: kind}))
    c = compared(ds, split_on(ds, *GENES[:4]))
    (sample,) = samples_of(c)
    assert (sample.truth.target == -1).all()
    assert (sample.truth.tested_target == -1).all()
    assert len(values.condition_values(c, "pds_cosine")) == 4


def test_doses_of_one_perturbation_are_labels_of_their_own():
    rows = grid(["G01", "G02", "D1"], ["A"])
    rows += [("G01", "A", {schema.DOSES: d}) for d in ("1", "2") for _ in range(25)]
    rows += [("D1", "A", {schema.DOSES: "1", schema.MODALITY: "drug"}) for _ in range(25)]
    ds = counted(rows)
    c = compared(ds, split_on(ds, "G01", "D1"))
    (sample,) = samples_of(c)
    assert len(sample.rows) == len(c) == 5
    keys = [str(c.conditions.index[i]) for i in sample.rows]
    assert list(sample.truth.cells.perturbations) == keys == sorted(keys)
    genes = [GENES[j] if j >= 0 else None for j in sample.truth.target]
    assert genes == ["G01" if "G01" in k else None for k in keys]
    assert (sample.truth.cells.sizes == [*([25] * 5), 60]).all() or 60 in sample.truth.cells.sizes
    assert np.isfinite(values.condition_values(c, "expr_mse")).all()


def test_labels_of_names_with_a_plus_sign_are_the_names(case):
    conditions = pd.DataFrame({schema.MODALITY: [""]}, index=["A|(%2B)-JQ1|||"])
    c = replace_conditions(["(%2B)-JQ1"], conditions)
    labels, targets = labels_of(c, np.array([0]))
    assert list(labels) == ["(+)-JQ1"]
    assert targets == {"(+)-JQ1": None}


class replace_conditions:  # noqa: N801
    """What `labels_of` reads of a comparison."""

    genes = np.asarray(["a", "b"])

    def __init__(self, perturbations, conditions):
        self.perturbations, self.conditions = np.asarray(perturbations), conditions


# ---- the same in any order, and computed once ------------------------------------------------------------------


def test_neither_the_order_of_genes_nor_of_rows_matters(case, comparison):
    ds, _ = case
    rng = np.random.default_rng(3)
    rows, genes = rng.permutation(ds.n_obs), rng.permutation(ds.n_genes)
    counts = ds.values.counts[rows][:, genes]
    # As files store them.
    counts.sort_indices()
    other = PerturbDataset(ds.obs.iloc[rows], ds.genes[genes], Values(counts=counts), ds.metadata)
    table = rows_of_scope(comparison)[OF_CONDITIONS]
    (same, *_) = split_all(other, "perturbation_ood", folds=2)
    shuffled = rows_of_scope(compared(other, same))
    pd.testing.assert_frame_equal(shuffled.loc[table.index, OF_CONDITIONS], table, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("stored", ["sorted", "unsorted"])
@pytest.mark.parametrize("kind", get_args(schema.CountGenerator))
def test_neither_the_order_of_genes_nor_of_storage_changes_what_is_drawn(case, kind, stored):
    ds, split = case
    back = np.arange(ds.n_genes)[::-1]
    counts, genes = ds.values.counts[:, back], ds.genes[back]
    counts.sort_indices()
    if stored == "unsorted":
        # The genes as they were, each cell's counts from the last to the first.
        counts, genes = counts[:, back], ds.genes
    other = PerturbDataset(ds.obs, genes, Values(counts=counts), ds.metadata)
    (same, *_) = split_all(other, "perturbation_ood", folds=2)
    generator = Generator(counts=kind)
    one, two = compared(ds, split, generator=generator), compared(other, same, generator=generator)
    names = np.argsort(genes)
    for i in range(len(one.cells)):
        assert (one.cells.predicted_counts(i) != two.cells.predicted_counts(i)[:, names]).nnz == 0


def test_a_condition_gets_the_same_counts_beside_any_others(case, comparison):
    ds, _ = case
    few = compared(ds, split_on(ds, "G02"))
    for i, key in enumerate(few.conditions.index):
        j = list(comparison.conditions.index).index(key) if key in comparison.conditions.index else None
        if j is not None:
            made = [c.cells.predicted_counts(k) for c, k in ((few, i), (comparison, j))]
            assert (made[0] != made[1]).nnz == 0
            break
    else:
        pytest.fail("no condition in common")


def test_the_truth_is_prepared_once_for_all_predictions(case, monkeypatch):
    ds, split = case
    side = observed(ds, split)
    first, second = (compared(ds, split, share, side=side) for share in (0.2, 0.9))
    assert samples_of(first)[0].truth is samples_of(second)[0].truth
    calls = []
    made = values.compare_cells
    monkeypatch.setattr(values, "compare_cells", lambda *a, **k: (calls.append(1), made(*a, **k))[1])
    evaluate(first, BOTH)
    assert len(calls) == 2
    assert "predicted" not in samples_of(first)[0].__dict__


# ---- generators and cells of the prediction's own ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["negative_binomial", "redraw", "scaled"])
def test_the_generator_is_named_and_decides(case, comparison, kind):
    other = compared(*case, generator=Generator(counts=kind))
    assert other.cells.generator.model_dump()["counts"] == kind
    assert other.cells.generates
    assert not np.allclose(rows_of_scope(other)["expr_mse"], rows_of_scope(comparison)["expr_mse"])
    seeded = compared(*case, generator=Generator(seed=5))
    assert not np.allclose(rows_of_scope(seeded)["expr_mse"], rows_of_scope(comparison)["expr_mse"])
    table = evaluate(comparison, BOTH).table()
    for made, named in ((comparison, "multinomial"), (other, kind)):
        content = metrics_json(table, generator=made.cells.generated_by)["vcc2026"]
        assert content["comparator"] == "bulk_lognorm"
        assert content["counts_of_point_predictions"] == {"generator": named, "version": "2", "seed": 0}
    assert metrics_json(table)["vcc2026"]["counts_of_point_predictions"] is None


def test_own_counts_are_scored_as_they_are(case, comparison):
    ds, split = case
    cells = comparison.cells
    keys = list(comparison.conditions.index)
    parts = [ds.values.counts[r] for r in cells.truth_rows]
    counts = sp.csr_array(sp.vstack(parts, format="csr"))
    ends = np.cumsum([0, *map(len, cells.truth_rows)])
    rows = {k: np.arange(a, b) for k, a, b in zip(keys, ends[:-1], ends[1:], strict=True)}
    own = PredictedCells(sp.csr_array(ds.expression[np.concatenate(cells.truth_rows)]), rows, counts)
    exact = compared(ds, split, 0.0, cells=own)
    got = rows_of_scope(exact)
    assert (got[["expr_mse", "de_wilcoxon_lfc_nmae"]].fillna(0) < 1e-12).all(axis=None)
    assert (got["de_wilcoxon_sig_jaccard"] == 1).all()
    assert not exact.cells.generates
    # Other numbers of cells than the truth has are fine.
    fewer = {k: r[:7] for k, r in rows.items()}
    assert np.isfinite(
        rows_of_scope(compared(ds, split, 0.0, cells=PredictedCells(own.X, fewer, counts)))["expr_mse"]
    ).all()
    # Cells without counts: these are drawn from the mean, and that is said.
    drawn = compared(ds, split, cells=PredictedCells(own.X, rows))
    assert drawn.cells.generates
    before = drawn.cells.reads.total()
    pd.testing.assert_frame_equal(rows_of_scope(drawn), rows_of_scope(comparison))
    assert drawn.cells.reads.total() == before


# ---- what cannot be scored ---------------------------------------------------------------------------------------


def log_values(ds):
    """Return the same cells as log1p values without counts."""
    metadata = ds.metadata.model_copy(update={"space": "log1p", "normalization": None})
    return PerturbDataset(ds.obs, ds.genes, Values(expression=ds.expression), metadata)


def test_data_without_counts_get_the_values_of_log_expression(case):
    ds = log_values(case[0])
    c = compared(ds, split_all(ds, "perturbation_ood", folds=2)[0])
    table = evaluate(c, BOTH).table()
    mass = table[table["metric"] == "expr_real_mass_ratio"]
    assert (mass["status"] == "not_applicable").all()
    assert mass[mass["scope"] == "condition"]["reason"].str.contains("keeps no counts").all()
    assert "keeps no counts" in mass[mass["scope"] == "global"]["reason"].iloc[0]
    assert metrics_json(table)["vcc2026"]["comparator"] == "lognorm"
    got = scores(c)
    cells = c.cells
    rows = np.flatnonzero(c.contexts == "A")
    rows = rows[np.argsort(c.perturbations[rows])]
    control = cells.dense(cells.control_rows["A"])
    sides = []
    for part in (cells.truth, cells.predicted):
        parts = [part(int(i)) for i in rows]
        labels = np.repeat([*c.perturbations[rows], "control"], [len(p) for p in (*parts, control)])
        sides.append(label_cells(np.vstack([*parts, control]), labels, c.genes, "control", "lognorm"))
    combos = {str(p): None for p in c.perturbations[rows] if "+" in p}
    peer = evaluation.evaluate(Truth(sides[0], target_genes=combos), sides[1], METRICS)
    for name, expected in peer.values.items():
        if name != "expr_real_mass_ratio":
            expected = np.where(peer.present[name], expected, np.nan)
            np.testing.assert_allclose(got[name].values[rows], expected, rtol=1e-9, err_msg=name)


def test_differences_without_cells_do_not_apply():
    ds = screen([(p, "A") for p in "PQRS" for _ in range(2)], space="delta", level="condition")
    c = compared(ds, split_all(ds, "perturbation_ood", folds=2)[0])
    for result in evaluate(c, BOTH, level="condition").results:
        if result.metric.name in METRICS:
            assert result.status == "not_applicable"


def test_a_context_without_controls_is_undefined_and_the_others_are_not(case, comparison):
    cells = replace(
        comparison.cells, control_rows={**comparison.cells.control_rows, "B": np.array([], dtype=np.int64)}
    )
    c = replace(comparison, cells=cells, shared={}, observed_shared={})
    assert [s.context for s in samples_of(c)] == ["A"]
    table = evaluate(c, BOTH).table()
    table = table[table["metric"].isin(OF_CONDITIONS) & (table["scope"] == "condition")]
    out = table[table["key"].str.startswith("B|")]
    assert (out["status"] == "undefined").all()
    assert out["reason"].str.contains("the context has no control cells").all(), out[
        ~out["reason"].str.contains("the context has no control cells")
    ]
    whole = table[(table["metric"] == "expr_mse") & table["key"].str.startswith("A|")]
    assert whole["value"].notna().all()


def test_a_panel_of_genes_that_are_all_targets_has_no_discrimination():
    genes = ["a", "b", "c"]
    ds = counted(grid([*genes, "other"], ["A"]), genes)
    c = compared(ds, split_on(ds, *genes))
    got = scores(c)
    for name in ("pds_l1", "pds_l2", "pds_cosine"):
        assert np.isnan(got[name].values).all()
    assert np.isfinite(got["expr_mse"].values).all()
    assert "every gene is the target" in got["pds_cosine"].metric.undefined


def test_a_truth_without_any_effect_has_no_relative_error():
    rng = np.random.default_rng(1)
    rows = grid(["P", "Q", "Z"], ["A", "B"], cells=12)
    # Context A has no effect but noise; in B every cell has three times the counts of gene 0.
    counts = rng.poisson(8.0, (len(rows), 6))
    counts[[i for i, r in enumerate(rows) if r[0] != "control" and r[1] == "B"], 0] *= 5
    ds = counted(rows, [f"x{i}" for i in range(6)], counts=counts)
    c = compared(ds, split_on(ds, "P", "Q"))
    table = rows_of_scope(c, "context")
    below = scores(c)["expr_distance_unbiased"].values
    for context in "AB":
        assert np.isfinite(table.loc[context, NORM]) == (below[c.contexts == context].sum() > 0)
    assert np.isfinite(table.loc["B", NORM])


def test_cells_deeper_than_a_submission_may_be_are_scored():
    rows = grid(["P", "Q", "Z"], ["A"], cells=5, controls=9)
    counts = np.random.default_rng(0).poisson(300_000, (len(rows), 6))
    ds = counted(rows, list("abcdef"), counts=counts)
    c = compared(ds, split_on(ds, "P", "Q"))
    assert np.isfinite(scores(c)["expr_mse"].values).all()
    assert samples.samples_of(c)[0].truth.cells.totals.max() > 1e6


def test_one_perturbation_alone():
    ds = counted(grid(["G01", "G02"], ["A"]))
    c = compared(ds, split_on(ds, "G01"))
    got = scores(c)
    assert got["pds_cosine"].values == [1.0]
    assert np.isfinite(got["expr_mse_unbiased_capped"].values).all()
