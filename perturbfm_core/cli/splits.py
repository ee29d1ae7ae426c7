"""``perturbfm splits``: freezing, finding and verifying splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from perturbfm_core import pipeline
from perturbfm_core.cli.output import DataOption, JsonOption, emit, emit_table, progress, store
from perturbfm_core.cli.split_audits import audit
from perturbfm_core.cli.split_imports import import_perturbench
from perturbfm_core.config import SplitSpec, parse
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import KINDS
from perturbfm_core.splits.folder import SplitFolder

app = typer.Typer(no_args_is_help=True, help="Freeze, find, import, audit and verify splits.")
app.command("import-perturbench")(import_perturbench)
app.command("audit")(audit)


# Which parameter of which kinds an option sets.
OPTION_PARAMS: dict[str, dict[str, str]] = {
    "--holdout-context": {"context_ood": "holdout", "context_perturbation_ood": "contexts"},
    "--holdout-perturbation": {
        "perturbation_ood": "holdout",
        "covariate_transfer": "perturbations",
        "dose_ood": "perturbations",
        "time_ood": "perturbations",
        "context_perturbation_ood": "perturbations",
    },
    "--holdout-combo": {"combo_ood": "holdout"},
    "--holdout-covariate": {"covariate_transfer": "values"},
    "--holdout-batch": {"batch_ood": "holdout"},
    "--covariate-name": {"covariate_transfer": "covariate"},
    "--few-shot-frac": {"context_ood": "few_shot_frac", "leave_one_context_out": "few_shot_frac"},
    "--mode": {"dose_ood": "mode", "time_ood": "mode"},
}


def folder() -> SplitFolder:
    """Return the folder of frozen splits that the environment names."""
    return SplitFolder(store().split_dir)


@app.command("create")
def create(
    data: DataOption,
    spec: Annotated[str, typer.Option("--spec", help="Kind of split: " + ", ".join(KINDS.names()) + ".")],
    holdout_context: Annotated[
        list[str] | None, typer.Option(help="Context to hold out (repeatable).")
    ] = None,
    holdout_perturbation: Annotated[
        list[str] | None, typer.Option(help="Gene or drug to hold out (repeatable).")
    ] = None,
    holdout_combo: Annotated[
        list[str] | None, typer.Option(help="Combination A+B to hold out (repeatable).")
    ] = None,
    holdout_covariate: Annotated[
        list[str] | None, typer.Option(help="Covariate value to hold out (repeatable).")
    ] = None,
    holdout_batch: Annotated[
        list[str] | None, typer.Option(help="Batch (donor, replicate) to hold out (repeatable).")
    ] = None,
    few_shot_frac: Annotated[
        float | None, typer.Option(help="Share of a held-out context's conditions that train gets.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="Of dose_ood and time_ood: extrapolation or interpolation.")
    ] = None,
    covariate_name: Annotated[
        str | None, typer.Option(help="Covariate of covariate_transfer: context, dose, modality, time, ...")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Number of cross-validation folds.")] = None,
    fold: Annotated[int | None, typer.Option(help="Only this fold, from 0 (default: all).")] = None,
    val_frac: Annotated[float, typer.Option(help="Share of train units for validation.")] = 0.1,
    calib_frac: Annotated[float, typer.Option(help="Share of train units for calibration.")] = 0.1,
    validation: Annotated[str, typer.Option(help="auto, fold, inner_cv or none.")] = "auto",
    calibration: Annotated[str, typer.Option(help="auto, fold, inner_cv or none.")] = "auto",
    fit_rows: Annotated[
        str, typer.Option(help="Rows that every entry fits on: train or train+val.")
    ] = "train",
    test_frac: Annotated[
        float | None, typer.Option(help="Share to test of iid, covariate_transfer, context_perturbation_ood.")
    ] = None,
    conditions: Annotated[
        Path | None, typer.Option(help="File for explicit: JSON {fold: [conditions]} or CSV condition,fold.")
    ] = None,
    cv_group: Annotated[
        str | None, typer.Option(help="Name that joins explicit splits into one cross-validation.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    bounds: Annotated[
        bool, typer.Option(help="Compute ceilings and floors now (else at the first scoring).")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Freeze a split; the same request on the same data finds the same hash."""
    params: dict[str, Any] = {}
    for option, value in (
        ("--holdout-context", holdout_context),
        ("--holdout-perturbation", holdout_perturbation),
        ("--holdout-combo", holdout_combo),
        ("--holdout-covariate", holdout_covariate),
        ("--holdout-batch", holdout_batch),
        ("--covariate-name", covariate_name),
        ("--few-shot-frac", few_shot_frac),
        ("--mode", mode),
    ):
        if value is None or value == []:
            continue
        kinds = OPTION_PARAMS[option]
        if spec not in kinds:
            msg = f"{option} belongs to --spec {' or '.join(kinds)}, not {spec}"
            raise SplitError(msg)
        params[kinds[spec]] = list(value) if isinstance(value, list) else value
    if spec == "covariate_transfer":
        params.setdefault("covariate", "context")
    if test_frac is not None:
        params["test_frac"] = test_frac
    if conditions is not None:
        params["folds"] = read_conditions(conditions)
    if cv_group is not None:
        params["cv_group"] = cv_group
    wanted = parse(
        SplitSpec,
        {
            "kind": spec,
            "params": params,
            "seed": seed,
            "folds": folds,
            "fold": fold,
            "val_frac": val_frac,
            "calib_frac": calib_frac,
            "validation": validation,
            "calibration": calibration,
            "fit_rows": fit_rows,
        },
        "split options",
    )
    KINDS.get(spec)
    ds = pipeline.open_dataset(data)
    with progress() as tell:
        made = pipeline.freeze_split(store(), ds, wanted, bounds=bounds, progress=tell)
    results = [_summary(frozen, stats, new) for frozen, stats, new in made]
    if as_json:
        emit({"splits": results} if len(results) > 1 else results[0], True)
        return
    for result in results:
        emit(result, False)


