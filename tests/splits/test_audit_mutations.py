"""Every leak, planted at least two ways into a clean split or run: the audit names each one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.controls import REFERENCE
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import GeneSelection, Normalization
from perturbfm_core.data.prediction import RowPrediction, write_prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.audit.core import CHECKS, RUN_CHECKS, audit, report, require_clean
from perturbfm_core.splits.audit.permutation import permutation_control
from perturbfm_core.splits.audit.run import (
    FitRecord,
    RunEvidence,
    RunRecords,
    TestOverlap,
    read_run,
    rows_record,
)
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, RowFolds, codes_digest
from perturbfm_core.splits.view import query, train_view
from tests.support.factories import (
    grid_rows,
    reordered,
    screen,
    split_one,
    table_of,
    with_metadata,
    with_values,
)

SINGLES = ["A", "B", "C", "D", "E"]
PERTS = [*SINGLES, "A+B", "C+D"]


@dataclass(frozen=True, eq=False)
class Planted:
    """A data set, a split of it and a run, one of which leaks."""

    ds: PerturbDataset
    split: FrozenSplit
    run: RunEvidence | None = None

    def names(self) -> set[str]:
        """Return the names of all findings."""
        return {f.name for f in audit(self.ds, self.split, self.run)}


# ---- clean beginnings --------------------------------------------------------------------------------------


def _cells() -> PerturbDataset:
    """Return a screen of cells with effects, noise, 3 contexts with 120 controls each, and 2 batches."""
    rng = np.random.default_rng(5)
    rows = grid_rows(PERTS, ["x", "y", "z"], reps=12, controls=120)
    effect = {p: rng.normal(0, 0.25, 40) for p in SINGLES} | {"control": np.zeros(40)}
    X = []
    for pert, _ in rows:
        shift = sum(effect[g] for g in pert.split("+"))
        X.append(np.abs(2 + shift + rng.normal(0, 0.6, 40)))
    batches = [{"batch_id": f"b{i}"} for i in rng.integers(0, 2, len(rows))]
    full = [(*row, extra) for row, extra in zip(rows, batches, strict=True)]
    return screen(full, X=np.asarray(X), genes=40)


CELLS = _cells()
CONTEXT = split_one(CELLS, "context_ood", {"holdout": ["x"]})
GENE = split_one(CELLS, "perturbation_ood", {"holdout": ["A"]})
COMBO = split_one(CELLS, "combo_ood", {"holdout": ["A+B"]})
ROWS = split_one(CELLS, "iid", {"test_frac": 0.3})
BOTH = split_one(CELLS, "context_perturbation_ood", {"contexts": ["x"], "perturbations": ["A"]})
BATCH = split_one(CELLS, "batch_ood", {"holdout": ["b1"]})


def _with_table(split: FrozenSplit, table: Mapping[str, Sequence[str]], **update: Any) -> FrozenSplit:
    """Return a split with other folds, past every validator."""
    folds = ConditionFolds(table={f: tuple(keys) for f, keys in table.items() if keys})  # type: ignore[misc]
    return FrozenSplit(split.definition.model_copy(update={"folds": folds, **update}))


def _with_codes(split: FrozenSplit, codes: Any, **update: Any) -> FrozenSplit:
    """Return a by-row split with other codes and a fitting digest."""
    codes = np.asarray(codes, dtype=np.int8)
    folds = split.definition.folds
    assert isinstance(folds, RowFolds)
    folds = folds.model_copy(update={"codes_sha256": codes_digest(codes)})
    return FrozenSplit(split.definition.model_copy(update={"folds": folds, **update}), codes)


def _moved(split: FrozenSplit, source: str, target: str, *, keep: bool = False, **update: Any) -> FrozenSplit:
    """Return a split with the first condition of a fold in another (too)."""
    table = table_of(split)
    key = table[source][0]
    table[source] = table[source] if keep else table[source][1:]
    table[target] = [*table[target], key]
    return _with_table(split, table, **update)


def _by_row(split: FrozenSplit, ds: PerturbDataset = CELLS) -> tuple[FrozenSplit, Any]:
    """Return a by-condition split as codes of rows, with a by-row split to put them into."""
    rows = split_one(ds, "iid", {"test_frac": 0.3})
    blank = rows.definition.model_copy(
        update={
            "ood_axes": split.definition.ood_axes,
            "validation": "none",
            "calibration": "none",
            "inner": None,
        }
    )
    return FrozenSplit(blank, rows.row_codes), split.codes(ds).copy()


def _renamed(rows: list[tuple[str, str]], **metadata: Any) -> PerturbDataset:
    return screen(grid_rows(["C", "D"], ["x", "y"]) + [r for row in rows for r in (row, row)], **metadata)


def _explicit(ds: PerturbDataset, test: list[str], axis: str = "combo") -> FrozenSplit:
    split = split_one(ds, "explicit", {"folds": {"test": test}})
    return FrozenSplit(split.definition.model_copy(update={"ood_axes": (axis,)}))


# ---- leaks of splits ---------------------------------------------------------------------------------------


def _row_in_two_folds() -> Planted:
    split, codes = _by_row(CONTEXT)
    codes[np.flatnonzero(CELLS.is_control)[:3]] = schema.FOLDS.index("train")
    return Planted(CELLS, _with_codes(split, codes))


def _row_in_no_fold() -> Planted:
    split, codes = _by_row(CONTEXT)
    codes[np.flatnonzero(~CELLS.is_control)[:3]] = -1
    return Planted(CELLS, _with_codes(split, codes))


def _cell_of_condition_in(fold: str) -> Planted:
    split, codes = _by_row(CONTEXT)
    first = np.flatnonzero(codes == schema.FOLDS.index("test"))[0]
    codes[first] = schema.FOLDS.index(fold)  # type: ignore[arg-type]
    return Planted(CELLS, _with_codes(split, codes))


def _copied_profile(source: str, *, counts: bool = False) -> Planted:
    X = np.array(CELLS.values.expression)
    codes = CONTEXT.codes(CELLS)
    test = int(np.flatnonzero(codes == schema.FOLDS.index("test"))[3])
    other = np.flatnonzero(CELLS.is_control if source == "control" else codes == schema.FOLDS.index("train"))
    X[test] = X[int(other[7])]
    if counts:
        import scipy.sparse as sp

        meta = CELLS.metadata.model_copy(update={"space": "counts", "normalization": Normalization()})
        whole = sp.csr_array(np.rint(X * 10).astype(np.int32))
        ds = PerturbDataset(CELLS.obs, CELLS.genes, Values(counts=whole), meta)
    else:
        ds = with_values(CELLS, X)
    return Planted(ds, split_one(ds, "context_ood", {"holdout": ["x"]}))


def _alias(**notes: Any) -> Planted:
    ds = _renamed([("p53", "x"), ("TP53", "x")], notes=notes)
    return Planted(ds, _explicit(ds, ["p53"], "perturbation"))


def _twin(first: str, second: str, context: str = "x") -> Planted:
    ds = _renamed([(first, "x"), (second, context), ("control", context)])
    return Planted(ds, _explicit(ds, [f"x|{first}|||"]))


def _gene_through_combo(fold: str) -> Planted:
    table = table_of(GENE)
    table["test"] = [k for k in table["test"] if k != "y|A+B|||"]
    table[fold] = [*table[fold], "y|A+B|||"]
    return Planted(CELLS, _with_table(GENE, table))


def _gene_in_other_case() -> Planted:
    ds = screen(grid_rows(["A", "B", "C", "a+B"], ["x", "y"]))
    return Planted(ds, split_one(ds, "perturbation_ood", {"holdout": ["A"]}))


def _combination_elsewhere(other: str) -> Planted:
    """Return a split by combinations whose held-out one is in another context under another spelling."""
    rows = [*grid_rows(["A", "B", "C", "B+C"], ["x", "y"]), *[("A+B", "x")] * 3, *[(other, "y")] * 3]
    ds = screen(rows)
    return Planted(ds, split_one(ds, "combo_ood", {"holdout": ["A+B"]}))


def _context_in_other_case() -> Planted:
    ds = screen(grid_rows(["A", "B"], ["K562", "k562", "z"]))
    return Planted(ds, split_one(ds, "context_ood", {"holdout": ["K562"]}))


def _torn_replicates(fold: str) -> Planted:
    rows = [(p, c) for p in SINGLES for c in ("x", "y") for _ in range(3)]
    ds = screen(rows, space="delta", level="condition", genes=12)
    base = split_one(ds, "context_ood", {"holdout": ["x"]})
    codes = base.codes(ds).copy()
    first = np.flatnonzero(codes == schema.FOLDS.index("test"))[0]
    codes[first] = schema.FOLDS.index(fold)  # type: ignore[arg-type]
    folds = RowFolds(n_obs=ds.n_obs, rows_sha256=rows_digest(ds.row_ids), codes_sha256=codes_digest(codes))
    return Planted(
        ds, FrozenSplit(base.definition.model_copy(update={"folds": folds, "ood_axes": ()}), codes)
    )


def _confounded(noise: int) -> Planted:
    """Return a split whose perturbations were measured in batches of their own, but for some rows."""
    rng = np.random.default_rng(0)
    rows: list[Any] = []
    for i, (pert, context) in enumerate(grid_rows(PERTS, ["x", "y"], reps=20, controls=6)):
        own = PERTS.index(pert) % 3 if pert != "control" else 0
        rows.append((pert, context, {"batch_id": f"b{rng.integers(3) if i % 10 < noise else own}"}))
    ds = screen(rows)
    return Planted(ds, split_one(ds, "context_ood", {"holdout": ["x"]}))


def _changed_value() -> Planted:
    X = np.array(CELLS.values.expression)
    X[5, 5] += 1
    return Planted(with_values(CELLS, X), CONTEXT)


def _changed_rows() -> Planted:
    ds = reordered(CELLS, np.arange(CELLS.n_obs)[::-1].tolist())
    return Planted(ds, ROWS)


def _changed_under_its_hash() -> Planted:
    planted = _changed_value()
    return Planted(with_metadata(planted.ds, content_sha256=CELLS.content_sha256), planted.split)


def _missing_condition(*, whole: bool) -> Planted:
    table = table_of(CONTEXT)
    table["test"] = [*table["test"], "x|GONE|||"] if not whole else ["x|GONE|||"]
    return Planted(CELLS, _with_table(CONTEXT, table))


def _selected(rows: str) -> Planted:
    meta = CELLS.metadata.model_copy(update={"gene_selection": GeneSelection(method="hvg", rows=rows)})  # type: ignore[arg-type]
    ds = PerturbDataset(CELLS.obs, CELLS.genes, CELLS.values, meta)
    return Planted(ds, CONTEXT)


def _label_features(how: str) -> Planted:
    """Return cells with features that name the perturbation, by their name or by where they are on."""
    genes = [str(g) for g in CELLS.genes]
    X = np.array(CELLS.values.expression)
    perts = CELLS.obs[schema.PERT_ID].astype(str).to_numpy()
    for i, pert in enumerate(SINGLES[:3]):
        X[:, i] = np.where(perts == pert, 2.0, 0.0) if how != "name" else X[:, i]
        if how == "name":
            genes[i] = (f"sg{pert}_1", f"{pert}_sgRNA", f"guide-{pert}")[i]
    if how == "leaky":
        # Stray reads of guides in a few other cells hide nothing.
        X[np.random.default_rng(0).random(len(X)) < 0.005, :3] = 1.0
    ds = PerturbDataset(CELLS.obs, genes, Values(expression=X.astype(np.float32)), CELLS.metadata)
    return Planted(ds, split_one(ds, "context_ood", {"holdout": ["x"]}))


def _sister_guides(how: str) -> Planted:
    perts = ["g0_1", "g0_2", "B", "C"] if how == "name" else ["one", "two", "B", "C"]
    ds = screen(grid_rows(perts, ["x", "y"], reps=4, controls=12), genes=12)
    if how == "note":
        ds = with_metadata(ds, notes={"guides": {"one": "A", "two": "A"}})
    return Planted(ds, split_one(ds, "perturbation_ood", {"holdout": [perts[0]]}))


def _sister_combinations(held: str) -> Planted:
    perts = ["g0_1", "g0_2", "g1_1", "g1_2", "g0_1+g1_1", "g0_2+g1_2", "g0_1+g2_1"]
    ds = screen(grid_rows(perts, ["x", "y"], reps=4, controls=12), genes=12)
    return Planted(ds, split_one(ds, "combo_ood", {"holdout": [held]}))


# ---- leaks of runs -----------------------------------------------------------------------------------------


def _run(split: FrozenSplit = CONTEXT, **records: Any) -> Planted:
    return Planted(CELLS, split, RunEvidence(RunRecords(**records)))


def _made(what: str, split: FrozenSplit = CONTEXT, **record: Any) -> Planted:
    return _run(split, made=(FitRecord(what=what, **record),))  # type: ignore[arg-type]


def _all_rows() -> str:
    return rows_record(CELLS, np.arange(CELLS.n_obs))


def _train_and_test() -> str:
    return rows_record(CELLS, CONTEXT.rows(CELLS, "train", "test"))


def _with_all_controls(split: FrozenSplit) -> str:
    rows = np.isin(np.arange(CELLS.n_obs), split.rows(CELLS, "train")) | CELLS.is_control
    return rows_record(CELLS, np.flatnonzero(rows))


def _roles(role: int, context: str) -> tuple[int, ...]:
    mine = (CELLS.obs[schema.CONTEXT_ID] == context).to_numpy() & (CELLS.controls.roles == role)
    return tuple(int(i) for i in np.flatnonzero(mine))


def _prediction(mean: Any, var: Any = None, rows: Any = None) -> Planted:
    rows = CONTEXT.rows(CELLS, "test") if rows is None else rows
    mean = np.asarray(mean, dtype=np.float32)
    var = np.ones_like(mean) if var is None else np.asarray(var, dtype=np.float32)
    return Planted(CELLS, CONTEXT, RunEvidence(prediction=RowPrediction(mean=mean, var=var, idx=rows)))


def _truth(role: str = "reference") -> tuple[Any, Any]:
    """Return (observed delta of each test row's condition, position of that condition)."""
    rows = CONTEXT.rows(CELLS, "test")
    table = condition_table(CELLS, rows)
    codes = table.conditions.index.get_indexer(CELLS.conditions.index[CELLS.condition_codes[rows]])
    return table.delta[role][codes], codes  # type: ignore[index]


def _noisy_truth(noise: float) -> Planted:
    truth, codes = _truth()
    jitter = np.random.default_rng(0).normal(0, noise, (codes.max() + 1, truth.shape[1]))
    return _prediction(truth + jitter[codes])


def _row_by_row(share: float) -> Planted:
    rows = CONTEXT.rows(CELLS, "test")
    base, _ = _honest()
    own = CELLS.delta(rows)
    return _prediction(base + share * own + np.random.default_rng(1).normal(0, 0.1, own.shape))


def _honest() -> tuple[Any, Any]:
    """Return what the train mean of each perturbation predicts for the test rows."""
    view = train_view(CELLS, CONTEXT)
    perts = view.conditions[schema.PERT_ID].astype(str).to_numpy()
    rows = CONTEXT.rows(CELLS, "test")
    wanted = CELLS.obs[schema.PERT_ID].astype(str).to_numpy()[rows]
    mean = {p: view.delta[perts == p].mean(axis=0) for p in set(wanted)}
    return np.asarray([mean[p] for p in wanted]), rows


def _observed_variance(*, control: bool) -> Planted:
    rows = CONTEXT.rows(CELLS, "test")
    table = condition_table(CELLS, rows)
    s2 = table.s2_pert + (table.s2_control["reference"] if control else 0)
    codes = table.conditions.index.get_indexer(CELLS.conditions.index[CELLS.condition_codes[rows]])
    return _prediction(_honest()[0], s2[codes])


LEAKS: dict[str, dict[str, Callable[[], Planted]]] = {
    "fold_overlap": {
        "condition_in_train_and_test": lambda: Planted(CELLS, _moved(CONTEXT, "test", "train", keep=True)),
        "condition_in_calib_and_test": lambda: Planted(CELLS, _moved(CONTEXT, "test", "calib", keep=True)),
        "condition_in_val_and_test": lambda: Planted(CELLS, _moved(CONTEXT, "test", "val", keep=True)),
        "control_rows_in_train": _row_in_two_folds,
        "rows_in_no_fold": _row_in_no_fold,
    },
    "condition_in_train_and_test": {
        "one_cell_in_train": lambda: _cell_of_condition_in("train"),
        "one_cell_in_validation": lambda: _cell_of_condition_in("val"),
    },
    "calibration_in_test": {
        "one_cell": lambda: _cell_of_condition_in("calib"),
        "a_third_of_the_cells": lambda: Planted(CELLS, _calibrated_cells()),
    },
    "identical_profiles": {
        "train_cell": lambda: _copied_profile("train"),
        "control_cell": lambda: _copied_profile("control"),
        "counts": lambda: _copied_profile("train", counts=True),
    },
    "equivalent_conditions": {
        "order": lambda: _twin("A+B", "B+A"),
        "control_part": lambda: _twin("A", "A+control"),
        "ctrl_part": lambda: _twin("A", "ctrl+A"),
        "control_guide_part": lambda: _twin("A", "A+NegCtrl0"),
        "safe_target_part": lambda: _twin("A+B", "B+AAVS1+A"),
        "case": lambda: _twin("TP53", "Tp53"),
        "space": lambda: _twin("TP53", "TP53 "),
        "separator": lambda: _twin("C+D", "C_D"),
        "context_case": lambda: _twin("A", "A", "X"),
        "alias_of_import": lambda: _alias(columns={"aliases": {"p53": "TP53"}}),
        "alias_declared": lambda: _alias(aliases={"p53": "TP53"}),
    },
    "held_out_unit_in_train": {
        "gene_through_a_train_combo": lambda: _gene_through_combo("train"),
        "gene_through_a_calibration_combo": lambda: _gene_through_combo("calib"),
        "gene_in_another_case": _gene_in_other_case,
        "context_condition_in_train": lambda: Planted(CELLS, _moved(CONTEXT, "test", "train")),
        "context_condition_in_validation": lambda: Planted(CELLS, _moved(CONTEXT, "test", "val")),
        "context_in_another_case": _context_in_other_case,
        **{
            f"combination_as_{other}": (lambda other=other: _combination_elsewhere(other))
            for other in ("a+B", "A_B")
        },  # type: ignore[misc]
    },
    "empty_fold": {
        "declared_condition_without_cells": lambda: _missing_condition(whole=False),
        "no_test_condition_has_cells": lambda: _missing_condition(whole=True),
        "declared_validation_without_cells": lambda: Planted(
            CELLS, _with_table(CONTEXT, table_of(CONTEXT), validation="fold")
        ),
        "declared_calibration_without_cells": lambda: Planted(
            CELLS, _with_table(CONTEXT, table_of(CONTEXT), calibration="fold")
        ),
    },
    "replicates_in_two_folds": {
        "train": lambda: _torn_replicates("train"),
        "calib": lambda: _torn_replicates("calib"),
    },
    "batch_confounding": {"wholly": lambda: _confounded(0), "mostly": lambda: _confounded(3)},
    "changed_data": {
        "value": _changed_value,
        "value_under_the_old_hash": _changed_under_its_hash,
        "row_order_of_a_split_by_row": _changed_rows,
    },
    "label_naming_features": {
        how: lambda how=how: _label_features(how) for how in ("name", "values", "leaky")
    },  # type: ignore[misc]
    "sister_guides": {
        "name": lambda: _sister_guides("name"),
        "note": lambda: _sister_guides("note"),
        "combination": lambda: _sister_combinations("g0_1+g1_1"),
    },
    "gene_selection": {"all": lambda: _selected("all"), "unknown": lambda: _selected("unknown")},
    "transductive": {
        "context": lambda: Planted(
            CELLS, split_one(CELLS, "context_ood", {"holdout": ["x"]}, transductive=True)
        ),
        "perturbation": lambda: Planted(
            CELLS, split_one(CELLS, "perturbation_ood", {"holdout": ["A"]}, transductive=True)
        ),
    },
    "reference_controls_read": {
        "role": lambda: _run(control_roles=("input", "reference")),
        "rows": lambda: _run(rows_read=_roles(REFERENCE, "y")[:2]),
    },
    "held_out_controls_read": {
        "some": lambda: _run(rows_read=_roles(1, "x")[:2]),
        "all_rows": lambda: _run(rows_read=tuple(range(CELLS.n_obs))),
        "of_a_batch": lambda: _run(
            split_one(CELLS, "batch_ood", {"holdout": ["b1"]}), rows_read=tuple(range(CELLS.n_obs))
        ),
    },
    "test_rows_read": {
        "one": lambda: _run(rows_read=(int(CONTEXT.rows(CELLS, "test")[0]),)),
        "all": lambda: _run(rows_read=tuple(range(CELLS.n_obs))),
        # New in one of the two ways that test is new in.
        "unused": lambda: _run(BOTH, rows_read=(int(BOTH.rows(CELLS, "unused")[0]),)),
        # Positions that no row has: counted from the end, or of another data set.
        "from_the_end": lambda: _run(rows_read=(-1,)),
        "beyond": lambda: _run(rows_read=(CELLS.n_obs,)),
    },
    "made_on_other_rows": {
        "with_reference_controls": lambda: _made("scaler", COMBO, rows_sha256=_with_all_controls(COMBO)),
        "with_controls_of_a_held_out_batch": lambda: _made(
            "scaler", BATCH, rows_sha256=_with_all_controls(BATCH)
        ),
        "external_of_the_same_data": lambda: _made(
            "embedding", rows="external", content_sha256=CELLS.content_sha256
        ),
        **{
            f"{what}_{how}": (lambda what=what, record=record: _made(what, **record()))  # type: ignore[misc]
            for what in ("graph", "features", "scaler", "pca", "embedding", "cache")
            for how, record in {
                "of_another_split": lambda: {"split_hash": GENE.hash},
                "of_all_rows": lambda: {"rows": "all"},
                "of_other_rows": lambda: {"rows_sha256": _train_and_test()},
            }.items()
        },
    },
    "test_statistics_in_training": {
        "lists": lambda: _made("de_genes", rows="all", name="rank_genes_groups"),
        "lists_of_unknown_rows": lambda: _made("de_genes"),
        "statistics": lambda: _made("statistics", rows_sha256=_all_rows()),
    },
    "pretrained_on_test": {
        "all_rows": lambda: _made("encoder", rows="all"),
        "all_rows_beside_the_split": lambda: _made("encoder", rows="all", split_hash=CONTEXT.hash),
        "train_and_test": lambda: _made("encoder", rows_sha256=_train_and_test()),
        "another_version": lambda: _made("encoder", rows="all", content_sha256="f" * 64),
    },
    "borrowed_test_measurements": {
        "the_data_set_itself": lambda: _made("borrowed", name="d", content_sha256=CELLS.content_sha256),
        "its_test_rows": lambda: _made(
            "borrowed",
            name="d",
            content_sha256="e" * 64,
            overlap=TestOverlap(perturbations=5, measured=2, rows=9, same_values=9),
        ),
        "not_declared": lambda: _made("borrowed", name="d", rows="external", content_sha256="e" * 64),
    },
    "test_moments_read": {
        "variance": lambda: _run(predict_reads=("conditions", "control", "s2")),
        "n": lambda: _run(predict_reads=("conditions", "n_cells")),
    },
    "truth_in_predictions": {
        "observed_means": lambda: _prediction(_truth()[0]),
        "observed_means_on_input_controls": lambda: _prediction(_truth("input")[0]),
        "noisy_means": lambda: _noisy_truth(0.01),
        "cells": lambda: _prediction(CELLS.delta(CONTEXT.rows(CELLS, "test"))),
        "rows_named_and_numbered_otherwise": lambda: _misnumbered(),
        "a_share_of_the_cells": lambda: _row_by_row(0.2),
    },
    "truth_in_variances": {
        "of_the_mean": lambda: _observed_variance(control=False),
        "with_the_control": lambda: _observed_variance(control=True),
    },
}


def _misnumbered() -> Planted:
    """The truth with the names of its rows, whose positions are those of others: scoring goes by names."""
    rows = CONTEXT.rows(CELLS, "test")
    planted = _prediction(_truth()[0])
    given = planted.run.prediction
    assert given is not None
    named = replace(given, row_id=CELLS.row_ids[rows], idx=rows[::-1].copy(), row=np.arange(len(rows)))
    return replace(planted, run=replace(planted.run, prediction=named))


def _calibrated_cells() -> FrozenSplit:
    split, codes = _by_row(CONTEXT)
    test = np.flatnonzero(codes == schema.FOLDS.index("test"))
    codes[test[::3]] = schema.FOLDS.index("calib")
    return _with_codes(split, codes)


PLANTS = [
    pytest.param(leak, plant, id=f"{leak}-{how}")
    for leak, ways in LEAKS.items()
    for how, plant in ways.items()
]


@pytest.mark.parametrize(("leak", "plant"), PLANTS)
def test_a_planted_leak_is_named(leak: str, plant: Callable[[], Planted]) -> None:
    assert leak in plant().names()


def test_every_check_is_planted_at_least_two_ways() -> None:
    assert set(LEAKS) == set(CHECKS.names()) | set(RUN_CHECKS.names())
    assert min(len(ways) for ways in LEAKS.values()) >= 2


def test_features_that_name_the_condition_block_unless_they_are_accepted() -> None:
    planted = _label_features("values")
    with pytest.raises(SplitError, match=r"label_naming_features: 3 of 40 features name the condition"):
        require_clean(planted.ds, planted.split)
    accepted = with_metadata(planted.ds, notes={"columns": {"accept": ["label_naming_features"]}})
    assert [f.name for f in require_clean(accepted, planted.split)] == ["label_naming_features"]


def test_one_gene_that_a_perturbation_switches_on_is_no_label() -> None:
    X = np.array(CELLS.values.expression)
    perts = CELLS.obs[schema.PERT_ID].astype(str).to_numpy()
    X[:, 0] = np.where(perts == "A", 2.0, 0.0)
    ds = with_values(CELLS, X.astype(np.float32))
    assert audit(ds, split_one(ds, "context_ood", {"holdout": ["x"]})) == []
    # The perturbed genes themselves may be on in their own condition only.
    genes = [*SINGLES, *(str(g) for g in CELLS.genes[len(SINGLES) :])]
    for i, pert in enumerate(SINGLES):
        X[:, i] = np.where(perts == pert, 2.0, 0.0)
    own = PerturbDataset(CELLS.obs, genes, Values(expression=X.astype(np.float32)), CELLS.metadata)
    assert audit(own, split_one(own, "context_ood", {"holdout": ["x"]})) == []


def test_a_combination_shares_single_guides_but_no_pair_of_genes_with_train() -> None:
    planted = _sister_combinations("g0_1+g2_1")
    assert audit(planted.ds, planted.split) == []


def test_guides_of_controls_that_are_kept_as_perturbations_are_not_one_condition() -> None:
    ds = screen(grid_rows(["NT_1", "NT_2", "A", "B"], ["x", "y"]))
    assert audit(ds, split_one(ds, "perturbation_ood", {"holdout": ["NT_1"]})) == []


def test_guides_held_out_together_are_no_sisters() -> None:
    ds = _sister_guides("name").ds
    split = split_one(ds, "perturbation_ood", {"holdout": ["g0_1", "g0_2"]})
    assert audit(ds, split) == []


# ---- nothing is found where nothing is -------------------------------------------------------------------------


def _random_split(seed: int) -> tuple[PerturbDataset, FrozenSplit]:
    rng = np.random.default_rng(seed)
    contexts = [f"c{i}" for i in range(int(rng.integers(3, 5)))]
    perts = [f"P{i}" for i in range(int(rng.integers(5, 8)))]
    perts += [f"P{i}+P{i + 1}" for i in range(3)]
    rows: list[Any] = []
    for pert, context in grid_rows(perts, contexts, reps=int(rng.integers(2, 5)), controls=12):
        dose = "" if pert == "control" else ("1 uM", "5 uM")[int(rng.integers(2))]
        rows.append((pert, context, {"doses": dose, "batch_id": f"b{rng.integers(3)}"}))
    ds = screen(rows, genes=30, seed=seed)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("context_ood", {"holdout": [contexts[0]]}),
        ("context_ood", {"holdout": [contexts[1]], "few_shot_frac": 0.3}),
        ("perturbation_ood", {"holdout": [perts[int(rng.integers(3))]]}),
        ("combo_ood", {"holdout": [perts[-1]]}),
        ("covariate_transfer", {"test_frac": 0.2}),
        ("dose_ood", {}),
        ("context_perturbation_ood", {"contexts": [contexts[0]], "perturbations": [perts[0]]}),
        ("batch_ood", {"holdout": ["b1"]}),
        ("iid", {"test_frac": 0.3}),
        ("explicit", {"folds": {"test": [perts[4]], "unused": [perts[0]]}}),
    ]
    kind, params = kinds[seed % len(kinds)]
    return ds, split_one(ds, kind, params, seed=seed)


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_found_in_a_clean_random_split_with_an_honest_run(seed: int) -> None:
    ds, split = _random_split(seed)
    fit = split.rows(ds, *split.fit_folds)
    view = train_view(ds, split)
    assert view.allowed_rows is not None
    assert view.fit_rows is not None
    test = split.rows(ds, "test")
    mean = np.tile(view.delta.mean(axis=0), (len(test), 1))
    records = RunRecords(
        made=(
            FitRecord(what="pca", rows_sha256=rows_record(ds, fit)),
            FitRecord(what="scaler", rows_sha256=rows_record(ds, np.flatnonzero(view.fit_rows))),
            FitRecord(what="graph", split_hash=split.hash),
            FitRecord(what="statistics", rows="fit"),
            FitRecord(what="encoder", rows="external", content_sha256="e" * 64),
        ),
        rows_read=tuple(int(i) for i in np.flatnonzero(view.allowed_rows)),
        control_roles=("input",),
        predict_reads=("conditions", "genes", "control"),
    )
    run = RunEvidence(records, RowPrediction(mean=mean, var=np.ones_like(mean), idx=test))
    assert require_clean(ds, split, run) == []
    states = {o.check: o.status for o in report(ds, split, run)}
    assert set(states.values()) <= {"clean", "not_applicable"}
    assert (
        states["identical_profiles"]
        == states["truth_in_predictions"]
        == states["made_on_other_rows"]
        == "clean"
    )


