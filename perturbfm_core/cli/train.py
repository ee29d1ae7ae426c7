"""``perturbfm train, run``: a model or catalog entry on a split, from fit to published run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.model_options import ModelCommand, configured, find_entry
from perturbfm_core.cli.output import (
    JsonOption,
    SplitDataOption,
    SplitOption,
    emit,
    parse_pairs,
    progress,
    store,
)
from perturbfm_core.cli.parameters import ParamOption, given_parameters
from perturbfm_core.cli.prediction_options import GeneratorOption
from perturbfm_core.errors import ModelError
from perturbfm_core.progress import FoundRuns
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import read_run_record

ConformalOption = Annotated[
    str | None,
    typer.Option(
        "--conformal", help="How intervals are made: mondrian, pooled, hierarchical, weighted or none."
    ),
]
MembersOption = Annotated[
    int | None, typer.Option("--members", help="Fit an ensemble of so many, on bags of the train units.")
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of everything random (default: those of the entry, else 0)."),
]

BoardOption = Annotated[
    str,
    typer.Option(
        "--split",
        help="Split: hash, prefix of at least 7 characters, or key; or a board: all folds of a cross-validation.",
    ),
]

AgainOption = Annotated[
    bool,
    typer.Option(
        "--again", help="Publish a new run though there is one of the same inputs, parameters and code."
    ),
]


def train(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="An entry of the catalog or a registered model, or 'baseline' with --baseline."),
    ],
    split: SplitOption,
    data: SplitDataOption = None,
    baseline: Annotated[str | None, typer.Option(help="Name of the baseline, with 'train baseline'.")] = None,
    param: ParamOption = None,
    conformal: ConformalOption = None,
    members: MembersOption = None,
    seed: SeedOption = None,
    generator: GeneratorOption = None,
    entry: Annotated[
        str | None,
        typer.Option(
            "--name",
            "--entry",
            help="Name in the leaderboard (default: that of the entry, with a suffix if a parameter differs).",
        ),
    ] = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a model on a split, predict, score, and publish the run.

    Every parameter of the model is an option: `perturbfm train MODEL --help` lists them.
    """
    if (model == "baseline") != (baseline is not None):
        msg = f"'train baseline' takes --baseline NAME; baselines: {', '.join(_baselines())}"
        raise ModelError(msg)
    name = baseline or model
    if baseline is not None and name not in _baselines():
        msg = f"unknown baseline {name!r}; known: {', '.join(_baselines())}"
        raise ModelError(msg)
    chosen = configured(
        find_entry(name),
        {**parse_pairs(param or [], "--param"), **given_parameters(ctx)},
        name=entry,
        conformal=conformal,
        ensemble=members,
        seed=seed,
        generator=None if generator is None else generator.value,
    )
    run_splits([split], chosen, data, again=again, as_json=as_json)


def _baselines() -> list[str]:
    from perturbfm_core.models.base import MODELS

    return [name for name, kind in MODELS.items() if kind.family == "baseline"]


def run(
    ctx: typer.Context,
    split: BoardOption,
    entry: Annotated[str, typer.Option("--entry", help="A catalog entry (see `perturbfm models list`).")],
    data: SplitDataOption = None,
    param: ParamOption = None,
    conformal: ConformalOption = None,
    members: MembersOption = None,
    seed: SeedOption = None,
    generator: GeneratorOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Name in the leaderboard (default: the entry's, with a suffix if a parameter differs).",
        ),
    ] = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run an entry on a split from fit to report, all its seeds, without a Dagster instance.

    Every parameter of the entry's model is an option: `perturbfm run --entry NAME --help` lists them.
    """
    chosen = configured(
        load_catalog().model(entry),
        {**parse_pairs(param or [], "--param"), **given_parameters(ctx)},
        name=name,
        conformal=conformal,
        ensemble=members,
        seed=seed,
        generator=None if generator is None else generator.value,
    )
    from perturbfm_core.splits.boards import board_splits
    from perturbfm_core.splits.folder import SplitFolder

    board = board_splits(SplitFolder(store().split_dir), split)
    if board.lacking:
        print(
            f"warning: board {board.name} has {len(board.hashes)} of {board.k} folds frozen, which are run; "
            f"freeze the others with `perturbfm splits create --folds {board.k}`",
            file=sys.stderr,
        )
    run_splits(board.hashes, chosen, data, again=again, as_json=as_json)


def run_splits(
    splits: Sequence[str], entry: ModelEntry, data: Path | None, *, again: bool, as_json: bool
) -> None:
    """Run an entry on splits and print what was published.

    Parameters
    ----------
    splits
        Hashes of the splits.
    entry
        The entry, with its parameters.
    data
        Directory of the data set, by default looked for.
    again
        Whether a new run is published though there is one.
    as_json
        Whether to print JSON.
    """
    results = published(splits, entry, data, again=again, silent=as_json)
    emit_runs(results, as_json)


def published(
    splits: Sequence[str], entry: ModelEntry, data: Path | None, *, again: bool, silent: bool
) -> list[dict[str, Any]]:
    """Run an entry on splits and return what is shown of each run.

    Parameters
    ----------
    splits, entry, data, again
        As in `run_splits`.
    silent
        Whether nothing is said of progress.
    """
    from perturbfm_core.pipeline.run import run_entry

    with progress(silent=silent) as shown:
        tell, home = FoundRuns(shown), store()
        paths = [p for s in splits for p in run_entry(home, s, entry, data=data, again=again, tell=tell)]
    return [_run_summary(path, existing=path.name in tell.ids) for path in paths]


def emit_runs(results: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print what is shown of runs, as JSON or as lines."""
    if as_json:
        emit({"runs": list(results)} if len(results) > 1 else results[0], True)
        return
    for result in results:
        emit(result, False)


def _run_summary(path: Path, *, existing: bool) -> dict[str, Any]:
    from perturbfm_core.evaluation.panel import headlines

    record = read_run_record(path)
    metrics = read_json(path / schema.METRICS_FILE)
    return {
        "run_dir": str(path),
        "run_id": record.run_id,
        "existing": existing,
        "entry": record.entry,
        "seed": record.seed,
        "split_hash": record.split_hash,
        **headlines(metrics),
        "no_signal": record.flags.no_signal,
        "shared_control": record.flags.shared_control,
        **{n: record.notes[n] for n in ("missing_as_control", "warnings") if record.notes.get(n)},
        "report": str(path / schema.REPORT_FILE),
    }


COMMANDS = {"train": (train, ModelCommand), "run": (run, ModelCommand)}
