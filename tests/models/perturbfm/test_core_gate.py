"""What is believed: the stack's weights, the gate, the variance; nothing is judged by what was fitted on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.stack import PROCESS, Core, _strata, folds_of
from perturbfm_core.models.perturbfm.core.weights import average_of_good, simplex_weights, weights_of_few
from perturbfm_core.models.perturbfm.network.gate import (
    MIN_GROUPS,
    GateDecision,
    TrainingRows,
    _box_least_squares,
    decide,
    without_gain,
)
from perturbfm_core.models.perturbfm.variance.entry import EntryVariance
from tests.support.factories import query_of, view_of


def combos(n=8, G=12, folds=4, seed=0):
    """Return singles that are always in train, and pairs that `folds` inner folds hold out: sums and a little."""
    rng = np.random.default_rng(seed)
    single = {f"p{i}": rng.normal(size=G) for i in range(n)}
    pairs = [(f"p{i}", f"p{j}") for i in range(n) for j in range(i + 1, n)]
    rows = [("c", p) for p in single] + [("c", f"{a}+{b}") for a, b in pairs]
    delta = [*single.values()] + [0.9 * (single[a] + single[b]) + 0.05 * rng.normal(size=G) for a, b in pairs]
    return view_of(
        rows, delta, inner=[[n + k for k in range(len(pairs)) if k % folds == j] for j in range(folds)]
    )


# ---- the stack -----------------------------------------------------------------------------------------------


def test_weights_lie_on_the_simplex():
    core = Core().fit(combos(), 0)
    for weights in core.weights.values():
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert set(core.summary()["members"]) == set(core.weights)
    # Thirteen pairs and more in a stratum of their own: its weights are a mixture.
    assert "2 perturbed, 2 seen" in core.weights


@pytest.mark.parametrize(
    ("gram", "expected"),
    [
        # Errors without correlation: weights by inverse variance.
        ([[1.0, 0.0], [0.0, 3.0]], [0.75, 0.25]),
        # One member's error contains the other's: the better alone.
        ([[1.0, 1.0], [1.0, 4.0]], [1.0, 0.0]),
        # Members that are the same share somehow, within the simplex.
        ([[2.0, 2.0], [2.0, 2.0]], None),
    ],
)
def test_simplex_weights_by_hand(gram, expected):
    weights = simplex_weights(np.asarray(gram))
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    if expected is not None:
        np.testing.assert_allclose(weights, expected, atol=2e-3)


def test_fewer_than_ten_units_mix_the_good_members():
    view = combos(n=4)
    assert sum(int(h.sum()) for _, h in view.inner) < 10
    core = Core().fit(view, 0)
    (weights,) = core.weights.values()
    assert weights.sum() == pytest.approx(1.0)
    assert (weights > 0).sum() > 1
    assert weights[core.names.index("control_only")] < 0.1
    assert core.best == min(core.errors, key=core.errors.get)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        pytest.param([[1.0, 0.0], [0.0, 1.05]], [0.5, 0.5], id="two good ones"),
        pytest.param([[1.0, 0.0], [0.0, 1.2]], [1.0, 0.0], id="a good one"),
        pytest.param([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.5, 0.0, 0.5], id="one of twins"),
        pytest.param([[0.0, 0.0], [0.0, 1.0]], [1.0, 0.0], id="one without error"),
    ],
)
def test_the_average_is_of_good_and_different_members(errors, expected):
    assert average_of_good(np.asarray(errors)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_folds_are_half_the_average(n):
    gram = np.diag([1.0, 1.05])
    least = np.asarray([1.05, 1.0]) / 2.05
    assert weights_of_few([gram / n] * n) == pytest.approx(0.5 * least + 0.25, abs=1e-5)


def test_folds_choose_how_far_weights_are_shrunk():
    """Where folds agree on unequal weights little is shrunk, where each has its own favourite more is."""
    alike = [np.asarray([[1.0, 0.9], [0.9, 1.05]])] * 4
    rng = np.random.default_rng(0)
    best = simplex_weights(alike[0])
    assert abs(weights_of_few(alike) - (0.75 * best + 0.125)).max() < 1e-5
    noisy = [np.diag(rng.permutation([0.2, 1.8])) + 0.05 for _ in range(3)]
    assert weights_of_few(noisy).sum() == pytest.approx(1.0)
    assert (weights_of_few(noisy) >= 0).all()


def test_with_ten_units_each_fold_has_the_weights_that_it_had():
    """Folds of which the others have fewer than ten units keep the best member alone where all have ten or more."""
    view = combos(n=5, folds=5)
    assert sum(int(h.sum()) for _, h in view.inner) == 10
    core = Core().fit(view, 0)
    for fold in core.folds:
        np.testing.assert_array_equal(fold.mean, fold.best)


def test_without_inner_folds_the_process_serves():
    view = view_of([("c", "a"), ("c", "b")], [[1.0, 0.0], [0.0, 1.0]])
    core = Core().fit(view, 0)
    assert core.folds == []
    assert core.weights["all"][core.names.index(PROCESS)] == 1.0
    assert folds_of(core)[0].shape == (0,)


def test_no_row_is_predicted_by_a_member_that_was_fitted_on_it(monkeypatch):
    seen: dict[int, set[str]] = {}
    judged: list[tuple[set[str], set[str]]] = []
    real_fit, real_process = Core._fit_baseline, SetProcess.fit

    def spy(self: Core, name: str, view: Any, seed: int) -> Any:
        model = real_fit(self, name, view, seed)
        own, mean = set(view.conditions.index), model._mean

        def spy_mean(query: Any) -> Any:
            judged.append((own, set(query.conditions.index)))
            return mean(query)

        monkeypatch.setattr(model, "_mean", spy_mean)
        return model

    def spy_process(self: SetProcess, view: Any, lambdas: Any = None) -> SetProcess:
        out = real_process(self, view, lambdas)
        seen[id(out)] = set(view.conditions.index)
        predict = out.predict
        monkeypatch.setattr(
            out,
            "predict",
            lambda q: (judged.append((seen[id(out)], set(q.conditions.index))), predict(q))[1],
        )
        return out

    monkeypatch.setattr(Core, "_fit_baseline", spy)
    monkeypatch.setattr(SetProcess, "fit", spy_process)
    view = combos()
    core = Core().fit(view, 0)
    assert len(judged) == len(view.inner) * len(core.names)
    assert [fitted & requested for fitted, requested in judged if fitted & requested] == []
    condition, fold = folds_of(core)
    for row, j in zip(condition, fold, strict=True):
        assert core.folds[j].held[row]
        assert not core.folds[j].fit[row]


def test_parts_at_a_dose_of_0_are_left_out_whatever_the_weights():
    rng = np.random.default_rng(4)
    rows = [("c", f"p{i}", "drug", "10 uM") for i in range(8)]
    view = view_of(rows, rng.normal(size=(8, 5)) + 2.0, inner=[[0, 1, 2, 3], [4, 5, 6, 7]])
    core = Core(("additive", "global_mean")).fit(view, 0)
    core.weights = {"all": np.full(3, 1 / 3)}
    asked = [("p0+p1", "0 nM+10 uM"), ("p1", "10 uM"), ("p0", "0"), ("p0+p1+p2", "0.0+0+0"), ("p0", "high")]
    mean, _ = core.predict(query_of([("c", p, "drug", d) for p, d in asked], 5))
    np.testing.assert_array_equal(mean[0], mean[1])
    np.testing.assert_array_equal(mean[2:4], 0.0)
    assert (np.abs(mean[[1, 4]]).max(axis=1) > 0.5).all()


def test_stack_weights_of_a_fold_come_from_the_other_folds():
    view = combos()
    core = Core(("additive",))
    per_fold = []
    for j, (_, held) in enumerate(view.inner):
        truth = view.delta[held]
        # The first member is right in fold 0 alone, the second in all others.
        members = [truth, -truth] if j == 0 else [-truth, truth]
        per_fold.append((np.stack(members), np.ones_like(truth), ["2 perturbed, 2 seen"] * len(truth)))
    core._weigh(view, per_fold)
    np.testing.assert_allclose(core.folds[0].mean, -view.delta[view.inner[0][1]])
    np.testing.assert_allclose(core.folds[0].best, -view.delta[view.inner[0][1]])
    # Predictions weigh all folds: three against one.
    assert int(np.argmax(core.weights["all"])) == 1


# ---- the gate ------------------------------------------------------------------------------------------------


def gate_rows(groups=30, G=40, seed=0):
    """Return training rows with a core that misses half of the signal, and that half."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(groups, G)).astype(np.float32)
    missed = rng.normal(size=(groups, G)).astype(np.float32)
    rows = TrainingRows(
        source=None,  # type: ignore[arg-type]
        truth=truth + missed,
        core=truth,
        s2=np.zeros_like(truth),
        fold=np.arange(groups) % 5,
        groups=[f"u{i}" for i in range(groups)],
    )
    return rows, missed


