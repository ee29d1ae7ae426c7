"""Ceilings and floors of the headline metric of every panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation import panel_bounds as module
from perturbfm_core.evaluation.ceilings import halved
from perturbfm_core.evaluation.cells import Generator, cells_of
from perturbfm_core.evaluation.comparison import Comparison, observed
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.evaluation.panel_bounds import headline_metrics, panel_bounds
from perturbfm_core.evaluation.panels.cell_eval2.catalog import LFC_NMAE, NORM, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.cells import label_cells
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate
from perturbfm_core.evaluation.reliability import noise_free
from perturbfm_core.leaderboard.headline import HEADLINE, headline_of, headline_value, marks_of
from perturbfm_core.pipeline.split import freeze_split, stats_with_bounds, stored_stats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.counts_screen import counts_dataset, counts_screen
from tests.support.factories import screen, split_one
from tests.support.noisy_screen import GENES, PERTS, held_out, noisy

NAMES = [f"{m.panel}.{m.name}" for m in headline_metrics()]
# Of counts alone.
SCORE = "vcc2026.vcc2026_score"
ERRORS = (NORM, LFC_NMAE)
TARGETS = ("GENE010", "GENE011", "GENE012", "GENE013", "GENE014", "GENE015")


@pytest.fixture(scope="module")
def data() -> PerturbDataset:
    return noisy(effect=0.4, controls=120)


@pytest.fixture(scope="module")
def bounds(data: PerturbDataset) -> dict[str, Any]:
    return panel_bounds(data, held_out(data), halvings=6)


def test_every_panel_but_delta_has_its_headline_bounded(bounds: dict[str, Any]) -> None:
    assert {n.split(".")[0] for n in bounds["ceiling"]} == set(PANELS) - {"delta"}
    for name, item in bounds["ceiling"].items():
        assert ("half" in item) == (name != SCORE), name
        # What has no noise-free bound says why.
        assert ("noise_free" in item) != ("reason" in item)
    assert all(set(scores) == set(NAMES) for scores in bounds["floor"].values())


def test_the_true_effect_scores_the_noise_free_bound(data: PerturbDataset, bounds: dict[str, Any]) -> None:
    # As `noisy` draws them, before the noise of the cells.
    rng = np.random.default_rng(0)
    effects = {p: 0.4 * rng.normal(size=GENES) for p in PERTS}
    side = observed(data, held_out(data))
    truth = np.stack([effects[str(p)] for p in side.conditions["pert_id"]])
    var = np.array(np.broadcast_to(side.s2.mean(axis=0), truth.shape))
    cells = cells_of(data, side.conditions, side.rows, side.codes, truth, var, Generator())
    scores = module._scores(headline_metrics(), module._comparison(data, side, truth, var, cells), "cell")[0]
    for name, tolerance in (
        ("systema.corr_all_allpert", 0.03),
        ("perturbench.cosine_logfc", 0.03),
        ("linear_paper.l2", 0.25),
        ("openproblems.mean_rowwise_rmse", 0.04),
        ("uncertainty.nll", 0.15),
    ):
        assert scores[name] == pytest.approx(bounds["ceiling"][name]["noise_free"], abs=tolerance), name


def test_floors_are_below_halves_below_noise_free(bounds: dict[str, Any]) -> None:
    for m in headline_metrics():
        name = f"{m.panel}.{m.name}"
        item = bounds["ceiling"][name]
        if name == SCORE:
            continue
        if "noise_free" in item:
            assert m.badness(item["noise_free"]) < m.badness(item["half"]), name
        floor = bounds["floor"]["train_mean"][name]
        if floor is not None:
            assert m.badness(item["half"]) < m.badness(floor), name


@pytest.mark.parametrize(
    ("metric", "half", "free"),
    [
        ("pearson_centered", 0.5, (2 / 3) ** 0.5),
        ("corr_all_allpert", -0.2, 0.0),
        ("cosine_logfc", 1.0, 1.0),
        ("pearson_distance_top5000", 0.5, 1 - (2 / 3) ** 0.5),
        ("mean_rowwise_rmse", 0.3, 0.15),
        ("l2", 4.0, 2.0),
        ("delta_pearson", 0.5, (2 / 3) ** 0.5),
        ("cosine_rank_logfc", 0.2, None),
        ("pearson_edistance", 0.2, None),
        ("discrimination_score_l1", 0.9, None),
    ],
)
def test_noise_free_by_hand(metric: str, half: float, free: float | None) -> None:
    assert noise_free(metric, half) == (None if free is None else pytest.approx(free))


def test_data_without_cells_have_floors_alone() -> None:
    rows = [(p, c) for p in ("control", *PERTS) for c in "xyz"]
    X = np.random.default_rng(3).normal(size=(len(rows), GENES)) + 5
    ds = screen(rows, X=X, genes=GENES, level="condition")
    found = panel_bounds(ds, held_out(ds))
    assert all(set(item) == {"reason"} for item in found["ceiling"].values())
    assert found["floor"]["control_mean"]["openproblems.mean_rowwise_rmse"] is not None
    assert found["floor"]["control_mean"]["scperturbench.pearson_distance_top5000"] is None


def test_a_single_cell_per_condition_has_no_half() -> None:
    ds = noisy(effect=0.5, controls=8, reps=1)
    found = panel_bounds(ds, held_out(ds))
    assert all("half" not in item for n, item in found["ceiling"].items() if n != "calibrated.headline")
    assert all("reason" in item for item in found["ceiling"].values())


def test_genes_that_never_vary_buy_no_log_score() -> None:
    rows = [(p, c) for p in ("control", *PERTS) for c in "xyz" for _ in range(24)]
    X = np.random.default_rng(3).normal(size=(len(rows), GENES)) + 5
    X[:, : GENES // 2] = 0.0
    found = panel_bounds(ds := screen(rows, X=X, genes=GENES), held_out(ds), halvings=1)
    scores = [found["floor"][kind]["uncertainty.nll"] for kind in ("control_mean", "train_mean")]
    scores += [found["ceiling"]["uncertainty.nll"][kind] for kind in ("half", "noise_free")]
    # The noise of these means has a standard deviation of about .25, and a density below 2.5.
    assert all(-1.5 < value < 1.0 for value in scores), scores


def test_the_same_seed_gives_the_same_bounds(data: PerturbDataset) -> None:
    split = split_one(data, "context_ood", {"holdout": ["x"]})
    assert panel_bounds(data, split, halvings=1) == panel_bounds(data, split, halvings=1)
    other = panel_bounds(data, split, halvings=1, seed=1)
    assert other["ceiling"] != panel_bounds(data, split, halvings=1)["ceiling"]


# ---- counts -------------------------------------------------------------------------------------------------


def counted(
    contexts: Sequence[str] = ("A549",), order: Sequence[int] | None = None, **sizes: int
) -> PerturbDataset:
    """Return a data set of counts, its genes in some order."""
    cells = counts_screen(TARGETS, contexts, **({"cells": 13, "controls": 40} | sizes))
    return counts_dataset(cells if order is None else cells[:, list(order)].copy())


def holding(ds: PerturbDataset, *perts: str) -> FrozenSplit:
    return split_one(ds, "perturbation_ood", {"holdout": list(perts)}, val_frac=0.0, calib_frac=0.0)


def of_halves(ds: PerturbDataset, split: FrozenSplit) -> Comparison:
    side = observed(ds, split)
    halves = halved(ds, side, np.random.default_rng(4))
    assert halves is not None
    return module._of_halves(ds, side, halves)


@pytest.mark.parametrize(
    ("contexts", "order"), [(("A549",), None), (("A549", "K562"), None), (("A549",), range(79, -1, -1))]
)
def test_a_half_of_counts_is_predicted_by_the_counts_of_the_other_half(
    contexts: Sequence[str], order: Sequence[int] | None
) -> None:
    ds = counted(contexts, order)
    c = of_halves(ds, holding(ds, *TARGETS[:3]))
    assert len(c) == 3 * len(contexts)
    assert c.cells is not None
    assert c.cells.own_rows is not None
    assert not c.cells.generates
    assert ds.values.counts is not None
    name = "cell_eval2.delta_pearson"
    found = module._scores([METRICS.get(name)], c, "cell")[0][name]
    expected = []
    for context in contexts:
        rows = [i for i in range(len(c)) if c.contexts[i] == context]
        control = c.cells.control_rows[context]
        sides = []
        for of in (c.cells.truth_rows, c.cells.own_rows):
            chosen = [np.asarray(of[i]) for i in rows]
            labels = np.repeat([*c.perturbations[rows], "control"], [len(r) for r in (*chosen, control)])
            counts = ds.values.counts[np.concatenate([*chosen, control])]
            sides.append(label_cells(counts, labels, ds.genes, "control"))
        for i in rows:
            assert not set(c.cells.truth_rows[i]) & set(np.asarray(c.cells.own_rows[i]))
        values = evaluate(Truth(sides[0]), sides[1], ["delta_pearson"])
        expected += list(values.values["delta_pearson"])
    assert found == pytest.approx(np.mean(expected), rel=1e-12)


def test_log_values_of_a_half_are_still_its_own(data: PerturbDataset) -> None:
    c = of_halves(data, held_out(data))
    assert c.cells is not None
    assert c.cells.own_counts is None
    assert not c.cells.generates


def few_bounds(
    monkeypatch: pytest.MonkeyPatch, ds: PerturbDataset, split: FrozenSplit, **options: Any
) -> dict[str, Any]:
    """Return the ceilings of the metrics that are 1 by definition."""
    chosen = [METRICS.get(name) for name in ("calibrated.headline", SCORE)]
    monkeypatch.setattr(module, "headline_metrics", lambda: chosen)
    found: dict[str, Any] = panel_bounds(ds, split, halvings=1, **options)["ceiling"]
    return found


def test_the_anchor_is_1_where_there_is_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = counted(cells=30, controls=110)
    found = few_bounds(monkeypatch, ds, holding(ds, *TARGETS[:3]))
    half = {name: item["half"] for name, item in found.items() if "half" in item}
    assert half == {"calibrated.headline": 1, SCORE: 1}
    # Of the metrics behind the scores replicates are what they are.
    assert found[SCORE]["anchor"] == 1
    assert 0.5 < found["vcc2026.pds_cosine"]["anchor"] <= 1


@pytest.mark.parametrize("contexts", [("A549",), ("A549", "K562")])
def test_the_ends_of_a_scale_are_among_the_bounds(contexts: Sequence[str]) -> None:
    ds = counted(contexts)
    ends = {m: {"baseline": 0.5, "anchor": 0.25 if m in ERRORS else 0.75} for m in VCC2026}
    scale = {"vcc2026": dict.fromkeys(contexts, ends)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "headline_metrics", lambda: [METRICS.get(SCORE)])
        bounds = panel_bounds(ds, holding(ds, *TARGETS[:3]), halvings=1, scales=lambda _: scale)
    for name, expected in ((SCORE, (0.0, 1.0)), ("vcc2026.pds_cosine", (0.5, 0.75))):
        marks = marks_of(bounds["ceiling"], bounds["floor"], METRICS.get(name))
        assert (marks.baseline, marks.anchor) == expected
    assert marks_of(bounds["ceiling"], bounds["floor"], METRICS.get(SCORE)).half == 1


def test_without_counts_the_score_has_no_ceiling(
    monkeypatch: pytest.MonkeyPatch, data: PerturbDataset
) -> None:
    found = few_bounds(monkeypatch, data, held_out(data))
    assert found["calibrated.headline"]["half"] == 1
    assert found[SCORE] == {"reason": METRICS.get(SCORE).inapplicable}
    assert "keeps no counts" in found[SCORE]["reason"]


@pytest.mark.parametrize("contexts", [("A549",), ("A549", "K562")])
def test_without_a_scale_the_score_has_no_ceiling(
    monkeypatch: pytest.MonkeyPatch, contexts: Sequence[str]
) -> None:
    ds = counted(contexts)
    # The mean response of one perturbation leaves its own gene out, so there is no baseline, and no mean that it differs from.
    found = few_bounds(monkeypatch, ds, holding(ds, TARGETS[0]))
    assert found == {name: {"reason": METRICS.get(name).undefined} for name in found}


def test_a_scale_of_reasons_alone_is_no_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = counted()
    scale = {"vcc2026": {"A549": {"reason": "few cells"}}}
    found = few_bounds(monkeypatch, ds, holding(ds, *TARGETS[:3]), scales=lambda _: scale)
    assert found[SCORE] == {"reason": METRICS.get(SCORE).undefined}
    assert found["calibrated.headline"]["half"] == 1


# ---- beside a split -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bounds_computed")
def test_the_frozen_file_stays_and_the_bounds_are_an_object(
    tmp_path: Any, data: PerturbDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(tmp_path / "splits"))
    store = ArtifactStore(tmp_path)
    spec = SplitSpec(kind="context_ood", params={"holdout": ["x"]})
    (split, stats, _), *_ = freeze_split(store, data, spec)
    files = {p: p.read_bytes() for p in (tmp_path / "splits").iterdir()}
    before = stored_stats(store, split)
    assert before is not None
    assert set(before.ceiling or {}) == set(stats.ceiling or {})
    whole = stats_with_bounds(store, data, split)
    assert set(NAMES) <= set(whole.ceiling or {})
    assert stored_stats(store, split) == whole
    assert {p: p.read_bytes() for p in (tmp_path / "splits").iterdir()} == files
    # Made once.
    monkeypatch.setattr("perturbfm_core.pipeline.split.panel_bounds", lambda *_: pytest.fail("made again"))
    assert stats_with_bounds(store, data, split) == whole
    for panel in PANELS:
        marks = marks_of(whole.ceiling, whole.floor, headline_of(panel))
        assert (marks.half is not None) == (panel != "vcc2026"), panel


# ---- one headline -------------------------------------------------------------------------------------------


def test_the_headline_is_that_of_its_panel() -> None:
    assert headline_of() == headline_of("delta")
    assert f"{headline_of().panel}.{headline_of().name}" == HEADLINE
    for panel in PANELS:
        assert headline_of(panel).panel == panel


def test_the_headline_value_is_read_from_metrics() -> None:
    metrics = {
        "delta": {"global": {"pearson_centered": 0.25, "pearson": 0.9}},
        "linear_paper": {"global": {"l2": None}},
    }
    assert headline_value(metrics) == 0.25
    assert headline_value(metrics, "linear_paper") is None
    assert headline_value({}) is None


def test_marks_are_none_where_nothing_is_known() -> None:
    marks = marks_of(
        {"reason": "no cells"}, {"null": {"reason": "no cells"}, "control_mean": {"pearson_centered": 0.1}}
    )
    assert (marks.half, marks.noise_free, marks.null, marks.control_mean) == (None, None, None, 0.1)
    assert marks_of(None, None).train_mean is None
