"""Systema, the linear-model paper and Open Problems on the cell-eval cases: every record."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.evaluation.panels.systema import parity
from perturbfm_core.evaluation.panels.systema.parity import systema_records
from tests.support.paths import TESTS


@pytest.mark.parametrize("case", ["synth_a", "devel_norman"])
def test_every_record_is_the_peers(case):
    places = [
        TESTS / "parity" / "cell_eval" / case,
        TESTS.parents[1] / "shared" / "parity" / "cell_eval" / case,
    ]
    folder = next((p for p in places if (p / "expected.json").is_file()), None)
    if folder is None:
        pytest.skip(f"no case {case} at {places}")
    records = list(systema_records(folder))
    assert len(records) > 400
    assert [r for r in records if r.skipped is None and not r.ok] == []
    assert [r.metric for r in records if r.skipped] == ["systema.linear_paper.topk_used"]


def sized(*sizes):
    """Return changes of 24 genes: the given ones, then zeros."""
    return np.asarray([*sizes, *[0.0] * (24 - len(sizes))])


@pytest.mark.parametrize(
    ("sizes", "given", "found"),
    [
        # Twelve genes change: any eight others fill the peer's twenty.
        (range(1, 13), [*range(12), *range(16, 24)], [*range(12), *range(16, 24)]),
        # Not without one of the twelve, with too few, or with one twice.
        (range(1, 13), range(1, 21), range(20)),
        (range(1, 13), range(12), range(20)),
        (range(1, 25), range(4, 24), range(4, 24)),
        (range(1, 25), range(3, 23), range(4, 24)),
    ],
)
def test_genes_of_largest_change_are_those_of_the_case_where_ties_leave_a_choice(sizes, given, found):
    assert parity._largest(sized(*sizes), list(given)) == list(found)


def test_the_jaccard_index_of_a_prediction_without_change_is_that_of_any_twenty_genes():
    value, (least, most) = parity._jaccard(list(range(20)), sized())
    assert (least, most) == (16 / 24, 1.0)
    assert least <= value <= most
    assert parity._jaccard(list(range(18)), np.arange(1.0, 19.0)) == (1.0, (1.0, 1.0))
    assert parity._jaccard(list(range(20)), -np.arange(24.0)) == (16 / 24, (16 / 24, 16 / 24))


def test_a_single_perturbation_has_no_reference_and_all_else(tmp_path):
    perturbed = np.asarray([[1.0, 2.0, 0.0]])
    control = np.asarray([0.5, 1.0, 0.0])
    given = {
        "train_perts": [],
        "test_perts": ["a"],
        "perturbed_centroid_reference": [None] * 3,
        "control_mean": list(control),
        "per_perturbation": {"a": {"corr_all_allpert": None, "mse_all": 0.25, "corr_all": 1.0}},
        "centroid_accuracy_vs_all_perts": {"a": None},
        "centroid_accuracy_vs_test_perts": {"a": None},
        "systematic_variation_cosine": {"avg_ctl": {"a": 1.0}, "avg_pert": {"a": None}},
        "systematic_variation_mean": {"avg_ctl": 1.0, "avg_pert": None},
        "pairwise_cosine_mean": {"avg_ctl": None, "avg_pert": None},
    }
    observed = {"none": control, "a": perturbed[0]}
    predicted = {"none": control, "a": perturbed[0] + [0.5, 0.5, 0.5]}
    records = list(parity._systema(given, observed, predicted, ["g0", "g1", "g2"], "none"))
    assert [r for r in records if not r.ok] == []
    assert len(records) == 1 + 3 + 3 + 3 + 1 + 1 + 2 + 2 + 2


@pytest.mark.parametrize(("noise", "skipped"), [(1e-9, True), (1e-2, False)])
def test_a_correlation_of_rounding_errors_is_not_compared(noise, skipped):
    # The prediction is the reference itself but for noise; the peer's value is another one than ours.
    record = parity._value("corr_all_allpert", "a", 0.9, -0.1)
    changes = [np.asarray([1.0, -1.0, 0.5]), noise * np.asarray([1.0, -1.0, 0.5])]
    found = parity._unless_noise(record, changes, 2.0)
    assert (found.skipped is not None) is skipped
    same = parity._value("corr_all_allpert", "a", 0.9, 0.9)
    assert parity._unless_noise(same, changes, 2.0) is same


def test_a_split_of_the_case_is_taken_as_input():
    case = TESTS / "parity" / "cell_eval" / "synth_order"
    records = list(parity.systema_records(case))
    assert [record.key for record in records if record.skipped] == ["split"]
    assert all(record.ok for record in records if not record.skipped)
    names = {record.metric for record in records}
    assert {"systema.corr_all_allpert", "systema.centroid_accuracy_vs_test_perts"} <= names
