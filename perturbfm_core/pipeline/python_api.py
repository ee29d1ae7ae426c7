"""PerturbFM from Python: data sets, splits, runs, scores and the leaderboard as objects and data frames.

What `import perturbfm_core as pfm` offers. Artifacts go where the command line puts them: below ``PERTURBFM_HOME``
(default: the current directory), unless a `store` is given: an `ArtifactStore`, or the folder that is to be its home.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.data.prediction import RowPrediction, read_prediction
from perturbfm_core.errors import ConfigError, PredictionError, StoreError
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.panel import headlines
from perturbfm_core.evaluation.submitted import submitted
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS
from perturbfm_core.pipeline.changed_entry import changed_entry
from perturbfm_core.pipeline.leaderboard import rank
from perturbfm_core.pipeline.metric_panel import Scores, observed_side, score_prediction
from perturbfm_core.pipeline.opening import check_generator
from perturbfm_core.pipeline.python_arguments import (
    check_dataset,
    panels_of,
    rows_of,
    split_of,
    store_of,
    type_name,
)
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.split import freeze_split, stats_with_bounds
from perturbfm_core.pipeline.split_request import split_fields
from perturbfm_core.pipeline.submission import read_submission
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.schema import CountGenerator, PredictionKind
from perturbfm_core.splits.kinds.explicit import unlisted
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

    def __post_init__(self) -> None:
        # The run stays found when the process goes to another directory.
        object.__setattr__(self, "path", Path(self.path).absolute())

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
    store: ArtifactStore | Path | str | None = None,
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
        Parameters of the kind, such as ``holdout=["K562"]``; for ``explicit`` the list as ``conditions``:
        {fold: [conditions]}, or the path of a file of them.

    Returns
    -------
    FrozenSplit or list of FrozenSplit
        One split, or several where the request makes several.

    Warns
    -----
    UserWarning
        If conditions train that a list of ``explicit``, which names conditions of train, does not name.

    Raises
    ------
    SplitError
        If a name is unknown, nothing could be tested, or the leakage audit blocks the split.
    ConfigError
        If an argument is of another type, or stated twice.
    """
    check_dataset(ds)
    fields = {
        "kind": kind,
        "seed": seed,
        "folds": folds,
        "fold": fold,
        **split_fields(kind, folds, policies, params),
    }
    spec = parse(SplitSpec, fields, "the request for a split")
    made = freeze_split(store_of(store), ds, spec, bounds=bounds, tell=tell)
    if kind == "explicit" and (left := unlisted(ds, spec.params)):
        warnings.warn(
            f"{len(left)} conditions are in no fold of the list, e.g. {left[0]!r}, and train beside those that it names; "
            "give unlisted='unused' to leave them out, or unlisted='train' to say so",
            stacklevel=2,
        )
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
    store: ArtifactStore | Path | str | None = None,
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
    check_dataset(ds)
    home = store_of(store)
    paths = run_entry(home, split_of(home, split), chosen, data=ds, again=again, tell=tell)
    runs = [Run(path) for path in paths]
    return runs[0] if len(runs) == 1 else runs


def _entry(entry: ModelEntry | str, name: str | None, seed: int | None, params: dict[str, Any]) -> ModelEntry:
    """Return the entry with its changes, under a name that tells them apart from the entry as it is."""
    given: Any = entry
    if isinstance(given, ModelEntry):
        base = given
    elif isinstance(given, str):
        entries = load_catalog().models
        if given not in entries:
            # Raises with the known names if there is none.
            MODELS.get(given)
        base = entries.get(given) or ModelEntry(name=given, description="from Python", model=given)
    else:
        msg = f"the entry is a {type_name(given)}; give the name of a catalog entry or model, or a ModelEntry"
        raise ConfigError(msg)
    own = MODELS.get(base.model).Params
    unknown = sorted(set(params) - set(own.model_fields))
    if unknown:
        msg = f"model {base.model!r} has no parameter {unknown[0]!r}; it takes: {', '.join(own.model_fields) or 'none'}"
        raise ConfigError(msg)
    return changed_entry(base, params, name=name, seed=seed)


def score(
    ds: PerturbDataset,
    split: FrozenSplit | str,
    prediction: RowPrediction | pd.DataFrame | Path | str,
    *,
    variance: pd.DataFrame | None = None,
    panels: list[str] | None = None,
    kind: PredictionKind | None = None,
    generator: CountGenerator | None = None,
    store: ArtifactStore | Path | str | None = None,
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
        ``table`` in long form, ``metrics`` by panel, ``calibration``, ``flags``, and ``warnings`` about the prediction.

    Raises
    ------
    PredictionError
        If the prediction does not cover, or does not belong to, the split.
    """
    check_dataset(ds)
    home = store_of(store)
    found = split_of(home, split)
    asked = panels_of(panels)
    if kind is not None and kind not in get_args(PredictionKind):
        msg = f"unknown kind of prediction {kind!r}; give one of {', '.join(get_args(PredictionKind))}"
        raise PredictionError(msg)
    drawn = None
    if generator is not None:
        check_generator(ds, generator)
        drawn = parse(Generator, {"counts": generator}, "the generator")
    if variance is not None and isinstance(prediction, RowPrediction | str | Path):
        msg = "variance is that of a data frame of deltas; a file and a RowPrediction have their own, leave it out"
        raise PredictionError(msg)
    if isinstance(prediction, str | Path):
        read = read_submission(ds, found, Path(prediction), kind=kind)
    else:
        rows = (
            prediction if isinstance(prediction, RowPrediction) else rows_of(ds, found, prediction, variance)
        )
        read = submitted(ds, found, rows, observed_side(ds, found), kind=kind)
    stats = stats_with_bounds(home, ds, found)
    notes = {**read.notes, "warnings": read.warnings}
    return score_prediction(
        ds, found, read.prediction, stats, panels=asked, notes=notes, store=home, generator=drawn
    )


def leaderboard(
    metric: str | None = None, *, refresh: bool = True, store: ArtifactStore | Path | str | None = None
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
    given: Any = metric
    if not isinstance(given, str | None):
        msg = f"metric is a {type_name(given)}; write PANEL.METRIC as text, e.g. 'delta.pearson'"
        raise StoreError(msg)
    home = store_of(store)
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
