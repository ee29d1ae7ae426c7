"""The strongest simple models on Norman et al. 2019: unseen doubles and unseen singles, on published folds."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.graphs.features import read_features
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import new_model
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.view import Query, TrainView, train_view

Run = Callable[..., "Scores"]
# Whose intervals are looked at: only these pay for the fits on inner folds that a variance is made from.
INTERVALS = {
    *(
        ("doubles", name)
        for name in ("additive", "scaled_additive", "combo_kernel_ridge", "set_kernel_ridge")
    ),
    ("singles", "set_kernel_ridge"),
}


def unit_variance(model: Baseline, view: TrainView, seed: int) -> None:
    """Stand in for `Baseline._fit_variance`."""
    model._var = np.ones(len(model.genes), dtype=np.float32)


class Scores:
    """Scores of one entry over the test conditions of all five folds.

    Attributes
    ----------
    raw, centred
        [n], Pearson correlation over genes of predicted and observed delta, as they are and minus the mean of
        the train conditions.
    mse
        Mean squared error.
    coverage
        Share of values within the 90 % interval, of the entries in `INTERVALS`.
    choices
        What inner folds chose in each fold.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[float, float, float, float]] = []
        self.choices: list[Any] = []

    def add(self, mean: np.ndarray, var: np.ndarray, truth: np.ndarray, center: np.ndarray) -> None:
        """Score one condition."""
        raw = np.corrcoef(mean, truth)[0, 1]
        centred = np.corrcoef(mean - center, truth - center)[0, 1]
        inside = np.abs(mean - truth) < 1.6449 * np.sqrt(var)
        self.parts.append((raw, centred, float(np.square(mean - truth).mean()), float(inside.mean())))

    @property
    def raw(self) -> np.ndarray:
        """Return [n]."""
        return np.asarray(self.parts)[:, 0]

    @property
    def centred(self) -> np.ndarray:
        """Return [n]."""
        return np.asarray(self.parts)[:, 1]

    @property
    def mse(self) -> float:
        """Return the mean over conditions."""
        return float(np.asarray(self.parts)[:, 2].mean())

    @property
    def coverage(self) -> float:
        """Return the mean over conditions."""
        return float(np.asarray(self.parts)[:, 3].mean())


def gain(entry: Scores, other: Scores, what: str = "raw") -> tuple[float, float]:
    """Return the mean paired difference of two entries and its standard error."""
    d = getattr(entry, what) - getattr(other, what)
    return float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))


@pytest.fixture(scope="module")
def run(real: Callable[[str], Path]) -> Run:
    """Return a function that fits an entry on the five folds of a task and scores it, once per entry."""
    mapping = ColumnMapping(
        pert_col="condition", context_col="context", modality_col="perturbation_type", space="delta"
    )
    ds = import_h5ad(real("pb_norman_k562_singles_doubles.h5ad"), mapping, name="norman")
    folds = json.loads(real("norman_folds.json").read_text())

    @cache
    def tables(*names: str) -> SideInfo:
        path = "graphs/gene_embeddings_{}_svd64.npz"
        return SideInfo(features={name: read_features(real(path.format(name)), name) for name in names})

    @cache
    def cases(task: str) -> list[tuple[TrainView, Query, np.ndarray]]:
        out = []
        for i, fold in enumerate(folds[task]):
            unused = fold.get("held_out_unscored", fold.get("unused", []))
            (split,) = freeze(
                ds,
                SplitSpec(
                    kind="explicit",
                    params={"folds": {"test": fold["test"], "unused": unused}, "cv_group": task},
                    folds=5,
                    fold=i,
                    validation="inner_cv",
                    calibration="inner_cv",
                ),
            )
            rows = split.rows(ds, "test")
            query = Query(ds.conditions.iloc[ds.condition_codes[rows]], ds.genes, None)
            out.append((train_view(ds, split), query, ds.delta(rows)))
        return out

    @cache
    def score(task: str, name: str, *features: str, **params: Any) -> Scores:
        scores = Scores()
        for view, query, truth in cases(task):
            given = {**params, **({"gene_features": features} if features else {})}
            model = new_model(name, given)
            model.side_info = tables(*model.needs().features)
            # Many small matrices: threads that wait for one another cost more than they save.
            with threadpool_limits(limits=1), pytest.MonkeyPatch.context() as patch:
                if (task, name) not in INTERVALS:
                    patch.setattr(Baseline, "_fit_variance", unit_variance)
                model.fit(view, 0)
            prediction = model.predict(query)
            center = view.delta.mean(axis=0)
            for mean, var, observed in zip(prediction.mean, prediction.var, truth, strict=True):
                scores.add(mean, var, observed, center)
            scores.choices.append(model.training.get("alpha"))
        return scores

    return score


