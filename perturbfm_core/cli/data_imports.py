"""``perturbfm data import`` and its presets: h5ad files as data sets, by a mapping of their columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.catalog.entries import DatasetEntry
from perturbfm_core.catalog.registering import entry_file
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
from perturbfm_core.cli.output import JsonOption, progress
from perturbfm_core.config import check_key, parse, slug
from perturbfm_core.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from perturbfm_core.data.imports.mapping import ColumnMapping

ControlOption = Annotated[
    list[str] | None,
    typer.Option("--control-label", help="A perturbation label that means none (repeatable)."),
]
SeparatorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--separator", help="Text that joins the parts of a combination (repeatable); '' keeps names whole."
    ),
]
AliasesOption = Annotated[
    Path | None,
    typer.Option("--aliases", help="CSV with the columns label and perturbation, genes or modality."),
]
GeneColOption = Annotated[
    str | None, typer.Option("--gene-col", help="var column with the gene ids (default: the index).")
]
GuideColOption = Annotated[
    str | None, typer.Option("--guide-col", help="obs column of the guide; --pert-col then names its gene.")
]
GuidesOption = Annotated[
    str | None,
    typer.Option(
        "--guides", help="merge: guides of one gene are one perturbation (default); separate: each is one."
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option("--keep-label", help="A label that reads like a missing value but is none (repeatable)."),
]
DropOption = Annotated[
    list[str] | None,
    typer.Option("--drop-label", help="A perturbation label whose rows are left out (repeatable)."),
]
AcceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--accept", help="A blocking finding of the audit that these data may have: label_naming_features."
    ),
]
SpaceOption = Annotated[
    str | None,
    typer.Option(
        "--space",
        help="Scale of the values: log1p, counts, normalized, log2p1, log10p1, delta, log2fc or zscore; checked.",
    ),
]
LevelOption = Annotated[
    str | None,
    typer.Option(
        "--level", help="cell or condition (default: condition for differences and one row per condition)."
    ),
]
LayerOption = Annotated[
    str | None, typer.Option("--layer", help="Layer to read instead of X; raw is the matrix of .raw.")
]
HalfLayersOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--half-layers",
        help="Two layers with the means over one half of each row's cells each: bounds for data without cells.",
    ),
]
FromRawOption = Annotated[bool, typer.Option("--from-raw", help="Read .raw and its genes: --layer raw.")]
DoseUnitOption = Annotated[
    str | None, typer.Option("--dose-unit", help="Unit of doses that are written without one.")
]
TimeUnitOption = Annotated[
    str | None, typer.Option("--time-unit", help="Unit of times that are written without one.")
]
ContextColOption = Annotated[
    str | None, typer.Option("--context-col", help="obs column of the context (cell line, cell type).")
]
BatchColOption = Annotated[
    str | None,
    typer.Option(
        "--batch-col", help="obs column of the batch, within which rows are matched to control rows."
    ),
]
CovariateColOption = Annotated[
    list[str] | None, typer.Option("--covariate-col", help="A further covariate column (repeatable).")
]
ModalityOption = Annotated[
    str, typer.Option("--modality", help="Modality of all rows (CRISPRa, CRISPRi, KO, drug, ...).")
]
TargetSumOption = Annotated[
    float | None,
    typer.Option("--target-sum", help="Counts per cell after normalisation (space counts; default 10,000)."),
]


def import_h5ad(
    file: Annotated[Path, typer.Argument(help="The h5ad file, or zarr folder of an AnnData.")],
    out: OutOption,
    pert_col: Annotated[
        str | None,
        typer.Option(help="obs column of the perturbation; a file that to_anndata made needs no option."),
    ] = None,
    context_col: ContextColOption = None,
    control_label: ControlOption = None,
    batch_col: BatchColOption = None,
    dose_col: Annotated[str | None, typer.Option(help="obs column of the dose.")] = None,
    dose_unit: DoseUnitOption = None,
    dose_unit_col: Annotated[str | None, typer.Option(help="obs column of the dose's unit.")] = None,
    time_col: Annotated[str | None, typer.Option(help="obs column of the time.")] = None,
    time_unit: TimeUnitOption = None,
    modality: ModalityOption = "",
    modality_col: Annotated[str | None, typer.Option(help="obs column of the modality.")] = None,
    covariate_col: CovariateColOption = None,
    weight_col: Annotated[str | None, typer.Option(help="obs column with the weight of a replicate.")] = None,
    guide_col: GuideColOption = None,
    guides: GuidesOption = None,
    separator: SeparatorOption = None,
    aliases: AliasesOption = None,
    keep_label: KeepOption = None,
    drop_label: DropOption = None,
    accept: AcceptOption = None,
    space: SpaceOption = None,
    target_sum: TargetSumOption = None,
    level: LevelOption = None,
    layer: LayerOption = None,
    from_raw: FromRawOption = False,
    half_layers: HalfLayersOption = None,
    gene_col: GeneColOption = None,
    licence: Annotated[str, typer.Option(help="Licence of the data.")] = "unknown",
    name: NameOption = None,
    storage: StorageOption = "zarr",
    register: RegisterOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import an h5ad file or zarr folder by a mapping of its columns; nothing else of it is kept."""
    from perturbfm_core.data.imports.mapping import ColumnMapping

    fixed = {
        "pert_col": pert_col,
        "context_col": context_col,
        "batch_col": batch_col,
        "dose_col": dose_col,
        "dose_unit_col": dose_unit_col,
        "time_col": time_col,
        "modality": modality,
        "modality_col": modality_col,
        "covariate_cols": tuple(covariate_col or ()),
        "weight_col": weight_col,
    }
    given = _given(locals())
    if pert_col is None:
        asked = {**fixed, **given, "half_layers": half_layers, "licence": licence.replace("unknown", "")}
        _check_own(file, [field for field, value in asked.items() if value])
        mapping = None
    else:
        mapping = parse(ColumnMapping, {**fixed, **given}, "import options")
    _run_import(file, mapping, out, name, licence, storage, register, force, as_json, half_layers)


