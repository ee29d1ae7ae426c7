"""Control cells: roles, pools, and the noise that shared controls would pass for signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.controls import MIN_PER_ROLE, ROLES, control_groups
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.table import condition_table

Make = Callable[..., PerturbDataset]
BATCHES = {"b1": 61, "b2": 40, "b3": 7}


def table(n_control: dict[tuple[str, str], int], n_treated: int = 3) -> pd.DataFrame:
    """Return rows with the given number of controls per (context, batch) and some treated rows in each."""
    rows = [
        (context, batch, pert)
        for (context, batch), n in n_control.items()
        for pert in ["control"] * n + ["A"] * n_treated
    ]
    context, batch, pert = zip(*rows, strict=True)
    return make_obs(
        {"context_id": context, "batch_id": batch, "pert_id": pert}, [f"cell{i}" for i in range(len(rows))]
    )


def roles_by_id(obs: pd.DataFrame, seed: int = 0) -> dict[str, int]:
    return dict(zip(obs.index, control_groups(obs, seed).roles.tolist(), strict=True))


# ---- roles -----------------------------------------------------------------------------------------------


def test_roles_are_disjoint_and_cover_the_controls(synth_large: PerturbDataset) -> None:
    groups = synth_large.controls
    mine, reference = (groups.has_role(role) for role in ROLES)
    assert not groups.shared.any()
    assert not (mine & reference).any()
    assert np.array_equal(mine | reference, synth_large.is_control)


def test_roles_are_balanced_in_every_context_and_batch() -> None:
    obs = table({(c, b): n for c in ("x", "y") for b, n in BATCHES.items()})
    groups = control_groups(obs, seed=0)
    for by, most in (("batch", 1), ("context", 0)):
        columns = ["context_id"] if by == "context" else ["context_id", "batch_id"]
        sizes = (
            obs.assign(role=groups.roles)[groups.roles > 0].groupby([*columns, "role"], observed=True).size()
        )
        difference = sizes.reset_index(name="n").pivot_table("n", columns, "role", observed=True)
        assert len(difference) == (2 if by == "context" else 6)
        assert (difference[1] - difference[2]).abs().max() <= most


def test_roles_do_not_depend_on_the_order_of_rows(rng: np.random.Generator) -> None:
    obs = table({("x", b): n for b, n in BATCHES.items()})
    order = rng.permutation(len(obs))
    assert roles_by_id(obs.iloc[order]) == roles_by_id(obs)


def test_roles_of_one_context_do_not_depend_on_another() -> None:
    both = table({("x", "b1"): 120, ("y", "b1"): 131})
    alone = both[both["context_id"] == "x"]
    alone = make_obs({c: alone[c].array for c in alone.columns}, list(alone.index))
    roles = roles_by_id(both)
    assert roles_by_id(alone) == {row: roles[row] for row in alone.index}


def test_roles_change_with_the_seed() -> None:
    obs = table({("x", "b1"): 200})
    assert roles_by_id(obs, seed=0) != roles_by_id(obs, seed=1)
    assert Counter(roles_by_id(obs, seed=1).values()) == {-1: 3, 1: 100, 2: 100}


@pytest.mark.parametrize(
    ("n", "shared"),
    [
        pytest.param(2 * MIN_PER_ROLE - 1, True, id="one-too-few"),
        pytest.param(2 * MIN_PER_ROLE, False, id="just-enough"),
    ],
)
def test_fewer_than_100_controls_are_shared(n: int, shared: bool) -> None:
    obs = table({("x", "b1"): n // 2, ("x", "b2"): n - n // 2, ("y", "b1"): 300})
    groups = control_groups(obs, seed=0)
    assert MIN_PER_ROLE == 50
    assert groups.contexts == ["x", "y"]
    assert groups.shared.tolist() == [shared, False]
    mine = (obs["context_id"] == "x").to_numpy() & (obs["is_control"]).to_numpy()
    sizes = [int(groups.has_role(role)[mine].sum()) for role in ROLES]
    assert sizes == ([n, n] if shared else [50, 50])


def test_shared_controls_are_flagged_by_condition(
    synth_shared: PerturbDataset, synth_large: PerturbDataset
) -> None:
    assert condition_table(synth_shared).shared_control.all()
    assert not condition_table(synth_large).shared_control.any()


# ---- matching --------------------------------------------------------------------------------------------


def test_batches_without_controls_fall_back_to_the_context() -> None:
    obs = table({("x", "b1"): 60, ("x", "b2"): 60, ("x", "bare"): 0, ("y", "b1"): 10}, n_treated=4)
    groups = control_groups(obs, seed=0)
    treated = ~obs["is_control"].to_numpy()
    bare = (obs["batch_id"] == "bare").to_numpy()
    assert groups.n_groups == 4
    for role in ROLES:
        assert groups.fallback_rows(role, treated) == 4
        assert groups.fallback_rows(role, treated & ~bare) == 0
        pool = groups.match[role][groups.group[bare]]
        assert set(pool) == {groups.n_groups + groups.contexts.index("x")}


def test_a_batch_with_one_control_serves_one_role_itself() -> None:
    obs = table({("x", "b1"): 120, ("x", "b2"): 1})
    groups = control_groups(obs, seed=0)
    treated = ~obs["is_control"].to_numpy()
    assert sorted(groups.fallback_rows(role, treated) for role in ROLES) == [0, 3]


def test_fallback_is_counted_and_uses_all_controls_of_the_context(
    make_dataset: Make, rng: np.random.Generator
) -> None:
    batch = ["b1"] * 3 + ["b2"] * 2 + ["b1", "bare", "bare"]
    X = rng.random((8, 4)).astype(np.float32)
    ds = make_dataset(X, ["control"] * 5 + ["A", "A", "B"], batch_id=batch)
    assert condition_table(ds).fallback_rows == 2
    assert condition_table(ds, np.array([5, 7])).fallback_rows == 1
    expected = np.stack([X[:3].mean(axis=0), X[:5].mean(axis=0), X[:5].mean(axis=0)])
    for role in ROLES:
        np.testing.assert_allclose(ds.x_control(np.array([5, 6, 7]), role), expected, rtol=1e-6)


def test_input_pools_never_read_reference_controls(synth_large: PerturbDataset, make_dataset: Make) -> None:
    ds = synth_large
    labels = {c: ds.obs[c].array for c in ("pert_id", "context_id", "batch_id")}
    X = ds.expression.toarray()
    plain = make_dataset(X, **labels, row_ids=list(ds.obs.index))
    other = X.copy()
    other[ds.controls.roles == 2] += 1
    changed = make_dataset(other, **labels, row_ids=list(ds.obs.index))
    treated = np.flatnonzero(~ds.is_control)
    assert np.array_equal(plain.x_control(treated), changed.x_control(treated))
    shift = changed.x_control(treated, "reference") - plain.x_control(treated, "reference")
    np.testing.assert_allclose(shift, 1, atol=1e-5)


# ---- one sampled control per row -------------------------------------------------------------------------


@pytest.fixture
def sampled(synth_large: PerturbDataset) -> PerturbDataset:
    metadata = synth_large.metadata.model_copy(update={"control_policy": "sampled"})
    return PerturbDataset(synth_large.obs, synth_large.genes, synth_large.values, metadata)


def test_sampled_control_is_one_cell_of_the_same_group(sampled: PerturbDataset) -> None:
    X = sampled.expression.toarray()
    place = sampled.obs[["context_id", "batch_id"]].astype(str).agg("|".join, axis=1).to_numpy()
    rows = np.flatnonzero(~sampled.is_control)[::50]
    for role in ROLES:
        mine = sampled.controls.has_role(role)
        for row, control in zip(rows, sampled.x_control(rows, role), strict=True):
            candidates = X[mine & (place == place[row])]
            assert (candidates == control).all(axis=1).any()


def test_sampled_control_of_a_row_is_fixed(sampled: PerturbDataset, rng: np.random.Generator) -> None:
    rows = np.flatnonzero(~sampled.is_control)
    every = sampled.x_control(rows)
    some = rng.permutation(len(rows))[:40]
    assert np.array_equal(sampled.x_control(rows[some]), every[some])
    order = rng.permutation(sampled.n_obs)
    obs = sampled.obs.iloc[order]
    values = type(sampled.values)(counts=sampled.values.counts[order])
    moved = PerturbDataset(obs, sampled.genes, values, sampled.metadata)
    place = np.argsort(order)
    assert np.array_equal(moved.x_control(place[rows]), every)


def test_sampled_controls_differ_between_rows_and_seeds(sampled: PerturbDataset) -> None:
    rows = np.flatnonzero(~sampled.is_control)
    first, second = sampled.x_control(rows, seed=0), sampled.x_control(rows, seed=1)
    assert len(np.unique(first, axis=0)) > 100
    assert (first != second).any(axis=1).mean() > 0.9


def test_sampled_control_falls_back_to_the_context(make_dataset: Make) -> None:
    X = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
    ds = make_dataset(
        X,
        ["control", "control", "A", "A"],
        batch_id=["b1", "b2", "bare", "b1"],
        metadata={"control_policy": "sampled"},
    )
    picked = ds.x_control(np.array([2, 3]))
    assert (picked[0] == X[:2]).all(axis=1).any()
    assert np.array_equal(picked[1], X[0])


# ---- why there are two roles -----------------------------------------------------------------------------


def _null_deltas(make_dataset: Make, n_control: int) -> tuple[PerturbDataset, np.ndarray, np.ndarray]:
    """Return a screen of pure noise in which neither of two perturbations does anything, and its deltas."""
    rng = np.random.default_rng(7)
    labels = ["control"] * n_control + ["A"] * 100 + ["B"] * 100
    X = (5 + rng.normal(size=(len(labels), 3000))).astype(np.float32)
    ds = make_dataset(X, labels)
    deltas = condition_table(ds).delta
    return ds, deltas["input"][0], deltas["reference"][1]


def test_noise_does_not_correlate_with_disjoint_controls(make_dataset: Make) -> None:
    ds, a, b = _null_deltas(make_dataset, 100)
    assert not ds.controls.shared.any()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.07  # standard error 1/sqrt(3000) = 0.018


def test_noise_correlates_with_shared_controls(make_dataset: Make) -> None:
    ds, a, b = _null_deltas(make_dataset, 99)
    assert ds.controls.shared.all()
    # The common control mean has variance 1/99, each condition mean 1/100.
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.5, abs=0.07)
