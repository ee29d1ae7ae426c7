"""Lists of conditions as spreadsheets, scripts and GEARS write them: one split from every form, or one line."""

from __future__ import annotations

import json
import pickle

import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.condition_lists import read_conditions
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.perturbench.saved import (
    read_split_csv,
    read_split_json,
    row_codes,
    saved_in_columns,
)

PLAIN = "condition,fold\nG1,train\nG2,val\nG1+G5,test\n"
FOLDS = {"train": ["G1"], "val": ["G2"], "test": ["G1+G5"]}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (PLAIN, "utf-8"),
        (PLAIN, "utf-8-sig"),
        (PLAIN.replace(",", ";"), "utf-8"),
        (PLAIN.replace(",", ";"), "utf-8-sig"),
        (PLAIN.replace(",", "\t"), "utf-16"),
        (PLAIN.replace(",", "\t"), "utf-16-le-mark"),
        (PLAIN.replace(",", ", "), "utf-8"),
        (PLAIN.replace(",", " ; "), "utf-8"),
        (PLAIN.replace("\n", "\r\n"), "utf-8-sig"),
        (PLAIN.replace("\n", "\r"), "utf-8"),
        (PLAIN + "\n\n,\n", "utf-8"),
        ("\n" + PLAIN, "utf-8"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "utf-8"),
        (PLAIN.replace("condition,fold", "Condition,FOLD"), "utf-8"),
        (PLAIN.replace("G1+G5", '"G1+G5"').replace("condition", '"condition"'), "utf-8"),
        ("note;fold;condition\nx;train;G1\n;val;G2\ny, z;test;G1+G5\n", "utf-8"),
        ("n,fold,condition\n1,train,G1\n2,val,G2\n3,test,G1+G5\n", "utf-8"),
    ],
)
def test_tables_of_spreadsheets(tmp_path, text, encoding):
    data = b"\xff\xfe" + text.encode("utf-16-le") if encoding == "utf-16-le-mark" else text.encode(encoding)
    (tmp_path / "split.csv").write_bytes(data)
    assert read_conditions(tmp_path / "split.csv") == FOLDS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"CSV with the columns condition and fold in its first line, found no line"),
        (b"G1,train\nG2,test\n", "with the columns condition and fold in its first line, found 'G1, train'"),
        (b"condition,fold\nG1\n", "line 2 has 1 columns, the first has 2"),
        (b"condition,fold\nG1,train\nG2,\n", "line 3 names no fold"),
        (b"condition,fold\n,train\n", "line 2 names no condition"),
        (b"condition,fold\nG\x001,train\n", "is no CSV: it holds NUL"),
        (b"condition,fold\nG\xe9,train\n", "is not UTF-8 text"),
        (b'condition,fold\n"' + b"x" * 200_000 + b"\n", "cannot be read as CSV"),
    ],
)
def test_tables_that_are_refused(tmp_path, data, message):
    (tmp_path / "split.csv").write_bytes(data)
    with pytest.raises(SplitError, match=message):
        read_conditions(tmp_path / "split.csv")


@pytest.mark.parametrize("outer", [None, "set2conditions", "split"])
def test_json_may_hold_the_folds_within_one_name(tmp_path, outer):
    (tmp_path / "split.json").write_text(json.dumps(FOLDS if outer is None else {outer: FOLDS}))
    assert read_conditions(tmp_path / "split.json") == FOLDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"test": ["A"], "test": ["B"]}', "'test' occurs twice"),
        ('{"test": [1]}', "must hold"),
        ('{"test": "A"}', "must hold"),
        ('{"x": {"y": {"test": ["A"]}}}', "must hold"),
        ("[" * 5000, "levels deep"),
    ],
)
def test_json_that_is_refused(tmp_path, text, message):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(SplitError, match=message):
        read_conditions(tmp_path / "split.json")


def test_saved_splits_of_spreadsheets(tmp_path):
    for text in ("c1,train\nc2,test\n", "\ufeffc1;train\r\nc2;test\r\n", "row\tsplit\nc1\ttrain\nc2\ttest\n"):
        (tmp_path / "split.csv").write_text(text, encoding="utf-8")
        assert read_split_csv(tmp_path / "split.csv").fold_of == {"c1": "train", "c2": "test"}


# ---- names of GEARS ----------------------------------------------------------------------------------------------


def screen(labels, rows=tuple(f"r{i}" for i in range(6))) -> PerturbDataset:
    """Return condition-level differences of six perturbations, imported with the given control labels."""
    perts = ["A", "B", "C", "D", "A+B", "A+C"]
    obs = make_obs({"pert_id": perts, "is_control": [False] * 6}, list(rows))
    X = pd.DataFrame([[i, i + 1.0, -1.0] for i in range(6)]).to_numpy(dtype="float32")
    notes = {} if labels is None else {"columns": {"control_label": labels}}
    metadata = DatasetMetadata(name="d", level="condition", space="delta", control_policy="none", notes=notes)
    return PerturbDataset(obs, ["A", "B", "x"], Values(delta=X), metadata)