@pytest.mark.parametrize("part", [0, 1])
def test_a_planted_gain_opens_the_gate(part):
    rows, missed = gate_rows()
    added = np.zeros((2, *missed.shape), dtype=np.float32)
    added[part] = 2.0 * missed
    decision, crossed = decide(rows, added, np.arange(30))
    assert decision.g[part] == pytest.approx(0.5, abs=1e-3)
    assert decision.g[1 - part] == 0.0
    assert decision.gain > decision.standard_error > 0
    assert decision.groups == 30
    np.testing.assert_allclose(crossed[part], 0.5, atol=1e-3)


def test_both_parts_are_opened_where_both_gain():
    rows, missed = gate_rows()
    rng = np.random.default_rng(1)
    half = rng.normal(size=missed.shape).astype(np.float32) * 0.7
    decision, _ = decide(rows, np.stack([missed - half, half]), np.arange(30))
    np.testing.assert_allclose(decision.g, [1.0, 1.0], atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_pure_noise_closes_the_gate(seed):
    rows, missed = gate_rows(seed=seed)
    noise = np.random.default_rng(100 + seed).normal(size=(2, *missed.shape)).astype(np.float32)
    decision, crossed = decide(rows, noise, np.arange(30))
    assert decision.g == (0.0, 0.0)
    assert not crossed.any()


@pytest.mark.parametrize("size", [0.0, 0.5, 2.0])
def test_the_gate_records_what_each_part_gained(size):
    rows, missed = gate_rows()
    noise = np.random.default_rng(5).normal(size=missed.shape).astype(np.float32)
    decision, _ = decide(rows, np.stack([noise, size * missed]), np.arange(30))
    channels, latent = decision.tried
    assert (channels["part"], latent["part"]) == ("channels", "latent state")
    opened = channels["error_fell"] and channels["gain"] > channels["standard_error"]
    assert opened == (decision.g[1] > 0) == (size > 0)
    if opened:
        assert decision.gain == pytest.approx(channels["gain"])
    assert GateDecision(**decision.to_json()).tried == decision.tried
    # Records of earlier versions have none.
    assert GateDecision((0.0, 0.0), None, None, 4, "few").tried == []


def test_fewer_than_ten_groups_close_the_gate():
    for groups in (MIN_GROUPS - 1, MIN_GROUPS):
        rows, missed = gate_rows(groups)
        decision, crossed = decide(rows, np.stack([missed, 0 * missed]), np.arange(groups))
        assert (decision.g[0] > 0) == (groups >= MIN_GROUPS)
        assert crossed.any() == (groups >= MIN_GROUPS)
    assert MIN_GROUPS == 10


def test_rows_of_one_unit_are_one_group():
    rows, missed = gate_rows(30)
    few = TrainingRows(None, rows.truth, rows.core, rows.s2, rows.fold, [f"u{i % 6}" for i in range(30)])  # type: ignore[arg-type]
    decision, _ = decide(few, np.stack([missed, 0 * missed]), np.arange(30))
    assert (decision.groups, decision.g) == (6, (0.0, 0.0))


@pytest.mark.parametrize(
    ("gram", "along", "expected"),
    [
        ([[1, 0], [0, 1]], [0.3, 0.7], [0.3, 0.7]),
        ([[1, 0], [0, 1]], [2.0, -1.0], [1.0, 0.0]),
        ([[1, 1], [1, 1]], [0.5, 0.5], None),
        ([[1, 0.9], [0.9, 1]], [1.2, 1.0], [1.0, 0.1]),
        ([[0, 0], [0, 1]], [0.0, 0.4], [0.0, 0.4]),
    ],
)
def test_factors_are_least_squares_in_the_box(gram, along, expected):
    gram, along = np.asarray(gram, dtype=float), np.asarray(along, dtype=float)
    g = _box_least_squares(gram, along)
    assert ((g >= 0) & (g <= 1)).all()
    if expected is not None:
        np.testing.assert_allclose(g, expected, atol=1e-9)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2)
    losses = np.einsum("ni,ij,nj->n", grid, gram, grid) - 2 * grid @ along
    assert g @ gram @ g - 2 * g @ along <= losses.min() + 1e-9


