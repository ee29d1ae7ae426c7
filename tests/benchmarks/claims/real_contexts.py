"""PerturbFM v0 to v3 with all panels on real contexts, the demo and the simulations, through the command line.

    python -m tests.benchmarks.claims.real_contexts --data FOLDER --home HOME --out contexts.json

With ``--quick`` only panel ``delta`` is scored, in this process, and nothing is published.

Every cell of the grid is a run as `perturbfm train` makes it; `perturbfm leaderboard compare` then says whether a
version is worse than the baseline that inner folds chose. A second call in the same HOME reuses what is there.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.leaderboard.significance import compare_entries
from perturbfm_core.leaderboard.tables import split_table
from perturbfm_core.models.base import MODELS, new_model
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.gene_graph import gather
from perturbfm_core.pipeline.split import stored_stats
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from tests.benchmarks.claims import measuring as m
from tests.support.command import perturbfm

CELLS = ("--pert-col", "condition", "--control-label", "control")
# {name: (file, columns, specs of splits)}
REAL: dict[str, tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = {
    "kang": (
        "sc_kang_ifnb_5celltypes.h5ad",
        (*CELLS, "--context-col", "cell_type", "--batch-col", "donor", "--space", "counts"),
        [("--spec", "leave_one_context_out")],
    ),
    "four": (
        "sc_norman_mcfaline_4contexts.h5ad",
        (*CELLS, "--context-col", "context", "--modality-col", "perturbation_type"),
        [("--spec", "leave_one_context_out"), ("--spec", "combo_ood", "--folds", "3", "--fold", "0")],
    ),
    "norman": (
        "pb_norman_k562_singles_doubles.h5ad",
        (
            *("--pert-col", "condition", "--context-col", "context", "--modality-col", "perturbation_type"),
            *("--space", "delta"),
        ),
        [("--spec", "combo_ood", "--folds", "5"), ("--spec", "perturbation_ood", "--folds", "5")],
    ),
    "l1000": (
        "pb_l1000_3drugs_65lines_doses.h5ad",
        (
            *("--pert-col", "compound", "--context-col", "context", "--dose-col", "dose_um"),
            *("--time-col", "time", "--modality", "drug", "--space", "zscore"),
        ),
        [("--spec", "context_ood", "--folds", "5")],
    ),
}
CATALOG = ("demo", "sim_network", "sim_context", "sim_state")
SUITE = "perturbfm"
HEADLINE = (
    ("delta", "pearson_centered"),
    ("delta", "pearson"),
    ("delta", "mse"),
    ("uncertainty", "crps"),
    ("uncertainty", "coverage_0.9"),
)


def grid(data: Path) -> list[tuple[str, str]]:
    """Import and freeze; return (data set's folder, split hash) of every cell, the frozen ones included."""
    cells = []
    for name, (file, columns, specs) in REAL.items():
        if not Path(name).is_dir():
            path = m.real_file(data, file)
            perturbfm("data", "import", path, "--out", name, "--name", name, *columns, warns=True)
        for spec in specs:
            made = perturbfm("splits", "create", "--data", name, *spec, "--json").json
            cells += [(name, s["split_hash"]) for s in made.get("splits", [made])]
    for row in perturbfm("splits", "list", "--json").json:
        if row["dataset"] in CATALOG:
            cells.append((str(m.REPO / "data" / row["dataset"]), row["split_hash"]))
    return cells


def main() -> None:
    """Run the grid, rank it, compare, and print two tables."""
    parser = m.options(__doc__ or "")
    parser.add_argument("--home", type=Path, help="folder of artifacts and runs (default: a temporary one)")
    parser.add_argument("--only", default="", help="data sets whose name contains this")
    parser.add_argument(
        "--entries", nargs="+", default=load_catalog().suite(SUITE).models, help="catalog entries to run"
    )
    parser.add_argument("--quick", action="store_true", help="panel delta only, no runs")
    args = parser.parse_args()
    m.single_thread()
    home = args.home or Path(tempfile.mkdtemp(prefix="contexts-"))
    home.mkdir(parents=True, exist_ok=True)
    data = args.data.resolve()
    out = None if args.out is None else args.out.resolve()
    os.chdir(home)
    for variable in ("PERTURBFM_HOME", "PERTURBFM_CATALOG"):
        os.environ.pop(variable, None)
    _splits(home)
    if args.quick:
        quick([c for c in grid(data) if args.only in c[0]], args.entries, out)
        return
    failed = []
    done = {
        (r["split_hash"], r["entry"])
        for r in (_sql("SELECT split_hash, entry FROM runs") if (home / "runs").is_dir() else [])
    }
    for folder, split in grid(data):
        if args.only not in folder:
            continue
        for entry in args.entries:
            if (split, entry) in done:
                continue
            start = time.perf_counter()
            try:
                perturbfm("train", entry, "--data", folder, "--split", split)
            except AssertionError as error:
                failed.append({"split": split, "entry": entry, "error": str(error)[:300]})
                m.tell(f"{Path(folder).name} {split[:8]} {entry}: {str(error)[:200]}")
            else:
                m.tell(f"{Path(folder).name} {split[:8]} {entry}: {time.perf_counter() - start:.0f} s")
    perturbfm("leaderboard", "refresh")
    report(out, failed)


def quick(cells: list[tuple[str, str]], entries: list[str], out: Path | None) -> None:
    """Fit and score every cell in this process, and compare as the leaderboard does."""
    store = ArtifactStore()
    folder = SplitFolder(store.split_dir)
    table = split_table(store, lambda split: stored_stats(store, split))
    runs: list[dict[str, Any]] = []
    scores: list[pd.DataFrame] = []
    for place, definition in cells:
        ds, split = open_dataset(place), folder.load(definition)
        on = m.case(ds, split)
        line = []
        for name in entries:
            entry = load_catalog().model(name)
            # Nothing that is registered on this machine is read.
            params = model_configs(entry)[0].params
            needs = new_model(entry.model, params).needs()
            found = m.run(on, entry.model, 0, gather(store, ds, split, needs), **params)
            run_id = f"{definition}.{name}"
            runs.append(
                {
                    "run_id": run_id,
                    "split_hash": definition,
                    "entry": name,
                    "family": MODELS.get(entry.model).family,
                    "seed": 0,
                    "inner_pearson_centered": found.inner.get(m.CENTRED, np.nan),
                    "gate": m.gate_of(found.training),
                    **{k: _mean(v) for k, v in found.values.items()},
                }
            )
            scores.append(
                pd.DataFrame({"run_id": run_id, "key": found.keys, "value": found.values[m.CENTRED]})
            )
            line.append(f"{name} {_mean(found.values[m.CENTRED]):.4f}")
        m.tell(f"{split.definition.key}: " + ", ".join(line))
    frame = pd.DataFrame(runs)
    compared = compare_entries(frame, table, pd.concat(scores))
    titles = dict(zip(table["split_hash"], table["split_key"], strict=True))
    wide = frame.assign(split=frame["split_hash"].map(titles)).pivot_table(
        index="split", columns="entry", values=m.CENTRED, sort=False
    )
    print(m.table(wide.reset_index().to_dict("records")))
    print()
    print(m.table(compared.to_dict("records")))
    print(f"\nsignificantly worse: {int((compared['verdict'] == 'worse').sum())} of {len(compared)}")
    m.save(out, {"runs": runs, "compare": compared.to_dict("records")})


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is defined, NaN if nothing is."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def report(out: Path | None, failed: list[dict[str, Any]]) -> None:
    """Print headline numbers and the comparison."""
    wanted = " OR ".join(f"(panel = '{p}' AND metric = '{k}')" for p, k in HEADLINE)
    rows = _sql(f"SELECT board, entry, panel, metric, value, best_baseline FROM leaderboard WHERE {wanted}")
    headline: dict[tuple[str, str], dict[str, Any]] = {}
    for r in rows:
        own = headline.setdefault((r["board"], r["entry"]), {"board": r["board"], "entry": r["entry"]})
        own[r["metric"]] = r["value"]
    panels = _sql(
        "SELECT entry, count(DISTINCT panel) AS panels, count(DISTINCT split_hash) AS splits FROM scores GROUP BY entry"
    )
    compared = perturbfm("leaderboard", "compare", "--json").json
    print(m.table(headline[k] for k in sorted(headline)))
    print("\nPanels and splits per entry:\n")
    print(m.table(panels))
    print(
        "\nAgainst the baseline that inner folds chose, mean Pearson of centred delta, Holm over all rows:\n"
    )
    print(m.table({k: v for k, v in r.items() if k != "no_signal"} for r in compared))
    worse = [r for r in compared if r["verdict"] == "worse"]
    print(f"\nsignificantly worse: {len(worse)} of {len(compared)}; failed runs: {len(failed)}")
    m.save(
        out, {"headline": list(headline.values()), "compare": compared, "panels": panels, "failed": failed}
    )


def _splits(home: Path) -> None:
    """Let the working folder have the repository's frozen splits beside its own."""
    own = home / "splits"
    if not own.exists():
        own.mkdir()
        for path in (m.REPO / "splits").iterdir():
            (own / path.name).write_bytes(path.read_bytes())
    os.environ["PERTURBFM_SPLIT_DIR"] = str(own)


def _sql(statement: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = perturbfm("leaderboard", "sql", "--json", statement).json
    return rows


if __name__ == "__main__":
    main()
