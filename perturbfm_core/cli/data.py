"""``perturbfm data``: making, importing and looking at data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from perturbfm_core.catalog.entries import DatasetEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.catalog.registering import entry_file
from perturbfm_core.cli.output import JsonOption, emit, progress, store
from perturbfm_core.config import parse, slug
from perturbfm_core.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.data.importing import ColumnMapping


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
        alone.command(cmd_name)(_preset_verb(preset))
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=_DataVerbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Make, import and inspect data sets.",
)

OutOption = Annotated[Path, typer.Option("--out", help="Directory to make.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing data set.")]
StorageOption = Annotated[
    str, typer.Option("--storage", help="npz (dense interchange form) or zarr (sparse).")
]
RegisterOption = Annotated[
    bool,
    typer.Option("--register", help="Add the data set to the user's catalog, so that it joins the grid."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the data set (default: from the output directory).")
]


def _storage(text: str) -> Any:
    if text not in ("npz", "zarr"):
        msg = f"unknown storage {text!r}; known: npz, zarr"
        raise ConfigError(msg)
    return text


def _save(
    ds: PerturbDataset,
    out: Path,
    storage: str,
    force: bool,
    register: bool,
    as_json: bool,
    tell: Callable[[str], None],
    truth: dict[str, Any] | None = None,
) -> None:
    from perturbfm_core.data.summary import summary
    from perturbfm_core.pipeline.dataset import import_dataset, open_dataset, register_dataset

    tell("writing")
    import_dataset(store(), ds, out, storage=_storage(storage), truth=truth, overwrite=force)
    saved = open_dataset(out)
    result = summary(saved, out)
    if register:
        entry = register_dataset(saved.name, out, f"Imported from {saved.metadata.source}")
        result["registered"] = str(entry)
        result["note"] = "reload the Dagster code location to see it in the grid"
    emit(result, as_json)


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
    _storage(storage)
    _must_be_free(out, force)
    if register:
        entry_file(DatasetEntry, params["name"])
    with progress() as tell:
        tell("simulating")
        ds, truth = simulate(parse(SimulationConfig, params, "simulation options"))
        _save(ds, out, storage, force, register, as_json, tell, truth.arrays())


@app.command("info")
def info(
    path: Annotated[Path, typer.Argument(help="Directory of the data set artifact.")],
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


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The h5ad file.")],
    out: OutOption,
    pert_col: Annotated[str, typer.Option(help="obs column of the perturbation.")],
    context_col: Annotated[
        str | None, typer.Option(help="obs column of the context (cell line, cell type).")
    ] = None,
    control_label: Annotated[str | None, typer.Option(help="The perturbation that means none.")] = None,
    batch_col: Annotated[str | None, typer.Option(help="obs column of the batch.")] = None,
    dose_col: Annotated[str | None, typer.Option(help="obs column of the dose.")] = None,
    dose_unit: Annotated[str, typer.Option(help="Unit to write behind each dose.")] = "",
    time_col: Annotated[str | None, typer.Option(help="obs column of the time.")] = None,
    modality: Annotated[
        str, typer.Option(help="Modality of all rows (CRISPRa, CRISPRi, KO, drug, ...).")
    ] = "",
    modality_col: Annotated[str | None, typer.Option(help="obs column of the modality.")] = None,
    covariate_col: Annotated[
        list[str] | None, typer.Option(help="A further covariate column (repeatable).")
    ] = None,
    weight_col: Annotated[str | None, typer.Option(help="obs column with the weight of a replicate.")] = None,
    separator: Annotated[
        str, typer.Option(help="Characters that join the parts of a combination: + _ or ,")
    ] = "+",
    space: Annotated[
        str, typer.Option(help="Scale of the values: log1p, counts, delta or zscore; checked.")
    ] = "log1p",
    target_sum: Annotated[
        float, typer.Option(help="Counts per cell after normalisation (space counts).")
    ] = 1e4,
    level: Annotated[
        str | None, typer.Option(help="cell or condition (default: cell; condition for differences).")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to read instead of X.")] = None,
    gene_col: Annotated[
        str | None, typer.Option(help="var column with the gene ids (default: the index).")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the data.")] = "unknown",
    name: NameOption = None,
    storage: StorageOption = "zarr",
    register: RegisterOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import an h5ad file by a mapping of its columns; nothing else of the file is kept."""
    from perturbfm_core.data.importing import ColumnMapping

    mapping = parse(
        ColumnMapping,
        {
            "pert_col": pert_col,
            "context_col": context_col,
            "control_label": control_label,
            "batch_col": batch_col,
            "dose_col": dose_col,
            "dose_unit": dose_unit,
            "time_col": time_col,
            "modality": modality,
            "modality_col": modality_col,
            "covariate_cols": tuple(covariate_col or ()),
            "weight_col": weight_col,
            "separators": separator,
            "space": space,
            "target_sum": target_sum,
            "level": level,
            "layer": layer,
            "gene_col": gene_col,
        },
        "import options",
    )
    _run_import(file, mapping, out, name, licence, storage, register, force, as_json)


def _preset_verb(name: str) -> Callable[..., None]:
    """Return the verb that imports files of one preset."""
    from perturbfm_core.data.preset import PRESETS

    chosen = PRESETS.get(name)

    def import_preset(
        dataset: Annotated[Path, typer.Option("--dataset", help="The h5ad file.")],
        out: OutOption,
        name: NameOption = None,
        storage: StorageOption = "zarr",
        register: RegisterOption = False,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        mapping = chosen.mapping(dataset)
        _run_import(dataset, mapping, out, name, chosen.licence, storage, register, force, as_json)

    import_preset.__doc__ = f"Import one {chosen.description}."
    return import_preset


def _run_import(
    file: Path,
    mapping: ColumnMapping,
    out: Path,
    name: str | None,
    licence: str,
    storage: str,
    register: bool,
    force: bool,
    as_json: bool,
) -> None:
    from perturbfm_core.data.importing import import_h5ad

    _storage(storage)
    _must_be_free(out, force)
    name = name or slug(out.name)
    if register:
        entry_file(DatasetEntry, name)
    with progress() as tell:
        ds = import_h5ad(file, mapping, name=name, licence=licence, progress=tell)
        _save(ds, out, storage, force, register, as_json, tell)


def _must_be_free(out: Path, force: bool) -> None:
    if out.exists() and not force:
        msg = f"{out} already exists; choose another --out, or give --force to replace it"
        raise DatasetError(msg)