# ---- doubles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "raw", "centred", "mse"),
    [
        ("additive", 0.675, 0.611, 0.200),
        ("scaled_additive", 0.675, 0.602, 0.152),
        ("combo_kernel_ridge", 0.7235, 0.664, 0.135),
        ("set_kernel_ridge", 0.731, 0.675, 0.131),
    ],
)
def test_unseen_doubles_are_predicted_as_published(
    run: Run, name: str, raw: float, centred: float, mse: float
) -> None:
    scores = run("doubles", name)
    assert len(scores.raw) == 126
    assert scores.raw.mean() == pytest.approx(raw, abs=0.0015)
    assert scores.centred.mean() == pytest.approx(centred, abs=0.0015)
    assert scores.mse == pytest.approx(mse, abs=0.001)
    assert scores.coverage == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("name", ["combo_kernel_ridge", "set_kernel_ridge"])
@pytest.mark.parametrize("what", ["raw", "centred"])
def test_kernels_gain_far_more_than_chance_on_unseen_doubles(run: Run, name: str, what: str) -> None:
    mean, error = gain(run("doubles", name), run("doubles", "additive"), what)
    assert error < 0.006
    assert mean > 8 * error


def test_the_set_kernel_beats_the_combination_kernel(run: Run) -> None:
    mean, error = gain(run("doubles", "set_kernel_ridge"), run("doubles", "combo_kernel_ridge"))
    assert mean > 2 * error


def test_matching_mean_is_half_the_additive_prediction(run: Run) -> None:
    matching, additive = run("doubles", "matching_mean"), run("doubles", "additive")
    np.testing.assert_allclose(matching.raw, additive.raw, atol=1e-4)
    assert matching.mse < additive.mse


# ---- singles ----------------------------------------------------------------------------------------------


def test_the_additive_baseline_on_unseen_singles_is_the_mean_of_singles(run: Run) -> None:
    scores = run("singles", "additive")
    assert len(scores.raw) == 104
    assert scores.raw.mean() == pytest.approx(0.308, abs=0.001)
    assert scores.centred.mean() == pytest.approx(0.231, abs=0.001)


def test_gene_embeddings_with_one_mean_for_all_reach_the_published_correlation(run: Run) -> None:
    scores = run("singles", "gene_embedding_ridge", "go", "string", center="all")
    assert scores.raw.mean() == pytest.approx(0.312, abs=0.005)
    # One mean for singles and doubles points away from what singles have in common.
    assert scores.centred.mean() < 0.16


def test_gene_embeddings_around_the_mean_of_singles_are_no_worse_than_it(run: Run) -> None:
    scores, mean_single = run("singles", "gene_embedding_ridge", "go", "string"), run("singles", "additive")
    assert scores.raw.mean() == pytest.approx(0.3146, abs=0.002)
    assert scores.centred.mean() == pytest.approx(0.2379, abs=0.004)
    assert gain(scores, mean_single)[0] > 0
    assert all(c["single"] > c["combination"] for c in scores.choices)


def test_gene_embeddings_with_co_expression_beat_the_mean_of_singles(run: Run) -> None:
    scores = run("singles", "gene_embedding_ridge", "go", "string", "coexpression")
    for what in ("raw", "centred"):
        mean, error = gain(scores, run("singles", "additive"), what)
        assert mean > 2 * error, what


def test_an_unseen_single_owes_nothing_to_its_own_delta(run: Run) -> None:
    """The set kernel has no feature for an unseen single; its variance must say so, as its error does."""
    assert run("singles", "set_kernel_ridge").raw.mean() < run("singles", "additive").raw.mean()
    assert run("singles", "set_kernel_ridge").coverage == pytest.approx(0.93, abs=0.04)
