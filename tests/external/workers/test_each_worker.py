"""What each worker of an external model does by itself: graphs, validation, conditions it is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from tests.support.workers import ASKED, REQUEST, asked, frames


def test_the_graph_of_gears_is_the_overlap_of_terms(load):
    gears, labels = load("gears_worker"), load("common").Labels(REQUEST)
    terms = {"A": {"t1", "t2"}, "B+x": {"t2", "t3", "t4"}, "C_1": {"t9"}}
    edges = gears._term_edges(["G0", "G1", "G2"], terms, labels)
    found = {(s, t): w for s, t, w in edges.itertuples(index=False)}
    assert found == pytest.approx(
        {("G0", "G0"): 1, ("G1", "G1"): 1, ("G2", "G2"): 1, ("G0", "G1"): 0.25, ("G1", "G0"): 0.25}
    )


def test_the_graph_of_gears_by_correlation_joins_genes_that_go_together(load, rng):
    gears = load("gears_worker")
    base = rng.normal(size=(200, 2))
    C = np.repeat(base, 20, axis=1) + 0.1 * rng.normal(size=(200, 40))
    C[:, 39] = 1.0
    genes = [f"G{i}" for i in range(40)]
    edges = gears._correlated_edges(sp.csr_matrix(C), genes, sorted([*genes, "G99"]))
    group = lambda g: int(g[1:]) // 20 if g not in ("G39", "G99") else g  # noqa: E731
    across = [
        (s, t)
        for s, t in zip(edges.source, edges.target, strict=True)
        if group(s) != group(t) and "G39" not in (s, t)
    ]
    assert across == []
    assert edges[edges.source == "G99"].target.tolist() == ["G99"]
    assert edges.importance.between(0.1, 1, inclusive="right").all()


@pytest.mark.parametrize(
    ("held", "expected"),
    [(["p1"], ["p1"]), ([], 1), (["p1", "p2", "p3", "p4"], 1), (["other"], 1)],
)
def test_gears_always_has_something_to_validate_on(load, held, expected):
    perts = np.array(["p1", "p2", "p3", "p4", "control", "other"])
    folds = np.where(np.isin(perts, held), "val", "train")
    found = load("gears_worker")._validation(
        folds, perts, perts == "control", ["p1", "p2", "p3", "p4"], REQUEST
    )
    assert found == expected if isinstance(expected, list) else len(found) == expected
    assert set(found) <= {"p1", "p2", "p3", "p4"}


@pytest.mark.parametrize(
    ("conditions", "held"),
    [
        # Nothing of the validation is needed.
        ([("A", "c3", "test")], {("V", "c1"), ("W", "c1"), ("W", "c2")}),
        ([("V", "c3", "validation")], {("V", "c1"), ("W", "c1"), ("W", "c2")}),
        # One context of it is enough.
        ([("W", "c3", "test")], {("V", "c1"), ("W", "c2")}),
        ([("W", "c3", "calibration"), ("V", "c3", "test")], {("W", "c2")}),
        # What nobody can know is no reason to give up validation.
        ([("N", "c3", "test")], {("V", "c1"), ("W", "c1"), ("W", "c2")}),
    ],
)
def test_validation_gives_way_to_what_test_conditions_need(load, conditions, held):
    rows = [
        ("A", "c1", "train"),
        ("V", "c1", "val"),
        ("W", "c1", "val"),
        ("W", "c2", "val"),
        ("control", "c1", "val"),
    ]
    obs = frames(*zip(*rows, strict=True)).obs
    request = asked(*conditions, ("W", "c1", "validation"))
    found = load("common").Held(request, obs, lambda pert, _: {pert})
    assert {(p, c) for (p, c, _), out in zip(rows, found.rows, strict=True) if out} == held
    assert ("W" in found.seen) == (("W", "c1") not in held)
    why = found.why(request["conditions"][-1])
    assert (why is None) == (("W", "c1") in held)
    assert all(found.why(c) is None for c in request["conditions"] if c["role"] != "validation")


def test_a_validation_condition_that_is_trained_on_elsewhere_stays_held(load):
    obs = frames(["A", "A"], ["c1", "c2"], ["train", "val"]).obs
    assert load("common").Held(asked(("A", "c3", "test")), obs, lambda pert, _: {pert}).rows.tolist() == [
        False,
        True,
    ]


def test_state_is_not_asked_what_it_would_take_for_control(load):
    table = frames(["A", "control", "V", "B"], ["c1", "c1", "c1", "c1"], ["train", "train", "val", "train"])
    controls = frames(["control"] * 3, ["c1", "c2", "c3"], ["train"] * 3)
    state, output = load("state_worker"), load("common").Output(Path(), ["A"])
    names = state.Names(ASKED, table, controls)
    held = load("common").Held(ASKED, table.obs, lambda pert, _: {names.pert(pert)})
    todo = state._askable(ASKED, controls, names, held, output)
    assert [c["key"] for c in todo] == ["seen", "val only", "new context"]
    why = {s["condition"]: s["why"] for s in output.skipped}
    assert set(why) == {"never", "combo of seen", "three", "no cells"}
    assert "not seen in training" in why["combo of seen"]
    assert "control cells" in why["no cells"]


def test_cpa_is_asked_combinations_of_seen_genes_in_seen_contexts(load):
    controls = frames(["control"] * 3, ["c1", "c2", "c3"], ["train"] * 3)
    cpa, common = load("cpa_worker"), load("common")
    labels, output = common.Labels(ASKED), common.Output(Path(), ["A"])
    table = frames(["A", "B", "D", "control"], ["c1"] * 4, ["train"] * 4)
    held = common.Held(ASKED, table.obs, lambda pert, _: set(labels.parts(pert)))
    todo = cpa._askable(ASKED, labels, held, {"c1", "c2", "c4"}, 2, controls, output)
    assert [c["key"] for c in todo] == ["seen", "combo of seen"]
    why = {s["condition"]: s["why"] for s in output.skipped}
    assert "context is not seen" in why["new context"]
    assert "so many genes" in why["three"]
    assert "gene of the perturbation is not seen" in why["never"]
    assert "control cells" in why["no cells"]


def test_what_a_program_prints_is_cut_at_every_end_of_line(load):
    code = r"import sys; sys.stdout.buffer.write(b'one\rtwo 1/2 \r\n\n three\xff\nrest'); sys.stdout.flush()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert list(load("state_worker")._pieces(child.stdout)) == ["one", "two 1/2", "three\ufffd", "rest"]
