"""What the sensor of the inbox makes of links that lead nowhere, and of files that are still being copied."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from perturbfm_core.pipeline.inbox_files import UNFINISHED, ready
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.asset_runs import CONTEXT


@pytest.fixture
def inbox(here, tmp_path, monkeypatch):
    """Return the inbox of a store of this test's own."""
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def leave(inbox, name, file=None):
    """Leave a description, and its file."""
    fields = {"entry": name, "split": CONTEXT["key"], **({"file": file} if file else {})}
    (inbox / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    (inbox / (file or f"{name}.csv")).write_text("condition")


def test_a_link_to_nowhere_hides_no_other_submission(here, inbox):
    """Its scan is asked for, and what comes later is asked for as well."""
    sensor = here.module("inbox_sensor").inbox

    def asked():
        with dg.DagsterInstance.ephemeral() as instance:
            return sensor(dg.build_sensor_context(instance=instance)).run_key

    (inbox / "dangling.yaml").symlink_to("/nowhere/a.yaml")
    (inbox / "ring.yaml").symlink_to("ring.yaml")
    first = asked()
    assert first == asked()
    leave(inbox, "later")
    assert asked() not in (first, None)


@pytest.mark.parametrize("end", UNFINISHED)
def test_a_file_that_is_being_copied_is_not_ready(inbox, end):
    leave(inbox, "one", f"one.csv{end}")
    assert ready(ArtifactStore()) is None
    leave(inbox, "two")
    first = ready(ArtifactStore())
    assert first is not None
    (inbox / f"one.csv{end}").write_text("more of it")
    assert ready(ArtifactStore()) == first
