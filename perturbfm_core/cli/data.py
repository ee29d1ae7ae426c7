"""``perturbfm data``: making, importing and looking at data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perturbfm_core.catalog.entries import DatasetEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.catalog.registering import entry_file
from perturbfm_core.cli.data_imports import import_h5ad, preset_verb
from perturbfm_core.cli.data_saving import (
    ForceOption,
    NameOption,
    OutOption,
    RegisterOption,
    StorageOption,
    checked_storage,
    must_be_free,
    save,
)
from perturbfm_core.cli.data_tables import merge_tables, table
from perturbfm_core.cli.downloads import cite, download
from perturbfm_core.cli.output import JsonOption, data_place, emit, progress
from perturbfm_core.config import check_key, parse, slug
from perturbfm_core.errors import ConfigError

_PRESET = "import-"


class _DataVerbs(TyperGroup):
    """The verbs of ``perturbfm data``, one ``import-<name>`` per preset among them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs."""
        from perturbfm_core.data.preset import PRESETS

        return [*super().list_commands(ctx), *(_PRESET + name for name in PRESETS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one verb, that of a preset made now; None if there is none of that name."""
        found = super().get_command(ctx, cmd_name)
        if found is not None or not cmd_name.startswith(_PRESET):
            return found
        from perturbfm_core.data.preset import PRESETS

        preset = cmd_name.removeprefix(_PRESET)
        if preset not in PRESETS:
            return None
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name)(preset_verb(preset))
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=_DataVerbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Make, import and inspect data sets.",
)


@app.command("make-synth")
def make_synth(
    out: OutOption,
    n_obs: Annotated[int, typer.Option(help="Cells.")] = 2000,
    n_genes: Annotated[int, typer.Option(help="Genes.")] = 200,
    n_contexts: Annotated[int, typer.Option(help="Contexts (cell lines).")] = 3,
    n_perts: Annotated[int, typer.Option(help="Single perturbations.")] = 10,
    n_combos: Annotated[int | None, typer.Option(help="Pairs of them (default: half as many).")] = None,
    n_batches: Annotated[int, typer.Option(help="Batches.")] = 1,
    n_states: Annotated[int, typer.Option(help="Cell states.")] = 1,
    dose: Annotated[list[float] | None, typer.Option(help="A dose (repeatable).")] = None,
    depth: Annotated[float, typer.Option(help="Mean counts per cell.")] = 2000.0,
    state_gating: Annotated[
        float, typer.Option(help="How strongly a cell's state scales its response, 0 to 1.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    config: Annotated[
        str | None, typer.Option(help="A frozen configuration of the catalog instead (sim_network, ...).")
    ] = None,
    name: NameOption = None,
    storage: StorageOption = "npz",
    register: RegisterOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate a screen with known truth (stored beside it as truth.npz)."""
    from perturbfm_core.data.simulate import SimulationConfig, simulate

    if config is not None:
        entry = load_catalog().dataset(config)
        if entry.source != "synth":
            msg = f"data set {config!r} of the catalog is not simulated"
            raise ConfigError(msg)
        params: dict[str, Any] = {**entry.synth, "name": name or entry.name}
    else:
        params = {
            "name": name or slug(out.name),
            "n_obs": n_obs,
            "n_genes": n_genes,
            "n_contexts": n_contexts,
            "n_perts": n_perts,
            "n_combos": n_combos,
            "n_batches": n_batches,
            "n_states": n_states,
            "doses": tuple(dose or ()),
            "depth": depth,
            "state_gating": state_gating,
            "seed": seed,
        }
    checked_storage(storage)
    must_be_free(out, force)
    check_key(params["name"], "data set name")
    if register:
        entry_file(DatasetEntry, params["name"])
    with progress() as tell:
        tell("simulating")
        ds, truth = simulate(parse(SimulationConfig, params, "simulation options"))
        save(ds, out, storage, force, register, as_json, tell, truth.arrays())


@app.command("info")
def info(
    path: Annotated[
        Path,
        typer.Argument(
            parser=data_place,
            metavar="DATA",
            help="Data set: name, directory, or beginning of the content hash.",
        ),
    ],
    verify: Annotated[bool, typer.Option(help="Hash the content again and compare.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a data set holds."""
    from perturbfm_core.data.summary import summary
    from perturbfm_core.pipeline.dataset import open_dataset

    ds = open_dataset(path)
    with progress() as tell:
        tell("reading")
        if verify:
            ds.verify_content()
    emit(summary(ds, path) | ({"verified": True} if verify else {}), as_json)


app.command("import")(import_h5ad)
app.command("download")(download)
app.command("cite")(cite)
app.command("table")(table)
app.command("merge-tables")(merge_tables)
