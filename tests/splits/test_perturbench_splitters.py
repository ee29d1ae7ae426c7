"""PerturBench's splitters give the peer's assignment, cell for cell; its saved splits are read as they are."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.evaluation.parity import run_case
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.perturbench.saved import (
    freeze_rows,
    import_saved,
    read_split_csv,
    read_split_dir,
    read_split_json,
    row_codes,
    saved_in_columns,
)
from perturbfm_core.splits.perturbench.set_order import union_order
from perturbfm_core.splits.perturbench.splitters import Options, perturbench_split
from perturbfm_core.splits.perturbench.stray_rows import stray_rows
from tests.support.factories import grid_rows, reordered, screen
from tests.support.paths import REPO, TESTS

CASE = TESTS / "parity" / "perturbench" / "splits_synth"
SHARED = REPO.parent / "shared" / "parity" / "perturbench"
CASES = [CASE, *(pytest.param(p, id=p.name) for p in sorted(SHARED.glob("splits_*")) if p.name != CASE.name)]


@pytest.mark.parametrize("folder", CASES)
def test_every_run_of_a_case_is_the_peers_cell_for_cell(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    result = run_case(folder)
    assert result["kind"] == "perturbench_splits"
    assert set(result["metrics"]) == set(expected["runs"])
    with (folder / "obs.csv").open() as table:
        cells = sum(1 for _ in table) - 1
    for name, metric in result["metrics"].items():
        run = expected["runs"][name]
        assert metric["compared"] == (1 if "error" in run else cells)
        assert metric["failed"] == 0


def _copy_of(case: Path, tmp_path: Path, **runs: Any) -> Path:
    out = tmp_path / "case"
    shutil.copytree(case, out)
    expected = json.loads((out / "expected.json").read_text())
    expected["runs"] = runs or expected["runs"]
    (out / "expected.json").write_text(json.dumps(expected))
    return out


def test_a_changed_cell_of_a_case_is_one_failure(tmp_path: Path) -> None:
    folder = _copy_of(CASE, tmp_path)
    path = folder / "split_transfer_1cov_s8.csv"
    lines = path.read_text().splitlines()
    name, was = lines[5].split(",")
    lines[5] = f"{name},{'val' if was != 'val' else 'test'}"
    path.write_text("\n".join(lines) + "\n")
    result = run_case(folder)
    assert result["failed"] == 1
    assert [(f["metric"], f["key"]) for f in result["failures"]] == [("transfer_1cov_s8", name)]


def test_a_run_that_the_peer_refuses_is_refused(tmp_path: Path) -> None:
    run = {"method": "split_covariates", "covariate_keys": ["cell_type"], "error": "ValueError"}
    kwargs = {"seed": 1, "max_heldout_fraction_per_covariate": 0.0}
    folder = _copy_of(
        CASE, tmp_path, none_held={**run, "kwargs": kwargs}, fine={**run, "kwargs": {"seed": 8}}
    )
    result = run_case(folder)
    assert result["metrics"]["none_held"]["failed"] == 0
    assert result["metrics"]["fine"]["failed"] == 1


# ---- the splitters themselves ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def obs() -> pd.DataFrame:
    """Return a table of three cell types with six singles, four combinations and control, five cells each."""
    perts = ["control", "A", "B", "C", "D", "E", "F", "A+B", "C+D", "E+F", "A+C"]
    rows = [(p, c) for c in ("x", "y", "z") for p in perts for _ in range(5)]
    table = pd.DataFrame(rows, columns=["condition", "cell_type"])
    table.index = pd.Index([f"cell{i}" for i in range(len(table))])
    return table


def _pairs(obs: pd.DataFrame, got: Any, split: str) -> set[tuple[str, str]]:
    part = obs[(got == split) & (obs["condition"] != "control").to_numpy()]
    return set(zip(part["condition"], part["cell_type"], strict=True))


@pytest.mark.parametrize("task", ["transfer", "combine", "combine_inverse"])
def test_pairs_are_in_one_split_and_all_three_are_there(obs: pd.DataFrame, task: str) -> None:
    options = Options(seed=3, max_heldout_fraction_per_covariate=0.5)
    got = perturbench_split(obs, task, options, covariate_keys=["cell_type"])
    parts = {s: _pairs(obs, got, s) for s in ("train", "val", "test")}
    assert all(parts.values())
    assert not parts["train"] & (parts["val"] | parts["test"])
    assert not parts["val"] & parts["test"]
    held = {p for p, _ in parts["val"] | parts["test"]}
    if task == "combine":
        assert all("+" in p for p in held)
    if task == "combine_inverse":
        assert all("+" not in p for p in held)
    control = Counter(got[(obs["condition"] == "control").to_numpy()].tolist())
    assert control == {"train": 7, "val": 4, "test": 4}


def test_inverse_never_holds_out_both_parts_of_a_combination(obs: pd.DataFrame) -> None:
    for seed in range(10):
        options = Options(seed=seed, max_heldout_fraction_per_covariate=0.6)
        got = perturbench_split(obs, "combine_inverse", options, covariate_keys=["cell_type"])
        held = _pairs(obs, got, "val") | _pairs(obs, got, "test")
        for combo in ("A+B", "C+D", "E+F", "A+C"):
            for cell in "xyz":
                assert not all((part, cell) in held for part in combo.split("+"))


def test_downsampling_leaves_rows_in_no_split(obs: pd.DataFrame) -> None:
    options = Options(seed=2, downsample_fraction=0.6, max_heldout_fraction_per_covariate=0.5)
    got = perturbench_split(obs, "transfer", options, covariate_keys=["cell_type"])
    dropped = set(obs["condition"][got == ""])
    assert dropped
    assert "control" not in dropped
    assert len({p for p in obs["condition"] if p not in dropped and p != "control"}) == 6


def test_unused_categories_of_one_covariate_widen_the_draw(obs: pd.DataFrame) -> None:
    plain = obs.astype("category")
    wide = plain.assign(cell_type=plain["cell_type"].cat.add_categories(["nowhere"]))
    options = Options(seed=0, max_heldout_covariates=3, max_heldout_fraction_per_covariate=0.6)
    splits = [
        perturbench_split(t, "transfer", options, covariate_keys=["cell_type"]) for t in (obs, plain, wide)
    ]
    assert np.array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[1], splits[2])


def test_recorded_labels_decide_the_order_of_strata() -> None:
    obs = pd.read_csv(CASE / "obs.csv", index_col=0, dtype=str, keep_default_na=False).astype("category")
    keys = ["cell_type", "treatment"]
    options = Options(seed=42, max_heldout_covariates=3)
    labels = json.loads((CASE / "expected.json").read_text())["runs"]["transfer_2cov_s42"][
        "stratify_labels_sorted"
    ]
    recorded = perturbench_split(obs, "transfer", options, covariate_keys=keys, labels=labels)
    turned = [f"frozenset({{{', '.join(reversed(x[11:-2].split(', ')))}}})" for x in labels]
    assert not np.array_equal(
        recorded, perturbench_split(obs, "transfer", options, covariate_keys=keys, labels=turned)
    )
    ours = perturbench_split(obs, "transfer", options, covariate_keys=keys)
    assert np.array_equal(ours, perturbench_split(obs, "transfer", options, covariate_keys=keys))


@pytest.mark.parametrize(
    ("task", "options", "keys", "message"),
    [
        ("transfer", {"max_heldout_fraction_per_covariate": 0.0}, ["cell_type"], "no covariate has two"),
        ("transfer", {"max_heldout_covariates": 9}, ["cell_type"], "max_heldout_covariates asks for"),
        ("combine", {"max_heldout_fraction_per_covariate": 0.1}, ["cell_type"], "no covariate has two"),
        ("combine", {"test_fraction": 0.01}, ["cell_type"], "cannot be divided by covariate"),
        ("combine", {}, ["nope"], "no column 'nope'; columns: condition, cell_type"),
        ("combined", {}, None, "unknown PerturBench task 'combined'"),
    ],
)
def test_arguments_that_the_peer_refuses_are_refused_with_a_remedy(
    obs: pd.DataFrame, task: str, options: dict[str, Any], keys: list[str] | None, message: str
) -> None:
    given = {"seed": 0, "max_heldout_fraction_per_covariate": 0.5, **options}
    with pytest.raises(SplitError, match=message):
        perturbench_split(obs, task, Options.of(given), covariate_keys=keys)


def test_bad_tables_and_arguments_are_refused(obs: pd.DataFrame) -> None:
    with pytest.raises(SplitError, match="no row of column 'condition' is 'ctrl'; name the control label"):
        perturbench_split(obs, "combine", control="ctrl")
    with pytest.raises(SplitError, match="row names repeat"):
        perturbench_split(pd.concat([obs, obs]), "combine")
    with pytest.raises(SplitError, match="has 1 missing values; fill or drop them"):
        perturbench_split(
            obs.assign(cell_type=[None, *obs["cell_type"][1:]]), "combine", covariate_keys=["cell_type"]
        )
    with pytest.raises(SplitError, match="no argument 'sead'; known: seed, "):
        Options.of({"sead": 1})
    with pytest.raises(SplitError, match="'x' is not the text of a frozenset"):
        perturbench_split(obs, "combine", covariate_keys=["cell_type"], labels=["x"])


# ---- saved splits ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(obs: pd.DataFrame) -> PerturbDataset:
    """Return the table's rows as a data set."""
    rows = list(zip(obs["condition"], obs["cell_type"], strict=True))
    return screen(rows, row_ids=list(obs.index), genes=4)


