"""Marks of the challenge's metrics on the leaderboard page: baseline and replicates, where the panel has a scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.pipeline.leaderboard_page import write_page
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, split_table, write_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SPLIT, BOARD = "a" * 64, "screen.context_ood.x"
CENTRES = {
    ("delta", "pearson_centered"): 0.4,
    ("vcc2026", "vcc2026_score"): 0.6,
    ("vcc2026", "pds_cosine"): 0.7,
    ("vcc2026", "de_wilcoxon_sig_jaccard"): 0.3,
}
CEILING = {
    "pearson_centered": {"half": 0.55, "noise_free": 0.8},
    "vcc2026.vcc2026_score": {"half": 1.0, "anchor": 1.0},
    "vcc2026.pds_cosine": {"anchor": 0.9125},
}
FLOOR = {
    "control_mean": {"pearson_centered": 0.05},
    "train_mean": {"vcc2026.vcc2026_score": -0.1},
    "baseline": {"vcc2026.vcc2026_score": 0.0, "vcc2026.pds_cosine": 0.5},
}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the leaderboard page of one board."""
    root = tmp_path_factory.mktemp("scale")
    store = ArtifactStore(root / "home", root / "splits")
    for entry, level in (("ridge", 0.0), ("additive", -0.1)):
        config: dict[str, Any] = run_config(entry, split=SPLIT, family="baseline") | {"entry": entry}
        rng = np.random.default_rng(len(entry))
        parts = []
        for (panel, metric), centre in CENTRES.items():
            values = {f"C0|G{g}|||": centre + level + rng.normal(0, 0.02) for g in range(8)}
            parts.append(score_rows(config, values, metric=metric, panel=panel, direction="max"))
        folder = write_run(store, config, pd.concat(parts))
        (folder / "report.html").write_text("<!doctype html><title>report</title>")
    splits = split_table(SPLIT, board=BOARD, ceiling=CEILING, floor=FLOOR)
    splits = splits.assign(dataset="screen", kind="context_ood")
    about = pd.DataFrame({"dataset": ["screen"], "data_sha256": ["d" * 64]})
    database.rebuild(store, lambda: splits, lambda runs: about)
    write_page(store)
    return store.leaderboard_page


@pytest.mark.parametrize(
    ("panel", "metric", "expected", "absent"),
    [
        (
            *("vcc2026", "vcc2026_score"),
            ("baseline (counts as 0) 0", "replicate anchor (counts as 1) 1.0000"),
            ("train mean", "half of the cells"),
        ),
        (
            *("vcc2026", "pds_cosine"),
            ("baseline (counts as 0) 0.5000", "replicate anchor (counts as 1) 0.9125"),
            ("noise-free",),
        ),
        ("vcc2026", "de_wilcoxon_sig_jaccard", (), ("baseline (", "replicate anchor")),
        ("delta", "pearson_centered", ("half of the cells 0.5500", "noise-free 0.8000"), ("baseline (",)),
    ],
)
def test_marks_are_the_ends_of_the_scale(
    visit: Callable[..., Any],
    page_file: Path,
    panel: str,
    metric: str,
    expected: tuple[str, ...],
    absent: tuple[str, ...],
) -> None:
    page = visit(f"{page_file.resolve().as_uri()}#board={BOARD}")
    page.select_option("#pick-panel", panel)
    page.select_option("#pick-metric", label=f"{metric} \u2191")
    page.wait_for_function(
        "name => document.querySelector('#standings caption').textContent.includes(name)", arg=metric
    )
    said = page.locator("#standings tbody tr").first.locator("svg.iv").get_attribute("aria-label")
    tiles = page.locator("#tiles").inner_text().lower()
    for text in expected:
        assert text in said
    for text in absent:
        assert text not in said
    assert ("replicate anchor" in tiles) == any("anchor" in text for text in expected)
    assert ("half ceiling" in tiles) == ("replicate anchor" not in tiles)
