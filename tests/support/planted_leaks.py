"""Leaks planted into clean splits and runs, by the check that must name each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.controls import REFERENCE
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import GeneSelection, Normalization
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.splits.audit.run import FitRecord, RunEvidence, RunRecords, TestOverlap, rows_record
from perturbfm_core.splits.split import FrozenSplit, RowFolds, codes_digest
from perturbfm_core.splits.view import train_view
from tests.support.audit_screen import (
    BATCH,
    BOTH,
    CELLS,
    COMBO,
    CONTEXT,
    GENE,
    PERTS,
    ROWS,
    SINGLES,
    Planted,
    by_row,
    explicit_split,
    moved,
    renamed,
    with_codes,
    with_table,
)
from tests.support.factories import (
    grid_rows,
    reordered,
    screen,
    split_one,
    table_of,
    with_metadata,
    with_values,
)

# ---- leaks of splits ------------------------------------------------------------------------------------------


def _row_in_two_folds() -> Planted:
    split, codes = by_row(CONTEXT)
    codes[np.flatnonzero(CELLS.is_control)[:3]] = schema.FOLDS.index("train")
    return Planted(CELLS, with_codes(split, codes))


def _row_in_no_fold() -> Planted:
    split, codes = by_row(CONTEXT)
    codes[np.flatnonzero(~CELLS.is_control)[:3]] = -1
    return Planted(CELLS, with_codes(split, codes))


def _cell_of_condition_in(fold: str) -> Planted:
    split, codes = by_row(CONTEXT)
    first = np.flatnonzero(codes == schema.FOLDS.index("test"))[0]
    codes[first] = schema.FOLDS.index(fold)  # type: ignore[arg-type]
    return Planted(CELLS, with_codes(split, codes))


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
    ds = renamed([("p53", "x"), ("TP53", "x")], notes=notes)
    return Planted(ds, explicit_split(ds, ["p53"], "perturbation"))


def _twin(first: str, second: str, context: str = "x") -> Planted:
    ds = renamed([(first, "x"), (second, context), ("control", context)])
    return Planted(ds, explicit_split(ds, [f"x|{first}|||"]))


def _gene_through_combo(fold: str) -> Planted:
    table = table_of(GENE)
    table["test"] = [k for k in table["test"] if k != "y|A+B|||"]
    table[fold] = [*table[fold], "y|A+B|||"]
    return Planted(CELLS, with_table(GENE, table))


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
    return Planted(CELLS, with_table(CONTEXT, table))


def _selected(rows: str) -> Planted:
    meta = CELLS.metadata.model_copy(update={"gene_selection": GeneSelection(method="hvg", rows=rows)})  # type: ignore[arg-type]
    ds = PerturbDataset(CELLS.obs, CELLS.genes, CELLS.values, meta)
    return Planted(ds, CONTEXT)


def with_label_features(how: str) -> Planted:
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


def with_sister_guides(how: str) -> Planted:
    perts = ["g0_1", "g0_2", "B", "C"] if how == "name" else ["one", "two", "B", "C"]
    ds = screen(grid_rows(perts, ["x", "y"], reps=4, controls=12), genes=12)
    if how == "note":
        ds = with_metadata(ds, notes={"guides": {"one": "A", "two": "A"}})
    return Planted(ds, split_one(ds, "perturbation_ood", {"holdout": [perts[0]]}))


def with_sister_combinations(held: str) -> Planted:
    perts = ["g0_1", "g0_2", "g1_1", "g1_2", "g0_1+g1_1", "g0_2+g1_2", "g0_1+g2_1"]
    ds = screen(grid_rows(perts, ["x", "y"], reps=4, controls=12), genes=12)
    return Planted(ds, split_one(ds, "combo_ood", {"holdout": [held]}))


# ---- leaks of runs --------------------------------------------------------------------------------------------


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


def with_prediction(mean: Any, var: Any = None, rows: Any = None) -> Planted:
    rows = CONTEXT.rows(CELLS, "test") if rows is None else rows
    mean = np.asarray(mean, dtype=np.float32)
    var = np.ones_like(mean) if var is None else np.asarray(var, dtype=np.float32)
    return Planted(CELLS, CONTEXT, RunEvidence(prediction=RowPrediction(mean=mean, var=var, idx=rows)))


def observed_truth(role: str = "reference") -> tuple[Any, Any]:
    """Return (observed delta of each test row's condition, position of that condition)."""
    rows = CONTEXT.rows(CELLS, "test")
    table = condition_table(CELLS, rows)
    codes = table.conditions.index.get_indexer(CELLS.conditions.index[CELLS.condition_codes[rows]])
    return table.delta[role][codes], codes  # type: ignore[index]


def _noisy_truth(noise: float) -> Planted:
    truth, codes = observed_truth()
    jitter = np.random.default_rng(0).normal(0, noise, (codes.max() + 1, truth.shape[1]))
    return with_prediction(truth + jitter[codes])


def _row_by_row(share: float) -> Planted:
    rows = CONTEXT.rows(CELLS, "test")
    base, _ = honest_prediction()
    own = CELLS.delta(rows)
    return with_prediction(base + share * own + np.random.default_rng(1).normal(0, 0.1, own.shape))


def honest_prediction() -> tuple[Any, Any]:
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
    return with_prediction(honest_prediction()[0], s2[codes])


LEAKS: dict[str, dict[str, Callable[[], Planted]]] = {
    "fold_overlap": {
        "condition_in_train_and_test": lambda: Planted(CELLS, moved(CONTEXT, "test", "train", keep=True)),
        "condition_in_calib_and_test": lambda: Planted(CELLS, moved(CONTEXT, "test", "calib", keep=True)),
        "condition_in_val_and_test": lambda: Planted(CELLS, moved(CONTEXT, "test", "val", keep=True)),
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
        "context_condition_in_train": lambda: Planted(CELLS, moved(CONTEXT, "test", "train")),
        "context_condition_in_validation": lambda: Planted(CELLS, moved(CONTEXT, "test", "val")),
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
            CELLS, with_table(CONTEXT, table_of(CONTEXT), validation="fold")
        ),
        "declared_calibration_without_cells": lambda: Planted(
            CELLS, with_table(CONTEXT, table_of(CONTEXT), calibration="fold")
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
        how: lambda how=how: with_label_features(how) for how in ("name", "values", "leaky")
    },  # type: ignore[misc]
    "sister_guides": {
        "name": lambda: with_sister_guides("name"),
        "note": lambda: with_sister_guides("note"),
        "combination": lambda: with_sister_combinations("g0_1+g1_1"),
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
        "observed_means": lambda: with_prediction(observed_truth()[0]),
        "observed_means_on_input_controls": lambda: with_prediction(observed_truth("input")[0]),
        "noisy_means": lambda: _noisy_truth(0.01),
        "cells": lambda: with_prediction(CELLS.delta(CONTEXT.rows(CELLS, "test"))),
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
    planted = with_prediction(observed_truth()[0])
    given = planted.run.prediction
    assert given is not None
    named = replace(given, row_id=CELLS.row_ids[rows], idx=rows[::-1].copy(), row=np.arange(len(rows)))
    return replace(planted, run=replace(planted.run, prediction=named))


def _calibrated_cells() -> FrozenSplit:
    split, codes = by_row(CONTEXT)
    test = np.flatnonzero(codes == schema.FOLDS.index("test"))
    codes[test[::3]] = schema.FOLDS.index("calib")
    return with_codes(split, codes)
