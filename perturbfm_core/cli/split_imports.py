"""``perturbfm splits import-perturbench``: splits that PerturBench saved, or that its splitters make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.cli.output import DataOption, JsonOption, emit, parse_pairs, progress, store
from perturbfm_core.errors import SplitError

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.splits.folder import SplitStats
    from perturbfm_core.splits.perturbench.saved import ImportedSplit, SavedSplit
    from perturbfm_core.splits.split import FrozenSplit


def import_perturbench(
    dataset: Annotated[
        Path, typer.Option("--dataset", help="The h5ad file that the split was, or is to be, made on.")
    ],
    data: DataOption,
    split_dir: Annotated[
        Path | None, typer.Option(help="Folder of saved splits: CSV files, JSON lists of rows.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="One saved split: CSV with or without header, or JSON.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Make the split: transfer, combine or combine_inverse.")
    ] = None,
    covariate_key: Annotated[
        list[str] | None, typer.Option(help="obs column to split by with --task (repeatable).")
    ] = None,
    perturbation_key: Annotated[str, typer.Option(help="obs column of the perturbation.")] = "condition",
    control: Annotated[str, typer.Option(help="Label of control rows.")] = "control",
    arg: Annotated[
        list[str] | None, typer.Option(help="Argument NAME=VALUE of the splitter, e.g. seed=42 (repeatable).")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Recorded text of a covariate set, e.g. \"frozenset({'a', 'b'})\" (repeatable)."),
    ] = None,
    bounds: Annotated[
        bool, typer.Option(help="Compute ceilings and floors now (else at the first scoring).")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Freeze splits that PerturBench saved (CSV, JSON, obs columns) or that its splitters make, row by row."""
    from perturbfm_core.data.h5ad import read_obs
    from perturbfm_core.pipeline.dataset import open_dataset
    from perturbfm_core.pipeline.split import save_splits
    from perturbfm_core.splits.earlier import freeze_rows_beside
    from perturbfm_core.splits.folder import SplitFolder
    from perturbfm_core.splits.perturbench.saved import import_saved
    from perturbfm_core.splits.perturbench.stray_rows import stray_rows

    if sum(x is not None for x in (split_dir, csv, task)) > 1:
        msg = "give one of --split-dir, --csv and --task"
        raise SplitError(msg)
    if task is None and (arg or covariate_key or label):
        msg = "--arg, --covariate-key and --label belong to --task"
        raise SplitError(msg)
    with progress() as tell:
        tell("reading")
        obs, ds = read_obs(dataset), open_dataset(data)
        names = [str(name) for name in obs.index]
        freeze = partial(freeze_rows_beside, SplitFolder(store().split_dir))
        if task is not None:
            made_here = _made(
                ds,
                obs,
                task,
                freeze,
                keys=list(covariate_key or []),
                arguments=arg or [],
                labels=label or [],
                perturbation_key=perturbation_key,
                control=control,
            )
            imported = [made_here]
        else:
            saved = _saved(split_dir, csv, obs, dataset)
            imported = [import_saved(ds, s, names, freeze=freeze) for s in saved]
        made = save_splits(store(), ds, [i.split for i in imported], bounds=bounds, tell=tell)
    results = []
    for one, (split, stats, new) in zip(imported, made, strict=True):
        if (stray := stray_rows(ds, split)) is not None:
            print(f"warning: {one.name}: {stray}", file=sys.stderr)
        if one.lacking:
            print(
                f"warning: {one.name}: {len(one.lacking)} rows of the saved split are not in data set {ds.name!r}, e.g. "
                f"{one.lacking[0]!r}, and left out; import the data set with all rows of the file to have them",
                file=sys.stderr,
            )
        results.append(_described(one, split, stats, new=new))
    if as_json:
        emit({"splits": results} if len(results) > 1 else results[0], True)
        return
    for result in results:
        emit(result, False)


def _made(
    ds: PerturbDataset,
    obs: Any,
    task: str,
    freeze: Callable[..., FrozenSplit],
    *,
    keys: list[str],
    arguments: list[str],
    labels: list[str],
    perturbation_key: str,
    control: str,
) -> ImportedSplit:
    """Return the split that a splitter of PerturBench makes of the rows of a file."""
    from perturbfm_core.splits.perturbench.saved import ImportedSplit, row_codes, saved_in_columns
    from perturbfm_core.splits.perturbench.splitters import Options, perturbench_split
    from perturbfm_core.splits.perturbench.stray_rows import lacking_rows

    given = parse_pairs(arguments, "--arg")
    assigned = perturbench_split(
        obs,
        task,
        Options.of(given),
        perturbation_key=perturbation_key,
        covariate_keys=keys or None,
        control=control,
        labels=labels or None,
    )
    (saved,) = saved_in_columns({"split": assigned.tolist()})
    names = [str(name) for name in obs.index]
    codes, controls = row_codes(ds, saved, names)
    params = {"source": "perturbench", "task": task, "covariate_keys": keys, "arguments": given}
    split = freeze(ds, codes, params | ({"labels": labels} if labels else {}))
    return ImportedSplit(task, split, controls, lacking_rows(ds, saved, names))


def _described(one: ImportedSplit, split: FrozenSplit, stats: SplitStats, *, new: bool) -> dict[str, Any]:
    """Return what the command says of one imported split."""
    return {
        "split_hash": split.hash,
        "key": split.definition.key,
        "source": one.name,
        "ood": "+".join(split.definition.ood_axes) or "none",
        **{f"rows_{fold}": c["rows"] for fold, c in stats.counts.items()},
        "controls_reassigned": one.controls,
        "rows_not_in_data": len(one.lacking),
        "validation": split.definition.validation,
        "calibration": split.definition.calibration,
        "warnings": [f["name"] for f in stats.audit],
        "new": new,
    }


def _saved(split_dir: Path | None, csv: Path | None, obs: Any, dataset: Path) -> list[SavedSplit]:
    from perturbfm_core.splits.perturbench.saved import (
        read_split_csv,
        read_split_dir,
        read_split_json,
        saved_in_columns,
    )

    if split_dir is not None:
        return read_split_dir(split_dir)
    if csv is not None:
        return [read_split_json(csv) if csv.suffix.lower() == ".json" else read_split_csv(csv)]
    found = saved_in_columns({str(c): obs[c].astype(object).tolist() for c in obs.columns})
    if not found:
        msg = f"{dataset.name} has no obs column 'split' or '..._split_seed<n>'; give --csv, --split-dir or --task"
        raise SplitError(msg)
    return found
