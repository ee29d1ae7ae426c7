"""Presets that users write: whatever fails in them is an error that names the preset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core.data.importing import ColumnMapping, read_h5ad
from perturbfm_core.data.preset import PRESETS, preset
from perturbfm_core.errors import DatasetError


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the presets of a test."""
    _ = len(PRESETS)
    for name in ("_members", "_order"):
        monkeypatch.setattr(PRESETS, name, dict(getattr(PRESETS, name)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda path: {"pert_col": "guide"}, "preset 'lab' must return a ColumnMapping, found dict"),
        (lambda path: None, "preset 'lab' must return a ColumnMapping, found NoneType"),
        (lambda path: path["obs"], "preset 'lab' fails: TypeError"),
        (lambda: None, "preset 'lab' fails: TypeError: .*positional argument"),
    ],
)
def test_a_mapping_that_is_none_is_refused(
    tmp_path: Path, function: Callable[..., Any], message: str
) -> None:
    preset("lab", "file")(function)
    with pytest.raises(DatasetError, match=message):
        read_h5ad(tmp_path / "a.h5ad", preset="lab")


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (lambda path, folder: None, "its reader must return the Path of the h5ad file it wrote, found NoneType"),
        (lambda path, folder: folder / "not.h5ad", "found .*not.h5ad, which does not exist"),
        (lambda path, folder: "made.h5ad", "found str"),
        (lambda path, folder: {}["x"], "preset 'lab', reader fails: KeyError: 'x'"),
        (lambda path: path, "preset 'lab', reader fails: TypeError"),
    ],
)  # fmt: skip
def test_a_reader_that_makes_no_file_is_refused(
    tmp_path: Path, reader: Callable[..., Any], message: str
) -> None:
    preset("lab", "file", reader=reader)(lambda path: ColumnMapping(pert_col="guide"))
    with pytest.raises(DatasetError, match=message):
        read_h5ad(tmp_path / "a.h5ad", preset="lab")


def test_a_mapping_keeps_its_name_and_its_text() -> None:
    def lab(path: Path) -> ColumnMapping:
        """Return our columns."""
        return ColumnMapping(pert_col=path.stem)

    preset("lab", "file")(lab)
    mapping = PRESETS.get("lab").mapping
    assert mapping(Path("guide.h5ad")).pert_col == "guide"
    assert (mapping.__module__, mapping.__doc__) == (lab.__module__, lab.__doc__)
