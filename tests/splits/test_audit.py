"""Planted leaks, each found by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.pipeline.experiment import ModelConfig
from perturbfm_core.splits.audit.core import CHECKS, Finding, audit, require_clean
from perturbfm_core.splits.audit.units import Names
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, RowFolds, codes_digest
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import grid_rows, screen, split_one, table_of, with_metadata, with_values
from tests.support.stages import fit

CLEAN = {
    "context": ("context_ood", {"holdout": ["x"]}),
    "perturbation": ("perturbation_ood", {"holdout": ["A"]}),
    "combination": ("combo_ood", {"holdout": ["A+B"]}),
    "pair": ("covariate_transfer", {"perturbations": ["A"], "values": ["x"]}),
    "rows": ("iid", {"test_frac": 0.3}),
}


def planted(split: FrozenSplit, table: Mapping[str, Sequence[str]], **update: Any) -> FrozenSplit:
    """Return a split with other folds, past every validator."""
    folds = ConditionFolds(table={f: tuple(keys) for f, keys in table.items() if keys})  # type: ignore[misc]
    return FrozenSplit(split.definition.model_copy(update={"folds": folds, **update}))


def blocking(ds: PerturbDataset, split: FrozenSplit) -> dict[str, Finding]:
    """Return the blocking findings by name."""
    return {f.name: f for f in audit(ds, split) if f.severity == "blocking"}


@pytest.mark.parametrize("which", list(CLEAN))
def test_a_clean_split_has_no_findings(ds: PerturbDataset, which: str) -> None:
    split = split_one(ds, *CLEAN[which])
    assert require_clean(ds, split) == []


def test_a_condition_in_two_folds_is_found(ds: PerturbDataset, by_condition: FrozenSplit) -> None:
    table = table_of(by_condition)
    table["unused"] = ["y|A|||"]
    found = blocking(ds, planted(by_condition, table))
    assert list(found) == ["fold_overlap"]
    assert found["fold_overlap"].count == 1
    assert found["fold_overlap"].examples == ("y|A||| (train, unused)",)


@pytest.mark.parametrize("fold", ["train", "test"])
def test_an_empty_fold_is_found(ds: PerturbDataset, by_condition: FrozenSplit, fold: str) -> None:
    table = table_of(by_condition)
    table["unused"], table[fold] = table[fold], []
    found = blocking(ds, planted(by_condition, table))
    assert list(found) == ["empty_fold"]
    assert found["empty_fold"].examples == (fold,)


@pytest.mark.parametrize(("field", "fold"), [("validation", "val"), ("calibration", "calib")])
def test_a_declared_fold_without_cells_is_found(
    ds: PerturbDataset, by_condition: FrozenSplit, field: str, fold: str
) -> None:
    found = blocking(ds, planted(by_condition, table_of(by_condition), **{field: "fold"}))
    assert found["empty_fold"].examples == (fold,)


def test_an_empty_test_of_rows_is_found(ds: PerturbDataset, by_row: FrozenSplit) -> None:
    codes = by_row.codes(ds).copy()
    codes[codes == schema.FOLDS.index("test")] = schema.FOLDS.index("unused")
    assert list(blocking(ds, _by_row(by_row, codes))) == ["empty_fold"]


def _by_row(split: FrozenSplit, codes: np.ndarray, **update: Any) -> FrozenSplit:
    folds = split.definition.folds
    assert isinstance(folds, RowFolds)
    folds = folds.model_copy(update={"codes_sha256": codes_digest(codes)})
    return FrozenSplit(split.definition.model_copy(update={"folds": folds, **update}), codes)


@pytest.mark.parametrize("fold", ["train", "val"])
def test_a_test_condition_in_train_or_validation_is_found(
    ds: PerturbDataset, by_row: FrozenSplit, fold: str
) -> None:
    codes = np.where(ds.condition_codes >= 0, schema.FOLDS.index("train"), -1).astype(np.int8)
    rows = np.flatnonzero(ds.condition_codes == 0)
    codes[rows] = schema.FOLDS.index("test")
    codes[rows[0]] = schema.FOLDS.index(fold)
    codes[np.flatnonzero(ds.condition_codes == 1)] = schema.FOLDS.index("unused")
    split = _by_row(by_row, codes, ood_axes=("pair",))
    found = blocking(ds, split)
    assert list(found) == ["condition_in_train_and_test"]
    assert found["condition_in_train_and_test"].examples == (ds.conditions.index[0],)
    # Among random rows the same is what was requested.
    assert not blocking(ds, _by_row(by_row, codes))


@pytest.mark.parametrize("fold", ["train", "val", "calib"])
def test_a_held_out_gene_in_a_combination_is_found(ds: PerturbDataset, fold: str) -> None:
    split = split_one(ds, "perturbation_ood", {"holdout": ["A"]})
    table = table_of(split)
    table["test"] = [k for k in table["test"] if k != "y|A+B|||"]
    table[fold] = [*table[fold], "y|A+B|||"]
    found = blocking(ds, planted(split, table))
    assert list(found) == ["held_out_unit_in_train"]
    assert found["held_out_unit_in_train"].examples == ("A",)


def test_a_held_out_context_in_train_is_found(ds: PerturbDataset, by_condition: FrozenSplit) -> None:
    table = table_of(by_condition)
    table["train"] = [*table["train"], table["test"].pop()]
    found = blocking(ds, planted(by_condition, table))
    assert list(found) == ["held_out_unit_in_train"]
    assert found["held_out_unit_in_train"].examples == ("x",)


def test_changed_data_are_found(ds: PerturbDataset, by_condition: FrozenSplit) -> None:
    X = ds.values.expression.copy()
    X[-1, -1] += 1
    changed = with_values(ds, X)
    assert "belongs to data set" in blocking(changed, by_condition)["changed_data"].message
    changed = with_metadata(changed, content_sha256=ds.content_sha256)
    found = blocking(changed, by_condition)
    assert list(found) == ["changed_data"]
    assert (
        f"recorded {ds.content_sha256[:12]}, found {changed.computed_sha256[:12]}"
        in found["changed_data"].message
    )


def test_a_condition_in_no_fold_is_found(ds: PerturbDataset, by_condition: FrozenSplit) -> None:
    table = table_of(by_condition)
    table["train"] = table["train"][1:]
    found = blocking(ds, planted(by_condition, table))
    assert list(found) == ["changed_data"]
    assert "1 in no fold ['y|A+B|||']" in found["changed_data"].message


def test_a_leak_refuses_to_pass_and_names_itself(ds: PerturbDataset, by_condition: FrozenSplit) -> None:
    table = table_of(by_condition)
    table["train"] = [*table["train"], table["test"].pop()]
    with pytest.raises(
        SplitError, match=r"leaks: held_out_unit_in_train: held-out context \['x'\] is in train"
    ):
        require_clean(ds, planted(by_condition, table))


def test_a_leak_refuses_a_fit(ds: PerturbDataset, store: ArtifactStore, by_condition: FrozenSplit) -> None:
    table = table_of(by_condition)
    table["train"] = [*table["train"], table["test"].pop()]
    config = ModelConfig(entry="global_mean", model="global_mean", params={}, seed=0)
    with pytest.raises(SplitError, match="held_out_unit_in_train"):
        fit(store, ds, planted(by_condition, table), config)
    assert not store.objects.exists()


def test_several_leaks_are_counted(ds: PerturbDataset, by_condition: FrozenSplit) -> None:
    table = table_of(by_condition)
    table["unused"] = [table["train"][0]]
    table["train"] = [*table["train"], table["test"].pop()]
    with pytest.raises(SplitError, match=r"and 1 more findings"):
        require_clean(ds, planted(by_condition, table))


def test_a_warning_passes_and_is_returned(
    ds: PerturbDataset, by_condition: FrozenSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = Finding("odd", "warning", 1, ("a",), "look at it")
    monkeypatch.setitem(CHECKS._items, "odd", lambda _ds, _split: [warning])
    monkeypatch.setitem(CHECKS._order, "odd", 0)
    assert require_clean(ds, by_condition) == [warning]
    assert warning.to_json() == {
        "name": "odd",
        "severity": "warning",
        "count": 1,
        "examples": ["a"],
        "message": "look at it",
    }


def test_examples_are_few_and_the_count_is_whole() -> None:
    ds = screen(grid_rows([f"P{i}" for i in range(9)], ["x", "y"]))
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    table = table_of(split)
    table["unused"] = list(table["train"])
    found = blocking(ds, planted(split, table))["fold_overlap"]
    assert found.count == 9
    assert len(found.examples) == 5


def test_doses_of_a_combination_belong_to_its_parts() -> None:
    """A at 1 with B at 10 is another condition than A at 10 with B at 1; `B+A` at 10 and 1 is the first again."""
    rows: list[Any] = [("control", "x")] * 4
    doses = ("1 uM", "10 uM")
    rows += [("A+B", "x", {"doses": f"{a}+{b}"}) for a in doses for b in doses for _ in range(2)]
    rows += [(p, "x", {"doses": d}) for p in "AB" for d in doses for _ in range(2)]
    ds = screen(rows)
    split = split_one(ds, "explicit", {"folds": {"test": ["x|A+B||1 uM+10 uM|"]}})
    assert "equivalent_conditions" not in blocking(ds, split)
    names = Names(ds)
    one, same, other = (
        names.condition(("x", pert, "", dose, ""))
        for pert, dose in (("A+B", "1 uM+10 uM"), ("b+A", "10 uM+1 uM"), ("A+B", "10 uM+1 uM"))
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("tested", "trained", "same"),
    [
        ({"doses": "10 uM"}, {"doses": "10000 nM"}, True),
        ({"doses": "10 uM"}, {"doses": "10 nM"}, False),
        ({"covariates": '{"time":"24 h"}'}, {"covariates": '{"time":"1 day"}'}, True),
        ({"covariates": '{"time":"24 h"}'}, {"covariates": '{"time":"2 days"}'}, False),
    ],
)
def test_doses_and_times_in_another_notation_are_one_condition(
    tested: dict[str, str], trained: dict[str, str], same: bool
) -> None:
    """An import writes them in one way; data of another tool may not."""
    rows: list[Any] = [("control", "x")] * 4
    rows += [(p, "x", how) for p in "AB" for how in (tested, trained) for _ in range(2)]
    ds = screen(rows)
    (key,) = [
        str(k)
        for k, row in ds.conditions.iterrows()
        if row["pert_id"] == "A" and all(row[c] == v for c, v in tested.items())
    ]
    split = split_one(ds, "explicit", {"folds": {"test": [key]}})
    assert ("equivalent_conditions" in blocking(ds, split)) == same


@pytest.mark.parametrize(("combined", "named"), [("1 uM+10 uM", True), ("1 uM+1 uM", False)])
def test_a_test_dose_that_train_has_in_a_combination_is_named(combined: str, named: bool) -> None:
    doses = ("1 uM", "10 uM")
    rows: list[Any] = [("control", "x")] * 4
    rows += [(p, "x", {"doses": d}) for p in "AB" for d in doses for _ in range(2)]
    rows += [("A+B", "x", {"doses": combined})] * 2
    ds = screen(rows)
    found = [f for f in audit(ds, split_one(ds, "dose_ood")) if f.name == "held_out_unit_in_train"]
    assert [(f.severity, f.examples) for f in found] == (
        [("warning", (f"x|B||10 uM| in x|A+B||{combined}|",))] if named else []
    )
