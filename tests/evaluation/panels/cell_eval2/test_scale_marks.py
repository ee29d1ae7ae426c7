"""Marks of the metrics of panel `vcc2026`: 0 and 1 of the scores, and what they are of the metrics behind them."""

import pytest

from perturbfm_core.evaluation.panels.cell_eval2.catalog import NORM, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.scale import SCORED
from perturbfm_core.evaluation.scale_marks import scale_marks

# Better at the anchor: errors fall, the others rise.
ERRORS = (NORM, "de_wilcoxon_lfc_nmae")


def context(shift=0.0, **other):
    ends = {
        m: {
            "baseline": shift + (0.9 if m in ERRORS else 0.2),
            "anchor": shift + (0.1 if m in ERRORS else 0.8),
        }
        for m in VCC2026
    }
    return {**ends, **other}


def marks(scale, contexts):
    return scale_marks("vcc2026", "vcc2026_score", scale, contexts)


SCORES = {"vcc2026.vcc2026_score", *(f"vcc2026.score_{m}" for m in SCORED)}


def test_one_context_has_its_own_ends():
    found = marks({"A": context()}, ["A"] * 4)
    assert set(found) == SCORES | {f"vcc2026.{m}" for m in VCC2026}
    assert {found[name] for name in SCORES} == {(0.0, 1.0)}
    for m in VCC2026:
        assert found[f"vcc2026.{m}"] == tuple(context()[m].values())


@pytest.mark.parametrize(("sizes", "share"), [((3, 1), 0.25), ((1, 1), 0.5), ((1, 4), 0.8)])
def test_contexts_weigh_by_their_conditions(sizes, share):
    contexts = ["A"] * sizes[0] + ["B"] * sizes[1]
    found = marks({"A": context(), "B": context(0.1)}, contexts)
    assert found["vcc2026.pds_cosine"] == pytest.approx((0.2 + 0.1 * share, 0.8 + 0.1 * share))
    # A ratio of sums over all conditions is no mean of contexts.
    assert f"vcc2026.{NORM}" not in found
    assert found[f"vcc2026.score_{NORM}"] == (0.0, 1.0)


def test_a_context_without_a_scale_leaves_the_scores_alone():
    found = marks({"A": context(), "B": {"reason": "few cells"}}, ["A", "B", "B"])
    assert set(found) == SCORES
    assert marks({"A": {"reason": "few cells"}}, ["A"]) == {}
    assert marks({}, ["A"]) == {}


@pytest.mark.parametrize("ends", [{"baseline": 0.9, "anchor": 0.9}, {"baseline": None, "anchor": 0.9}])
def test_a_metric_without_a_scale_takes_the_mean_score_with_it(ends):
    found = marks({"A": context(pds_cosine=ends)}, ["A", "A"])
    assert set(found) & SCORES == SCORES - {"vcc2026.vcc2026_score", "vcc2026.score_pds_cosine"}
    assert ("vcc2026.pds_cosine" in found) == (ends["baseline"] is not None)