# ---- the variance --------------------------------------------------------------------------------------------


def errors_of(m=160, G=40, seed=0):
    """Return out-of-fold rows whose errors grow with the predicted size of an entry, and differ by gene."""
    rng = np.random.default_rng(seed)
    level = rng.choice([0.5, 2.0], size=G)
    mean = rng.normal(size=(m, G)).astype(np.float32)
    true = level**2 * (1 + np.abs(mean)) ** 3
    error = (np.sqrt(true) * rng.normal(size=(m, G))).astype(np.float32)
    return mean, error, true


def folds_known(m, k=4):
    """Return folds [m], and for each the rows of the others [k, m]."""
    fold = np.arange(m) % k
    return fold, np.stack([fold != j for j in range(k)])


def test_a_condition_that_two_folds_hold_out_is_no_witness_of_its_own_variance():
    mean, error, _ = errors_of(m=40, G=10)
    fold, usable = folds_known(40)
    # Rows 0 and 1, of folds 0 and 1, are of one condition.
    usable[0, 1] = usable[1, 0] = False
    own = EntryVariance().fit(mean, error, np.zeros_like(mean), fold, usable, 0)
    model = EntryVariance()
    level = model.fit(mean, error, np.zeros_like(mean), *folds_known(40), 0)
    assert not np.array_equal(own[[0, 1]], level[[0, 1]])
    assert np.array_equal(own[[2, 3]], level[[2, 3]])