def _check_own(file: Path, given: list[str]) -> None:
    """Refuse a file without a named column of perturbations, unless `to_anndata` made it and no option says more.

    Parameters
    ----------
    file
        What is to be read.
    given
        Names of the options, or of fields of the mapping, that were given.

    Raises
    ------
    DatasetError
        If the file does not say itself which columns are which, or an option says it as well.
    """
    from perturbfm_core.data.h5ad import read_obs
    from perturbfm_core.data.own_fields import own_of_file

    if own_of_file(file) is None:
        columns = ", ".join(map(str, read_obs(file).columns)) or "none"
        msg = f"--pert-col is needed, the obs column of the perturbation; columns of {file}: {columns}"
        raise DatasetError(msg)
    if given:
        names = {column: option for option, column in _FIELDS.items()}
        names |= {"covariate_cols": "covariate_col", "alias_modality": "aliases"}
        shown = ", ".join(sorted({"--" + names.get(x, x).replace("_", "-") for x in given}))
        msg = (
            f"{file} says itself which columns are which, since to_anndata made it: leave out {shown}, or give --pert-col and "
            "what else the import needs to read it by your options alone"
        )
        raise DatasetError(msg)


# Options that correct a mapping, those of a preset too -> fields of the mapping.
_FIELDS = {
    **{name: name for name in ("control_label", "dose_unit", "time_unit", "guide_col", "guides", "accept")},
    **{name: name for name in ("space", "target_sum", "level", "layer", "gene_col")},
    "keep_label": "keep_labels",
    "drop_label": "drop_labels",
    "separator": "separators",
}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a mapping that a verb's options name; what was not given is left out."""
    from perturbfm_core.data.imports.aliases import read_aliases

    asked = {
        **options,
        "accept": _accepted(options["accept"]),
        "layer": _layer(options["layer"], options["from_raw"]),
    }
    out: dict[str, Any] = {}
    for name, column in _FIELDS.items():
        value = asked[name]
        if value is not None and value != []:
            out[column] = tuple(value) if isinstance(value, list) else value
    if options["aliases"] is not None:
        table = read_aliases(options["aliases"])
        out |= {"aliases": table.perturbation, "alias_modality": table.modality}
    return out


