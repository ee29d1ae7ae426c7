"""``perturbfm external``: models that run in environments of their own, beside all others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.cli import external_convert, external_env
from perturbfm_core.cli.output import (
    JsonOption,
    SplitDataOption,
    SplitOption,
    emit,
    parse_pairs,
    progress,
    store,
)
from perturbfm_core.cli.parameters import ParamOption
from perturbfm_core.cli.train import AgainOption, BoardOption, SeedOption
from perturbfm_core.cli.variables import variables
from perturbfm_core.errors import ConfigError, PredictionError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Run models in environments of their own: GEARS, scGen, CPA, STATE, or a worker of yours.",
)
app.add_typer(external_env.app, name="env")
app.command("convert")(external_convert.convert)


@app.command("run")
def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="gears, scgen, cpa or state; an entry of the catalog; or the file of a worker.",
        ),
    ],
    split: BoardOption,
    data: SplitDataOption = None,
    env: Annotated[
        Path | None,
        typer.Option(
            "--env", metavar="PATH", help="Environment of your own: its folder, or its interpreter."
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="Seconds after which the worker is ended.")
    ] = None,
    seed: SeedOption = None,
    param: ParamOption = None,
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
    """Export a split, train an external model on it in its own environment, convert, score and publish the run.

    The change from the matched real control is scored; that from the model's own control, where it has one, is scored
    beside it as an entry of its own, NAME-own-control.
    """
    from perturbfm_core.cli.model_options import configured
    from perturbfm_core.cli.train import emit_runs, published
    from perturbfm_core.external.settings import TIMEOUT, variable_of
    from perturbfm_core.models.base import MODELS
    from perturbfm_core.models.external.base import ExternalModel
    from perturbfm_core.splits.boards import board_splits
    from perturbfm_core.splits.folder import SplitFolder

    base, given = _named(model), parse_pairs(param or [], "--param")
    kind: Any = MODELS.get(base.model)
    if not issubclass(kind, ExternalModel):
        msg = f"entry {base.name!r} is no external model; run it by `perturbfm run --entry {base.name}`"
        raise ConfigError(msg)
    known = kind.Params.model_fields
    # What the host does not know is the worker's own.
    own = {k: v for k, v in given.items() if k not in known}
    mine = {k: v for k, v in given.items() if k in known}
    if own:
        mine["settings"] = {**base.params.get("settings", {}), **own, **mine.get("settings", {})}
    chosen = configured(base, mine, name=name, seed=seed)
    given_here = {variable_of(kind.environment): env, TIMEOUT: timeout}
    board = board_splits(SplitFolder(store().split_dir), split)
    with variables({k: str(v) for k, v in given_here.items() if v is not None}):
        results = published(board.hashes, chosen, data, again=again, silent=as_json)
        for result in results:
            result |= _beside(result, chosen, data, again=again, silent=as_json)
    emit_runs(results, as_json)


def _beside(
    result: dict[str, Any], entry: ModelEntry, data: Path | None, *, again: bool, silent: bool
) -> dict[str, Any]:
    """Score the same output by the model's own control, as an entry of another name; return its run and headline.

    Parameters
    ----------
    result
        What is shown of the run by the real control.
    entry, data, again, silent
        As in `published`.
    """
    from perturbfm_core.cli.train import published
    from perturbfm_core.external.refusals import OWN_CONTROL
    from perturbfm_core.leaderboard.headline import HEADLINE
    from perturbfm_core.store.atomic import read_json

    if entry.params.get("control", "real") != "real":
        return {}
    training = read_json(Path(result["run_dir"]) / schema.TRAINING_FILE)
    if training["conversion"].get("other_control") != "model":
        return {}
    params = {**entry.params, "control": "model"}
    variant = entry.model_copy(
        update={"name": f"{entry.name}{OWN_CONTROL}", "params": params, "seeds": (result["seed"],)}
    )
    try:
        (found,) = published([result["split_hash"]], variant, data, again=again, silent=silent)
    except PredictionError as error:
        print(f"warning: not scored by the model's own control: {error}", file=sys.stderr)
        return {}
    return {"own_control_run_id": found["run_id"], f"own_control.{HEADLINE}": found.get(HEADLINE)}


def _named(name: str) -> ModelEntry:
    """Return the entry that a name, or the file of a worker, stands for."""
    from perturbfm_core.cli.model_options import find_entry
    from perturbfm_core.external.known_environments import KNOWN

    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            msg = f"the worker {name} is not there; give the path of a Python file"
            raise ConfigError(msg)
        entry = path.stem.lower().replace("_", "-")
        about = f"A worker of one's own, {path.name}."
        params = {"worker": str(path.absolute())}
        return ModelEntry(name=entry, description=about, model="external-worker", params=params)
    return find_entry(f"external-{name}" if name in KNOWN else name)


@app.command("export")
def export(
    split: SplitOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write, which must not be there.")
    ],
    data: SplitDataOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed that the request states.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write what a model may see of a split: train rows, input controls, and the conditions to predict.

    The folder is what a worker is given: view.h5ad, query_controls.h5ad and request.json. No test row is in it.
    """
    from perturbfm_core.external.export import write_view
    from perturbfm_core.external.request import REQUEST_FILE, request_of
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.splits.audit.core import require_clean
    from perturbfm_core.splits.folder import SplitFolder
    from perturbfm_core.splits.view import train_view
    from perturbfm_core.store.atomic import Staging, read_json, write_json

    home = store()
    if out.exists():
        msg = f"{out} is there already; give --out a folder that is not"
        raise ConfigError(msg)
    frozen = SplitFolder(home.split_dir).load(split)
    with progress(silent=as_json) as tell:
        ds = dataset_of(home, frozen, data)
        frozen.check_dataset(ds)
        require_clean(ds, frozen)
        tell(f"exporting split {frozen.definition.key}")
        view = train_view(ds, frozen)
        request = request_of(ds, frozen, view)
        with Staging(out.absolute().parent, out) as staged:
            write_view(staged.path, ds, frozen, view, request)
            write_json(staged.path / REQUEST_FILE, {**read_json(staged.path / REQUEST_FILE), "seed": seed})
            staged.publish(out.absolute())
    emit(
        {
            "out": str(out),
            "split": frozen.definition.key,
            "train_conditions": len(view),
            "asked": len(request.asked),
            "validation_from": request.validation_from,
        },
        as_json,
    )
