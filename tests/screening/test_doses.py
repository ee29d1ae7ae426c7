"""Doses: how they may be written, and which of them train has any experience with."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest

from perturbfm_core.data.quantities import split_doses
from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import Needs
from perturbfm_core.screening import suggestions
from perturbfm_core.screening.doses import TrainDoses, most_used
from perturbfm_core.screening.fitted_run import FittedRun
from perturbfm_core.screening.predictions import predict_requests
from perturbfm_core.screening.requests import Request, resolve_requests
from perturbfm_core.screening.suggestions import new_names, suggest
from tests.support.factories import conditions_of, screen, split_all
from tests.support.fitted_runs import fitted_run

TRAIN = conditions_of(
    [
        ("c", "A", "drug", "0.1 uM"),
        ("c", "A", "drug", "1 uM"),
        ("d", "A", "drug", "1 uM"),
        ("c", "A+B", "drug", "1 uM+20 uM"),
        ("c", "K", "KO"),
        ("c", "M", "mixed"),
        ("c", "N", "mixed", "5 uM"),
    ]
)


@lru_cache(maxsize=2)
def drugs(model: str) -> FittedRun:
    """Return a run on 16 drugs at three doses, of which one fold is left out."""
    rng = np.random.default_rng(0)
    B = rng.normal(size=(16, 24))
    rows = [("control", "A") for _ in range(6)]
    X = [5 + 0.05 * rng.normal(size=24) for _ in rows]
    for d in range(16):
        for dose in ("0.1", "1", "10"):
            rows.append((f"drug{d:02d}", "A", {"modality": "drug", "doses": dose}))
            X.append(5 + 0.4 * B[d] * np.log1p(float(dose)) + 0.05 * rng.normal(size=24))
    ds = screen(rows, X=np.abs(X), genes=24, space="log1p")
    split = split_all(ds, "perturbation_ood", {}, folds=4)[0]
    return fitted_run(ds, split, model)


def a_drug(run: FittedRun) -> str:
    return str(run.view.conditions["pert_id"].iloc[0])


@pytest.mark.parametrize("model", ["additive", "perturbfm-v0"])
@pytest.mark.parametrize(
    ("dose", "trust", "inside"),
    [
        pytest.param("10", "high", True, id="top"),
        pytest.param("10.0", "high", True, id="the-same-number"),
        pytest.param("1e1", "high", True, id="exponent"),
        pytest.param("20", "fair", None, id="beyond"),
        pytest.param("100", "fair", None, id="ten-times"),
        pytest.param("101", "low", False, id="more-than-ten-times"),
        pytest.param("1000000", "low", False, id="far"),
        pytest.param("0.02", "fair", None, id="below"),
        pytest.param("0.001", "low", False, id="far-below"),
        pytest.param("0", "low", False, id="zero"),
    ],
)
def test_a_dose_outside_those_of_train_is_not_trusted(model, dose, trust, inside):
    run = drugs(model)
    verdict = predict_requests(run, resolve_requests(run, [Request(a_drug(run), "A", doses=dose)])).verdicts[
        0
    ]
    assert (verdict.trust, verdict.in_distribution) == (trust, inside)
    assert ("is outside train's 0.1 to 10" in verdict.text) == (trust != "high")


@pytest.mark.parametrize(
    ("dose", "words"),
    [
        pytest.param("garbage", "dose 'garbage' is not a number of at least 0", id="word"),
        pytest.param("-5", "dose '-5' is not a number of at least 0", id="negative"),
        pytest.param("nan", "dose 'nan' is not a number of at least 0", id="nan"),
        pytest.param("1e999", "dose '1e999' is not a number of at least 0", id="infinite"),
        pytest.param("1+10+1", "are 3 for the 2 parts of 'drug01\\+drug02'", id="count"),
    ],
)
def test_a_malformed_dose_is_refused(dose, words):
    with pytest.raises(ConfigError, match=words):
        resolve_requests(drugs("additive"), [Request("drug01+drug02", "A", doses=dose)])


def test_without_a_dose_the_most_used_of_train_is_taken_and_noted():
    run = drugs("additive")
    drug = a_drug(run)
    got = resolve_requests(run, [Request(drug, "A", doses=""), Request(f"{drug}+new", "A", doses="1+")])
    assert got.query.conditions["doses"].tolist() == ["10", "1+10"]
    assert got.notes[0] == (f"no dose of '{drug}' was given; 10, the most used of train, is taken",)
    assert "no dose of 'new' was given; 10, the most used of train, is taken" in got.notes[1]
    assert predict_requests(run, got).verdicts[0].kind == "in train"


def test_a_dose_is_converted_to_the_unit_of_the_data():
    doses = TrainDoses(TRAIN, TRAIN)
    assert doses.written("1 uM") == ("1 uM", None)
    assert doses.written("1") == ("1 uM", None)
    assert doses.written("1000 nM") == ("1 uM", None)
    assert doses.written("0.5 µM") == ("0.5 uM", None)
    assert doses.written("1e+3")[0] == "1000 uM"
    assert doses.written("") == ("", None)
    for text in ("1 mg/ml", "1 spoon"):
        with pytest.raises(ConfigError, match=f"dose '{text}' has no unit that compares .* give it in 'uM'"):
            doses.written(text)
    plain = conditions_of([("c", "A", "drug", "10")])
    text, note = TrainDoses(plain, plain).written("10 uM")
    assert text == "10"
    assert "the unit of '10 uM' is not read" in note


def test_any_dose_of_the_data_set_can_be_requested():
    odd = conditions_of([("c", "A", "drug", "high"), ("c", "A", "drug", "3 spoons")])
    doses = TrainDoses(odd, odd)
    assert doses.written("high") == ("high", None)
    assert doses.written("5 spoons") == ("5 spoons", None)
    assert doses.judged("A", "drug", "high") == ("high", "")
    assert doses.judged("A", "drug", "6 spoons") == ("fair", "dose 6 spoons of A is outside train's 3 spoons")


def test_a_part_is_judged_by_its_own_doses_first():
    judged = TrainDoses(TRAIN, TRAIN).judged
    assert judged("A", "drug", "0.5 uM") == ("high", "")
    assert judged("A", "drug", "20 uM")[0] == "low"  # B had it, A at most 1
    assert judged("B", "drug", "2 uM") == ("fair", "dose 2 uM of B is outside train's 20 uM")
    assert judged("new", "drug", "20 uM") == ("high", "")  # in the range of all drugs
    assert judged("new", "drug", "21 uM")[0] == "fair"
    assert judged("M", "mixed", "5 uM") == ("fair", "train has M without a dose only")
    assert judged("N", "mixed", "") == ("fair", "no dose of N was given")
    assert judged("K", "KO", "") == ("high", "")
    assert judged("K", "KO", "5 uM") == ("low", "dose 5 uM of K compares with no dose of train")


def test_the_most_used_dose_is_the_largest_of_equals_by_number():
    assert most_used(["0.1", "1", "10", "9"]) == "10"
    assert most_used(["0.1", "0.1", "10"]) == "0.1"
    assert most_used(["5 uM", "900 nM"]) == "5 uM"
    assert most_used([]) == ""
    doses = TrainDoses(TRAIN, TRAIN)
    assert doses.usual("A", "drug") == "1 uM"
    assert doses.usual("M", "mixed") == doses.usual("new", "mixed") == ""  # some of train have none
    assert split_doses("1e+3 uM+2") == ["1e+3 uM", "2"]


# ---- suggesting ----------------------------------------------------------------------------------------------


def test_suggestions_name_doses_and_covariates_and_take_the_top_dose_of_equals():
    run = drugs("additive")
    found = suggest(run, 3).table
    assert set(found["doses"]) == {"10+10"}
    assert set(found["covariates"]) == {""}
    listed = [Request("drug01+drug02", "A", doses=d) for d in ("1", "5")]
    assert sorted(suggest(run, 2, candidates=listed).table["doses"]) == ["1+1", "5+5"]


def test_in_a_drug_screen_drugs_are_new_names_and_genes_are_not(tmp_path):
    run = drugs("additive")
    genes = [str(g) for g in run.ds.genes]
    every = set(run.ds.conditions["pert_id"])
    np.savez(
        tmp_path / "m.npz", perturbations=np.asarray(["new"]), genes=np.asarray(genes), mask=np.ones((1, 24))
    )
    described = replace(run, model=SimpleNamespace(needs=lambda: Needs(masks=str(tmp_path / "m.npz"))))
    described.__dict__["process"] = SimpleNamespace(describable=lambda: [*genes, *every, "new", "unmeasured"])
    held = every - set(run.view.conditions["pert_id"])
    assert held
    assert new_names(described, "drug") == sorted({*held, "new"})
    # A screen of measured genes offers measured genes only.
    frame = run.view.conditions.assign(pert_id=[genes[i % 5] for i in range(len(run.view.conditions))])
    described.__dict__["view"] = replace(run.view, conditions=frame)
    assert new_names(described, "drug") == sorted(genes[5:])


def test_a_new_name_with_a_plus_sign_is_suggested_as_one_drug(monkeypatch):
    run = drugs("additive")
    monkeypatch.setattr(suggestions, "new_names", lambda *_: ["(+)-JQ1"])
    found = set(suggest(run, 500).table["perturbation"])
    assert {p for p in found if "JQ1" in p} == {"(%2B)-JQ1"}