def folds_of(ds: PerturbDataset, folds: dict[str, list[str]]) -> dict[str, set[str]]:
    (split,) = freeze(ds, SplitSpec(kind="explicit", params={"folds": folds}))
    return {f: {k.split("|")[1] for k in keys} for f, keys in split.definition.folds.table.items()}


@pytest.mark.parametrize(
    ("labels", "control"),
    [
        ("ctrl", "ctrl"),
        (None, "ctrl"),
        ("NT", "NT"),
        (["NT", "AAVS1"], "AAVS1"),
        ("non-targeting", "ctrl"),
        (None, "control"),
    ],
)
def test_a_gene_with_the_control_is_the_gene_and_the_control_is_skipped(labels, control):
    ds = screen(labels)
    written = {
        "train": [control, f"A+{control}", f"{control}+B"],
        "val": [f"C+{control}"],
        "test": [f"{control}+D", "B+A", "A+C"],
    }
    plain = {"train": ["A", "B"], "val": ["C"], "test": ["D", "A+B", "A+C"]}
    assert (
        folds_of(ds, written)
        == folds_of(ds, plain)
        == {"train": {"A", "B"}, "val": {"C"}, "test": {"D", "A+B", "A+C"}}
    )


def test_folds_by_other_names_and_names_that_are_unknown():
    ds = screen("NT")
    assert folds_of(ds, {"Training": ["A"], "dev": ["B"], " TEST ": ["C"]})["val"] == {"B"}
    for name, message in (
        ("A+NT2", "condition 'A.NT2' of fold 'test' is not in the data set"),
        ("A++", "not in the data set"),
    ):
        with pytest.raises(SplitError, match=message):
            folds_of(ds, {"test": [name]})
    with pytest.raises(SplitError, match="unknown fold 'holdout'"):
        folds_of(ds, {"holdout": ["A"]})
    with pytest.raises(SplitError, match="names no test condition"):
        folds_of(ds, {"test": ["NT"]})


def test_labels_do_not_change_the_hash_of_a_split():
    (one,), (two,) = (
        freeze(screen(labels), SplitSpec(kind="explicit", params={"folds": {"test": ["A"]}}))
        for labels in ("NT", None)
    )
    assert one.hash == two.hash


# ---- what would be read in another meaning ---------------------------------------------------------------------


def _explicit(path, listed):
    return folds_of(screen(None), listed)


def _csv(path, listed):
    path.write_text("".join(f"{row},{fold}\n" for fold, rows in listed.items() for row in rows))
    return read_split_csv(path)


def _lists(path, listed):
    path.write_text(json.dumps(listed))
    return read_split_json(path)


def _column(path, listed):
    return saved_in_columns({"split": [fold for fold, rows in listed.items() for _ in rows]})


@pytest.mark.parametrize("read", [_explicit, _csv, _lists, _column])
def test_ood_and_test_of_cpa_are_not_one_fold(tmp_path, read):
    listed = {"train": ["A", "B"], "Test": ["C"], "ood": ["D"]}
    with pytest.raises(SplitError, match=r"has both 'ood' and 'test'.*rename 'test' to 'val'"):
        read(tmp_path / "split", listed)
    listed["val"] = listed.pop("Test")
    assert read(tmp_path / "split", listed)


@pytest.mark.parametrize("read", [read_conditions, read_split_csv])
def test_a_pickle_is_not_loaded_and_how_to_write_it_is_said(tmp_path, read):
    (tmp_path / "norman.pkl").write_bytes(pickle.dumps(FOLDS))
    with pytest.raises(SplitError, match=r"is a pickle, which is never loaded.*json\.dump\(pickle\.load"):
        read(tmp_path / "norman.pkl")


@pytest.mark.parametrize("rows", ["012345", "543210", "123456", "abcdef"])
def test_numbers_of_a_list_are_positions_unless_rows_are_named_by_other_numbers(tmp_path, rows):
    ds = screen(None, rows)
    saved = _lists(tmp_path / "s.json", {"train": [0, 1, 2], "test": [3, 4, 5]})
    if rows in ("543210", "123456"):
        with pytest.raises(
            SplitError, match=r"rows of the file are named by numbers as well.*give row names as text"
        ):
            row_codes(ds, saved, list(rows))
    else:
        assert row_codes(ds, saved, list(rows))[0].tolist() == [0, 0, 0, *[schema.FOLDS.index("test")] * 3]
    by_name = _lists(tmp_path / "s.json", {"train": list(rows[:3]), "test": list(rows[3:])})
    assert row_codes(ds, by_name, list(rows))[0].tolist() == [0, 0, 0, *[schema.FOLDS.index("test")] * 3]
