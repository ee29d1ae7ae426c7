"""Plain functions that make small data sets, splits, views, comparisons and runs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.condition import keys_of
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.store.artifacts import ArtifactStore

Row = tuple[Any, ...]

# ---- data sets ---------------------------------------------------------------------------------------------


def grid_rows(
    perts: Sequence[str], contexts: Sequence[str], *, reps: int = 1, controls: int = 2
) -> list[Row]:
    """Return rows (pert, context): controls of every context, then every perturbation in every context."""
    rows: list[Row] = [("control", c) for c in contexts for _ in range(controls)]
    return rows + [(p, c) for c in contexts for p in perts for _ in range(reps)]


def screen(
    rows: Sequence[Row],
    *,
    X: Any = None,
    genes: int | Sequence[str] = 6,
    seed: int = 0,
    row_ids: Sequence[str] | None = None,
    **metadata: Any,
) -> PerturbDataset:
    """Return a data set of rows (pert, context) or (pert, context, {column: value}), of random values unless given."""
    names = [f"g{i}" for i in range(genes)] if isinstance(genes, int) else list(genes)
    extra = [r[2] if len(r) > 2 else {} for r in rows]
    columns: dict[str, Any] = {schema.PERT_ID: [r[0] for r in rows], schema.CONTEXT_ID: [r[1] for r in rows]}
    for name in sorted({k for e in extra for k in e}):
        columns[name] = [e.get(name, "") for e in extra]
    if X is None:
        X = np.random.default_rng(seed).random((len(rows), len(names)))
    X = np.asarray(X, dtype=np.float32)
    metadata = {"name": "screen", **metadata}
    delta_only = metadata.get("space") in schema.DELTA_SPACES
    if delta_only:
        metadata.setdefault("control_policy", "none")
    ids = [f"r{i}" for i in range(len(rows))] if row_ids is None else list(row_ids)
    values = Values(delta=X) if delta_only else Values(expression=X)
    return PerturbDataset(make_obs(columns, ids), names, values, DatasetMetadata(**metadata))


def reordered(ds: PerturbDataset, order: Sequence[int]) -> PerturbDataset:
    """Return the same rows in another order."""
    X = ds.values.expression
    assert X is not None
    return PerturbDataset(ds.obs.iloc[list(order)], ds.genes, Values(expression=X[list(order)]), ds.metadata)


def with_values(ds: PerturbDataset, X: Any) -> PerturbDataset:
    """Return the same rows with other expression values."""
    return PerturbDataset(ds.obs, ds.genes, Values(expression=np.asarray(X, dtype=np.float32)), ds.metadata)


def with_metadata(ds: PerturbDataset, **changes: Any) -> PerturbDataset:
    """Return the same rows and values with other metadata, whatever the values would say."""
    return PerturbDataset(ds.obs, ds.genes, ds.values, ds.metadata.model_copy(update=changes))


def simulated(**config: Any) -> PerturbDataset:
    """Return a simulated data set, made once per configuration."""
    return _simulated(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=16)
def _simulated(config: str) -> PerturbDataset:
    return simulate(SimulationConfig(**json.loads(config)))[0]


# ---- splits ------------------------------------------------------------------------------------------------


def split_all(
    ds: PerturbDataset, kind: str, params: dict[str, Any] | None = None, **spec: Any
) -> list[FrozenSplit]:
    """Freeze the splits of one specification."""
    return freeze(ds, SplitSpec(kind=kind, params=params or {}, **spec))


def split_one(
    ds: PerturbDataset, kind: str, params: dict[str, Any] | None = None, **spec: Any
) -> FrozenSplit:
    """Freeze a specification that gives one split."""
    (split,) = split_all(ds, kind, params, **spec)
    return split


def assert_both_new(held: pd.DataFrame, fitted: pd.DataFrame) -> None:
    """Assert that no context and no perturbed gene of some conditions occurs in those that are fitted on."""

    def genes(conditions: pd.DataFrame) -> set[str]:
        return {g for p in conditions["pert_id"].astype(str) for g in p.split("+")}

    held_genes = [set(p.split("+")) for p in held["pert_id"].astype(str)]
    assert len(held)
    assert len(fitted)
    assert not set(held["context_id"].astype(str)) & set(fitted["context_id"].astype(str))
    assert all(of - genes(fitted) for of in held_genes)


def table_of(split: FrozenSplit) -> dict[str, list[str]]:
    """Return {fold: condition keys} of a by-condition split, every fold present."""
    table = split.definition.folds.table  # type: ignore[union-attr]
    return {fold: list(table.get(fold, ())) for fold in schema.FOLDS}


def perts_of(keys: Iterable[str]) -> set[str]:
    """Return the perturbations of condition keys."""
    return {key.split("|")[1] for key in keys}


def contexts_of(keys: Iterable[str]) -> set[str]:
    """Return the contexts of condition keys."""
    return {key.split("|")[0] for key in keys}


# ---- conditions and views ----------------------------------------------------------------------------------


def conditions_of(rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return a condition table of rows (context, pert[, modality[, doses[, covariates]]]), in their order."""
    full = [tuple(r) + ("",) * (len(schema.CONDITION_COLUMNS) - len(r)) for r in rows]
    table = pd.DataFrame(full, columns=list(schema.CONDITION_COLUMNS))
    table.index = pd.Index(keys_of(table), name=schema.CONDITION)
    return table