def test_an_honest_prediction_of_an_easy_context_has_no_finding_of_copied_truth() -> None:
    mean, rows = _honest()
    assert _prediction(mean, rows=rows).names() == set()


def test_conditions_of_one_row_do_not_shift_the_halves_that_predictions_are_compared_with() -> None:
    # One test condition, first in order, keeps a single row: the odd rows alone have fewer conditions.
    key = sorted(CONTEXT.definition.folds.table["test"])[0]  # type: ignore[union-attr]
    code = CELLS.conditions.index.get_loc(key)
    rows = np.flatnonzero(CELLS.condition_codes == code)
    kept = np.setdiff1d(np.arange(CELLS.n_obs), rows[1:])
    X = CELLS.expression
    assert X is not None
    obs = CELLS.obs.iloc[kept]
    few = screen(
        [
            (str(p), str(c), {"batch_id": str(b)})
            for p, c, b in zip(obs[schema.PERT_ID], obs[schema.CONTEXT_ID], obs[schema.BATCH_ID], strict=True)
        ],
        X=np.asarray(X.toarray() if hasattr(X, "toarray") else X)[kept],
        genes=40,
    )
    split = split_one(few, "context_ood", {"holdout": ["x", "y"]})
    test = split.rows(few, "test")
    table = condition_table(few, test).delta["reference"]
    _, codes = np.unique(few.condition_codes[test], return_inverse=True)
    jitter = np.random.default_rng(0).normal(0, 0.01, table.shape)
    view = train_view(few, split)
    perts = view.conditions[schema.PERT_ID].astype(str).to_numpy()
    wanted = few.obs[schema.PERT_ID].astype(str).to_numpy()[test]
    honest = np.asarray([view.delta[perts == p].mean(axis=0) for p in wanted])
    for mean, names in ((honest, set()), ((table + jitter)[codes], {"truth_in_predictions"})):
        run = RunEvidence(prediction=RowPrediction(idx=test, mean=mean, var=np.ones_like(mean)))
        assert {f.name for f in audit(few, split, run)} == names


