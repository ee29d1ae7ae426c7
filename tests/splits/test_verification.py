"""Verification of frozen splits, and their migration to other data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.pipeline.dataset import import_dataset
from perturbfm_core.pipeline.split import freeze_split, migrate_split, split_stats
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.index import INDEX_FILE
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import (
    grid_rows,
    reordered,
    screen,
    split_all,
    table_of,
    with_metadata,
    with_values,
)

# ---- verification -----------------------------------------------------------------------------------------


def test_an_untouched_folder_verifies(folder: SplitFolder, ds: PerturbDataset) -> None:
    for split_hash in folder.hashes():
        for data in (ds, None):
            found = folder.verify(split_hash, data)
            assert found.ok
            assert found.with_data is (data is not None)


def _edit_index(folder: SplitFolder, split_hash: str, **update: object) -> None:
    path = folder.path / INDEX_FILE
    index = json.loads(path.read_text())
    for line in index["splits"]:
        if line["hash"] == split_hash:
            line.update(update)
    path.write_text(json.dumps(index))


def test_verification_names_a_missing_line_of_the_index(
    folder: SplitFolder, by_condition: FrozenSplit
) -> None:
    (folder.path / INDEX_FILE).unlink()
    (problem,) = folder.verify(by_condition.hash, None).problems
    assert re.search("is not in index.json; run", problem)


def test_verification_names_a_changed_line_of_the_index(
    folder: SplitFolder, by_condition: FrozenSplit
) -> None:
    _edit_index(folder, by_condition.hash, kind="iid")
    (problem,) = folder.verify(by_condition.hash, None).problems
    assert "in index.json does not fit its file; restore it" in problem


def test_verification_names_an_edited_file(folder: SplitFolder, by_condition: FrozenSplit) -> None:
    path = folder.path / f"{by_condition.hash}.json"
    path.write_bytes(path.read_bytes() + b" ")
    (problem,) = folder.verify(by_condition.hash, None).problems
    assert "was edited" in problem


def test_verification_names_folds_whose_rows_changed(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    stats = folder.stats(by_condition.hash)
    assert stats is not None
    digests = {**stats.row_digests, "test": "0" * 64}
    folder.save_stats(by_condition.hash, stats.model_copy(update={"row_digests": digests}))
    (problem,) = folder.verify(by_condition.hash, ds).problems
    assert "rows of folds ['test'] of split" in problem
    assert folder.verify(by_condition.hash, None).ok


def test_verification_names_other_traits(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    stats = folder.stats(by_condition.hash)
    assert stats is not None
    traits = stats.traits.model_copy(update={"train_contexts": 9})
    folder.save_stats(by_condition.hash, stats.model_copy(update={"traits": traits}))
    _edit_index(folder, by_condition.hash, traits=traits.model_dump(mode="json"))
    (problem,) = folder.verify(by_condition.hash, ds).problems
    assert "traits of split" in problem


def test_verification_hashes_the_data_again(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    X = ds.values.expression.copy()
    X[0, 0] += 1
    changed = with_values(ds, X)
    changed = with_metadata(changed, content_sha256=ds.content_sha256)
    (problem,) = folder.verify(by_condition.hash, changed).problems
    assert re.search(f"recorded {ds.content_sha256[:12]}, found {changed.computed_sha256[:12]}", problem)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["ceiling"]["pearson"].update(half=0.99),
        lambda d: d["floor"]["control_mean"].update(rmse=0.0),
        lambda d: d.update(no_signal=not d["no_signal"]),
        lambda d: next(iter(d["strata"].values())).clear(),
        lambda d: d["counts"]["test"].update(rows=1),
        lambda d: d.pop("sha256"),
        lambda d: d.update(sha256="0" * 64),
        lambda d: d.pop("audit"),
    ],
    ids=["ceiling", "floor", "no signal", "strata", "counts", "no hash", "other hash", "no audit"],
)  # fmt: skip
def test_changed_statistics_are_refused_and_named(
    folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit, edit: Callable[[dict], object]
) -> None:
    folder.save_stats(by_condition.hash, split_stats(ds, by_condition))
    path = folder.path / f"{by_condition.hash}.stats.json"
    changed = json.loads(path.read_text())
    edit(changed)
    path.write_text(json.dumps(changed))
    with pytest.raises(SplitError, match=r"stats.json does not fit the hash in it.*computed again"):
        folder.stats(by_condition.hash)
    assert not folder.verify(by_condition.hash, ds).ok


def test_statistics_of_another_split_are_refused(
    folder: SplitFolder, by_condition: FrozenSplit, by_row: FrozenSplit
) -> None:
    mine, other = (folder.path / f"{split.hash}.stats.json" for split in (by_condition, by_row))
    mine.write_bytes(other.read_bytes())
    with pytest.raises(SplitError, match="does not fit the hash in it"):
        folder.stats(by_condition.hash)


# ---- migration --------------------------------------------------------------------------------------------


def _next_version(ds: PerturbDataset) -> PerturbDataset:
    return with_values(ds, ds.values.expression * np.float32(2))


@pytest.mark.parametrize("which", ["by_condition", "by_row"])
def test_migration_carries_the_folds_over_and_records_what_it_supersedes(
    store: ArtifactStore, folder: SplitFolder, ds: PerturbDataset, request: pytest.FixtureRequest, which: str
) -> None:
    old: FrozenSplit = request.getfixturevalue(which)
    before = (folder.path / f"{old.hash}.stats.json").read_bytes()
    loaded, changed = folder.load(old.hash), _next_version(ds)
    new, stats = migrate_split(store, loaded, changed)
    assert new.hash != old.hash
    assert new.definition.dataset.content_sha256 == changed.content_sha256
    assert np.array_equal(new.codes(changed), old.codes(ds))
    assert stats.supersedes == old.hash
    assert {e.hash: e.supersedes for e in folder.index().splits}[new.hash] == old.hash
    assert folder.load(new.hash).definition == new.definition
    assert folder.verify(new.hash, changed).ok
    assert folder.verify(old.hash, ds).ok
    assert (folder.path / f"{old.hash}.stats.json").read_bytes() == before


def test_migration_to_the_same_data_is_refused(
    store: ArtifactStore, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    with pytest.raises(SplitError, match="already belongs to this data; there is nothing to migrate"):
        migrate_split(store, by_condition, ds)


def test_migration_to_other_conditions_is_refused(
    store: ArtifactStore, folder: SplitFolder, by_condition: FrozenSplit
) -> None:
    other = screen(grid_rows(["A", "B", "D", "A+B", "B+C"], ["x", "y", "z"], reps=2))
    with pytest.raises(SplitError, match=r"leaks: changed_data: .* disagree on conditions: 3 in no fold"):
        migrate_split(store, by_condition, other)
    assert len(folder.hashes()) == 2


def test_migration_of_a_split_by_row_needs_the_same_rows(
    store: ArtifactStore, folder: SplitFolder, ds: PerturbDataset, by_row: FrozenSplit
) -> None:
    moved = reordered(_next_version(ds), np.roll(np.arange(ds.n_obs), 1).tolist())
    with pytest.raises(SplitError, match=r"rows of .* are not in the order"):
        migrate_split(store, by_row, moved)
    assert len(folder.hashes()) == 2


@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize("what", ["condition", "batch"])
def test_migration_of_a_split_by_row_needs_rows_of_the_same_conditions_and_batches(
    store: ArtifactStore, at_hand: bool, what: str
) -> None:
    rows = [
        (p, c, {"batch_id": f"b{i % 3}"}) for c in ("x", "y") for p in ("control", "A", "B") for i in range(9)
    ]
    ds = screen(rows, name="rows")
    spec = SplitSpec(kind="batch_ood", params={"holdout": ["b1"]})
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    if at_hand:
        import_dataset(store, ds, storage="npz")
    changed = _next_version(ds)
    assert migrate_split(store, split, changed)[1].supersedes == split.hash
    # One row of A becomes one of B, or one of b1 one of b2.
    row = next(i for i, r in enumerate(rows) if r[0] == "A" and r[2] == {"batch_id": "b1"})
    other = list(rows)
    other[row] = ("B", "x", {"batch_id": "b1"}) if what == "condition" else ("A", "x", {"batch_id": "b2"})
    wrong = screen(other, name="rows", seed=1)
    message = (
        f"1 rows of 'rows' have another {what} than .*e.g. row 'r{row}'"
        if at_hand
        else "of the folds on 'rows' are"
    )
    with pytest.raises(SplitError, match=message) as caught:
        migrate_split(store, split, wrong)
    assert "\n" not in str(caught.value)


def test_migration_to_a_gene_order_of_its_own_is_recorded(
    store: ArtifactStore, folder: SplitFolder, ds: PerturbDataset, by_condition: FrozenSplit
) -> None:
    renamed = screen(grid_rows(["A", "B", "C", "A+B", "B+C"], ["x", "y", "z"], reps=2), genes=list("uvwxyz"))
    new, _ = migrate_split(store, by_condition, renamed)
    assert new.definition.dataset.genes_sha256 == renamed.genes_sha256
    assert table_of(new) == table_of(by_condition)


def test_index_is_ordered_whatever_the_order_of_saving(store: ArtifactStore, ds: PerturbDataset) -> None:
    folds = split_all(ds, "combo_ood", folds=2)
    texts = []
    for order in (folds, folds[::-1]):
        folder = SplitFolder(store.split_dir / str(len(texts)))
        for split in order:
            folder.save(split, split_stats(ds, split, bounds=False))
        texts.append((folder.path / INDEX_FILE).read_bytes())
    assert texts[0] == texts[1]