def view_of(
    rows: Sequence[Sequence[str]],
    delta: Any,
    *,
    genes: Sequence[str] | None = None,
    control: Any = None,
    n_cells: Sequence[int] | None = None,
    inner: Sequence[Sequence[int]] = (),
) -> TrainView:
    """Return a train view made by hand; `inner` lists the positions that each inner fold holds out."""
    delta = np.asarray(delta, dtype=np.float32)
    masks = []
    for positions in inner:
        held = np.isin(np.arange(len(delta)), positions)
        masks.append((~held, held))
    return TrainView(
        conditions=conditions_of(rows),
        genes=np.asarray(genes or [f"g{i}" for i in range(delta.shape[1])], dtype=np.str_),
        delta=delta,
        s2=np.zeros_like(delta),
        n_cells=np.asarray(n_cells or [1] * len(delta), dtype=np.int64),
        control=None if control is None else np.asarray(control, dtype=np.float32),
        inner=masks,
    )


def query_of(rows: Sequence[Sequence[str]], genes: Sequence[str] | int, control: Any = None) -> Query:
    """Return conditions to predict."""
    names = [f"g{i}" for i in range(genes)] if isinstance(genes, int) else list(genes)
    return Query(
        conditions_of(rows),
        np.asarray(names, dtype=np.str_),
        None if control is None else np.asarray(control, dtype=np.float32),
    )


# ---- predictions and comparisons ---------------------------------------------------------------------------


def prediction_of(
    ds: PerturbDataset, split: FrozenSplit, by_key: Mapping[str, Any], **fields: Any
) -> RowPrediction:
    """Return a fully named prediction: {condition key: mean [G]} for the test rows, variance 1 unless given."""
    rows = split.rows(ds, "test")
    keys = ds.conditions.index[ds.condition_codes[rows]]
    mean = np.asarray([by_key[k] for k in keys], dtype=np.float32)
    given: dict[str, Any] = {
        "mean": mean,
        "var": np.ones_like(mean),
        "idx": rows,
        "genes": ds.genes,
        "row_id": ds.row_ids[rows],
        "split_hash": split.hash,
        "data_content_sha256": ds.content_sha256,
        "space": "log1p" if ds.metadata.space == "counts" else ds.metadata.space,
    }
    return RowPrediction(**{**given, **fields})


def comparison_of(
    truth: Any,
    mean: Any,
    *,
    var: Any = None,
    train_mean: Any = None,
    rows: Sequence[Sequence[str]] | None = None,
    genes: Sequence[str] | None = None,
    **fields: Any,
) -> Comparison:
    """Return a comparison made by hand; conditions are perturbations P0, P1, ... of context c unless given."""
    truth = np.asarray(truth, dtype=np.float64)
    C, G = truth.shape
    return Comparison(
        conditions=conditions_of(rows or [("c", f"P{i}") for i in range(C)]),
        genes=np.asarray(genes or [f"g{i}" for i in range(G)], dtype=np.str_),
        observed=truth,
        predicted=np.asarray(mean, dtype=np.float64),
        predicted_var=np.ones_like(truth)
        if var is None
        else np.broadcast_to(np.asarray(var, dtype=np.float64), truth.shape),
        train_mean=np.zeros(G) if train_mean is None else np.asarray(train_mean, dtype=np.float64),
        control=None,
        n=np.ones(C, dtype=np.int64),
        shared_control=np.zeros(C, dtype=np.bool_),
        s2=np.zeros_like(truth),
        **fields,
    )