@pytest.fixture(scope="module")
def assigned(obs: pd.DataFrame) -> list[str]:
    """Return the peer's transfer split of the table."""
    options = Options(seed=3, max_heldout_fraction_per_covariate=0.5)
    return perturbench_split(obs, "transfer", options, covariate_keys=["cell_type"]).tolist()


def _write(path: Path, obs: pd.DataFrame, splits: list[str], *, header: bool) -> Path:
    # As pandas writes the peer's column: no split is an empty field.
    pd.Series(splits, index=obs.index, name="transfer_split_seed3").replace("", None).to_csv(
        path, header=header
    )
    return path


@pytest.mark.parametrize("header", [True, False])
def test_a_saved_csv_is_read_with_and_without_header(
    tmp_path: Path, obs: pd.DataFrame, data: PerturbDataset, assigned: list[str], header: bool
) -> None:
    assigned = ["", "", *assigned[2:]]
    saved = read_split_csv(_write(tmp_path / "s.csv", obs, assigned, header=header))
    one = import_saved(data, saved, list(obs.index))
    codes = one.split.codes(data)
    for row, (split, pert) in enumerate(zip(assigned, obs["condition"], strict=True)):
        wanted = -1 if pert == "control" else schema.FOLDS.index(split or "unused")  # type: ignore[arg-type]
        assert codes[row] == wanted
    assert one.controls == 13
    split = one.split.definition
    assert (split.kind, split.ood_axes, split.validation, split.calibration) == (
        "explicit",
        ("pair",),
        "fold",
        "inner_cv",
    )
    assert [f for f in audit(data, one.split) if f.severity == "blocking"] == []


