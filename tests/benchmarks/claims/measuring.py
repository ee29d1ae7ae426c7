"""Fit an entry on a split, score it with the panel `delta`, compare entries on the same conditions."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import ObservedSide, compare, observed
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.rowwise import pearson
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import Model, new_model
from perturbfm_core.pipeline.prediction import predict_rows
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import TrainView, train_view
from perturbfm_core.store.atomic import write_json

RAW, CENTRED, NO_TARGET = "pearson", "pearson_centered", "pearson_centered_no_target"
METRICS = (RAW, CENTRED, NO_TARGET)
REPO = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, eq=False)
class Case:
    """A split with what every entry on it shares."""

    ds: PerturbDataset
    split: FrozenSplit
    view: TrainView
    truth: ObservedSide


def case(ds: PerturbDataset, split: FrozenSplit) -> Case:
    """Return a split's train view and observed side."""
    return Case(ds, split, train_view(ds, split), observed(ds, split))


@dataclass(eq=False)
class Run:
    """One fitted entry on one split.

    Attributes
    ----------
    keys, values
        Test conditions, and float64 [C] per metric.
    inner
        Mean over conditions of the split's inner folds, per metric: what may choose between entries.
    training, seconds
        What the fit said of itself; CPU-seconds of fit and prediction.
    """

    keys: list[str]
    values: dict[str, np.ndarray]
    inner: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def run(on: Case, model: str, seed: int = 0, knowledge: SideInfo | None = None, **params: Any) -> Run:
    """Fit on the train view, predict the test conditions, score them as the leaderboard does."""
    fitted = new_model(model, params)
    fitted.side_info = knowledge or SideInfo()
    start = time.process_time()
    with threadpool_limits(limits=1):
        fitted.fit(on.view, seed)
        prediction = predict_rows(on.ds, on.split, fitted)
    seconds = time.process_time() - start
    scores = evaluate(compare(on.ds, on.split, prediction, on.truth), ["delta"], level="condition")
    values = {r.metric.name: r.values for r in scores.results}
    keys = [str(k) for k in on.truth.conditions.index]
    return Run(
        keys, {m: np.asarray(values[m]) for m in METRICS}, _inner(fitted, on), fitted.training, seconds
    )


def _inner(fitted: Model, on: Case) -> dict[str, float]:
    """Return the mean Pearson correlation over conditions that inner folds held out, raw and centred.

    Of conditions like those of the test: as many perturbed genes (inner folds by gene hold out combinations, too).
    """
    if fitted.oof is None:
        return {}
    asked = {len(pert_genes(p)) for p in on.truth.conditions[schema.PERT_ID].astype(str)}
    sizes = [len(pert_genes(p)) for p in fitted.oof.conditions[schema.PERT_ID].astype(str)]
    like = np.isin(sizes, list(asked))
    center = on.view.delta.mean(axis=0, dtype=np.float64)
    mean = fitted.oof.prediction.mean[like].astype(np.float64)
    truth = fitted.oof.truth[like].astype(np.float64)
    # A constant prediction has no correlation, and must not be chosen for it.
    return {
        RAW: float(np.nan_to_num(pearson(mean, truth)).mean()),
        CENTRED: float(np.nan_to_num(pearson(mean - center, truth - center)).mean()),
    }


def pooled(runs: Sequence[Run]) -> Run:
    """Return the conditions of several folds as one."""
    return Run(
        [k for r in runs for k in r.keys],
        {m: np.concatenate([r.values[m] for r in runs]) for m in METRICS},
        seconds=sum(r.seconds for r in runs),
    )


def averaged(runs: Sequence[Run]) -> Run:
    """Return the mean over seeds of each condition; a condition enters once."""
    out: dict[str, pd.Series] = {}
    for metric in METRICS:
        table = pd.concat([pd.Series(r.values[metric], index=r.keys) for r in runs])
        out[metric] = table.groupby(level=0).mean()
    return Run(
        list(out[RAW].index), {m: s.to_numpy() for m, s in out.items()}, seconds=sum(r.seconds for r in runs)
    )


def gain(one: Run, other: Run, metric: str = CENTRED) -> tuple[float, float]:
    """Return the mean paired difference and its standard error over conditions."""
    a = pd.Series(one.values[metric], index=one.keys)
    d = (a - pd.Series(other.values[metric], index=other.keys).reindex(a.index)).to_numpy()
    return float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))


def gate_of(training: Mapping[str, Any]) -> str:
    """Return how much of the network a fit uses and what each part gained on inner folds; empty for other models."""
    gate = training.get("gate")
    if not isinstance(gate, Mapping):
        return ""
    seen = [f"{t['part']} {t['gain']:+.4f} ± {t['standard_error']:.4f}" for t in gate.get("tried", ())]
    return "/".join(f"{g:.2f}" for g in gate["g"]) + (f" ({', '.join(seen)})" if seen else "")


def options(description: str, **extra: Any) -> argparse.ArgumentParser:
    """Return the options that every claim takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="write all values as JSON")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument(
        "--data", type=Path, default=REPO.parent / "shared" / "data", help="folder of the real files"
    )
    return parser


def real_file(folder: Path, name: str) -> Path:
    """Return a real file, or end with the reason that it is not there."""
    path = folder / name
    if not path.is_file():
        print(f"skipped: {path} is absent; give --data FOLDER", file=sys.stderr)
        raise SystemExit(0)
    return path


def single_thread() -> None:
    """Measure CPU time on one core."""
    torch.set_num_threads(1)


def tell(text: str) -> None:
    """Print progress at once."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    frame = pd.DataFrame(list(rows))
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * frame.shape[1]]
    for row in frame.itertuples(index=False):
        cells = [f"{x:.4f}" if isinstance(x, float) else str(x) for x in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save(out: Path | None, content: Any) -> None:
    """Write JSON if a path was given."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        # JSON has no NaN; an undefined value is null.
        write_json(out, json.loads(json.dumps(content), parse_constant=lambda _: None))
