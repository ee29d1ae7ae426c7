"""``perturbfm tune``: hyperparameters chosen on the validation of a split."""

from __future__ import annotations

from typing import Annotated

import typer

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


def tune(
    ctx: typer.Context,
    entry: Annotated[
        str, typer.Argument(help="A catalog entry or registered model (see `perturbfm models list`).")
    ],
    split: SplitOption,
    data: SplitDataOption = None,
    param: ParamOption = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials in total; a stored study goes on to this many.")
    ] = 30,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no further trial is begun.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search and of every fit.")] = 0,
    study: Annotated[
        str | None, typer.Option(help="Name of the study (default: one for these inputs).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at once, each in a process of its own.")] = 1,
    register: Annotated[
        str | None, typer.Option(help="Write what was selected as an entry of this name to your catalog.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search a model's declared hyperparameters on a split's validation; test rows are not read.

    Every parameter of the model is an option: what is given is fixed and not searched.
    """
    from perturbfm_core.tuning.record import check_registration
    from perturbfm_core.tuning.record import register as register_entry
    from perturbfm_core.tuning.search import tune as search

    if register is not None:
        # What would be refused at the end is refused before the work.
        check_registration(register)
    fixed = {**parse_pairs(param or [], "--param"), **given_parameters(ctx)}
    chosen = configured(find_entry(entry), fixed)
    with progress(trials, silent=as_json) as tell:
        made = search(
            store(),
            split,
            chosen,
            fixed=fixed,
            data=data,
            trials=trials,
            timeout=timeout,
            seed=seed,
            name=study,
            jobs=jobs,
            tell=tell,
        )
    found = made.study
    result = {
        "study": found.name,
        "database": str(made.database),
        "page": str(made.page),
        "split_hash": found.split_hash,
        "validation": found.policy,
        "trials": len(found.trials),
        **{state: found.count(state) for state in ("complete", "pruned", "failed")},
        "selected": "own" if found.own_is_best else found.selected.number,
        "params": found.selected.params,
        "pearson_centered": found.selected.value,
        "mse": found.selected.mse,
        "own_pearson_centered": found.own.value,
        "own_mse": found.own.mse,
        "gain": found.gain,
        "gain_se": found.gain_se,
    }
    if register is not None:
        result["registered"] = str(register_entry(made, register))
        result["note"] = "reload the Dagster code location to see it in the grid"
    emit(result, as_json)


COMMANDS = {"tune": (tune, ModelCommand)}