def test_a_transductive_split_of_contexts_and_perturbations_names_its_contexts() -> None:
    params = {"contexts": ["x"], "perturbations": ["A"]}
    split = split_one(CELLS, "context_perturbation_ood", params, transductive=True)
    assert [f.examples for f in audit(CELLS, split) if f.name == "transductive"] == [("x",)]


# ---- what the audit says ------------------------------------------------------------------------------------


def test_a_check_that_is_not_applicable_gives_its_reason() -> None:
    reasons = {o.check: o.reason for o in report(CELLS, ROWS, RunEvidence()) if o.status == "not_applicable"}
    assert (
        reasons["condition_in_train_and_test"] == "the split holds out rows of conditions that train may have"
    )
    assert reasons["replicates_in_two_folds"] == "the data set has cells, not replicates"
    assert reasons["made_on_other_rows"] == "the run does not declare what it was made from (made)"
    assert reasons["truth_in_predictions"] == "the run has no predictions"
    assert reasons["test_rows_read"].startswith("the run does not declare the rows it read")
    without = {o.check for o in report(CELLS, ROWS) if o.reason == "no run is audited"}
    assert without == set(RUN_CHECKS.names())


def test_a_run_is_read_from_its_directory(tmp_path: Path) -> None:
    planted = _prediction(_truth()[0])
    assert planted.run is not None
    assert planted.run.prediction is not None
    write_prediction(planted.run.prediction, tmp_path / schema.PREDICTIONS_FILE)
    records = {"made": [{"what": "graph", "split_hash": GENE.hash}], "predict_reads": ["conditions"]}
    (tmp_path / "audit.json").write_text(json.dumps(records))
    run = read_run(tmp_path)
    assert {f.name for f in audit(CELLS, CONTEXT, run)} == {"truth_in_predictions", "made_on_other_rows"}
    with pytest.raises(SplitError, match="is no directory of a run"):
        read_run(tmp_path / "nowhere")