def test_all_forms_of_one_split_have_one_hash(
    tmp_path: Path, obs: pd.DataFrame, data: PerturbDataset, assigned: list[str]
) -> None:
    names = list(obs.index)
    by_fold = {f: [i for i, s in enumerate(assigned) if s == f] for f in ("train", "val", "test")}
    (tmp_path / "positions.json").write_text(json.dumps(by_fold))
    (tmp_path / "names.json").write_text(json.dumps({f: [names[i] for i in v] for f, v in by_fold.items()}))
    (tmp_path / "lists").mkdir()
    for fold, rows in by_fold.items():
        (tmp_path / "lists" / f"{fold}_idx.json").write_text(json.dumps(rows))
    saved = [
        read_split_csv(_write(tmp_path / "a.csv", obs, assigned, header=False)),
        read_split_csv(_write(tmp_path / "b.csv", obs, assigned, header=True)),
        read_split_json(tmp_path / "positions.json"),
        read_split_json(tmp_path / "names.json"),
        *read_split_dir(tmp_path / "lists"),
        *saved_in_columns({"transfer_split_seed3": assigned, "other": assigned}),
    ]
    assert len(saved) == 6
    assert len({import_saved(data, s, names).split.hash for s in saved}) == 1
    found = read_split_dir(tmp_path)
    assert [s.name for s in found] == ["names", "positions", "a", "b"]


