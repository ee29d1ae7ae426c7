"""What holds for every split of every kind, whatever is drawn: doses, times and batches included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.pipeline.split import split_stats
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.carving import MIN_UNITS
from perturbfm_core.splits.draft import KINDS
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import reordered, screen, table_of, with_values

DOSES = ["", "1 uM", "500 nM", "10 uM"]
TIMES = ["", "6 h", "24 h", "24 h & 4 h"]
HELD = {
    "context_ood": "holdout",
    "perturbation_ood": "holdout",
    "combo_ood": "holdout",
    "batch_ood": "holdout",
    "dose_ood": "levels",
    "time_ood": "levels",
    "context_perturbation_ood": "contexts",
}


@st.composite
def screens(draw: st.DrawFn) -> PerturbDataset:
    """Draw a screen with doses, times and batches, where nothing needs to be balanced."""
    contexts = [f"c{i}" for i in range(draw(st.integers(2, 4)))]
    perts = ["A", "B", "C", "D", "A+B", "C+D", "B+C"][: draw(st.integers(3, 7))]
    rows: list[Any] = [("control", c, {"batch_id": "b0"}) for c in contexts]
    cell = st.tuples(
        st.sampled_from(perts),
        st.sampled_from(contexts),
        st.sampled_from(DOSES),
        st.sampled_from(TIMES),
        st.sampled_from(["b0", "b1", "b2"]),
    )
    fixed = [("A", "c0", "", "", "b1"), ("A+B", "c1", "1 uM", "", "b0"), ("C+D", "c0", "", "", "b0")]
    fixed += [
        (p, "c1", d, t, "b0") for p in "AB" for d, t in zip(DOSES[1:], ("6 h", "24 h", "3 h"), strict=True)
    ]
    for pert, context, dose, time, batch in fixed + draw(st.lists(cell, min_size=4, max_size=20)):
        covariates = f'{{"time":"{time}"}}' if time else ""
        rows.append((pert, context, {"doses": dose, "covariates": covariates, "batch_id": batch}))
    return screen(rows, genes=12)


@st.composite
def specs(draw: st.DrawFn, kind: str, ds: PerturbDataset) -> SplitSpec:
    """Draw a specification of a kind, mostly possible."""
    folds = draw(st.sampled_from([None, 2, 3]))
    params: dict[str, Any] = {}
    perts = sorted(set(ds.conditions[schema.PERT_ID].astype(str)))
    if kind in ("iid", "explicit", "leave_one_context_out"):
        folds = None
    if kind == "explicit":
        params["folds"] = {"test": [draw(st.sampled_from(list(ds.conditions.index)))]}
    if kind in ("context_ood", "leave_one_context_out"):
        params["few_shot_frac"] = draw(st.sampled_from([0.0, 0.3]))
    if kind in ("dose_ood", "time_ood"):
        params["mode"] = draw(st.sampled_from(["extrapolation", "interpolation"]))
    if folds is None:
        named = {
            "context_ood": {"holdout": ["c0"]},
            "perturbation_ood": {"holdout": ["A"]},
            "combo_ood": {"holdout": ["A+B"]},
            "batch_ood": {"holdout": ["b1"]},
            "context_perturbation_ood": {"contexts": ["c0"], "perturbations": [perts[0].split("+")[0]]},
        }
        params |= named.get(kind, {})
    return SplitSpec(
        kind=kind,
        params=params,
        folds=folds,
        seed=draw(st.integers(0, 3)),
        val_frac=draw(st.sampled_from([0.1, 0.3])),
        calib_frac=draw(st.sampled_from([0.1, 0.3])),
        validation=draw(st.sampled_from(["auto", "fold", "inner_cv", "none"])),
        calibration=draw(st.sampled_from(["auto", "fold", "inner_cv", "none"])),
    )


def _made(ds: PerturbDataset, spec: SplitSpec) -> list[FrozenSplit]:
    try:
        return freeze(ds, spec)
    except SplitError:
        return []


@pytest.mark.parametrize("kind", KINDS.names())
@settings(max_examples=20)
@given(data=st.data())
def test_folds_are_disjoint_and_cover_and_the_rules_hold(kind: str, data: st.DataObject) -> None:
    ds = data.draw(screens())
    spec = data.draw(specs(kind, ds))
    for split in _made(ds, spec):
        definition = split.definition
        codes = split.codes(ds)
        assert np.array_equal(codes >= 0, ds.condition_codes >= 0)
        assert {"train", "test"} <= {schema.FOLDS[c] for c in np.unique(codes) if c >= 0}
        if definition.folds.by == "condition":
            listed = [k for keys in table_of(split).values() for k in keys]
            assert sorted(listed) == sorted(ds.conditions.index)
        for policy, fold, requested in (
            (definition.validation, "val", spec.validation),
            (definition.calibration, "calib", spec.calibration),
        ):
            rows = split.rows(ds, fold)  # type: ignore[arg-type]
            assert policy in ("fold", "inner_cv", "none")
            assert policy == "fold" or not len(rows)
            assert requested in ("auto", policy) or policy == "none"
            if requested == "auto" and policy == "fold":
                assert len(np.unique(ds.condition_codes[rows])) >= 1
        assert definition.inner is None or definition.inner.k >= 2
        blocking = {f.name for f in audit(ds, split) if f.severity == "blocking"}
        assert blocking <= {"empty_fold"}


@pytest.mark.parametrize("kind", [k for k in KINDS.names() if k not in ("iid", "batch_ood")])
@settings(max_examples=10)
@given(data=st.data())
def test_the_hash_is_that_of_the_conditions_not_of_their_rows(kind: str, data: st.DataObject) -> None:
    ds = data.draw(screens())
    spec = data.draw(specs(kind, ds))
    made = _made(ds, spec)
    assume(made)
    order = data.draw(st.permutations(range(ds.n_obs)))
    moved = reordered(ds, order)
    turned = spec.model_copy(update={"params": dict(reversed(list(spec.params.items())))})
    assert [f.hash for f in freeze(moved, turned)] == [f.hash for f in made]


@pytest.mark.parametrize("kind", sorted(HELD))
@settings(max_examples=10)
@given(data=st.data(), k=st.integers(2, 3), seed=st.integers(0, 5))
def test_k_folds_partition_the_held_out_units(kind: str, data: st.DataObject, k: int, seed: int) -> None:
    ds = data.draw(screens())
    made = _made(ds, SplitSpec(kind=kind, folds=k, seed=seed))
    assume(made)
    held = [u for f in made for u in f.definition.params[HELD[kind]]]
    assert len(made) == k
    assert len(held) == len(set(held))
    sizes = [len(f.definition.params[HELD[kind]]) for f in made]
    assert max(sizes) - min(sizes) <= 1
    assert len({f.definition.cv.group for f in made if f.definition.cv}) == 1
    if kind == "batch_ood":
        treated = ds.condition_codes >= 0
        assert set(held) == set(ds.obs[schema.BATCH_ID].astype(str)[treated])


def test_validation_folds_need_five_units_each_unless_requested() -> None:
    rows: list[Any] = [
        ("control", "x"),
        *((f"P{i}", "x", {"doses": d}) for i in range(60) for d in ("1", "2", "4")),
    ]
    (split,) = freeze(screen(rows), SplitSpec(kind="dose_ood"))
    assert split.definition.validation == split.definition.calibration == "fold"
    assert len(table_of(split)["val"]) == len(table_of(split)["calib"]) == 6 >= MIN_UNITS
    (few,) = freeze(screen(rows[:100]), SplitSpec(kind="dose_ood"))
    assert few.definition.validation == few.definition.calibration == "inner_cv"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[PerturbDataset, FrozenSplit, SplitFolder]:
    """Return a by-row split in a folder of its own, with its data."""
    rows: list[Any] = [("control", "x", {"batch_id": "b0"})]
    rows += [(p, "x", {"batch_id": b}) for p in "ABC" for b in ("b0", "b1")]
    ds = screen(rows)
    (split,) = freeze(ds, SplitSpec(kind="batch_ood", params={"holdout": ["b1"]}))
    home = tmp_path_factory.mktemp("split")
    folder = SplitFolder(ArtifactStore(home, home / "splits").split_dir)
    folder.save(split, split_stats(ds, split, bounds=False))
    return ds, split, folder


@settings(max_examples=60)
@given(position=st.integers(0, 10**6), change=st.integers(1, 255))
@pytest.mark.parametrize("which", ["json", "npz"])
def test_one_changed_byte_of_a_file_is_detected(
    saved: tuple[PerturbDataset, FrozenSplit, SplitFolder], which: str, position: int, change: int
) -> None:
    ds, split, folder = saved
    path = folder.path / f"{split.hash}.{which}"
    before = path.read_bytes()
    raw = bytearray(before)
    raw[position % len(raw)] ^= change
    try:
        path.write_bytes(bytes(raw))
        outcome = folder.verify(split.hash, ds)
        if outcome.ok:
            # A byte of the zip container that is not content, such as a time stamp.
            assert which == "npz"
            assert np.array_equal(folder.load(split.hash).codes(ds), split.codes(ds))
    finally:
        path.write_bytes(before)


@settings(max_examples=30)
@given(position=st.integers(0, 10**6), change=st.integers(1, 255))
def test_one_changed_byte_of_the_data_is_detected(
    saved: tuple[PerturbDataset, FrozenSplit, SplitFolder], position: int, change: int
) -> None:
    ds, split, folder = saved
    X = np.array(ds.values.expression)
    raw = X.view(np.uint8).reshape(-1)
    raw[position % len(raw)] ^= np.uint8(change)
    assume(np.isfinite(X).all() and (X >= 0).all() and not np.array_equal(X, ds.values.expression))
    assert not folder.verify(split.hash, with_values(ds, X)).ok