# ---- runs --------------------------------------------------------------------------------------------------


def run_config(
    entry: str,
    *,
    split: str = "a" * 64,
    created: str = "2024-01-01T00:00:00.000000",
    family: str = "baseline",
    seed: int = 0,
    no_signal: bool = False,
    shared_control: bool = False,
    params: str = "p",
    data: str = "d" * 64,
) -> dict[str, Any]:
    """Return what ``config.json`` of a run holds, as far as the leaderboard reads it."""
    stamp = created[:19].replace("-", "").replace(":", "").replace("T", "-")
    tail = f"{zlib.crc32(f'{entry} {seed} {params} {created}'.encode()):08x}"
    return {
        "run_id": f"{stamp}_{split[:7]}_{entry}_{tail}",
        "created": created,
        "schema_version": schema.RUN_SCHEMA_VERSION,
        "data_hash": data,
        "split_hash": split,
        "dataset": {"name": "screen", "content_sha256": data},
        "split": {"hash": split, "key": f"screen.combo_ood.{split[:12]}", "kind": "combo_ood"},
        "entry": entry,
        "model": entry,
        "family": family,
        "seed": seed,
        "config_hash": f"{entry}-{params}-{seed}",
        "entry_hash": f"{entry}-{params}",
        "code": {"trained_model": "c0de"},
        "environment": {"git_commit": None},
        "flags": {"no_signal": no_signal, "shared_control": shared_control},
        "alignment": "by_name",
        "timings": {"fit_s": 0.5},
        "parent_run": None,
    }


def score_rows(
    config: Mapping[str, Any],
    values: Mapping[str, float],
    *,
    metric: str = "pearson",
    panel: str = "delta",
    direction: str = "max",
) -> pd.DataFrame:
    """Return the scores of one metric by condition, with the mean over all of them."""
    finite = [v for v in values.values() if np.isfinite(v)]
    rows = [("condition", key, value, 1) for key, value in values.items()]
    rows.append(("global", "all", float(np.mean(finite)) if finite else float("nan"), len(values)))
    frame = pd.DataFrame(
        {
            "panel": panel,
            "metric": metric,
            "metric_version": "1",
            "scope": [r[0] for r in rows],
            "key": [r[1] for r in rows],
            "value": [float(r[2]) for r in rows],
            "n": [r[3] for r in rows],
            "direction": direction,
            "status": ["ok" if np.isfinite(r[2]) else "undefined" for r in rows],
            "reason": [None if np.isfinite(r[2]) else "constant" for r in rows],
        }
    )
    return frame.assign(
        run_id=config["run_id"],
        dataset=config["dataset"]["name"],
        split_hash=config["split"]["hash"],
        split_kind=config["split"]["kind"],
        entry=config["entry"],
        config_hash=config["config_hash"],
        seed=config["seed"],
    )[list(schema.SCORE_COLUMNS)]


def write_run(store: ArtifactStore, config: Mapping[str, Any], scores: pd.DataFrame) -> Path:
    """Write a run directory with the files that make it complete."""
    folder = store.run(config["run_id"])
    folder.mkdir(parents=True)
    for name in schema.RUN_FILES:
        (folder / name).write_text("")
    (folder / schema.CONFIG_FILE).write_text(json.dumps(config))
    scores.to_parquet(folder / schema.SCORES_FILE, index=False)
    return folder


def split_table(*hashes: str, board: str | None = None, unit: str = "combo", **columns: Any) -> pd.DataFrame:
    """Return the table of splits that standings are made with; several hashes are folds of one board."""
    k = len(hashes) if len(hashes) > 1 else None
    base = {
        "board": board or f"board-{hashes[0][:4]}",
        "cv_k": k,
        "unit": unit,
        "ceiling": None,
        "floor": None,
    }
    return pd.DataFrame([{"split_hash": h, **base, **columns} for h in hashes])