@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_variance_of_entries_follows_what_the_errors_follow_in_any_unit(unit):
    mean, error, true = (x * np.float32(u) for x, u in zip(errors_of(), (unit, unit, unit**2), strict=True))
    model = EntryVariance()
    own = model.fit(mean, error, np.zeros_like(mean), *folds_known(len(mean)), 0)
    var = model.predict(mean)
    for found in (own, var):
        assert np.corrcoef(np.log(found).ravel(), np.log(true).ravel())[0, 1] > 0.9
        assert np.mean(error**2 / found) == pytest.approx(1.0, abs=0.15)


def test_sampling_noise_is_not_counted_twice():
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(200, 20)).astype(np.float32)
    s2 = np.full_like(mean, 0.5)
    error = rng.normal(size=mean.shape).astype(np.float32)
    model = EntryVariance()
    model.fit(mean, error, s2, *folds_known(200), 0)
    # Half of the squared errors, 1 on average, is sampling noise.
    assert model.predict(mean).mean() == pytest.approx(0.5, abs=0.05)


def test_errors_within_sampling_noise_leave_a_small_variance():
    rng = np.random.default_rng(2)
    mean = rng.normal(size=(100, 20)).astype(np.float32)
    error = rng.normal(size=mean.shape).astype(np.float32)
    error[:, 0] *= 0.1
    model = EntryVariance()
    own = model.fit(mean, error, np.full_like(mean, 0.9), *folds_known(100), 0)
    assert np.isfinite(own).all()
    assert own[:, 0].max() < 0.1 * own[:, 1:].mean()


def test_a_saved_variance_is_the_same():
    mean, error, _ = errors_of(m=60)
    model, back = EntryVariance(), EntryVariance()
    model.fit(mean, error, np.zeros_like(mean), *folds_known(60), 0)
    back.restore("v", model.arrays("v"))
    assert np.array_equal(back.predict(mean), model.predict(mean))


def test_a_gene_that_train_has_under_another_modality_is_unseen():
    rows = [("c", p, "CRISPRi") for p in ("a", "b", "d")]
    core = Core().fit(view_of(rows, np.eye(3), inner=[[0], [1], [2]]), 0)
    asked = query_of(
        [("c", "a", "CRISPRi"), ("c", "a", "CRISPRa"), ("c", "a+b", "CRISPRa"), ("c", "a+b", "CRISPRi")], 3
    )
    assert _strata(asked, core._known) == [
        f"{n} perturbed, {s} seen" for n, s in ((1, 1), (1, 0), (2, 0), (2, 2))
    ]
    # Of a fit that knew names alone.
    assert _strata(asked, {"a"})[:2] == ["1 perturbed, 1 seen"] * 2


def test_an_unseen_stratum_takes_the_weights_of_all():
    view = combos()
    core = Core().fit(view, 0)
    query = query_of([("c", "p0+p1+p2"), ("c", "zz")], 12)
    mean, var = core.predict(query)
    assert mean.shape == var.shape == (2, 12)
    assert np.isfinite(mean).all()


@pytest.mark.parametrize(("channels", "latent"), [(-1.0, -1.0), (0.0, 0.0), (2.0, 0.0), (0.0, 2.0)])
def test_two_folds_without_a_gain_are_enough(channels, latent):
    rows, missed = gate_rows(60)
    folds = [np.flatnonzero(rows.fold == j) for j in (0, 1)]
    added = np.stack([latent * missed, channels * missed])
    stops = max(channels, latent) <= 0
    assert without_gain(rows, added, folds) is stops
    if stops:
        decision, crossed = decide(rows, added, np.arange(60), np.concatenate(folds))
        assert decision.g == (0.0, 0.0)
        assert "two inner folds" in decision.reason
        assert decision.groups == 24
        assert crossed.shape == (2, 60)
        assert not crossed.any()


def test_two_folds_of_few_units_are_not_enough():
    rows, missed = gate_rows(20)
    folds = [np.flatnonzero(rows.fold == j) for j in (0, 1)]
    assert not without_gain(rows, np.stack([-missed, -missed]), folds)
