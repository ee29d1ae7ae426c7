"""A board by its name: all folds of a cross-validation, or one split."""

from __future__ import annotations

import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.errors import SplitError
from perturbfm_core.pipeline.split import save_splits
from perturbfm_core.splits.boards import board_splits
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.store.artifacts import ArtifactStore


@pytest.fixture
def folder(synth):
    store = ArtifactStore()
    specs = (
        SplitSpec(kind="combo_ood", folds=3),
        SplitSpec(kind="combo_ood", folds=2, fold=1),
        SplitSpec(kind="context_ood", params={"holdout": ["C1"]}),
    )
    for spec in specs:
        save_splits(store, synth, freeze(synth, spec), bounds=False)
    return SplitFolder(store.split_dir)


def boards(folder):
    found = {}
    for e in folder.index().splits:
        found.setdefault((e.board, e.cv_group), []).append(e)
    return found


def test_every_name_of_a_cross_validation_gives_its_folds_in_order(folder):
    ((board, group),) = [key for key, es in boards(folder).items() if len(es) == 3]
    members = {e.fold: e.hash for e in folder.index().splits if e.board == board}
    for name in (board, board.upper(), f"{board[:-3]}", group, group[:7], f"cv-{group}"):
        found = board_splits(folder, name)
        assert (found.name, found.hashes, found.k) == (board, tuple(members[i] for i in range(3)), 3)
        assert found.lacking == 0


def test_a_board_of_which_folds_are_not_frozen_says_how_many(folder):
    (board,) = [b for (b, group), es in boards(folder).items() if group and len(es) == 1]
    found = board_splits(folder, board)
    assert (len(found.hashes), found.k, found.lacking) == (1, 2, 1)


def test_one_split_is_named_as_everywhere(folder):
    for e in folder.index().splits:
        for name in (e.hash, e.hash[:7], e.key):
            assert board_splits(folder, name).hashes == (e.hash,)


def test_a_board_without_folds_is_named_by_its_beginning_too(folder):
    (one,) = [e for e in folder.index().splits if e.cv_group is None]
    for name in ("synth.context_ood", one.board[:-3]):
        found = board_splits(folder, name)
        assert (found.hashes, found.k, found.lacking) == ((one.hash,), 1, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("synth.combo_ood", "2 boards begin with 'synth.combo_ood': "),
        ("synth.iid", "no split has the key 'synth.iid'"),
        ("abc", "too short a prefix"),
        ("0000000", "no split in"),
        ("", "too short a prefix"),
    ],
)
def test_other_names_are_refused(folder, name, message):
    with pytest.raises(SplitError, match=message):
        board_splits(folder, name)