def test_a_folder_is_read_whatever_its_tables_are_separated_by(
    tmp_path: Path, obs: pd.DataFrame, data: PerturbDataset, assigned: list[str]
) -> None:
    table = pd.Series(assigned, index=obs.index, name="split")
    for name, separator in (("a.csv", ","), ("b.CSV", ";"), ("c.tsv", "\t")):
        table.to_csv(tmp_path / name, sep=separator)
    (tmp_path / "d.JSON").write_text(
        json.dumps({f: [i for i, s in enumerate(assigned) if s == f] for f in ("train", "val", "test")})
    )
    found = read_split_dir(tmp_path)
    assert sorted(s.name for s in found) == ["a", "b", "c", "d"]
    assert len({import_saved(data, s, list(obs.index)).split.hash for s in found}) == 1


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("{fold}_seed{n}.json", ["own_seed0", "own_seed1", "own_seed2"]),
        ("fold{n}-{fold}_idx.json", ["own_fold0", "own_fold1", "own_fold2"]),
        ("K562.{fold}.{n}.json", ["own_k562_0", "own_k562_1", "own_k562_2"]),
        ("seed{n}/{fold}.json", ["seed0", "seed1", "seed2"]),
        ("{n}/{fold}_indices.json", ["0", "1", "2"]),
    ],
)
def test_several_seeds_or_folds_may_lie_in_one_folder(
    tmp_path: Path, obs: pd.DataFrame, data: PerturbDataset, assigned: list[str], form: str, names: list[str]
) -> None:
    rows = list(obs.index)
    alone = []
    for n in range(3):
        fold_of = [
            ("train", "val", "test")[(("train", "val", "test").index(f) + n) % 3] if f else f
            for f in assigned
        ]
        by_fold = {f: [i for i, s in enumerate(fold_of) if s == f] for f in ("train", "val", "test")}
        for fold, listed in by_fold.items():
            file = tmp_path / "own" / form.format(fold=fold, n=n)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(listed))
        (tmp_path / "whole.json").write_text(json.dumps(by_fold))
        alone.append(import_saved(data, read_split_json(tmp_path / "whole.json"), rows).split.hash)
    found = read_split_dir(tmp_path / "own")
    assert [s.name for s in found] == names
    assert [import_saved(data, s, rows).split.hash for s in found] == alone
    assert len(set(alone)) == 3


def test_two_lists_of_one_fold_are_refused(tmp_path: Path) -> None:
    for name in ("train.json", "train_idx.json"):
        (tmp_path / name).write_text("[1]")
    with pytest.raises(
        SplitError, match=r"train.json and train_idx.json both list fold 'train' of one split"
    ):
        read_split_dir(tmp_path)


def test_rows_are_bound_by_name_whatever_their_order(
    tmp_path: Path, obs: pd.DataFrame, data: PerturbDataset, assigned: list[str]
) -> None:
    saved = read_split_csv(_write(tmp_path / "s.csv", obs, assigned, header=False))
    order = np.random.default_rng(1).permutation(len(obs))
    moved = reordered(data, order)
    codes, _ = row_codes(data, saved, list(obs.index))
    assert np.array_equal(row_codes(moved, saved, list(obs.index))[0], codes[order])
    split = import_saved(data, saved, list(obs.index)).split
    with pytest.raises(SplitError, match="rows of 'screen' are not in the order"):
        split.codes(moved)


def test_rows_of_a_saved_split_that_the_data_set_lacks_are_named(
    tmp_path: Path, obs: pd.DataFrame, data: PerturbDataset, assigned: list[str]
) -> None:
    saved = read_split_csv(_write(tmp_path / "s.csv", obs, assigned, header=False))
    names = list(obs.index)
    assert import_saved(data, saved, names).lacking == ()
    fewer = reordered(data, [i for i in range(len(names)) if i % 2])
    wanted = tuple(name for i, name in enumerate(names) if not i % 2 and assigned[i])
    assert import_saved(fewer, saved, names).lacking == wanted
    places = {f: [i for i, s in enumerate(assigned) if s == f] for f in ("train", "val", "test")}
    by_place = read_split_json(_json(tmp_path, places))
    assert set(import_saved(fewer, by_place, names).lacking) == set(wanted)
    # Of rows that were all left out there is nothing to import.
    lost = read_split_json(_json(tmp_path, {"train": names[20:30:2], "test": names[30:40:2]}))
    with pytest.raises(SplitError, match="'lists' has none of the 82 rows of data set 'screen' in a fold"):
        import_saved(fewer, lost, names)


def test_an_import_that_shares_conditions_is_named_iid(data: PerturbDataset) -> None:
    codes = np.where(data.condition_codes >= 0, np.arange(data.n_obs) % 4 == 0, -1).astype(np.int8)
    codes[codes == 1] = schema.FOLDS.index("test")
    split = freeze_rows(data, codes, {})
    assert split.definition.ood_axes == ()
    assert stray_rows(data, split) is None


