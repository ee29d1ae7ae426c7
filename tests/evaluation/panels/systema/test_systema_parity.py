"""Systema, the linear-model paper and Open Problems on the cell-eval cases: every record."""

from __future__ import annotations

import pytest

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
