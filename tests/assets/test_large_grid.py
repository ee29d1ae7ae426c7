"""A grid of many splits and entries: refused where it is too large, quick to load, one code location per suite."""

from __future__ import annotations

import pytest

from perturbfm_core.errors import ConfigError


@pytest.mark.parametrize(("splits", "entries"), [(1000, 100), (100_000, 1), (2, 60_000)])
def test_too_many_partitions_are_refused_with_what_to_do(here, splits, entries):
    with pytest.raises(
        ConfigError, match=r"are \d+,000 partitions.*PERTURBFM_SUITE=NAME\), each with a DAGSTER_HOME"
    ):
        here.module("partitions").check_size(splits, entries)


@pytest.mark.parametrize(("splits", "entries"), [(0, 60), (200, 60), (99_999, 1), (1666, 60)])
def test_fewer_are_not(here, splits, entries):
    here.module("partitions").check_size(splits, entries)


def test_a_code_location_of_one_suite_has_its_entries_and_data_only(here):
    partitions = here.module("partitions")
    chosen = partitions.grid_catalog(partitions.CATALOG, "small")
    assert set(chosen.models) == {"control_only", "global_mean"}
    assert (list(chosen.suites), list(chosen.datasets)) == (["small"], ["demo"])
    assert partitions.grid_catalog(partitions.CATALOG, None) is partitions.CATALOG
    with pytest.raises(ConfigError, match="unknown suite 'nope'"):
        partitions.grid_catalog(partitions.CATALOG, "nope")


def test_tables_of_a_large_grid_are_not_written_out(here, monkeypatch):
    readable = here.module("readable")
    whole = readable.splits_table().value
    monkeypatch.setattr(readable, "MOST_CELLS", 10)
    monkeypatch.setattr(readable, "MOST_SPLITS", 2)
    monkeypatch.setattr(readable, "why_not", lambda *_: pytest.fail("looked at every cell"))
    assert "perturbfm suite status" in readable.not_applicable_table().value
    shown = readable.splits_table().value
    assert "more: `perturbfm splits list`" in shown
    assert len(shown.splitlines()) < len(whole.splitlines())