# ---- the permutation control --------------------------------------------------------------------------------


def _fit_predict(name: str) -> Callable[..., Any]:
    def run(view: Any, requested: Any, seed: int) -> Any:
        model = new_model(name, {})
        model.fit(view, seed)
        return model.predict(requested).mean

    return run


def _view_query_and_truth() -> tuple[Any, Any, Any]:
    table = condition_table(CELLS, CONTEXT.rows(CELLS, "test"))
    return train_view(CELLS, CONTEXT), query(CELLS, CONTEXT, table), table.delta["reference"]


@pytest.mark.parametrize("name", ["global_mean", "per_perturbation_mean", "additive", "linear"])
def test_shuffled_labels_do_not_beat_the_floor(name: str) -> None:
    control = permutation_control(*_view_query_and_truth(), _fit_predict(name), n=6)
    assert control.ok
    assert len(control.shuffled) == 6
    if name == "per_perturbation_mean":
        assert control.true > control.floor + 0.1


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_an_entry_that_knows_the_test_cells_beats_the_floor_with_shuffled_labels(share: float) -> None:
    view, requested, truth = _view_query_and_truth()
    honest = _fit_predict("per_perturbation_mean")

    def cheat(v: Any, q: Any, seed: int) -> Any:
        return share * truth + (1 - share) * honest(v, q, seed)

    control = permutation_control(view, requested, truth, cheat, n=6)
    assert [f.name for f in control.findings] == ["permutation_control"]
    assert np.mean(control.shuffled) > control.floor


def test_an_entry_that_memorised_the_test_names_beats_the_floor() -> None:
    view, requested, truth = _view_query_and_truth()
    known = dict(zip(requested.conditions.index, truth, strict=True))

    def memorised(v: Any, q: Any, seed: int) -> Any:
        return np.asarray([known[k] for k in q.conditions.index]) + v.delta.mean(axis=0)

    assert not permutation_control(view, requested, truth, memorised, n=4).ok


def test_too_few_conditions_cannot_be_shuffled() -> None:
    view, requested, truth = _view_query_and_truth()
    small = replace(view.subset(np.arange(len(view)) < 2), inner=[])
    with pytest.raises(SplitError, match="at least 3 train conditions, found 2; use a larger split"):
        permutation_control(small, requested, truth, _fit_predict("global_mean"))
