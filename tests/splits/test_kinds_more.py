"""Few-shot contexts, doses, times, batches, and context with perturbation: what each kind holds out."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_key, pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.audit.own import fit_records
from perturbfm_core.splits.audit.run import RunEvidence
from perturbfm_core.splits.kinds.covariate import covariate_values
from perturbfm_core.splits.quantity import parse_dose, parse_times
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view
from tests.support.factories import contexts_of, grid_rows, perts_of, screen, split_all, split_one, table_of

PERTS = ["A", "B", "C", "D"]


def graded(doses: dict[str, list[str]], contexts: str = "xyz", column: str = "doses") -> PerturbDataset:
    """Return a screen where each perturbation has its own doses (or times) in every context."""
    rows: list[Any] = [("control", c) for c in contexts for _ in range(2)]
    for (pert, levels), context in product(doses.items(), contexts):
        for level in levels:
            extra = {"doses": level} if column == "doses" else {"covariates": f'{{"time":"{level}"}}'}
            rows.append((pert, context, extra))
    return screen(rows)


def levels_in(split: FrozenSplit, fold: str, field: str = "doses") -> set[tuple[str, str]]:
    """Return the (perturbation, dose or covariates) of a fold."""
    return {(k[schema.PERT_ID], k[field]) for k in map(parse_key, table_of(split)[fold])}


def blocking(ds: PerturbDataset, split: FrozenSplit) -> list[str]:
    """Return the names of blocking findings."""
    return [f.name for f in audit(ds, split) if f.severity == "blocking"]


# ---- context, few-shot -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_few_shot_trains_a_share_of_the_held_out_context(fraction: float) -> None:
    ds = screen(grid_rows([f"P{i}" for i in range(10)], ["x", "y", "z"]))
    split = split_one(ds, "context_ood", {"holdout": ["x"], "few_shot_frac": fraction})
    table = table_of(split)
    shots = [k for k in table["train"] if k.startswith("x|")]
    assert len(shots) == round(10 * fraction)
    assert shots == split.definition.params["few_shot"]
    assert contexts_of(table["test"]) == {"x"}
    assert len(table["test"]) == 10 - len(shots)
    assert blocking(ds, split) == []
    view = train_view(ds, split)
    assert set(view.conditions.index) == set(table["train"])


def test_few_shot_is_drawn_by_the_seed_and_zero_shot_keeps_its_hash() -> None:
    ds = screen(grid_rows([f"P{i}" for i in range(10)], ["x", "y"]))
    base = {"holdout": ["x"], "few_shot_frac": 0.3}
    shots = [split_one(ds, "context_ood", base, seed=s).definition.params["few_shot"] for s in (0, 0, 1)]
    assert shots[0] == shots[1] != shots[2]
    zero = split_one(ds, "context_ood", {"holdout": ["x"]})
    assert zero.hash == split_one(ds, "context_ood", {"holdout": ["x"], "few_shot_frac": 0.0}).hash
    assert zero.definition.params == {"holdout": ["x"], "val_frac": 0.1, "calib_frac": 0.1}


def test_few_shots_are_never_taken_for_validation() -> None:
    ds = screen(grid_rows(["A", "B", "C", "D"], [f"c{i}" for i in range(12)]))
    split = split_one(
        ds,
        "context_ood",
        {"holdout": ["c0"], "few_shot_frac": 0.5},
        validation="fold",
        calibration="fold",
        val_frac=0.3,
        calib_frac=0.3,
    )
    table = table_of(split)
    assert table["val"]
    assert table["calib"]
    assert "c0" not in contexts_of(table["val"] + table["calib"])
    assert len([k for k in table["train"] if k.startswith("c0|")]) == 2


def test_every_context_can_leave_with_few_shots() -> None:
    ds = screen(grid_rows(PERTS, ["x", "y", "z"]))
    folds = split_all(ds, "leave_one_context_out", {"few_shot_frac": 0.25})
    assert [f.definition.params["holdout"] for f in folds] == [["x"], ["y"], ["z"]]
    assert all(len(f.definition.params["few_shot"]) == 1 for f in folds)


# ---- doses -----------------------------------------------------------------------------------------------


def test_extrapolation_holds_out_each_perturbations_top_dose() -> None:
    ds = graded({"A": ["1 uM", "10 uM", "0.5 uM"], "B": ["500 nM", "2 uM"], "C": ["3 uM"]})
    split = split_one(ds, "dose_ood")
    assert levels_in(split, "test") == {("A", "10 uM"), ("B", "2 uM")}
    assert levels_in(split, "train") == {("A", "1 uM"), ("A", "0.5 uM"), ("B", "500 nM"), ("C", "3 uM")}
    assert split.definition.ood_axes == ("dose",)
    assert split.definition.unit == "perturbation"
    assert blocking(ds, split) == []


def test_interpolation_holds_out_a_middle_dose() -> None:
    ds = graded({"A": ["1 uM", "10 uM", "0.5 uM"], "B": ["500 nM", "2 uM"]})
    split = split_one(ds, "dose_ood", {"mode": "interpolation"})
    assert levels_in(split, "test") == {("A", "1 uM")}
    doses = sorted(parse_dose(d)[0] for p, d in levels_in(split, "train") if p == "A")  # type: ignore[index]
    assert doses == [5e-7, 1e-5]


def test_dose_folds_partition_the_perturbations_with_doses_enough() -> None:
    ds = graded({p: ["1", "2", "4"] for p in PERTS} | {"E": ["1"]})
    folds = split_all(ds, "dose_ood", folds=2, seed=1)
    held = [sorted(f.definition.params["levels"]) for f in folds]
    assert sorted(held[0] + held[1]) == PERTS
    for split, perts in zip(folds, held, strict=True):
        assert levels_in(split, "test") == {(p, "4") for p in perts}
        assert {p for p, d in levels_in(split, "train") if d == "4"} == set(PERTS) - set(perts)
    assert split_one(ds, "dose_ood", folds=2, fold=1, seed=1).hash == folds[1].hash


def test_named_perturbations_lose_their_top_dose_and_others_keep_it() -> None:
    ds = graded({p: ["1", "2"] for p in PERTS})
    split = split_one(ds, "dose_ood", {"perturbations": ["B"]})
    assert levels_in(split, "test") == {("B", "2")}
    assert ("A", "2") in levels_in(split, "train")


def test_a_held_out_dose_is_tested_only_where_train_keeps_the_context() -> None:
    ds = graded({"A": ["1", "2"], "B": ["1", "2"]})
    extra = [("control", "far"), ("A", "far", {"doses": "2"})]
    rows: list[Any] = [("control", c) for c in "xy"] + extra
    rows += [(p, c, {"doses": d}) for p in "AB" for c in "xy" for d in "12"]
    split = split_one(screen(rows), "dose_ood")
    assert "far|A||2|" in table_of(split)["unused"]
    assert contexts_of(table_of(split)["test"]) == {"x", "y"}
    assert "unused" not in split_one(ds, "dose_ood").definition.folds.table  # type: ignore[union-attr]


def test_validation_of_doses_is_the_next_dose_of_other_perturbations() -> None:
    ds = graded({f"P{i}": ["1", "2", "4", "8"] for i in range(12)})
    split = split_one(ds, "dose_ood", validation="fold", calibration="fold", val_frac=0.25, calib_frac=0.25)
    val, calib = levels_in(split, "val"), levels_in(split, "calib")
    assert {d for _, d in val} == {d for _, d in calib} == {"4"}
    assert len(val) == len(calib) == 3
    assert not {p for p, _ in val} & {p for p, _ in calib}
    auto = split_one(ds, "dose_ood").definition
    assert (auto.validation, auto.inner.unit if auto.inner else "") == ("inner_cv", "condition")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10 uM", (1e-5, "M")),
        ("10.0 µM", (1e-5, "M")),
        ("10um", (1e-5, "M")),
        ("5e-1 mM", (5e-4, "M")),
        ("1+0.5 nM", (1.5e-9, "M")),
        ("1 uM+500 nM", (1.5e-6, "M")),
        ("2 ug/ml", (2e-6, "g/ml")),
        ("3", (3.0, "")),
        ("1e+2", (100.0, "")),
        ("", None),
    ],
)
def test_doses_are_read_as_numbers(text: str, value: Any) -> None:
    got = parse_dose(text)
    assert got == value or (got and value and got[1] == value[1] and np.isclose(got[0], value[0], rtol=1e-9))


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("6 h", (6.0,)),
        ("24h", (24.0,)),
        ("24 h & 4 h", (4.0, 24.0)),
        ("90 min", (1.5,)),
        ("2 days", (48.0,)),
        ("3", (3.0,)),
        ("", ()),
    ],
)
def test_times_are_read_as_hours(text: str, hours: tuple[float, ...]) -> None:
    assert parse_times(text) == hours


# ---- times -----------------------------------------------------------------------------------------------


def test_the_latest_time_leaves_and_mixed_times_are_unused() -> None:
    ds = graded({"A": ["6 h", "24 h", "24 h & 4 h", "6 h & 4 h"], "B": ["6 h"]}, column="time")
    split = split_one(ds, "time_ood")
    table = {fold: levels_in(split, fold, "covariates") for fold in ("train", "test", "unused")}
    assert {c for _, c in table["test"]} == {'{"time":"24 h"}'}
    assert {c for _, c in table["unused"]} == {'{"time":"24 h & 4 h"}'}
    assert ("A", '{"time":"6 h & 4 h"}') in table["train"]
    assert split.definition.ood_axes == ("time",)
    assert blocking(ds, split) == []


def test_a_middle_time_leaves_for_interpolation() -> None:
    ds = graded({p: ["90 min", "6 h", "1 day"] for p in PERTS}, column="time")
    split = split_one(ds, "time_ood", {"mode": "interpolation"})
    assert {c for _, c in levels_in(split, "test", "covariates")} == {'{"time":"6 h"}'}
    folds = split_all(ds, "time_ood", {"mode": "interpolation"}, folds=2)
    assert sorted(p for f in folds for p in f.definition.params["levels"]) == PERTS


# ---- batches ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batched() -> PerturbDataset:
    """Return a screen of four batches, each with every condition and controls."""
    rows: list[Any] = []
    for batch in ("b0", "b1", "b2", "b3"):
        for pert, context in grid_rows(PERTS, ["x", "y"], controls=60):
            rows.append((pert, context, {"batch_id": batch}))
    return screen(rows)


def test_the_rows_of_a_batch_leave_together(batched: PerturbDataset) -> None:
    split = split_one(batched, "batch_ood", {"holdout": ["b1"]})
    batch = batched.obs[schema.BATCH_ID].astype(str).to_numpy()
    treated = batched.condition_codes >= 0
    assert np.array_equal(split.rows(batched, "test"), np.flatnonzero(treated & (batch == "b1")))
    assert np.array_equal(split.rows(batched, "train"), np.flatnonzero(treated & (batch != "b1")))
    assert (split.definition.ood_axes, split.definition.unit) == (("batch",), "perturbation")
    assert blocking(batched, split) == []


def test_controls_of_a_held_out_batch_are_not_open_to_fitting(batched: PerturbDataset) -> None:
    view = train_view(batched, split_one(batched, "batch_ood", {"holdout": ["b1"]}))
    assert view.allowed_rows is not None
    closed = batched.is_control & (batched.obs[schema.BATCH_ID] == "b1").to_numpy()
    assert not view.allowed_rows[closed].any()
    assert view.allowed_rows[batched.is_control & ~closed & batched.controls.has_role("input")].all()


def test_controls_are_closed_with_their_batch_and_open_where_no_batch_is_held_out() -> None:
    """Calibration batches are held out like test; a plate of controls is not. Own fits read neither."""
    rows: list[Any] = [("control", "x", {"batch_id": "plate"}) for _ in range(40)]
    for batch in ("b0", "b1", "b2", "b3"):
        rows += [(p, c, {"batch_id": batch}) for p, c in grid_rows("ABCDE", ["x"], reps=2, controls=60)]
    ds = screen(rows)
    asked: dict[str, Any] = {"validation": "none", "calibration": "fold", "calib_frac": 0.34}
    split = split_one(ds, "batch_ood", {"holdout": ["b0"]}, **asked)
    batch = ds.obs[schema.BATCH_ID].astype(str).to_numpy()
    calibrated = set(batch[split.rows(ds, "calib")])
    assert len(calibrated) == 1
    view = train_view(ds, split)
    assert view.allowed_rows is not None
    open_to = set(batch[view.allowed_rows & ds.is_control])
    assert open_to == {"b0", "b1", "b2", "b3", "plate"} - calibrated - {"b0"}
    run = RunEvidence(fit_records(ds, split, view, "ridge"))
    assert [f.name for f in audit(ds, split, run) if f.severity == "blocking"] == []


def test_batch_folds_partition_the_batches(batched: PerturbDataset) -> None:
    folds = split_all(batched, "batch_ood", folds=4)
    assert sorted(b for f in folds for b in f.definition.params["holdout"]) == ["b0", "b1", "b2", "b3"]
    rows = np.concatenate([f.rows(batched, "test") for f in folds])
    assert np.array_equal(np.sort(rows), np.flatnonzero(batched.condition_codes >= 0))
    assert split_one(batched, "batch_ood", folds=4, fold=2).hash == folds[2].hash


def test_whole_batches_validate_and_calibrate(batched: PerturbDataset) -> None:
    split = split_one(
        batched,
        "batch_ood",
        {"holdout": ["b0"]},
        validation="fold",
        calibration="fold",
        val_frac=0.34,
        calib_frac=0.34,
    )
    batch = batched.obs[schema.BATCH_ID].astype(str).to_numpy()
    by_fold = {f: set(batch[split.rows(batched, f)]) for f in ("train", "val", "calib", "test")}
    assert [len(b) for b in by_fold.values()] == [1, 1, 1, 1]
    assert set().union(*by_fold.values()) == {"b0", "b1", "b2", "b3"}


# ---- context with perturbation ---------------------------------------------------------------------------


def test_test_has_unseen_context_and_unseen_perturbation_together() -> None:
    ds = screen(grid_rows([*PERTS, "A+B"], ["x", "y", "z"]))
    split = split_one(ds, "context_perturbation_ood", {"contexts": ["x"], "perturbations": ["A"]})
    table = table_of(split)
    assert contexts_of(table["test"]) == {"x"}
    assert perts_of(table["test"]) == {"A", "A+B"}
    assert contexts_of(table["train"]) == {"y", "z"}
    assert not {g for p in perts_of(table["train"]) for g in pert_genes(p)} & {"A"}
    assert len(table["unused"]) == 7
    assert split.definition.unit == "context"
    assert blocking(ds, split) == []


def test_context_and_perturbation_folds_partition_both() -> None:
    ds = screen(grid_rows(PERTS, ["x", "y", "z"]))
    folds = split_all(ds, "context_perturbation_ood", folds=3)
    assert sorted(c for f in folds for c in f.definition.params["contexts"]) == ["x", "y", "z"]
    assert sorted(g for f in folds for g in f.definition.params["perturbations"]) == PERTS
    drawn = split_one(ds, "context_perturbation_ood", {"contexts": ["x"], "test_frac": 0.5}, seed=4)
    assert len(drawn.definition.params["perturbations"]) == 2


def test_whole_contexts_validate_on_request() -> None:
    ds = screen(grid_rows(PERTS, [f"c{i}" for i in range(8)]))
    split = split_one(
        ds,
        "context_perturbation_ood",
        {"contexts": ["c0"], "perturbations": ["A"]},
        validation="fold",
        val_frac=0.3,
    )
    table = table_of(split)
    assert len(contexts_of(table["val"])) == 2
    assert not contexts_of(table["val"]) & contexts_of(table["train"])
    assert contexts_of(table["test"]) == {"c0"}


# ---- errors ----------------------------------------------------------------------------------------------

GRID = grid_rows(PERTS, ["x", "y", "z"])


@pytest.mark.parametrize(
    ("kind", "params", "spec", "message"),
    [
        (
            "context_ood",
            {"holdout": ["x"], "few_shot_frac": 0.95},
            {},
            "leaves none to test; lower --few-shot-frac",
        ),
        (
            "context_ood",
            {"holdout": ["x"], "few_shot_frac": 1.5},
            {},
            "few_shot_frac must lie between 0 and 1",
        ),
        ("dose_ood", {}, {}, r"needs perturbations with at least 2 doses; none has more than 0; use another"),
        ("dose_ood", {"mode": "outside"}, {}, "unknown mode 'outside' of dose_ood; known: extrapolation"),
        ("time_ood", {}, {}, "needs the covariate 'time', the data set has none; import with --time-col"),
        (
            "batch_ood",
            {"holdout": ["b"]},
            {},
            r"needs at least 2 batches with perturbed rows, found \['all'\]",
        ),
        ("context_perturbation_ood", {}, {}, "needs --holdout-context or --folds; contexts: x, y, z"),
        ("context_perturbation_ood", {"contexts": ["x"]}, {"folds": 2}, "give either --holdout-context and"),
        (
            "context_perturbation_ood",
            {"contexts": ["x", "y", "z"], "perturbations": ["A"]},
            {},
            "leaves nothing to train on; hold out fewer",
        ),
    ],
)
def test_impossible_parameters_are_refused_with_a_remedy(
    kind: str, params: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        split_all(screen(GRID), kind, params, **spec)


def test_quantities_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(SplitError, match="dose 'high' is not a number with an optional unit"):
        split_all(graded({"A": ["high", "low"]}), "dose_ood")
    with pytest.raises(SplitError, match="dose '1 spoon' has the unknown unit 'spoon'; use one of"):
        parse_dose("1 spoon")
    with pytest.raises(SplitError, match=r"units that cannot be compared \('M', 'g/ml'\); use one unit"):
        split_all(graded({"A": ["1 uM", "1 ug/ml"]}), "dose_ood")
    with pytest.raises(SplitError, match="units that do not add up"):
        parse_dose("1 uM+1 ug/ml")
    with pytest.raises(SplitError, match="'C' has 1; use another kind or mode"):
        split_all(graded({"A": ["1", "2"], "C": ["1"]}), "dose_ood", {"perturbations": ["C"]})
    with pytest.raises(SplitError, match="3 folds need at least 3 perturbations with 2 doses, found 1"):
        split_all(graded({"A": ["1", "2"], "C": ["1"]}), "dose_ood", folds=3)


def test_batches_of_the_whole_or_of_conditions_are_refused(batched: PerturbDataset) -> None:
    with pytest.raises(SplitError, match="leaves no batch to train on; hold out fewer"):
        split_all(batched, "batch_ood", {"holdout": ["b0", "b1", "b2", "b3"]})
    with pytest.raises(SplitError, match="unknown batch 'q'; known: b0, b1"):
        split_all(batched, "batch_ood", {"holdout": ["q"]})
    with pytest.raises(SplitError, match="batch_ood needs --holdout-batch or --folds; batches: b0"):
        split_all(batched, "batch_ood")
    rows = [("A", "x", {"batch_id": b}) for b in "ab"] + [("B", "x", {"batch_id": b}) for b in "ab"]
    with pytest.raises(SplitError, match="batch_ood needs cells"):
        split_all(screen(rows, space="delta", level="condition"), "batch_ood", {"holdout": ["a"]})


# ---- a real file -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def l1000(shared_dir: Path) -> PerturbDataset:
    """Return the L1000 file: 3 drugs, 65 cell lines, 5 doses, 6 h and 24 h."""
    path = shared_dir / "data" / "pb_l1000_3drugs_65lines_doses.h5ad"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {path.parent}")
    mapping = ColumnMapping(
        pert_col="condition",
        context_col="context",
        dose_col="dose_um",
        dose_unit="uM",
        time_col="time",
        space="zscore",
        modality="drug",
    )
    return import_h5ad(path, mapping, name="l1000")


@pytest.mark.parametrize("mode", ["extrapolation", "interpolation"])
def test_doses_of_l1000(l1000: PerturbDataset, mode: str) -> None:
    split = split_one(l1000, "dose_ood", {"mode": mode})
    parsed = {key: parse_dose(parse_key(key)["doses"]) for key in l1000.conditions.index}
    table = table_of(split)
    for drug, held in split.definition.params["levels"].items():
        train = {parsed[k][0] for k in table["train"] if k.split("|")[1] == drug}  # type: ignore[index]
        test = {parsed[k][0] for k in table["test"] if k.split("|")[1] == drug}  # type: ignore[index]
        assert test <= {held}
        assert held not in train
        assert min(train) < held
        assert (max(train) > held) == (mode == "interpolation")
    assert contexts_of(table["test"]) <= contexts_of(table["train"])
    assert sum(map(len, table.values())) == len(l1000.conditions)
    assert blocking(l1000, split) == []
    assert set(split.definition.params["levels"]) == (
        {"vemurafenib"} if mode == "interpolation" else {"atorvastatin", "vemurafenib"}
    )


def test_times_of_l1000(l1000: PerturbDataset) -> None:
    split = split_one(l1000, "time_ood")
    times = dict(zip(l1000.conditions.index, covariate_values(l1000.conditions, "time"), strict=True))
    table = table_of(split)
    assert {times[k] for k in table["test"]} == {"24 h"}
    assert {times[k] for k in table["train"]} <= {"6 h", "6 h & 4 h"}
    assert "24 h & 4 h" in {times[k] for k in table["unused"]}
    assert blocking(l1000, split) == []
    with pytest.raises(SplitError, match="needs perturbations with at least 3 times; none has more than 2"):
        split_all(l1000, "time_ood", {"mode": "interpolation"})
