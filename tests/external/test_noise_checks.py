"""Predictions of cells that are the control's, or another perturbation's, drawn again; and such as really differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.external.conversion import convert
from tests.external.raws import ASKED, Model

SEEDS = range(25)


class Cells(Model):
    """A model that predicts cells: control cells, drawn for each condition, changed by its effect."""

    def __init__(self) -> None:
        size = {"n_obs": 1500, "n_genes": 80, "n_contexts": 2, "n_perts": 8, "n_combos": 4}
        ds = simulate(SimulationConfig(name="noise", **size))[0]
        super().__init__(ds)
        X = ds.expression.toarray().astype(np.float64)
        mine, role = ds.obs["context_id"].astype(str).to_numpy(), ds.controls.has_role("input")
        self.context = np.asarray([k.split("|")[0] for k in self.keys])
        self.pool = {c: X[role & (mine == c)] for c in set(self.context)}
        self.own = np.stack([self.pool[c].mean(axis=0) for c in self.context]).astype(np.float32)

    def drawn(self, rng, delta, n, shrink: float = 1.0):
        """Return the means of n cells of each condition; with `shrink` below 1 they vary less than real ones."""
        out = []
        for c, d, k in zip(self.context, delta, n, strict=True):
            cells = self.pool[c][rng.integers(len(self.pool[c]), size=k)]
            cells = cells.mean(axis=0) * (1 - shrink) + cells * shrink if shrink < 1 else cells
            out.append((cells + d).mean(axis=0))
        return np.maximum(np.stack(out), 0)

    def said(self, mean, n, **options) -> list[str]:
        """Return what is said of noise when means of n cells are converted."""
        raw = replace(self.raw_with_own(mean), n_cells=np.asarray(n))
        done = convert(raw, self.asked, **options)
        return [w for w in done.warnings if "sampling noise" in w]


@pytest.fixture(scope="module")
def model() -> Cells:
    return Cells()


def effects(rng, model, share: float, size: float):
    """Return different effects of all conditions, on a share of the genes."""
    shape = model.delta.shape
    return rng.normal(0, size, shape) * (rng.random(shape) < share)


@pytest.mark.parametrize(("share", "size", "n"), [(0.4, 0.4, 60), (0.1, 0.8, 100), (0.5, 0.3, 300)])
def test_different_predictions_are_not_called_noise(model, share, size, n):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        mean = model.drawn(rng, effects(rng, model, share, size), [n] * ASKED)
        assert model.said(mean, [n] * ASKED) == [], seed


@pytest.mark.parametrize("size", [0.02, 0.1, 0.3])
def test_weak_effects_on_the_same_cells_are_no_noise(model, size):
    """A model that changes one set of control cells has no noise between its conditions, however weak the effects."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        mean = model.own + np.maximum(effects(rng, model, 0.15, size), -model.own)
        assert model.said(mean, [200] * ASKED, degenerate="flag") == [], seed


@pytest.mark.parametrize("n", [20, 60, 300])
@pytest.mark.parametrize("shrink", [1.0, 0.6])
def test_the_controls_cells_drawn_again_are_its_noise(model, n, shrink):
    found = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        delta = effects(rng, model, 0.4, 0.6)
        delta[[2, 5]] = 0
        mean = model.drawn(rng, delta, [n] * ASKED, shrink)
        # The model's own control is drawn as well.
        own = model.drawn(rng, 0 * delta, [n] * ASKED, shrink)
        raw = replace(model.raw_with_own(mean, own), n_cells=np.full(ASKED, n))
        # Where it is plain, they are refused as controls already.
        said = [
            w for w in convert(raw, model.asked, degenerate="flag").warnings if "own control by no more" in w
        ]
        found += bool(said) and said[0].startswith("2 of") and model.keys[2] in said[0]
    assert found >= 0.85 * len(SEEDS)


@pytest.mark.parametrize("n", [20, 60, 300])
def test_the_real_controls_cells_drawn_again_are_noise_where_there_is_no_own_control(model, n):
    found = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        delta = effects(rng, model, 0.4, 0.6)
        delta[[2, 5]] = 0
        raw = replace(model.raw(model.drawn(rng, delta, [n] * ASKED)), n_cells=np.full(ASKED, n))
        # Where it is plain, they are refused as controls already.
        said = [
            w for w in convert(raw, model.asked, degenerate="flag").warnings if "the control by no more" in w
        ]
        found += bool(said) and said[0].startswith("2 of") and model.keys[2] in said[0]
    assert found >= 0.85 * len(SEEDS)


@pytest.mark.parametrize("n", [30, 200])
def test_another_perturbations_cells_drawn_again_are_its_noise_and_not_refused(model, n):
    a, b = np.flatnonzero(model.context == model.context[0])[:2]
    found = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        delta = effects(rng, model, 0.4, 0.6)
        delta[b] = delta[a]
        said = model.said(model.drawn(rng, delta, [n] * ASKED), [n] * ASKED)
        found += len(said) == 1 and said[0].startswith(f"2 of {ASKED}") and model.keys[a] in said[0]
    assert found >= 0.85 * len(SEEDS)


def test_cells_that_do_not_count_and_few_genes_say_nothing(model):
    rng = np.random.default_rng(0)
    mean = model.drawn(rng, effects(rng, model, 0.4, 0.6) * 0, [50] * ASKED)
    assert model.said(mean, [50] * ASKED, degenerate="flag")
    assert not model.said(mean, [0] * ASKED, degenerate="flag")
    alone = replace(model.asked, cell_var=None)
    raw = replace(model.raw_with_own(mean), n_cells=np.full(ASKED, 50))
    said = convert(raw, alone, degenerate="flag").warnings
    assert not any("sampling noise" in w for w in said)
