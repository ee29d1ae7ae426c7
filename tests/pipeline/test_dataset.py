"""Data set artifacts are opened once per process, and again when any of their files has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.artifact import Storage, write_dataset
from perturbfm_core.pipeline.dataset import open_dataset
from tests.support.factories import screen


@pytest.mark.parametrize("storage", ["npz", "zarr"])
def test_data_that_changed_beside_the_same_metadata_are_opened_anew(tmp_path: Path, storage: Storage) -> None:
    rows = [("A", "k"), ("A", "k"), ("control", "k"), ("control", "k")]
    for name, seed in (("one", 0), ("two", 1)):
        write_dataset(screen(rows, genes=4, name="small", seed=seed), tmp_path / name, storage)
    first = open_dataset(tmp_path / "one")
    assert open_dataset(tmp_path / "one") is first
    at = np.arange(4)
    earlier = first.delta(at)
    file = schema.NPZ_FILE if storage == "npz" else schema.ZARR_FILE
    (tmp_path / "one" / file).rename(tmp_path / "old")
    copy = shutil.copyfile if storage == "npz" else shutil.copytree
    copy(tmp_path / "two" / file, tmp_path / "one" / file)
    again = open_dataset(tmp_path / "one")
    assert np.array_equal(again.delta(at), open_dataset(tmp_path / "two").delta(at))
    assert not np.allclose(again.delta(at), earlier)