def _accepted(findings: list[str] | None) -> list[str] | None:
    from perturbfm_core.splits.audit.labels import ACCEPTABLE

    for name in findings or ():
        if name not in ACCEPTABLE:
            msg = f"--accept {name!r} is no finding that can be accepted; known: {', '.join(ACCEPTABLE)}"
            raise ConfigError(msg)
    return findings


def _layer(layer: str | None, from_raw: bool) -> str | None:
    if from_raw and layer is not None:
        msg = f"--from-raw and --layer {layer} read different matrices; give one"
        raise ConfigError(msg)
    return "raw.X" if from_raw else layer


def preset_verb(name: str) -> Callable[..., None]:
    """Return the verb that imports files of one preset; options correct what the preset assumes."""
    from perturbfm_core.data.preset import PRESETS, corrected

    chosen = PRESETS.get(name)

    def import_preset(
        dataset: Annotated[Path, typer.Option("--dataset", help="The file, or the folder of files.")],
        out: OutOption,
        context_col: ContextColOption = None,
        control_label: ControlOption = None,
        batch_col: BatchColOption = None,
        modality: ModalityOption = "",
        covariate_col: CovariateColOption = None,
        separator: SeparatorOption = None,
        aliases: AliasesOption = None,
        guide_col: GuideColOption = None,
        guides: GuidesOption = None,
        gene_col: GeneColOption = None,
        keep_label: KeepOption = None,
        drop_label: DropOption = None,
        accept: AcceptOption = None,
        dose_unit: DoseUnitOption = None,
        time_unit: TimeUnitOption = None,
        space: SpaceOption = None,
        target_sum: TargetSumOption = None,
        level: LevelOption = None,
        layer: LayerOption = None,
        from_raw: FromRawOption = False,
        name: NameOption = None,
        storage: StorageOption = "zarr",
        register: RegisterOption = False,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        given = _given(locals())
        named = {"context_col": context_col, "batch_col": batch_col, "modality": modality or None}
        given |= {field: value for field, value in named.items() if value is not None}
        given["covariate_cols"] = covariate_col
        if chosen.reader is not None:
            must_be_free(out, force, dataset)
        with chosen.opened(dataset, beside=out) as file:
            mapping = corrected(chosen.mapping(file), given)
            source = None if file == dataset else dataset.name
            _run_import(
                file, mapping, out, name, chosen.licence, storage, register, force, as_json, source=source
            )

    import_preset.__doc__ = f"Import one {chosen.description}."
    return import_preset


def _run_import(
    file: Path,
    mapping: ColumnMapping | None,
    out: Path,
    name: str | None,
    licence: str,
    storage: str,
    register: bool,
    force: bool,
    as_json: bool,
    half_layers: tuple[str, str] | None = None,
    source: str | None = None,
) -> None:
    from perturbfm_core.data.half_layers import read_half_layers
    from perturbfm_core.data.halves import write_halves
    from perturbfm_core.data.importing import REPORT, read_h5ad
    from perturbfm_core.data.importing import import_h5ad as read

    checked_storage(storage)
    must_be_free(out, force, file)
    # A name is the key of a catalog entry, whether it is registered now or later.
    name = check_key(name, "data set name") if name is not None else slug(out.name)
    if register:
        entry_file(DatasetEntry, name)
    with progress() as tell:
        halves = None
        if mapping is None:
            tell("reading")
            ds = read_h5ad(file, name=name)
        else:
            ds = read(
                file,
                mapping,
                name=name,
                source=source,
                licence=licence,
                tell=tell,
                stream=storage == "zarr",
            )
            halves = None if half_layers is None else read_half_layers(file, mapping, half_layers, ds)
        save(ds, out, storage, force, register, as_json, tell)
        if halves is not None:
            write_halves(out, ds, halves)
    for warning in ds.metadata.notes[REPORT]["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