def test_stray_rows_that_make_a_split_one_of_cells_are_warned_of() -> None:
    ds = screen(grid_rows([f"P{i}" for i in range(6)], ["x"], reps=20))
    tested = np.isin(ds.condition_codes, [0, 1, 2])
    codes = np.where(tested, schema.FOLDS.index("test"), schema.FOLDS.index("train"))
    codes = np.where(ds.condition_codes < 0, -1, codes).astype(np.int8)
    held = freeze_rows(ds, codes, {})
    assert held.definition.ood_axes == ("perturbation",)
    assert stray_rows(ds, held) is None
    row = int(np.flatnonzero(tested)[0])
    codes[row] = schema.FOLDS.index("train")
    split = freeze_rows(ds, codes, {})
    assert split.definition.ood_axes == ()
    said = stray_rows(ds, split)
    assert said is not None
    assert said.startswith(
        "1 of 3 test conditions have rows in train or validation (1 beside 59 tested rows, e.g. "
    )
    assert repr(str(ds.row_ids[row])) in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell0,train\ncell0,test\n", "names row 'cell0' twice; name each row once"),
        ("cell0,train\ncell1,tset\n", "unknown split 'tset'; use one of train"),
        ("cell0,train,1\n", r"must have two columns, row name and split, found \[3\]"),
        ("", "must have two columns, row name and split, found no lines"),
    ],
)
def test_a_csv_that_is_no_split_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(SplitError, match=message):
        read_split_csv(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "must hold {fold: .row positions or names.}, found list"),
        ({"train": [1], "test": [1]}, "lists row 1 in 'train' and 'test'; list each row once"),
        ({"train": [1.5]}, "'train' must be a list of row positions or row names"),
        ({"tarin": [1]}, "unknown split 'tarin'; use one of train"),
    ],
)
def test_json_that_is_no_split_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(value))
    with pytest.raises(SplitError, match=message):
        read_split_json(path)


def test_files_that_do_not_go_together_are_refused(
    tmp_path: Path, obs: pd.DataFrame, data: PerturbDataset, assigned: list[str]
) -> None:
    names = list(obs.index)
    saved = read_split_csv(_write(tmp_path / "s.csv", obs, assigned, header=False))
    with pytest.raises(SplitError, match=r"has row 'cell164', which the file of 164 rows has not"):
        row_codes(data, saved, names[:-1])
    with pytest.raises(
        SplitError, match=r"lacks 1 rows of the file, e.g. 'more'; give the file it was made on"
    ):
        row_codes(data, saved, [*names, "more"])
    with pytest.raises(SplitError, match=r"165 rows of data set 'screen' are not in the file"):
        row_codes(data, read_split_json(_json(tmp_path, {"train": [0], "test": [1]})), ["a", "b"])
    with pytest.raises(SplitError, match="by name and by position; use one of them"):
        row_codes(data, read_split_json(_json(tmp_path, {"train": [0], "test": ["cell0"]})), names)
    with pytest.raises(SplitError, match="has row 999, which the file"):
        row_codes(data, read_split_json(_json(tmp_path, {"train": [999]})), names)
    with pytest.raises(SplitError, match="no perturbed row in test"):
        import_saved(data, read_split_json(_json(tmp_path, {"train": [50]})), names)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SplitError, match="has no CSV or JSON split, found nothing"):
        read_split_dir(tmp_path / "empty")


def _json(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("hash_seed", "folds"),
    [
        ("0", "train train val test train train val test - train train val test train test train"),
        ("1", "train val train test train test val train - train train val test train test train"),
        (None, "train test train train test val train train - train train val test train test train"),
    ],
)
def test_a_downsampled_inverse_split_is_that_of_the_peers_hash_seed(
    hash_seed: str | None, folds: str
) -> None:
    # The peer's own splits with Python 3.11; without a seed perturbations come in order of first appearance.
    perts = ["control", *(f"P{i}" for i in range(1, 9)), "P1+P2", "P3+P4", *["control"] * 5]
    obs = pd.DataFrame({"condition": perts}, index=[f"c{i}" for i in range(len(perts))])
    options = Options(seed=0, max_heldout_fraction_per_covariate=0.6, downsample_fraction=0.9)
    found = perturbench_split(obs, "combine_inverse", options, hash_seed=hash_seed)
    assert [fold or "-" for fold in found.tolist()] == folds.split()


def test_a_part_without_rows_is_refused_only_where_the_peer_refuses_it() -> None:
    # The control is held out, too, before its rows are divided on their own.
    obs = pd.DataFrame({"condition": ["control", "control", "P1"]}, index=["a", "b", "c"])
    options = Options(seed=0, max_heldout_fraction_per_covariate=1.0, train_control_fraction=1.0)
    found = perturbench_split(obs, "combine_inverse", options, refuse_empty=False).tolist()
    assert sorted(found) in (["train", "train", "val"], ["test", "train", "train"])
    with pytest.raises(SplitError, match="without rows"):
        perturbench_split(obs, "combine_inverse", options)


@pytest.mark.parametrize("seed", ["random", "-1", str(2**32)])
def test_what_is_no_hash_seed_is_refused(seed: str) -> None:
    with pytest.raises(SplitError, match="hash seed must be a whole number"):
        union_order(["A"], "control", [], seed)
