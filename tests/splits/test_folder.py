"""The folder of splits: nothing that was edited, renamed or mixed up passes for a frozen split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.pipeline.split import freeze_split, split_stats
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.index import INDEX_FILE, Index
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, Split
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_json
from tests.support.factories import (
    grid_rows,
    screen,
    split_one,
    with_metadata,
    with_values,
)

SCREEN = screen(grid_rows(["A", "B"], ["x", "y"]))
FROZEN = split_one(SCREEN, "context_ood", {"holdout": ["x"]})
TEXT = FROZEN.definition.to_text().encode()


# ---- writing and reading ----------------------------------------------------------------------------------


def test_a_split_is_read_back_as_it_was_saved(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit, by_row: FrozenSplit
) -> None:
    for split in (by_condition, by_row):
        back = folder.load(split.hash)
        assert back.definition == split.definition
        assert back.hash == split.hash
        assert np.array_equal(back.codes(ds), split.codes(ds))


def test_saving_twice_finds_the_same_split(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    path = folder.path / f"{by_condition.hash}.json"
    before, index = path.read_bytes(), folder.index()
    path.touch()
    stamp = path.stat().st_mtime_ns
    assert folder.save(by_condition, split_stats(ds, by_condition, bounds=False)) is False
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == stamp
    assert folder.index() == index


def test_freezing_twice_finds_the_same_split(store: ArtifactStore, ds: PerturbDataset) -> None:
    spec = SplitSpec(kind="combo_ood", folds=2)
    first = freeze_split(store, ds, spec, bounds=False)
    second = freeze_split(store, ds, spec, bounds=False)
    assert [new for _, _, new in first] == [True, True]
    assert [new for _, _, new in second] == [False, False]
    assert [f.hash for f, _, _ in first] == [f.hash for f, _, _ in second]
    assert len(SplitFolder(store.split_dir).hashes()) == 2


def test_freezing_again_without_bounds_keeps_those_that_are_there(
    store: ArtifactStore, ds: PerturbDataset
) -> None:
    spec = SplitSpec(kind="context_ood", params={"holdout": ["x"]})
    ((split, stats, _),) = freeze_split(store, ds, spec, bounds=False)
    folder = SplitFolder(store.split_dir)
    folder.save_stats(
        split.hash, stats.model_copy(update={"ceiling": {"pearson": {"half": 0.5}}, "no_signal": False})
    )
    freeze_split(store, ds, spec, bounds=False)
    kept = folder.stats(split.hash)
    assert kept is not None
    assert kept.ceiling == {"pearson": {"half": 0.5}}
    assert kept.no_signal is False


def test_freezing_again_without_bounds_keeps_strata_of_the_expression(
    store: ArtifactStore, ds: PerturbDataset
) -> None:
    spec = SplitSpec(kind="context_ood", params={"holdout": ["x"]})
    ((split, stats, _),) = freeze_split(store, ds, spec, bounds=False)
    folder = SplitFolder(store.split_dir)
    effect = {"x|A|||": "high"}
    folder.save_stats(
        split.hash, stats.model_copy(update={"strata": {**stats.strata, "effect": effect, "seen": {}}})
    )
    freeze_split(store, ds, spec, bounds=False)
    kept = folder.stats(split.hash)
    assert kept is not None
    assert kept.strata == {**stats.strata, "effect": effect}


def test_saving_over_an_edited_file_is_refused(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    path = folder.path / f"{by_condition.hash}.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(SplitError, match="was edited"):
        folder.save(by_condition, split_stats(ds, by_condition, bounds=False))


def test_statistics_beside_a_split_hold_counts_strata_and_traits(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    stats = folder.stats(by_condition.hash)
    assert stats is not None
    assert stats.counts == {"train": {"conditions": 10, "rows": 20}, "test": {"conditions": 5, "rows": 10}}
    assert stats.strata == {"seen": {"x|A+B|||": "2", "x|B+C|||": "2"}}
    assert stats.audit == ()
    assert (stats.traits.train_contexts, stats.traits.train_combos, stats.traits.controls) == (2, 4, True)


def test_strata_count_the_singles_that_train_has(ds: PerturbDataset) -> None:
    split = split_one(ds, "perturbation_ood", {"holdout": ["A"]})
    stats = split_stats(ds, split, bounds=False)
    assert stats.strata == {"seen": {"x|A+B|||": "1", "y|A+B|||": "1", "z|A+B|||": "1"}}
    both = split_one(ds, "perturbation_ood", {"holdout": ["A", "B"]})
    assert split_stats(ds, both, bounds=False).strata["seen"]["x|A+B|||"] == "0"


def test_unused_perturbations_of_a_held_out_context_are_listed() -> None:
    ds = screen([*grid_rows(["A", "B"], ["x", "y"]), ("C", "x")])
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    assert split_stats(ds, split, bounds=False).dropped_perturbations == ("C",)


# ---- finding ----------------------------------------------------------------------------------------------


def test_a_split_is_found_by_hash_prefix_and_key(folder: SplitFolder, by_condition: FrozenSplit) -> None:
    full = by_condition.hash
    for name in (full, full[:7], full[:12].upper(), f" {full[:9]} ", by_condition.definition.key):
        assert folder.resolve(name) == full


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "abcdef", "split 'abcdef' is too short a prefix; give at least 7 characters", id="short"
        ),
        pytest.param("0" * 7, "no split in .* match '0000000'; see `perturbfm splits list`", id="none"),
        pytest.param("screen.iid.0123", "no split has the key 'screen.iid.0123' in .*; see", id="key"),
    ],
)
def test_a_name_that_finds_nothing_is_refused(folder: SplitFolder, name: str, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        folder.resolve(name)


@pytest.mark.parametrize("kind", ["firstLetter", "FIRST", "iid"])
def test_a_key_with_capital_letters_is_found_as_it_is_written(folder: SplitFolder, kind: str) -> None:
    entry = folder.index().splits[0]
    entries = [
        entry.model_copy(update={"hash": digit * 64, "key": f"screen.{name}.0123"})
        for digit, name in (("1", kind.lower() + "x"), ("2", kind))
    ]
    write_json(folder.path / INDEX_FILE, Index(splits=tuple(entries)).model_dump(mode="json"))
    assert folder.resolve(f" screen.{kind}.0123") == "2" * 64
    assert folder.resolve(f"SCREEN.{kind.lower()}X.0123") == "1" * 64


def test_an_ambiguous_prefix_is_refused(folder: SplitFolder) -> None:
    for last in "01":
        (folder.path / f"{'ab' * 31}c{last}.json").write_text("{}")
    with pytest.raises(SplitError, match=r"2 splits in .* match 'abababa'"):
        folder.resolve("abababa")
    assert folder.resolve("ab" * 31 + "c1").endswith("c1")


def test_an_empty_folder_has_no_splits(tmp_path: Path) -> None:
    folder = SplitFolder(tmp_path / "nowhere")
    assert folder.hashes() == []
    assert folder.index().splits == ()
    with pytest.raises(SplitError, match="no split in"):
        folder.load("1234567")


# ---- tampering --------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(position=st.integers(0, len(TEXT) - 1), byte=st.integers(0, 255))
def test_every_changed_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    folder = SplitFolder(tmp_path_factory.getbasetemp() / "changed-bytes")
    folder.path.mkdir(exist_ok=True)
    path = folder.path / f"{FROZEN.hash}.json"
    path.write_bytes(TEXT)
    assert folder.load(FROZEN.hash).hash == FROZEN.hash
    changed = bytearray(TEXT)
    changed[position] = byte if byte != TEXT[position] else byte ^ 1
    path.write_bytes(bytes(changed))
    with pytest.raises(SplitError, match=r"restore it"):
        folder.load(FROZEN.hash)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.replace(b'"x|A', b'"y|A', 1), id="a condition"),
        pytest.param(lambda t: t.replace(b'"seed": 0', b'"seed": 1'), id="the seed"),
        pytest.param(lambda t: t.replace(b'"val_frac": 0.1', b'"val_frac": 0.10'), id="another spelling"),
        pytest.param(lambda t: t.replace(b'"seed": 0', b'"seed":  0'), id="a space"),
        pytest.param(lambda t: t + b"\n", id="a line at the end"),
        pytest.param(lambda t: t[:-1], id="no line end"),
        pytest.param(lambda t: t.replace(b"\n", b"\r\n"), id="other line ends"),
        pytest.param(lambda t: b"\xef\xbb\xbf" + t, id="a byte order mark"),
        pytest.param(lambda t: json.dumps(json.loads(t)).encode(), id="one line"),
        pytest.param(lambda t: t.replace(b'"seed": 0', b'"seed": 0,\n "seed": 0'), id="a repeated key"),
        pytest.param(lambda t: t.replace(b'"seed": 0', b'"sead": 0'), id="an unknown field"),
        pytest.param(lambda t: t.replace(b'"seed": 0', b'"seed": 0,\n "note": 1'), id="a field more"),
        pytest.param(lambda t: t.replace(b'"val_frac": 0.1', b'"val_frac": NaN'), id="not a number"),
        pytest.param(
            lambda t: t.replace(b'"val_frac": 0.1', b'"val_frac": ' + b"9" * 30), id="no such number"
        ),
        pytest.param(
            lambda t: t.replace(b'"schema_version": 1', b'"schema_version": 2'), id="another version"
        ),
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"[]", id="a list"),
        pytest.param(lambda _: b"\xff\xfe", id="no text"),
    ],
)
def test_an_edited_file_is_refused(
    folder: SplitFolder, by_condition: FrozenSplit, change: Callable[[bytes], bytes]
) -> None:
    path = folder.path / f"{by_condition.hash}.json"
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(SplitError, match="restore it"):
        folder.load(by_condition.hash)


def test_a_renamed_file_is_refused(folder: SplitFolder, by_condition: FrozenSplit) -> None:
    other = "f" * 64
    (folder.path / f"{by_condition.hash}.json").rename(folder.path / f"{other}.json")
    with pytest.raises(SplitError, match=f"holds split {by_condition.hash[:12]}; the file was renamed"):
        folder.load(other)


def _flip(path: Path) -> None:
    codes = np.load(path)["fold"].copy()
    first = int(np.flatnonzero(codes == 0)[0])
    codes[first] = 3
    np.savez_compressed(path, fold=codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_flip, "row codes of split .* are missing or changed; restore its npz", id="one row"),
        pytest.param(lambda p: np.savez(p, fold=np.load(p)["fold"][:-1]), "missing or changed", id="one row less"),
        pytest.param(lambda p: np.savez(p, fold=np.load(p)["fold"].astype(np.int64)), "no int8 array 'fold'", id="type"),
        pytest.param(lambda p: np.savez(p, folds=np.load(p)["fold"]), "no int8 array 'fold'", id="name"),
        pytest.param(lambda p: np.savez(p, fold=np.array([{}], dtype=object)), "pickled objects", id="pickle"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-30]), "damaged or not", id="damaged"),
        pytest.param(lambda p: p.unlink(), "does not exist", id="missing"),
    ],
)  # fmt: skip
def test_changed_row_codes_are_refused(
    folder: SplitFolder, by_row: FrozenSplit, change: Callable[[Path], None], message: str
) -> None:
    change(folder.path / f"{by_row.hash}.npz")
    with pytest.raises(SplitError, match=message):
        folder.load(by_row.hash)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        pytest.param({"folds": {"by": "condition", "table": {"train": ["k"], "test": ["k"]}}}, "in two folds", id="twice"),
        pytest.param({"folds": {"by": "condition", "table": {"train": ["k"]}}}, "fold test is empty", id="no test"),
        pytest.param({"folds": {"by": "condition", "table": {"test": ["k"]}}}, "fold train is empty", id="no train"),
        pytest.param({"validation": "inner_cv", "inner": None}, "no inner folds", id="no inner folds"),
        pytest.param({"folds": {"by": "condition", "table": {"tset": ["k"]}}}, "'train', 'val', 'calib', 'test'", id="fold"),
    ],
)  # fmt: skip
def test_a_file_with_a_right_hash_of_an_impossible_split_is_refused(
    update: dict[str, object], message: str
) -> None:
    payload = {"hash": "0" * 64, **FROZEN.definition.model_dump(mode="json"), **update}
    with pytest.raises(SplitError, match=f"is not a valid split: .*{message}"):
        Split.from_text(json.dumps(payload), "file.json")


# ---- other data -------------------------------------------------------------------------------------------


def test_a_split_of_other_data_is_refused(ds: PerturbDataset, by_condition: FrozenSplit) -> None:
    X = ds.values.expression.copy()
    X[0, 0] += 1
    other = with_values(ds, X)
    with pytest.raises(
        SplitError, match=f"with content {ds.content_sha256[:12]}, this is .*{other.content_sha256[:12]}"
    ):
        by_condition.codes(other)
    with pytest.raises(SplitError, match="use its own data, or `perturbfm splits migrate`"):
        by_condition.rows(other, "train")


def test_a_split_of_other_genes_is_refused() -> None:
    renamed = screen(grid_rows(["A", "B"], ["x", "y"]), genes=["h0", "g1", "g2", "g3", "g4", "g5"])
    renamed = with_metadata(renamed, content_sha256=SCREEN.content_sha256)
    with pytest.raises(SplitError, match="frozen with other genes or another gene order"):
        FROZEN.check_dataset(renamed)


def test_a_split_that_does_not_list_a_condition_is_refused() -> None:
    folds = ConditionFolds(table={"train": ("y|A|||", "y|B|||", "q|A|||"), "test": ("x|A|||",)})
    planted = FrozenSplit(FROZEN.definition.model_copy(update={"folds": folds}))
    with pytest.raises(SplitError, match=r"1 in no fold \['x\|B\|\|\|'\], 1 unknown \['q\|A\|\|\|'\]"):
        planted.codes(SCREEN)


def test_a_copy_with_another_field_has_another_hash() -> None:
    assert FROZEN.definition.model_copy(update={"seed": 7}).hash != FROZEN.definition.hash
    assert FROZEN.definition.model_copy().hash == FROZEN.definition.hash
