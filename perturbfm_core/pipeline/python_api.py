"""PerturbFM from Python: data sets, splits, runs, scores and the leaderboard as objects and data frames.

What `import perturbfm_core as pfm` offers. Artifacts go where the command line puts them: below ``PERTURBFM_HOME``
(default: the current directory), unless a `store` is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import content_hash, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.data.prediction import RowPrediction, read_prediction
from perturbfm_core.errors import ConfigError, PredictionError, StoreError
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.panel import headlines
from perturbfm_core.evaluation.submitted import submitted
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS
from perturbfm_core.pipeline.leaderboard import rank
from perturbfm_core.pipeline.metric_panel import Scores, observed_side, score_prediction
from perturbfm_core.pipeline.opening import check_generator
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.split import freeze_split, stats_with_bounds
from perturbfm_core.pipeline.submission import read_submission
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.schema import CountGenerator, PredictionKind
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import RunRecord, read_run_record


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes
    ----------
    path
        Its directory.
    """

    path: Path

    @cached_property
    def record(self) -> RunRecord:
        """Return what the run was made of: the content of ``config.json``."""
        return read_run_record(self.path)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``: values by panel, over all conditions, by context and by stratum."""
        content: dict[str, Any] = read_json(self.path / schema.METRICS_FILE)
        return content

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Return every score in long form: one row per panel, metric, scope and key."""
        return read_parquet(self.path / schema.SCORES_FILE, StoreError)

    @cached_property
    def prediction(self) -> RowPrediction:
        """Return the predicted deltas with variances and intervals."""
        return read_prediction(self.path / schema.PREDICTIONS_FILE)

    @property
    def report(self) -> Path:
        """Return the HTML report."""
        return self.path / schema.REPORT_FILE

    def __repr__(self) -> str:
        shown = {k: v for k, v in headlines(self.metrics).items() if v is not None}
        lines = [f"    {name}: {value:.4f}" for name, value in shown.items()]
        head = f"Run {self.path.name!r}: {self.record.entry}, seed {self.record.seed}, on {self.record.split.key}"
        return "\n".join([head, *lines])


def freeze(
    ds: PerturbDataset,
    kind: str,
    *,
    seed: int = 0,
    folds: int | None = None,
    fold: int | None = None,
    policies: dict[str, Any] | None = None,
    bounds: bool = True,
    store: ArtifactStore | None = None,
    tell: Progress = quiet,
    **params: Any,
) -> FrozenSplit | list[FrozenSplit]:
    """Freeze a split, or the folds of a cross-validation; the same request on the same data finds the same hash.

    Parameters
    ----------
    ds
        The data set.
    kind
        Kind of split; ``perturbfm splits kinds`` lists them.
    seed
        Seed of everything random.
    folds, fold
        Number of cross-validation folds, and the one to make (default: all).
    policies
        Fields of `SplitSpec` beside these: ``val_frac``, ``calib_frac``, ``validation``, ``calibration``,
        ``fit_rows``, ``transductive``.
    bounds
        Whether ceilings and floors are computed now, else at the first scoring.
    store
        Where splits lie; by default as the environment says.
    tell
        Called with a line of text about progress.
    **params
        Parameters of the kind, such as ``holdout=["K562"]``.

    Returns
    -------
    FrozenSplit or list of FrozenSplit
        One split, or several where the request makes several.

    Raises
    ------
    SplitError
        If a name is unknown, nothing could be tested, or the leakage audit blocks the split.
    """
    fields = {"kind": kind, "params": params, "seed": seed, "folds": folds, "fold": fold, **(policies or {})}
    spec = parse(SplitSpec, fields, "the request for a split")
    made = freeze_split(store or ArtifactStore(), ds, spec, bounds=bounds, progress=tell)
    splits = [split for split, _, _ in made]
    return splits[0] if len(splits) == 1 else splits


def run(
    ds: PerturbDataset,
    split: FrozenSplit | str,
    entry: ModelEntry | str,
    *,
    seed: int | None = None,
    name: str | None = None,
    again: bool = False,
    store: ArtifactStore | None = None,
    tell: Progress = quiet,
    **params: Any,
) -> Run | list[Run]:
    """Fit an entry on a split, predict, score and publish; what was made before is found, the run itself too.

    Parameters
    ----------
    ds
        The data set.
    split
        A frozen split of it; or its hash, a prefix of it, or its key.
    entry
        A catalog entry or its name, or the name of a registered model.
    seed
        The only seed (default: those of the entry).
    name
        Name in the leaderboard (default: that of the entry, with a suffix if a parameter differs).
    again
        Whether a new run is published though there is one of the same inputs and code.
    store
        Where artifacts go; by default as the environment says.
    tell
        Called with a line of text about progress.
    **params
        Parameters of the model that differ from the entry's.

    Returns
    -------
    Run or list of Run
        One run, or one per seed where the entry has several.

    Raises
    ------
    SplitError
        If the entry is not applicable to the split.
    ModelError, ConfigError
        If the entry or a parameter is unknown.
    """
    chosen = _entry(entry, name, seed, params)
    paths = run_entry(store or ArtifactStore(), split, chosen, data=ds, again=again, tell=tell)
    runs = [Run(path) for path in paths]
    return runs[0] if len(runs) == 1 else runs