def _summary(frozen: Any, stats: Any, new: bool | None = None) -> dict[str, Any]:
    split = frozen.split
    ceiling = (stats.ceiling or {}).get("pearson") if stats else None
    out = {
        "split_hash": frozen.hash,
        "key": split.key,
        "dataset": split.dataset.name,
        "kind": split.kind,
        **{f"n_{fold}": c["conditions"] for fold, c in (stats.counts if stats else {}).items()},
        "validation": split.validation,
        "calibration": split.calibration,
        "inner": f"{split.inner.k} folds by {split.inner.unit}" if split.inner else "none",
        "cv": f"{split.cv.group} fold {split.cv.fold} of {split.cv.k}" if split.cv else "none",
        "ceiling_pearson": ceiling.get("half") if isinstance(ceiling, dict) else None,
        "no_signal": stats.no_signal if stats else None,
        "warnings": [f["name"] for f in stats.audit] if stats else [],
    }
    return out if new is None else {**out, "new": new}


@app.command("show")
def show(
    split: Annotated[str, typer.Argument(help="Hash, prefix of at least 7 characters, or key.")],
    as_json: JsonOption = False,
) -> None:
    """Show one split: folds, policies, ceilings; --json gives the whole file with its statistics."""
    frozen = folder().load(split)
    stats = folder().stats(frozen.hash)
    if as_json:
        payload = {"hash": frozen.hash, "key": frozen.split.key, **frozen.split.model_dump(mode="json")}
        emit({**payload, "stats": stats.model_dump(mode="json") if stats else None}, True)
        return
    emit(_summary(frozen, stats), False)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the frozen splits."""
    rows = [
        {
            "hash": e.hash[:12],
            "key": e.key,
            "dataset": e.dataset,
            "kind": e.kind,
            "cv_group": e.cv_group,
            "fold": e.fold,
        }
        | ({"split_hash": e.hash} if as_json else {})
        for e in folder().index().splits
    ]
    emit_table(pd.DataFrame(rows), as_json)


@app.command("verify")
def verify(
    split: Annotated[str | None, typer.Argument(help="Hash, prefix or key (or --all).")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every split of the folder.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory of the data (default: looked for).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check files against their hashes and, where the data are at hand, against the data."""
    if (split is None) == (not all_):
        msg = "name one split, or give --all"
        raise SplitError(msg)
    home, found = store(), folder()
    hashes = found.hashes() if all_ else [found.resolve(str(split))]
    results: list[dict[str, Any]] = []
    with progress(len(hashes)) as tell:
        for split_hash in hashes:
            tell(f"verifying {split_hash[:12]}")
            ds = None
            try:
                frozen = found.load(split_hash)
                place = data or pipeline.find_dataset(home, frozen)
                ds = pipeline.open_dataset(place) if place else None
            except SplitError:
                pass  # told by verify
            outcome = found.verify(split_hash, ds)
            results.append(
                {
                    "split_hash": split_hash,
                    "ok": outcome.ok,
                    "checked": "file and data"
                    if outcome.with_data
                    else "file only: the data are not at hand",
                    "problems": list(outcome.problems),
                }
            )
            tell("done:")
    listed = {e.hash for e in found.index().splits}
    lost = sorted(listed - set(found.hashes())) if all_ else []
    bad = [p for r in results for p in r["problems"]] + [
        f"split {h[:12]} is in index.json but its file is gone" for h in lost
    ]
    if as_json:
        emit({"verified": len(results), "ok": not bad, "splits": results, "problems": bad}, True)
    else:
        for r in results:
            print(f"{r['split_hash'][:12]} {'ok' if r['ok'] else 'FAILED'} ({r['checked']})")
        print(f"verified={len(results)}")
        print(f"failed={len(bad)}")
    if bad:
        raise SplitError("; ".join(bad))


@app.command("migrate")
def migrate(
    old: Annotated[str, typer.Argument(help="Hash, prefix or key of the split to carry over.")],
    data: DataOption,
    as_json: JsonOption = False,
) -> None:
    """Carry a split over to a new version of its data, if every condition keeps its fold."""
    frozen = folder().load(old)
    with progress() as tell:
        tell("comparing conditions")
        new, stats = pipeline.migrate_split(store(), frozen, pipeline.open_dataset(data))
    emit({**_summary(new, stats), "supersedes": frozen.hash}, as_json)


def read_conditions(path: Path) -> dict[str, list[str]]:
    """Read {fold: [conditions]} from JSON, or from a CSV with the columns condition and fold."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read ({error})"
        raise SplitError(msg) from error
    if path.suffix.lower() == ".json":
        try:
            loaded = json.loads(text)
        except json.JSONDecodeError as error:
            msg = f"{path} is not valid JSON ({error})"
            raise SplitError(msg) from error
        if not isinstance(loaded, dict) or not all(
            isinstance(v, list) and all(isinstance(x, str) for x in v) for v in loaded.values()
        ):
            msg = f"{path} must hold {{fold: [conditions]}}"
            raise SplitError(msg)
        return {str(k): list(v) for k, v in loaded.items()}
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or not {"condition", "fold"} <= set(rows[0]):
        msg = f"{path} must be JSON (.json) or a CSV with the columns condition and fold"
        raise SplitError(msg)
    out: dict[str, list[str]] = {}
    for row in rows:
        out.setdefault(row["fold"], []).append(row["condition"])
    return out
