"""Predicting with a fitted run: never a test value, the same numbers as its own prediction, and what is suggested."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_key
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.models.baselines.means import GlobalMean
from perturbfm_core.pipeline.prediction import predict_rows
from perturbfm_core.screening import requests
from perturbfm_core.screening.fitted_run import FittedRun, epistemic_share
from perturbfm_core.screening.predictions import predict_blocks, predict_requests
from perturbfm_core.screening.requests import Request, resolve_requests, unknown_covariates
from perturbfm_core.screening.suggestions import suggest
from perturbfm_core.splits.split import FrozenSplit
from tests.support.factories import conditions_of, simulated, split_all, split_one
from tests.support.fitted_runs import fitted_run


@lru_cache(maxsize=4)
def opened(model: str, kind: str = "combo_ood") -> FittedRun:
    ds = simulated(n_obs=1200, n_genes=30, n_contexts=4, n_perts=8, n_combos=10, control_fraction=0.4)
    if kind == "combo_ood":
        split = split_all(ds, kind, {}, folds=5)[0]
    else:
        split = split_one(ds, kind, {"holdout": ["C0"]})
    return fitted_run(ds, split, model)


def held_out(run: FittedRun) -> list[Request]:
    keys = [parse_key(k) for k in run.split.definition.folds.table["test"]]
    return [Request(k["pert_id"], k["context_id"]) for k in keys]


def poisoned(ds: PerturbDataset, split: FrozenSplit) -> PerturbDataset:
    """Return the data with other values in every test row and reference control, under the same content hash."""
    counts = ds.values.counts.toarray()
    rows = split.rows(ds, "test")
    counts[rows] = np.random.default_rng(1).poisson(40.0, size=(len(rows), counts.shape[1]))
    counts[ds.controls.roles == 2] = 1
    meta = ds.metadata.model_copy(update={"content_sha256": ds.content_sha256})
    return PerturbDataset(ds.obs, ds.genes, Values(counts=type(ds.values.counts)(counts)), meta)


@pytest.mark.parametrize("kind", ["combo_ood", "context_ood"])
@pytest.mark.parametrize("model", ["additive", "perturbfm-v0"])
def test_values_of_test_rows_are_never_read(model, kind):
    run = opened(model, kind)
    other = FittedRun(run.record, poisoned(run.ds, run.split), run.split, run.model, run.calibrator)
    rows = run.split.rows(run.ds, "test")
    assert not np.array_equal(run.ds.delta(rows), other.ds.delta(rows))
    a, b = (predict_requests(r, resolve_requests(r, held_out(r))) for r in (run, other))
    for name in ("mean", "sd", "lower", "upper"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert (a.verdicts, a.nearest) == (b.verdicts, b.nearest)
    assert suggest(run, 3).table.equals(suggest(other, 3).table)


def test_names_of_the_data_set_are_gathered_once_however_many_conditions_are_asked_for(monkeypatch):
    calls = []
    monkeypatch.setattr(requests, "control_names", lambda *given: calls.append(given) or {"ctrl"})
    run = opened("additive")
    resolved = resolve_requests(run, [Request(f"{g}+ctrl", c) for g in run.ds.genes for c in run.ds.contexts])
    assert len(resolved.query) == len(run.ds.genes) * len(run.ds.contexts)
    assert len(calls) == 1


class CellStart(GlobalMean):
    """The mean delta of train, and the median of the control cells of the context."""

    requires = Requires(controls=True, cells=True)

    def _mean(self, query):
        medians = [
            np.median(densified(query.control_cells(c)), axis=0)
            for c in query.conditions["context_id"].astype(str)
        ]
        return super()._mean(query) + np.asarray(medians)


def densified(cells):
    return cells.toarray() if hasattr(cells, "toarray") else cells


@pytest.mark.parametrize("kind", ["combo_ood", "context_ood"])
def test_a_model_that_starts_from_control_cells_gets_those_that_it_may_see(kind, monkeypatch):
    monkeypatch.setitem(MODELS._items, "cell_start", CellStart)
    ds = simulated(n_obs=1200, n_genes=30, n_contexts=4, n_perts=8, n_combos=10, control_fraction=0.4)
    given = opened("additive", kind)
    run = fitted_run(ds, given.split, "cell_start")
    own = predict_rows(run.ds, run.split, run.model)
    asked = [*held_out(run)[:2], Request("G00+TP53", "C0")]
    requests = resolve_requests(run, asked)
    got = predict_requests(run, requests)
    order = [run.split.definition.folds.table["test"].index(k) for k in got.conditions.index[:2]]
    assert got.mean[:2] == pytest.approx(own.mean[order], abs=1e-5)
    assert requests.query.cells.read == set(got.conditions["context_id"])
    inputs = run.ds.controls.has_role("input")
    assert inputs[requests.query.cells.rows()].all()
    assert len(suggest(run, 3, candidates=asked).table) >= 1


def test_a_test_condition_gets_the_runs_own_prediction_and_interval():
    run = opened("perturbfm-v0")
    got = predict_requests(run, resolve_requests(run, held_out(run)), 0.8)
    own = predict_rows(run.ds, run.split, run.model, calibrator=run.calibrator)
    order = [run.split.definition.folds.table["test"].index(k) for k in sorted(got.conditions.index)]
    assert got.mean[order] == pytest.approx(own.mean, abs=1e-5)
    half = own.intervals.half_width(1, own.var)
    assert (got.upper - got.mean)[order] == pytest.approx(half, rel=1e-3)
    assert (got.mean - got.lower)[order] == pytest.approx(half, rel=1e-3)
    assert (got.lower < got.mean).all()


def test_verdicts_distinguish_train_new_combinations_and_unknown_genes():
    for model in ("additive", "perturbfm-v0"):
        run = opened(model)
        train = run.view.conditions.iloc[0]
        pair = held_out(run)[0]
        requested = [
            Request(train["pert_id"], train["context_id"]),
            pair,
            Request(f"{pair.perturbation.split('+')[0]}+TP53", pair.context),
        ]
        got = predict_requests(run, resolve_requests(run, requested))
        assert got.verdicts[0].kind == "in train"
        assert got.verdicts[0].trust == "high"
        assert got.verdicts[2].trust == "low"
        assert got.verdicts[2].in_distribution is not True
        assert "knows nothing of TP53" in got.verdicts[2].text
        assert got.notes[2][0].startswith("unknown gene 'TP53'")
        assert got.evidence[0].novelty < got.evidence[1].novelty < got.evidence[2].novelty
        assert got.nearest[0] == (str(run.view.conditions.index[0]), pytest.approx(1.0))


def test_a_context_that_train_lacks_is_compared_by_its_controls():
    run = opened("additive", "context_ood")
    got = predict_requests(run, resolve_requests(run, [Request("G00", "C0"), Request("G00", "C1")]))
    assert "unseen context" in got.verdicts[0].kind
    assert got.evidence[0].contexts_held_out
    assert got.evidence[0].state > 0
    assert got.evidence[1].state is None
    assert got.verdicts[0].trust in ("fair", "low")


def test_without_a_calibrator_intervals_are_gaussian_and_not_trusted():
    run = opened("additive")
    bare = FittedRun(run.record, run.ds, run.split, run.model, None)
    got = predict_requests(bare, resolve_requests(bare, held_out(bare)[:1]), 0.95)
    assert got.upper - got.mean == pytest.approx(1.959964 * got.sd, rel=1e-5)
    assert got.method == "Gaussian, not calibrated: the run has no calibrator"
    assert got.verdicts[0].trust == "low"


def test_the_long_table_is_every_gene_of_every_condition():
    run = opened("perturbfm-v0")
    got = predict_requests(run, resolve_requests(run, held_out(run)[:2]))
    table = got.long()
    assert list(table) == [
        *("condition", "gene", "mean", "sd", "lower", "upper", "epistemic_share", "verdict"),
    ]
    assert len(table) == 2 * 30
    row = table.iloc[30 + 4]
    assert (row["condition"], row["gene"]) == (got.conditions.index[1], run.ds.genes[4])
    assert row["mean"] == pytest.approx(got.mean[1, 4])
    assert row["verdict"] == got.verdicts[1].text
    assert table["epistemic_share"].between(0, 1).all()


def test_an_ambiguous_modality_must_be_given_and_the_control_is_refused():
    run = opened("additive")
    frame = run.view.conditions.copy()
    frame.loc[frame.index[:3], "modality"] = "KO"
    mixed = FittedRun(run.record, run.ds, run.split, run.model, run.calibrator)
    mixed.__dict__["view"] = replace(run.view, conditions=frame)
    with pytest.raises(ConfigError, match="2 different modality \\(CRISPRa, KO\\); say which by --modality"):
        resolve_requests(mixed, [Request("G00", "C0")])
    assert resolve_requests(mixed, [Request("G00", "C0", modality="KO")]).query.conditions[
        "modality"
    ].tolist() == ["KO"]
    for name in ("control", "ctrl", "ctrl+NT"):
        with pytest.raises(ConfigError, match="is the control"):
            resolve_requests(run, [Request(name, "C0")])


def test_a_control_beside_a_gene_is_no_gene():
    asked = [Request(p, "C0") for p in ("G00+ctrl", "ctrl+G01", "G01+G00+ctrl")]
    found = resolve_requests(opened("additive"), asked)
    assert found.query.conditions["pert_id"].tolist() == ["G00", "G01", "G00+G01"]
    assert found.notes == [(), (), ()]


@pytest.mark.parametrize("model", ["additive", "perturbfm-v0"])
def test_a_modality_must_be_one_of_the_data_set(model):
    run = opened(model)
    with pytest.raises(ConfigError, match="unknown modality 'crispra'; nearest: CRISPRa"):
        resolve_requests(run, [Request("G00", "C1", modality="crispra")])
    frame = run.view.conditions.copy()
    frame.loc[frame.index[-1], "modality"] = "KO"
    mixed = replace(run)
    mixed.__dict__["view"] = replace(run.view, conditions=frame)
    pert = next(p for p in frame["pert_id"] if "+" not in p)
    got = predict_requests(mixed, resolve_requests(mixed, [Request(pert, "C1", modality="KO")]))
    assert got.verdicts[0].kind == f"gene seen under another modality ({pert})"
    assert "knows nothing" not in got.verdicts[0].text
    if got.evidence[0].blank:
        assert f"train has {pert} under another modality only" in got.verdicts[0].text
        assert got.verdicts[0].trust == "low"


def test_a_context_whose_controls_come_with_rows_of_other_folds_only_is_refused():
    rows = [(p, c) for c in "ABC" for p in ("g0", "g1", "g2", "g3")]
    rng = np.random.default_rng(0)
    columns = {schema.PERT_ID: [p for p, _ in rows], schema.CONTEXT_ID: [c for _, c in rows]}
    values = Values(delta=rng.normal(size=(12, 5)).astype("f4"), x_control=rng.random((12, 5)).astype("f4"))
    ds = PerturbDataset(
        make_obs(columns, [f"r{i}" for i in range(12)]),
        [f"g{i}" for i in range(5)],
        values,
        DatasetMetadata(name="s", space="log1p", control_policy="file"),
    )
    run = fitted_run(ds, split_one(ds, "context_ood", {"holdout": ["C"]}), "additive")
    assert resolve_requests(run, [Request("g1", "A")]).query.control.shape == (1, 5)
    for contexts in (["C"], ["A", "C"]):
        with pytest.raises(ConfigError, match=r"context 'C' has no control that .*; ask for one of A, B$"):
            resolve_requests(run, [Request("g1", c) for c in contexts])


def test_a_covariate_that_train_lacks_is_named_and_lowers_trust():
    run = opened("additive")
    train = run.view.conditions.iloc[0]
    known, strange = (
        predict_requests(
            run, resolve_requests(run, [Request(train["pert_id"], train["context_id"], covariates=c)])
        )
        for c in ("", "nonsense=1")
    )
    assert known.verdicts[0].trust == "high"
    assert strange.verdicts[0].trust == "fair"
    assert strange.verdicts[0].in_distribution is None
    assert "covariate 'nonsense' is unknown to train" in strange.verdicts[0].text


def test_covariates_are_compared_by_name_and_value():
    times = ['{"time":"6 h"}', '{"time":"24 h"}']
    train = conditions_of([("c", "A", "", "", t) for t in times])
    given = ("", times[0], '{"time":"48 h"}', '{"other":"x","time":"6 h"}')
    got = unknown_covariates(conditions_of([("c", "A", "", "", t) for t in given]), train)
    assert got == [
        ("no covariate 'time' was given",),
        (),
        ("train has no time=48 h",),
        ("covariate 'other' is unknown to train",),
    ]


@pytest.mark.parametrize("model", ["additive", "perturbfm-v0"])
def test_predictions_in_blocks_equal_those_made_at_once(model):
    run = opened(model)
    requested = resolve_requests(run, held_out(run))
    whole, blocks = predict_requests(run, requested, 0.8), list(predict_blocks(run, requested, 0.8, size=3))
    assert len(blocks) == -(-len(whole) // 3) > 1
    for name in ("mean", "sd", "lower", "upper"):
        joined = np.concatenate([getattr(b, name) for b in blocks])
        assert joined == pytest.approx(getattr(whole, name), abs=1e-5)
    assert [v.trust for b in blocks for v in b.verdicts] == [v.trust for v in whole.verdicts]
    assert [n for b in blocks for n in b.notes] == whole.notes
    # Weights by density depend on the whole query.
    info = {**run.calibrator.info, "method": "weighted"}
    weighted = replace(run, calibrator=SimpleNamespace(info=info, apply=run.calibrator.apply))
    assert len(list(predict_blocks(weighted, requested, 0.8, size=3))) == 1


def test_the_epistemic_share_is_at_most_one():
    ones = np.ones((2, 3), dtype=np.float32)
    over = np.asarray([[0.5, 0.5, 0.5], [9.0, 9.0, 9.0]], dtype=np.float32)
    assert epistemic_share(Prediction(ones, ones, over)).tolist() == [0.5, 1.0]


# ---- suggesting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["additive", "perturbfm-v0"])
def test_only_unmeasured_conditions_are_suggested_each_once(model):
    run = opened(model)
    found = suggest(run, 8)
    assert found.method == ("entropy" if model == "perturbfm-v0" else "variance")
    pairs = set(zip(found.table["context"], found.table["perturbation"], strict=True))
    assert len(pairs) == 8
    measured = set(
        run.ds.conditions[["context_id", "pert_id"]].astype(str).itertuples(index=False, name=None)
    )
    assert not pairs & measured
    # 28 pairs less 10 measured ones in each of 4 contexts.
    assert (found.n_candidates, found.n_possible) == (72, 72)
    assert found.table["rank"].tolist() == list(range(1, 9))
    assert np.isfinite(found.table[["information", "novelty", "effect_size"]].to_numpy()).all()


def test_information_falls_from_suggestion_to_suggestion():
    gains = suggest(opened("perturbfm-v0"), 10).table["information"].to_numpy()
    assert (np.diff(gains) <= 1e-9).all()
    assert (gains > 0).all()


def test_candidates_that_repeat_each_other_are_one_and_those_of_train_are_left_out():
    run = opened("perturbfm-v0")
    train = run.view.conditions.iloc[0]
    new = held_out(run)[:2]
    parts = new[0].perturbation.split("+")
    listed = [
        *new,
        Request("+".join(parts[::-1]), new[0].context),
        Request(train["pert_id"], train["context_id"]),
    ]
    found = suggest(run, 9, candidates=listed)
    assert sorted(found.table["perturbation"]) == sorted(a.perturbation for a in new)
    assert (found.n_candidates, found.n_possible) == (2, 2)
    assert found.notes == ("candidates left out: 1 already in train",)
    with pytest.raises(ConfigError, match="train has all 1 candidates"):
        suggest(run, 1, candidates=listed[-1:])


@pytest.mark.parametrize(
    ("model", "alike"), [("additive", False), ("global_mean", True), ("perturbfm-v0", False)]
)
def test_a_model_that_is_equally_uncertain_of_all_candidates_is_said_to_be(model, alike):
    found = suggest(opened(model), 3, method="variance")
    assert (len(set(found.table["information"])) == 1) is alike
    assert any("equally uncertain" in note for note in found.notes) is alike


def test_names_of_candidates_that_nobody_knows_are_noted():
    run = opened("perturbfm-v0")
    odd = [Request(f"G0{i};G0{i + 1}", c) for i in range(7) for c in ("C1", "C2")]
    found = suggest(run, 3, candidates=[*odd, Request("G00+G05", "C1")])
    assert found.notes[0].startswith("unknown gene 'G00;G01'; nearest: ")
    assert (len(found.notes), found.notes[-1]) == (6, "2 more notes on candidates")


def test_candidates_of_other_contexts_are_left_out():
    run = opened("perturbfm-v0")
    listed = [Request("G00+G05", "C1"), Request("G01+G06", "C2"), Request("G02+G07", "C3")]
    found = suggest(run, 3, contexts=["C1"], candidates=listed)
    assert found.table["context"].tolist() == ["C1"]
    assert found.notes == ("candidates left out: 2 of other contexts than C1",)
    with pytest.raises(ConfigError, match="no candidate is of context C0; the first is of 'C1'"):
        suggest(run, 3, contexts=["C0"], candidates=listed)


def test_diversity_is_refused_where_it_has_no_effect():
    with pytest.raises(ConfigError, match="--diversity serves --method variance only"):
        suggest(opened("perturbfm-v0"), 2, diversity=0.9)
    assert len(suggest(opened("perturbfm-v0"), 2, diversity=0.9, method="variance").table) == 2


def test_entropy_needs_a_process_and_contexts_must_exist():
    with pytest.raises(ConfigError, match="'additive' has no process over conditions; use --method variance"):
        suggest(opened("additive"), method="entropy")
    with pytest.raises(ConfigError, match="unknown context 'c1'; nearest: C1"):
        suggest(opened("additive"), contexts=["c1"])


def test_too_many_candidates_are_sampled_with_a_seed(monkeypatch):
    monkeypatch.setattr("perturbfm_core.screening.suggestions.MAX_CANDIDATES", 30)
    run = opened("additive")
    a, b = suggest(run, 3), suggest(run, 3)
    assert a.n_candidates == 30
    assert a.n_possible == 72
    pd.testing.assert_frame_equal(a.table, b.table)
    monkeypatch.setattr("perturbfm_core.screening.suggestions.MAX_CANDIDATES", 10)
    drawn = suggest(run, 3)
    assert 0 < drawn.n_candidates <= 10
    assert drawn.n_possible == 112  # counted before what is measured is taken out