def _entry(entry: ModelEntry | str, name: str | None, seed: int | None, params: dict[str, Any]) -> ModelEntry:
    """Return the entry with its changes, under a name that tells them apart from the entry as it is."""
    if isinstance(entry, ModelEntry):
        base = entry
    else:
        entries = load_catalog().models
        if entry not in entries:
            # Raises with the known names if there is none.
            MODELS.get(entry)
        base = entries.get(entry) or ModelEntry(name=entry, description="from Python", model=entry)
    own = MODELS.get(base.model).Params
    unknown = sorted(set(params) - set(own.model_fields))
    if unknown:
        msg = f"model {base.model!r} has no parameter {unknown[0]!r}; it takes: {', '.join(own.model_fields) or 'none'}"
        raise ConfigError(msg)
    suffix = f"-{content_hash(params)[:6]}" if params else ""
    changes: dict[str, Any] = {"name": name or base.name + suffix, "params": {**base.params, **params}}
    if params:
        changes["tuned"] = None
    if seed is not None:
        changes["seeds"] = (seed,)
    return parse(ModelEntry, {**base.model_dump(), **changes}, f"entry {base.name!r}")


def score(
    ds: PerturbDataset,
    split: FrozenSplit | str,
    prediction: RowPrediction | pd.DataFrame | Path | str,
    *,
    variance: pd.DataFrame | None = None,
    panels: list[str] | None = None,
    kind: PredictionKind | None = None,
    generator: CountGenerator | None = None,
    store: ArtifactStore | None = None,
) -> Scores:
    """Score a prediction that was made anywhere, with the panels of any run.

    Parameters
    ----------
    ds, split
        Data and split (or the split's hash, a prefix of it, or its key).
    prediction
        A data frame of deltas in log1p units, with a row per test condition (index = condition keys, see
        ``ds.conditions``) and a column per gene; or a `RowPrediction`; or the path of a file (npz, h5ad, parquet,
        CSV).
    variance
        For a data frame, the predictive variance in the same form; without it the uncertainty panel does not
        apply.
    panels
        Names of panels (default: all).
    kind
        What the numbers are: ``delta`` or ``expression``, of which the control is subtracted (default: as a file says,
        else recognised; expression that is given as a delta is refused).
    generator
        How counts are drawn of predicted means: ``multinomial`` (default), ``negative_binomial``, ``scaled`` or ``redraw``.
    store
        Where ceilings and floors of the split are kept.

    Returns
    -------
    Scores
        ``table`` in long form, ``metrics`` by panel, ``calibration``, ``flags``.

    Raises
    ------
    PredictionError
        If the prediction does not cover, or does not belong to, the split.
    """
    home = store or ArtifactStore()
    found = split if isinstance(split, FrozenSplit) else SplitFolder(home.split_dir).load(split)
    drawn = None
    if generator is not None:
        check_generator(ds, generator)
        drawn = parse(Generator, {"counts": generator}, "the generator")
    if isinstance(prediction, str | Path):
        read = read_submission(ds, found, Path(prediction), kind=kind)
    else:
        rows = (
            prediction if isinstance(prediction, RowPrediction) else _rows_of(ds, found, prediction, variance)
        )
        read = submitted(ds, found, rows, observed_side(ds, found), kind=kind)
    stats = stats_with_bounds(home, ds, found)
    notes = {**read.notes, "warnings": read.warnings}
    return score_prediction(
        ds, found, read.prediction, stats, panels=panels, notes=notes, store=home, generator=drawn
    )


def _rows_of(
    ds: PerturbDataset, split: FrozenSplit, mean: pd.DataFrame, variance: pd.DataFrame | None
) -> RowPrediction:
    """Return a prediction of the test rows from one row of deltas per condition."""
    if not mean.index.is_unique or not mean.columns.is_unique:
        msg = "the data frame repeats a condition or a gene; give each once"
        raise PredictionError(msg)
    rows = split.rows(ds, "test")
    keys = ds.conditions.index[ds.condition_codes[rows]]
    at = mean.index.get_indexer(keys)
    if (at < 0).any():
        lacking = sorted(set(keys[at < 0]))
        msg = (
            f"the data frame lacks {len(lacking)} of {len(set(keys))} test conditions, e.g. {lacking[:3]}; its index "
            f"must hold condition keys, it begins with {[str(k) for k in mean.index[:2]]}"
        )
        raise PredictionError(msg)
    if variance is not None:
        variance = variance.reindex(index=mean.index, columns=mean.columns)
    values = mean.to_numpy(dtype=np.float32)
    return RowPrediction(
        mean=values,
        var=np.ones_like(values) if variance is None else variance.to_numpy(dtype=np.float32),
        idx=rows,
        row=at.astype(np.int64),
        genes=np.asarray([str(g) for g in mean.columns], dtype=np.str_),
        row_id=ds.row_ids[rows],
        split_hash=split.hash,
        data_content_sha256=ds.content_sha256,
        var_filled=variance is None,
    )


def leaderboard(
    metric: str | None = None, *, refresh: bool = True, store: ArtifactStore | None = None
) -> pd.DataFrame:
    """Return the leaderboard as a data frame.

    Parameters
    ----------
    metric
        ``PANEL.METRIC`` to show one metric (default: all).
    refresh
        Whether it is rebuilt from all complete runs first.
    store
        Where runs lie.

    Raises
    ------
    StoreError
        If the metric is not in the leaderboard.
    """
    home = store or ArtifactStore()
    if refresh:
        rank(home)
    board = database.query(home, "SELECT * FROM leaderboard")
    if metric is None:
        return board
    panel, _, wanted = metric.partition(".")
    rows = board[(board["panel"] == panel) & (board["metric"] == wanted)]
    if rows.empty and not board.empty:
        msg = f"no run has a metric {metric!r}; write PANEL.METRIC, e.g. delta.pearson"
        raise StoreError(msg)
    return rows.reset_index(drop=True)
