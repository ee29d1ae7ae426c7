"""A report of any size, made without data or models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.config import content_hash
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.uncertainty.report import calibration_report
from perturbfm_core.reports.pages.run import Beside, run_report
from perturbfm_core.schema import SCORE_COLUMNS
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import Split
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord
from tests.support.factories import comparison_of, grid_rows, run_config, screen, split_one, write_run

TRAINING = {
    "phase": "member",
    "epochs_planned": 400,
    "epochs": 300,
    "best_epoch": 217,
    "best_score": 0.4321,
    "stopped_early": True,
    "rows": 500,
    "curves": {
        "loss": [1.0 / (1 + e / 30) for e in range(300)],
        "validation": [0.45 - ((e - 216) / 400) ** 2 for e in range(300)],
        "lr": [0.001] * 300,
    },
}


@dataclass(frozen=True, eq=False)
class ReportCase:
    """What `run_report` takes."""

    record: RunRecord
    table: pd.DataFrame
    comparison: Comparison
    split: Split
    stats: SplitStats
    calibration: dict[str, Any]
    beside: Beside

    def page(self) -> str:
        """Return the report, with nothing kept from the one before."""
        self.comparison.shared.clear()
        return run_report(
            self.record, self.table, self.comparison, self.split, self.stats, self.calibration, self.beside
        )


def simulated(conditions: int, genes: int, seed: int = 0) -> Comparison:
    """Return a comparison of a prediction that knows half of the truth, with genes called GENE0, GENE1, ..."""
    rng = np.random.default_rng(seed)
    programs = rng.normal(size=(6, genes)) * (rng.random((6, genes)) < 0.15)
    truth = rng.normal(size=(conditions, 6)) @ programs * 0.3 + rng.normal(0, 0.05, (conditions, genes))
    return comparison_of(
        truth,
        0.5 * truth + rng.normal(0, 0.1, truth.shape),
        var=np.full(genes, 0.02),
        train_mean=truth.mean(axis=0) + rng.normal(0, 0.02, genes),
        rows=[("K562" if i % 2 else "RPE1", f"PERT{i // 2}") for i in range(conditions)],
        genes=[f"GENE{i}" for i in range(genes)],
    )


def with_noise(c: Comparison) -> Comparison:
    """Return a comparison whose observation has a sampling variance."""
    from dataclasses import replace

    return replace(c, s2=np.full(c.observed.shape, 0.0025), n=np.full(len(c), 40))


def report_case(
    conditions: int, genes: int, home: Path, *, baselines: int = 0, wide: bool = False
) -> ReportCase:
    """Return a case of a report.

    Parameters
    ----------
    conditions, genes
        Its size.
    home
        Where the runs of baselines lie.
    baselines
        Number of baselines that were run on the same split.
    wide
        Whether scores of all panels are there, those of panels that are not computed as copies.
    """
    comparison = with_noise(simulated(conditions, genes))
    ds = screen(grid_rows([f"P{i}" for i in range(8)], ["x", "y"], controls=4), genes=10, name="screen")
    split = split_one(ds, "perturbation_ood", {"holdout": ["P0", "P1"]}).definition
    scored = evaluate(comparison, ["delta", "uncertainty"])
    table = pd.concat([scored.table(), *(_copies(scored.table()) if wide else [])], ignore_index=True)
    config = run_config("network", family="learned") | {"created": "2026-11-27T02:35:08.000000"}
    store = ArtifactStore(home / "home", home / "splits")
    for i in range(baselines):
        own = run_config(f"baseline{i}")
        alone = f"{i:02x}" * 32
        own["objects"] = {"model": "m", "prediction": "p", "scores": "s", "panels": {"delta": alone}}
        shift = table.assign(value=table["value"] - 0.02 * (i + 1))
        named = shift.assign(
            run_id=own["run_id"], dataset="screen", split_hash=own["split_hash"], split_kind="combo_ood",
            entry=own["entry"], config_hash=own["config_hash"], seed=0,
        )  # fmt: skip
        write_run(store, own, named[list(SCORE_COLUMNS)])
        # As stored runs have it: the scores of one panel by themselves.
        store.object(alone).mkdir(parents=True)
        shift[shift["panel"] == "delta"].to_parquet(store.object(alone) / "scores.parquet", index=False)
    bound = {
        "pearson_centered": {"half": 0.71, "noise_free": 0.91},
        "pearson": {"half": 0.7, "noise_free": 0.9},
    }
    floor = {
        "train_mean": {"pearson": 0.2},
        "control_mean": {"pearson_centered": -0.1},
        "null": {"pearson": 0.01},
    }
    counts = {"train": {"conditions": 500, "rows": 9000}, "test": {"conditions": conditions, "rows": 4000}}
    gate = {
        "g": [0.0, 0.0], "gain": 0.0, "standard_error": 0.0, "groups": 80, "reason": "no gain over one standard error",
        "tried": [{"part": "channels", "gain": 0.001, "standard_error": 0.004, "error_fell": True}],
    }  # fmt: skip
    training = {
        "inner_folds": [{**TRAINING, "phase": f"inner fold {i + 1}"} for i in range(3)],
        "gate": gate,
        "rank": 8,
    }
    return ReportCase(
        RunRecord.model_validate(
            {**config, "run_id": f"20261127-023508_{content_hash('x')[:7]}_network_0e4a3d5d"}
        ),
        table,
        comparison,
        split,
        SplitStats(counts=counts, row_digests={}, ceiling=bound, floor=floor),
        {"method": "none", **calibration_report(comparison, {})},
        Beside(training=training, store=store, gene_sets=()),
    )


def _copies(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the scores of the other panels' metrics, each with the values of one."""
    like = table[table["metric"] == "pearson"]
    others = [m for m in METRICS.values() if m.panel not in ("delta", "uncertainty")]
    return [like.assign(panel=m.panel, metric=m.name, direction=m.direction) for m in others]
