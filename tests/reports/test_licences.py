"""Licences of data sets on pages: beside a run's other inputs, and with each data set of the leaderboard."""

from __future__ import annotations

import pandas as pd
import pytest

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.leaderboard.page_data_about import about_datasets
from perturbfm_core.reports.run.provenance import provenance
from perturbfm_core.store.run_record import RunRecord
from tests.support.factories import run_config


@pytest.mark.parametrize("licence", ["CC-BY-4.0", "not stated in the repository (code MIT)", None])
def test_a_run_names_the_licence_of_its_data(licence: str | None) -> None:
    record = RunRecord.model_validate(run_config("ridge"))
    data = record.dataset.model_copy(update={"licence": licence})
    rows = dict(provenance(record.model_copy(update={"dataset": data})))
    assert rows["licence of the data"] == (licence or "not recorded")


def test_the_leaderboard_names_the_licence_of_each_data_set() -> None:
    table = pd.DataFrame(
        [{"dataset": "a", "licence": "CC0-1.0", "n_obs": 5}, {"dataset": "b", "licence": None}]
    )
    found = about_datasets(table, ["a", "b", "c"], load_catalog())
    assert [r.get("licence") for r in found] == ["CC0-1.0", None, None]
