"""Data sets that were damaged or changed on disk are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.support.command import Work, attempt, perturbfm
from tests.support.refusals import refuse, snapshot

SIZE = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)


# ---- data sets on disk -----------------------------------------------------------------------------------------


def pickled_data(work: Work) -> None:
    arrays = dict(np.load("D/data.npz"))
    np.savez("D/data.npz", **arrays, extra=np.asarray([{}], dtype=object))


def half_a_file(work: Work) -> None:
    content = Path("D/data.npz").read_bytes()
    Path("D/data.npz").write_bytes(content[: len(content) // 2])


def without_pert_id(work: Work) -> None:
    meta = json.loads(Path("D/meta.json").read_text())
    del meta["obs"]["pert_id"]
    Path("D/meta.json").write_text(json.dumps(meta))


def broken_meta(work: Work) -> None:
    Path("D/meta.json").write_text("{")


def newer_meta(work: Work) -> None:
    meta = json.loads(Path("D/meta.json").read_text())
    Path("D/meta.json").write_text(json.dumps({**meta, "schema_version": 99}))


def without_matrix(work: Work) -> None:
    Path("D/data.npz").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled_data, "holds pickled objects, which are never loaded"),
        (half_a_file, "is damaged or not an npz file"),
        (without_pert_id, r"lacks the columns \['pert_id'\]"),
        (broken_meta, "meta.json is not valid JSON"),
        (newer_meta, "schema version 99, this program reads 1"),
        (without_matrix, "neither data.npz nor data.zarr"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_damaged_data_sets(work, damage, message):
    damage(work)
    for argv in (
        ["data", "info", "D"],
        ["splits", "create", "--data", "D", "--spec", "iid"],
        ["train", "global_mean", "--data", "D", "--split", work.split],
    ):
        refuse(argv, message, work.path)


def test_content_that_changed_on_disk(work):
    perturbfm("data", "make-synth", *SIZE, "--out", "Z", "--name", "d", "--storage", "zarr")
    values = zarr.open_group("Z/data.zarr", mode="r+")["X/data"]
    values[0] = int(values[0]) + 1
    refuse(
        ["data", "info", "Z", "--verify"], "content of data set 'd' changed: recorded [0-9a-f]{12}", work.path
    )
    refuse(
        ["train", "linear", "--data", "Z", "--split", work.split], "leaks: changed_data: content", work.path
    )
    before = snapshot(work.path)
    answer = attempt("splits", "verify", work.split, "--data", "Z")
    assert answer.code == 2
    assert "FAILED (file and data)" in answer.out
    assert answer.err.startswith("error: content of data set 'd' changed")
    assert snapshot(work.path) == before
