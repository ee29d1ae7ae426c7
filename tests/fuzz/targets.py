"""Every format with the verbs that read it: what is damaged, how, and what is run then."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.arrays import ARRAYS, H5AD, MEMBERS, damage_h5ad, damage_npz, damage_zarr
from tests.fuzz.damage import YAML, damage_file, damage_json, damage_yaml

Damage = Callable[[Path, random.Random], str]
__all__ = ["ARRAYS", "H5AD", "MEMBERS", "TARGETS", "YAML", "Target"]


@dataclass(frozen=True)
class Target:
    """One file of the template, with how it is damaged and the command lines that read it.

    Attributes
    ----------
    path
        Of the file; SPLIT and RUN stand for the names made in the template.
    damage
        Damages it and returns how.
    lines
        Command lines, one of which is run.
    hashed
        Whether an exit of 0 must find the content of the undamaged data set.
    """

    path: str
    damage: Damage
    lines: tuple[str, ...]
    hashed: bool = False


IMPORT = (
    "data import in.h5ad --pert-col pert --context-col line --control-label ctrl --space counts --out NEW"
)
D_LINES = (
    "data info D --verify",
    "splits create --data D --spec iid --no-bounds",
    "train global_mean --data D --split SPLIT",
    "graphs build coexpression --name c --split SPLIT --data D",
)
Z_LINES = (
    "data info Z --verify",
    "splits create --data Z --spec iid --no-bounds",
    "graphs show edges --data Z",
)
SPLIT_LINES = (
    "splits show SPLIT",
    "splits verify SPLIT --data D",
    "splits verify --all",
    "splits list",
    "splits audit SPLIT --data D",
    "splits create --data D --spec context_ood --holdout-context C0 --no-bounds",
    "train global_mean --data D --split SPLIT",
)
EXPLICIT = "splits create --data D --spec explicit --no-bounds --conditions "
PREDS = "eval predictions --data D --split SPLIT --out OUT --preds "
RUN_LINES = ("leaderboard refresh", "export RUN --out x.csv", "export RUN --out y.parquet --what scores")
SAVED = "splits import-perturbench --dataset in.h5ad --data N --no-bounds --csv "

TARGETS: dict[str, Target] = {
    "h5ad": Target("in.h5ad", damage_h5ad, (IMPORT, IMPORT, IMPORT, SAVED + "saved.csv", IMPORT + " --layer dense")),
    "npz data": Target("D/data.npz", damage_npz, D_LINES, hashed=True),
    "npz counts": Target("D/counts.npz", damage_npz, D_LINES, hashed=True),
    "npz meta": Target("D/meta.json", damage_json, D_LINES, hashed=True),
    "zarr": Target("Z/data.zarr", damage_zarr, Z_LINES, hashed=True),
    "zarr meta": Target("Z/meta.json", damage_json, Z_LINES, hashed=True),
    "split": Target("splits/SPLIT.json", damage_json, SPLIT_LINES),
    "split statistics": Target("splits/SPLIT.stats.json", damage_json, SPLIT_LINES),
    "split index": Target("splits/index.json", damage_json, SPLIT_LINES),
    "split rows": Target("splits/ROWS.npz", damage_npz, ("splits show ROWS", "splits verify ROWS --data D")),
    "prediction": Target(
        "runs/RUN/predictions.npz",
        damage_npz,
        (
            "eval predictions --data D --split SPLIT --preds runs/RUN/predictions.npz --out OUT",
            "metrics validate --data D --split SPLIT --preds runs/RUN/predictions.npz",
            "export RUN --out x.h5ad",
        ),
    ),
    "reference": Target(
        "reference.json",
        damage_json,
        ("metrics validate --data D --split SPLIT --preds runs/RUN/predictions.npz --reference-json reference.json",),
    ),
    "graph": Target("data/graphs/edges.npz", damage_npz, ("graphs show edges", "graphs list", "graphs show edges --data D")),
    "features": Target("data/features/emb.npz", damage_npz, ("graphs show emb", "graphs features emb.npz --name f")),
    "features npz": Target("emb.npz", damage_npz, ("graphs features emb.npz --name f",)),
    "features parquet": Target("emb.parquet", damage_file, ("graphs features emb.parquet --name f",)),
    "edges parquet": Target("edges.parquet", damage_file, ("graphs build edges --name g --source edges.parquet --directed",)),
    "edges csv": Target("edges.csv", damage_file, ("graphs build edges --name g --source edges.csv --undirected",)),
    "edges gz": Target("edges.tsv.gz", damage_file, ("graphs build string --name g --source edges.tsv.gz --min-score 0",)),
    "terms": Target("go.gmt", damage_file, ("graphs build go --name g --source go.gmt",)),
    "catalog model": Target(
        ".perturbfm/catalog/models/mine.yaml",
        damage_yaml,
        ("models list", "run --data D --split SPLIT --entry mine", "doctor"),
    ),
    "catalog suite": Target(".perturbfm/catalog/suites/mine.yaml", damage_yaml, ("models list", "demo --suite mine")),
    "catalog data": Target(
        ".perturbfm/catalog/datasets/mine.yaml", damage_yaml, ("models list", "data make-synth --config mine --out NEW")
    ),
    "catalog graph": Target(".perturbfm/catalog/graphs/edges.yaml", damage_yaml, ("graphs list", "graphs show edges")),
    "catalog features": Target(".perturbfm/catalog/features/emb.yaml", damage_yaml, ("graphs list", "graphs show emb")),
    "explicit json": Target("explicit.json", damage_json, (EXPLICIT + "explicit.json",)),
    "explicit csv": Target("explicit.csv", damage_file, (EXPLICIT + "explicit.csv",)),
    "saved csv": Target("saved.csv", damage_file, (SAVED + "saved.csv",)),
    "saved json": Target("saved.json", damage_json, (SAVED + "saved.json",)),
    "run record": Target("runs/RUN/config.json", damage_json, RUN_LINES),
    "run metrics": Target("runs/RUN/metrics.json", damage_json, RUN_LINES),
    "run scores": Target("runs/RUN/scores.parquet", damage_file, RUN_LINES),
    "run calibration": Target("runs/RUN/calibration.json", damage_json, RUN_LINES),
    "leaderboard": Target(
        "runs/leaderboard.duckdb", damage_file, ("leaderboard show", "leaderboard sql 'select 1'", "leaderboard refresh")
    ),
    "prediction csv": Target("preds.csv", damage_file, (PREDS + "preds.csv",)),
    "prediction parquet": Target("preds.parquet", damage_file, (PREDS + "preds.parquet",)),
    "prediction h5ad": Target("preds.h5ad", damage_file, (PREDS + "preds.h5ad",)),
    "batch": Target(
        "batch.csv", damage_file, ("predict --run RUN --split SPLIT --batch batch.csv --out p.parquet --data D",)
    ),
}  # fmt: skip
