"""``perturbfm external convert``: the output of a model that ran elsewhere as a prediction file that is scored."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.cli.output import JsonOption, SplitDataOption, SplitOption, emit, progress, store
from perturbfm_core.cli.prediction_options import (
    ConditionColumn,
    ContextColumn,
    ControlLabel,
    GeneColumn,
    KindOption,
    Layer,
    MissingConditions,
    MissingOption,
    PerturbationColumn,
    SeedOption,
    described_run,
)
from perturbfm_core.errors import ConfigError, PredictionError

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.external.conversion import Converted
    from perturbfm_core.schema import PredictionKind
    from perturbfm_core.splits.split import FrozenSplit


class ControlOption(StrEnum):
    """Control that is subtracted of predicted expression."""

    real = "real"
    model = "model"


class DegenerateOption(StrEnum):
    """What is done about an answer that is the same whatever is perturbed."""

    refuse = "refuse"
    flag = "flag"


def convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="RAW",
            help="Output folder of a worker, its raw.npz, or a prediction file (h5ad, npz, ...).",
        ),
    ],
    split: SplitOption,
    model: Annotated[
        str, typer.Option("--model", help="Name of the model, on the leaderboard if it is published.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The .npz file to write (default: MODEL-SPLIT.npz, the split's first 12 characters).",
        ),
    ] = None,
    data: SplitDataOption = None,
    control: Annotated[
        ControlOption,
        typer.Option(
            "--control",
            help="Control that is subtracted: the matched real one, or the model's own; the other variant is written beside.",
        ),
    ] = ControlOption.real,
    missing: MissingConditions = MissingOption.refuse,
    degenerate: Annotated[
        DegenerateOption,
        typer.Option(
            "--degenerate",
            help="Predictions that are one for several perturbations, or the control: refuse, or only warn.",
        ),
    ] = DegenerateOption.refuse,
    space: Annotated[
        str | None,
        typer.Option(
            "--space", help="Space of the numbers: log1p or counts (default: what raw.json or the file says)."
        ),
    ] = None,
    kind: KindOption = None,
    condition_col: ConditionColumn = None,
    pert_col: PerturbationColumn = None,
    context_col: ContextColumn = None,
    control_label: ControlLabel = None,
    layer: Layer = None,
    gene_col: GeneColumn = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Publish the file as a run of that name, as `submit` does, and the variant by the model's own control.",
        ),
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Convert the output of a model that ran elsewhere to a prediction file; what is wrong with it is one line."""
    from perturbfm_core.config import check_key
    from perturbfm_core.data.prediction_labels import LabelColumns
    from perturbfm_core.external.asked import Asked
    from perturbfm_core.external.conversion import convert as convert_raw
    from perturbfm_core.external.converted_file import write_converted
    from perturbfm_core.external.raw import is_raw, read_raw
    from perturbfm_core.external.refusals import OWN_CONTROL
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.pipeline.prediction import query_of_test
    from perturbfm_core.pipeline.submitted_raw import raw_of_file
    from perturbfm_core.splits.folder import SplitFolder

    check_key(model, "model")
    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    out = Path(f"{model}-{frozen_split.hash[:12]}.npz") if out is None else out
    _check_out(out, force=force)
    ds = dataset_of(home, frozen_split, data)
    frozen_split.check_dataset(ds)
    warnings: list[str] = []
    left_out: dict[str, int] = {}
    stated: PredictionKind | None = None if kind is None else kind.value
    if is_raw(file):
        raw = read_raw(file, space=space, kind=stated)
    else:
        columns = LabelColumns(condition_col, pert_col, context_col, control_label, layer, gene_col)
        raw, warnings, left_out = raw_of_file(
            ds,
            frozen_split,
            file,
            columns=columns,
            missing=missing.value,
            space=space,
            kind=stated,
        )
    asked = Asked.of(ds, query_of_test(ds, frozen_split))
    how: dict[str, Any] = {"missing": missing.value, "degenerate": degenerate.value}
    converted = convert_raw(raw, asked, control=control.value, **how)
    converted = replace(
        converted,
        warnings=[*dict.fromkeys([*warnings, *converted.warnings])],
        counts={name: n + left_out.get(name, 0) for name, n in converted.counts.items()},
    )
    files = write_converted(ds, frozen_split, asked, converted, out, model)
    result = {
        "out": str(out),
        "variants": [str(f) for f in files[1:]],
        "model": model,
        "split_hash": frozen_split.hash,
        **_described(converted),
    }
    if publish:
        result |= _published(ds, frozen_split, out, model, seed)
        if control is ControlOption.real and converted.variant is not None:
            own = f"{model}{OWN_CONTROL}"
            try:
                # What is checked is what is scored: this variant is another prediction.
                beside = replace(convert_raw(raw, asked, control="model", **how), variant=None)
                write_converted(ds, frozen_split, asked, beside, files[1], own)
                shown = _published(ds, frozen_split, files[1], own, seed)
                result |= {f"own_control_{name}": shown[name] for name in ("run_id", "run_dir", "entry")}
            except PredictionError as error:
                print(f"warning: not scored by the model's own control: {error}", file=sys.stderr)
    emit(result, as_json)


def _check_out(out: Path, *, force: bool) -> None:
    """Refuse a file to write that is of another format, or that is there."""
    if out.suffix.lower() != ".npz":
        msg = f"--out must be an .npz file, found {out.name!r}"
        raise ConfigError(msg)
    if out.exists() and not force:
        msg = f"{out} already exists; choose another --out, or give --force to replace it"
        raise ConfigError(msg)


def _described(converted: Converted) -> dict[str, Any]:
    return {
        "control": converted.control,
        "variance": "as given" if converted.var is not None else "none given",
        **converted.counts,
        "missing_conditions": converted.missing_keys[:20],
        "notes": converted.notes,
        "warnings": converted.warnings,
    }


def _published(ds: PerturbDataset, split: FrozenSplit, out: Path, model: str, seed: int) -> dict[str, Any]:
    from perturbfm_core.pipeline.publishing import Submission, publish_submission

    with progress() as tell:
        path = publish_submission(store(), ds, split, Submission(file=out, entry=model, seed=seed), tell=tell)
    shown = described_run(path)
    return {name: shown[name] for name in ("run_id", "run_dir", "report", "entry", "seed")}


COMMANDS = {"convert": (convert, None)}
