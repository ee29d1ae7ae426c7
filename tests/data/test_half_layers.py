"""Halves of each condition's cells in layers of a file of means, and the bounds that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.artifact import load_dataset
from perturbfm_core.data.halves import HALVES_FILE, halves_of
from perturbfm_core.errors import DatasetError
from perturbfm_core.evaluation.ceilings import bounds_of
from perturbfm_core.evaluation.panel_bounds import panel_bounds
from perturbfm_core.evaluation.reliability import reliability
from perturbfm_core.pipeline.split import freeze_split, stats_with_bounds, stored_stats
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.factories import split_one

G, PERTS = 80, [f"P{i}" for i in range(12)]
COLUMNS = ("--pert-col", "pert", "--context-col", "line")


def means(noise: float, *, delta: bool, seed: int = 0) -> tuple[ad.AnnData, float]:
    """Return means with both halves in layers, and the expected correlation of the halves with the truth."""
    rng = np.random.default_rng(seed)
    names = PERTS if delta else ["control", *PERTS]
    effect = np.concatenate([np.zeros((len(names) - 12, G)), rng.normal(size=(12, G))])
    base = 0.0 if delta else 6.0
    halves = [base + effect + noise * rng.normal(size=effect.shape) * (effect != 0) for _ in range(2)]
    obs = pd.DataFrame({"pert": names, "line": "x"}, index=[f"r{i}" for i in range(len(names))])
    out = ad.AnnData(np.mean(halves, axis=0), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(G)]))
    out.layers["a"], out.layers["b"] = halves
    return out, 1 / (1 + noise**2)


@pytest.fixture(params=[True, False], ids=["delta", "log1p"])
def imported(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, float]:
    monkeypatch.chdir(tmp_path)
    adata, between = means(0.7, delta=request.param)
    adata.write_h5ad("means.h5ad")
    space = ("--space", "delta") if request.param else ("--level", "condition", "--control-label", "control")
    perturbfm(
        "data", "import", "means.h5ad", "--out", "D", *COLUMNS, *space, "--half-layers", "a", "b", warns=True
    )
    return tmp_path / "D", between


def test_bounds_follow_from_the_halves(imported: tuple[Path, float]) -> None:
    path, between = imported
    ds = load_dataset(path)
    split = split_one(ds, "perturbation_ood", folds=2, fold=0)
    ceiling, floor, no_signal = bounds_of(ds, split)
    half = ceiling["pearson"]["half"]
    assert half == pytest.approx(between, abs=0.05)
    assert {k: ceiling["pearson"][k] for k in ("spearman_brown", "noise_free")} == pytest.approx(
        reliability(half)
    )
    assert ceiling["rmse"]["half"] == pytest.approx(0.7 * 2**0.5, rel=0.1)
    assert floor["null"] == {"reason": "the data set has no single cells with controls"}
    assert no_signal is False
    panels = panel_bounds(ds, split)["ceiling"]
    assert panels["openproblems.mean_rowwise_rmse"]["noise_free"] == pytest.approx(0.7 / 2**0.5, rel=0.1)
    assert "half" not in panels["scperturbench.pearson_distance_top5000"]


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.X, "layer 'a' holds the values of the matrix itself"),
        (lambda a: 2 * a.X, "are not the halves of the matrix: it lies between them in"),
        (
            lambda a: np.abs(a.X) - 1.0 if a.X.min() < 0 else np.full(a.shape, 1.5),
            "are not the halves of the matrix: it lies between them in",
        ),
    ],
)
def test_layers_that_are_no_halves_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delta: bool, change: Callable[..., Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    adata, _ = means(0.7, delta=delta)
    adata.layers["a"] = np.asarray(change(adata))
    adata.write_h5ad("means.h5ad")
    space = (
        ("--space", "delta")
        if delta
        else ("--space", "log1p", "--level", "condition", "--control-label", "control")
    )
    answer = attempt(
        "data", "import", "means.h5ad", "--out", "D", *COLUMNS, *space, "--half-layers", "a", "b"
    )
    assert (answer.code, message in answer.err, Path("D").exists()) == (2, True, False), answer.err


def test_halves_of_z_scores_need_not_enclose_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adata, _ = means(0.7, delta=True)
    adata.X = np.asarray(adata.X) * 1.5
    adata.write_h5ad("means.h5ad")
    space = ("--space", "zscore")
    perturbfm(
        "data", "import", "means.h5ad", "--out", "D", *COLUMNS, *space, "--half-layers", "a", "b", warns=True
    )


@pytest.mark.parametrize("again", [True, False], ids=["frozen again", "scored"])
def test_kept_bounds_are_of_the_halves_that_lie_beside_the_data(
    imported: tuple[Path, float], tmp_path: Path, again: bool
) -> None:
    path, _ = imported
    ds, store = load_dataset(path), ArtifactStore(tmp_path / "home")
    spec = SplitSpec(kind="perturbation_ood", params={"holdout": PERTS[:4]})
    split, *_ = freeze_split(store, ds, spec)[0]
    before = stats_with_bounds(store, ds, split)
    arrays = dict(np.load(path / HALVES_FILE))
    # Halves that have nothing in common.
    np.savez(path / HALVES_FILE, **{**arrays, "second": arrays["second"][::-1]})
    if again:
        freeze_split(store, ds, spec, bounds=False)
    after = stats_with_bounds(store, ds, split)
    for name in ("pearson", "openproblems.mean_rowwise_rmse"):
        was, found = ((s.ceiling or {})[name]["half"] for s in (before, after))
        assert abs(found - was) > 0.1, name
    assert stored_stats(store, split) == after


def test_halves_belong_to_their_data(imported: tuple[Path, float]) -> None:
    path, _ = imported
    first, second = halves_of(load_dataset(path)) or ()
    assert first.row_ids.tolist() == second.row_ids.tolist() == load_dataset(path).row_ids.tolist()
    arrays = dict(np.load(path / HALVES_FILE))
    np.savez(path / HALVES_FILE, **{**arrays, "content_sha256": np.asarray("0" * 64)})
    with pytest.raises(DatasetError, match="belongs to other data than 'd'; import them again"):
        halves_of(load_dataset(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(("--half-layers", "a", "c"), "no layers/c", id="no such layer"),
        pytest.param(("--half-layers", "a", "a"), "hold the same values", id="the same twice"),
        pytest.param(("--level", "cell", "--half-layers", "a", "b"), "is for means over cells", id="cells"),
    ],
)
def test_halves_that_are_none_are_refused(
    options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    means(0.5, delta=False)[0].write_h5ad("means.h5ad")
    done = attempt(
        "data", "import", "means.h5ad", "--out", "D", *COLUMNS, "--control-label", "control", *options
    )
    assert done.code == 2
    assert message in done.err
    assert not Path("D").exists()
