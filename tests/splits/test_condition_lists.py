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


@pytest.mark.parametrize("outer", [None, "set2conditions", "norman", "1 > 2"])
def test_json_may_hold_the_folds_within_one_name(tmp_path, outer):
    listed = {"train": ["B"], "test": ["A"]}
    (tmp_path / "split.json").write_text(json.dumps(listed if outer is None else {outer: listed}))
    folds = read_conditions(tmp_path / "split.json")
    (found,) = freeze(two_lines(), SplitSpec(kind="explicit", params={"folds": folds}))
    (plain,) = freeze(two_lines(), SplitSpec(kind="explicit", params={"folds": listed}))
    assert found.definition.hash == plain.definition.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"test": ["A"], "test": ["B"]}', "'test' occurs twice"),
        ('{"test": [1]}', 'must hold .*found the number 1: write "1" if it is a name; rows by their'),
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


# ---- conditions of one context ------------------------------------------------------------------------------------


def two_lines() -> PerturbDataset:
    """Return condition-level differences of three perturbations, each in the lines K562 and a|b."""
    obs = make_obs(
        {
            "pert_id": ["A", "B", "A+B"] * 2,
            "context_id": ["K562"] * 3 + ["a|b"] * 3,
            "is_control": [False] * 6,
        },
        [f"r{i}" for i in range(6)],
    )
    metadata = DatasetMetadata(name="d", level="condition", space="delta", control_policy="none")
    X = pd.DataFrame([[i, -1.0] for i in range(6)]).to_numpy(dtype="float32")
    return PerturbDataset(obs, ["A", "B"], Values(delta=X), metadata)


@pytest.mark.parametrize("column", ["cell_type", "context", "Cell Line", "tissue"])
def test_a_column_of_contexts_is_part_of_the_condition(tmp_path, column):
    text = f"condition,{column},dose_val,fold\nA,K562,1,test\nB+A,a|b,1+1,test\nctrl,K562,1,train\nK562|B|||,,10 uM,val\na%7Cb|B,K562,,val\n"
    (tmp_path / "split.csv").write_text(text)
    listed = read_conditions(tmp_path / "split.csv")
    assert listed["test"] == ["K562|A", "a%7Cb|B+A"]
    (split,) = freeze(two_lines(), SplitSpec(kind="explicit", params={"folds": listed}))
    table = split.definition.folds.table
    # A by itself would be tested in both lines.
    assert set(table["test"]) == {"K562|A|||", "a%7Cb|A+B|||"}
    assert set(table["val"]) == {"K562|B|||", "a%7Cb|B|||"}
    (tmp_path / "split.csv").write_text(f"condition,{column},fold\nA,,test\n")
    assert read_conditions(tmp_path / "split.csv") == {"test": ["A"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("condition,cell_type,fold\nA,K562,test\nB,,test\n", "line 3 names no cell_type; fill it"),
        (
            "condition,dose,fold\nA,10 uM,test\n",
            "line 2 names dose '10 uM', which only condition keys tell apart",
        ),
        ("condition,Time,fold\nA,,train\nB,6 h,test\n", "line 3 names time '6 h', which only condition keys"),
    ],
)
def test_columns_that_would_be_lost_are_refused(tmp_path, text, message):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(SplitError, match=message):
        read_conditions(tmp_path / "split.csv")


@pytest.mark.parametrize("outer", ["K562", "a|b"])
def test_a_context_that_holds_the_folds_is_not_lost(tmp_path, outer):
    (tmp_path / "split.json").write_text(json.dumps({outer: FOLDS}))
    folds = read_conditions(tmp_path / "split.json")
    with pytest.raises(SplitError, match=r"within '.*', a context: write conditions as '.*\|PERTURBATION'"):
        freeze(two_lines(), SplitSpec(kind="explicit", params={"folds": folds}))


@pytest.mark.parametrize("name", ["HeLa|A", "K562|C", "A|K562"])
def test_a_context_or_perturbation_that_is_unknown(name):
    with pytest.raises(
        SplitError, match=r"not in the data set; give condition keys, .* \(contexts are 'K562', 'a%7Cb'"
    ):
        freeze(two_lines(), SplitSpec(kind="explicit", params={"folds": {"test": [name]}}))


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


def test_a_toml_of_cell_load_is_refused_with_what_says_the_same(tmp_path):
    (tmp_path / "split.toml").write_text('[zeroshot]\n"screen.K562" = "test"\n')
    with pytest.raises(
        SplitError, match=r"zeroshot\] by --spec context_ood --holdout-context NAME.*CONTEXT\|PERT"
    ):
        read_conditions(tmp_path / "split.toml")


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


def test_a_table_that_is_no_text_is_named_with_the_cure(tmp_path):
    (tmp_path / "list.parquet").write_bytes(b"PAR1\xff\xfe")
    with pytest.raises(SplitError, match=r"list\.parquet is a \.parquet file; write its table as CSV"):
        read_conditions(tmp_path / "list.parquet")
