"""Stack weights of few units on simulations, and on real contexts: the best member alone against a mixture.

    python -m tests.benchmarks.claims.few_units --seeds 10 11 12 13 14 15
    python -m tests.benchmarks.claims.few_units --seeds --data FOLDER     # Kang, five cell types
    python -m tests.benchmarks.claims.few_units --without fold_change_ridge

Both weights are made of the same inner folds, and scored with the same members on the test conditions.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.data.table import condition_table
from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import observed
from perturbfm_core.models.perturbfm.core.stack import BASELINES, Core
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import FrozenSplit, units_of
from perturbfm_core.splits.view import Query, train_view
from tests.benchmarks.claims import measuring as m
from tests.benchmarks.claims.real_contexts import REAL
from tests.support.command import perturbfm

UNITS = (3, 4, 5, 6, 8, 9)
HELD = 3


class Both(Core):
    """A core of which all members are fitted, so that several weights can be compared."""

    def _used(self) -> list[str]:
        return self.names[:-1]


def simulations(seed: int) -> Iterator[tuple[str, PerturbDataset, SplitSpec]]:
    """Yield (task, data, split) with 3 to 9 units to learn from."""
    draw = np.random.default_rng(seed)
    for n in UNITS:
        base: dict[str, Any] = {"n_obs": 1500 + 250 * n, "n_genes": 100, "seed": 1000 * seed + n}
        for task, perts, combos in (("contexts", 6, 2), ("contexts, one perturbation", 1, 0)):
            kinds = {
                "context_specificity": float(draw.choice([0.1, 0.3, 0.6])),
                "context_shift": float(draw.choice([0.3, 1.0])),
            }
            config = {**base, "n_contexts": n + 1, "n_perts": perts, "n_combos": combos, **kinds}
            yield task, _data(config), SplitSpec(kind="context_ood", params={"holdout": ["C0"]})
        if n > HELD:
            yield _holding("perturbation_ood", {**base, "n_contexts": 1, "n_perts": n + HELD, "n_combos": 0})
            interaction = float(draw.choice([0.2, 1.0]))
            config = {**base, "n_contexts": 2, "n_perts": 6, "n_combos": n + HELD, "interaction": interaction}
            yield _holding("combo_ood", config)


def _data(config: dict[str, Any]) -> PerturbDataset:
    return simulate(SimulationConfig(**config))[0]


def _holding(kind: str, config: dict[str, Any]) -> tuple[str, PerturbDataset, SplitSpec]:
    ds = _data(config)
    parts = 2 if kind == "combo_ood" else 1
    names = sorted({p for p in ds.conditions["pert_id"].astype(str) if len(pert_genes(p)) == parts})
    return kind, ds, SplitSpec(kind=kind, params={"holdout": names[:HELD]})


def compared(task: str, ds: PerturbDataset, split: FrozenSplit, members: Sequence[str]) -> dict[str, Any]:
    """Return the scores of both weights on the test conditions."""
    view, side = train_view(ds, split), observed(ds, split)
    core = Both(members).fit(view, 0)
    control = condition_table(ds, split.rows(ds, "test")).control.get("input")
    query = Query(side.conditions, ds.genes, control)
    row: dict[str, Any] = {
        "task": task,
        "units": len({u for us in units_of(view.conditions, view.unit) for u in us}),
    }
    mixed = core.weights
    alone = {"all": np.eye(len(core.names))[core.names.index(core.best)]}
    for name, core.weights in (("alone", alone), ("mixed", mixed)):
        mean, _ = core.predict(query)
        row[f"mse_{name}"] = float(((mean - side.observed) ** 2).mean())
        centred = rowwise.pearson(mean - side.train_mean, side.observed - side.train_mean)
        row[f"pearson_{name}"] = float(rowwise.pearson(mean, side.observed).mean())
        row[f"centred_{name}"] = float(centred.mean())
    return row


def main() -> None:
    """Print both weights' scores by task and number of units."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the file with Kang's cells")
    parser.add_argument("--seeds", type=int, nargs="*", default=[10, 11, 12, 13, 14, 15])
    parser.add_argument("--without", nargs="*", default=[], choices=BASELINES, help="members to leave out")
    args = parser.parse_args()
    members = [name for name in BASELINES if name not in args.without]
    m.single_thread()
    rows = [
        compared(task, ds, split, members)
        for seed in args.seeds
        for task, ds, spec in simulations(seed)
        for split in freeze(ds, spec)
    ]
    if args.data is not None:
        rows += _kang(args.data.resolve(), members)
    table = pd.DataFrame(rows)
    log_ratio = np.log(table["mse_mixed"] / table["mse_alone"])
    table["mse_ratio"] = log_ratio
    for by in ("task", "units"):
        found = table.groupby(by)["mse_ratio"].agg(["mean", "sem", "size"])
        print(found.assign(ratio=np.exp(found["mean"])).round(4).to_string())
    print(table.drop(columns=["units"]).groupby("task").mean().round(4).T.to_string())
    print(f"all: {np.exp(log_ratio.mean()):.4f} +- {log_ratio.sem():.4f} of {len(table)}")


def _kang(data: Path, members: Sequence[str]) -> list[dict[str, Any]]:
    file, columns, _ = REAL["kang"]
    os.chdir(tempfile.mkdtemp(prefix="few-units-"))
    perturbfm(
        "data", "import", m.real_file(data, file), "--out", "kang", "--name", "kang", *columns, warns=True
    )
    ds = open_dataset(Path("kang"))
    return [
        compared("Kang", ds, split, members) for split in freeze(ds, SplitSpec(kind="leave_one_context_out"))
    ]


if __name__ == "__main__":
    main()
