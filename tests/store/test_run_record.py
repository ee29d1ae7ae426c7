"""The record of a run: one form, read as it was written, earlier versions too."""

from __future__ import annotations

import json

import pytest

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.store.run_record import RunRecord, read_run_record
from tests.support.factories import run_config

# What a run of version 1 held, as far as it is read.
OLD = {
    "schema_version": 1,
    "created": "2026-01-01T00:00:00.000000",
    "dataset": {"name": "screen", "content_sha256": "d" * 64},
    "split": {"hash": "a" * 64, "key": "screen.combo_ood.aaaaaaaaaaaa", "kind": "combo_ood", "cv": None},
    "graph_hash": None,
    "flags": {"no_signal": False, "shared_control": True},
    "generator": {"kind": "control_shift"},
    "alignment": "by_name",
    "var_filled": False,
    "notes": {"rows_not_asked_for": 0},
    "entry": "perturbfm-v2",
    "model": "perturbfm-v2",
    "family": "perturbfm",
    "params": {},
    "uncertainty": {},
    "tuned": None,
    "seed": 0,
    "config_hash": "c" * 64,
    "entry_hash": "e" * 64,
    "objects": {"model": "1", "prediction": "2", "scores": "3"},
    "parent_run": None,
    "environment": {"code": "f" * 64, "git_commit": None},
    "knowledge": {"graphs": {"net": "9"}, "features": {}},
    "audit": [],
    "fallback_control_rows": 0,
    "inner_folds": {"pearson": 0.5},
    "timings": {"fit_s": 1.0, "predict_s": 0.1},
    "run_id": "r",
}


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = RunRecord.model_validate(run_config("additive"))
    record.write(tmp_path)
    assert read_run_record(tmp_path) == record
    top = json.loads((tmp_path / schema.CONFIG_FILE).read_text())
    assert {"data_hash", "split_hash", "config_hash"} <= set(top)


def test_a_run_of_version_1_stays_readable(tmp_path):
    (tmp_path / schema.CONFIG_FILE).write_text(json.dumps(OLD))
    record = read_run_record(tmp_path)
    assert (record.data_hash, record.split_hash) == ("d" * 64, "a" * 64)
    assert record.family == "learned"
    assert record.side_info == OLD["knowledge"]
    assert record.code == {"all": "f" * 64}


def test_a_field_of_a_later_version_is_ignored(tmp_path):
    later = {**run_config("additive"), "schema_version": 9, "weather": "fine"}
    (tmp_path / schema.CONFIG_FILE).write_text(json.dumps(later))
    assert read_run_record(tmp_path).entry == "additive"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_hash": None}, "split_hash: Input should be a valid string"),
        ({"family": "fancy"}, "family: Input should be 'baseline', 'learned' or 'external'"),
        ({"seed": "x"}, "seed: Input should be a valid integer"),
        ({"flags": []}, "flags: Input should be a valid dictionary"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(tmp_path, change, message):
    (tmp_path / schema.CONFIG_FILE).write_text(json.dumps({**run_config("additive"), **change}))
    with pytest.raises(StoreError, match=message) as caught:
        read_run_record(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / schema.CONFIG_FILE).write_text("[]")
    with pytest.raises(StoreError, match="is not the record of a run"):
        read_run_record(tmp_path)
