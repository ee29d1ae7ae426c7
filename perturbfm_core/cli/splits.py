"""``perturbfm splits``: freezing, finding and verifying splits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.cli.output import (
    DataOption,
    JsonOption,
    SplitDataOption,
    emit,
    emit_csv,
    emit_rows,
    parse_pairs,
    progress,
    store,
)
from perturbfm_core.cli.parameters import ParameterCommand, Parameters, ParamOption, given_parameters, stated
from perturbfm_core.cli.split_audits import audit
from perturbfm_core.cli.split_imports import import_perturbench
from perturbfm_core.config import parse
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.index import read_index

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.splits.folder import SplitFolder
    from perturbfm_core.splits.split import Split


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Freeze, find, import, audit and verify splits.",
)
app.command("import-perturbench")(import_perturbench)
app.command("audit")(audit)


class KindCommand(ParameterCommand):
    """``splits create``: its options depend on the kind that ``--spec`` names; without one, on all kinds."""

    noun = "split kind"

    def parameters_of(self, args: Sequence[str]) -> Parameters | None:
        """Return the parameters of the kind that the command line names."""
        from perturbfm_core.splits.draft import KINDS

        for i, arg in enumerate(args):
            name = arg.partition("=")[2] if arg.startswith("--spec=") else ""
            if arg == "--spec" and i + 1 < len(args):
                name = args[i + 1]
            if name in KINDS:
                return Parameters(name, KINDS.get(name).params)
        return None

    def others(self) -> list[Parameters]:
        """Return the parameters of every kind."""
        from perturbfm_core.splits.draft import KINDS

        return [Parameters(name, kind.params) for name, kind in KINDS.items()]

    def is_misnamed(self, args: Sequence[str]) -> bool:
        """Return True: a kind that is missing or unknown is to be said before its options."""
        return True

    def elsewhere(self, option: str, name: str) -> str | None:
        """Return what to say of an option that another kind has."""
        kinds = [p.name for p in self.others() if option in p.declarations()]
        return f"{option} belongs to --spec {' or '.join(kinds)}, not {name}" if kinds else None


def folder() -> SplitFolder:
    """Return the folder of frozen splits that the environment names."""
    from perturbfm_core.splits.folder import SplitFolder

    return SplitFolder(store().split_dir)


@app.command("create", cls=KindCommand)
def create(
    ctx: typer.Context,
    data: DataOption,
    spec: Annotated[str, typer.Option("--spec", help="Kind of split (see `perturbfm splits kinds`).")],
    param: ParamOption = None,
    folds: Annotated[int | None, typer.Option(help="Number of cross-validation folds.")] = None,
    fold: Annotated[int | None, typer.Option(help="Only this fold, from 0 (default: all).")] = None,
    val_frac: Annotated[float, typer.Option(help="Share of train units for validation.")] = 0.1,
    calib_frac: Annotated[float, typer.Option(help="Share of train units for calibration.")] = 0.1,
    validation: Annotated[str, typer.Option(help="auto, fold, inner_cv or none.")] = "auto",
    calibration: Annotated[str, typer.Option(help="auto, fold, inner_cv or none.")] = "auto",
    fit_rows: Annotated[
        str, typer.Option(help="Rows that every entry fits on: train or train+val.")
    ] = "train",
    transductive: Annotated[
        bool, typer.Option("--transductive", help="Fits may read the controls of what is held out.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    bounds: Annotated[
        bool, typer.Option(help="Compute ceilings and floors now (else at the first scoring).")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Freeze a split; the same request on the same data finds the same hash.

    Every parameter of the kind is an option: `perturbfm splits create --spec KIND --help` lists them.
    """
    from perturbfm_core.splits.draft import KINDS

    kind = KINDS.get(spec)
    given = {**parse_pairs(param or [], "--param"), **given_parameters(ctx)}
    wanted = parse(
        SplitSpec,
        {
            "kind": spec,
            "params": stated(kind.params, given),
            "seed": seed,
            "folds": folds,
            "fold": fold,
            "val_frac": val_frac,
            "calib_frac": calib_frac,
            "validation": validation,
            "calibration": calibration,
            "fit_rows": fit_rows,
            "transductive": transductive,
        },
        "split options",
    )
    # Imported only once the options are valid, so that a refusal costs no start of the data libraries.
    from perturbfm_core.pipeline.dataset import open_dataset
    from perturbfm_core.pipeline.split import freeze_split

    ds = open_dataset(data)
    with progress() as tell:
        made = freeze_split(store(), ds, wanted, bounds=bounds, tell=tell)
    if spec == "explicit":
        _warn_of_unlisted(ds, wanted)
    results = [_summary(split, stats, new) for split, stats, new in made]
    if as_json:
        emit({"splits": results} if len(results) > 1 else results[0], True)
        return
    for result in results:
        emit(result, False)


def _warn_of_unlisted(ds: PerturbDataset, spec: SplitSpec) -> None:
    """Say which conditions train although a list that names conditions of train does not name them."""
    from perturbfm_core.splits.kinds.explicit import unlisted

    if left := unlisted(ds, spec.params):
        print(
            f"warning: {len(left)} conditions are in no fold of the list, e.g. {left[0]!r}, and train beside those that it "
            "names; give --unlisted unused to leave them out, or --unlisted train to say so",
            file=sys.stderr,
        )


@app.command("kinds")
def kinds(as_json: JsonOption = False) -> None:
    """List the kinds of split and the options of each."""
    from perturbfm_core.splits.draft import KINDS

    rows = [
        {
            "kind": name,
            "options": ", ".join(Parameters(name, kind.params).declarations()),
            "description": kind.description,
        }
        for name, kind in KINDS.items()
    ]
    emit_rows(rows, as_json, empty="no kind of split is registered")


def _summary(split: Any, stats: Any, new: bool | None = None) -> dict[str, Any]:
    definition = split.definition
    from perturbfm_core.leaderboard.headline import HEADLINE, marks_of
    from perturbfm_core.splits.held_out import held_out

    marks = marks_of(stats.ceiling, stats.floor) if stats else marks_of(None, None)
    out = {
        "split_hash": split.hash,
        "key": definition.key,
        "dataset": definition.dataset.name,
        "kind": definition.kind,
        "held_out": held_out(definition, shown=20),
        **{f"n_{fold}": c["conditions"] for fold, c in (stats.counts if stats else {}).items()},
        "validation": definition.validation,
        "calibration": definition.calibration,
        "inner": f"{definition.inner.k} folds by {definition.inner.unit}" if definition.inner else "none",
        "cv": f"{definition.cv.group} fold {definition.cv.fold} of {definition.cv.k}"
        if definition.cv
        else "none",
        "headline": HEADLINE,
        "floor_control": marks.control_mean,
        "ceiling_half": marks.half,
        "ceiling_noise_free": marks.noise_free,
        "no_signal": stats.no_signal if stats else None,
        "warnings": [f["name"] for f in stats.audit] if stats else [],
    }
    return out if new is None else {**out, "new": new}


@app.command("show")
def show(
    split: Annotated[str, typer.Argument(help="Hash, prefix of at least 7 characters, or key.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the test conditions as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one split: what is held out, its test conditions, folds, policies, floor and ceiling.

    --csv gives all test conditions, --json the whole file with its statistics.
    """
    from perturbfm_core.data.condition import parse_key
    from perturbfm_core.splits.held_out import tested

    frozen_split = folder().load(split)
    stats = folder().stats(frozen_split.hash)
    if as_json:
        payload = {
            "hash": frozen_split.hash,
            "key": frozen_split.definition.key,
            **frozen_split.definition.model_dump(mode="json"),
        }
        emit({**payload, "stats": stats.model_dump(mode="json") if stats else None}, True)
        return
    keys = tested(frozen_split.definition)
    if as_csv:
        if not keys:
            msg = f"split {frozen_split.hash[:12]} tests rows of every condition, so that it has no list of test conditions"
            raise SplitError(msg)
        emit_csv([{"condition": key, **parse_key(key)} for key in keys])
        return
    shown = (
        {"test_conditions": f"{', '.join(keys[:5])}{', ... (all: --csv)' if len(keys) > 5 else ''}"}
        if keys
        else {}
    )
    emit({**_summary(frozen_split, stats), **shown}, False)


@app.command("list")
def list_(
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV, with keys, whole hashes and all that is held out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the frozen splits with what each holds out; `splits show` has the test conditions of one."""
    from perturbfm_core.splits.held_out import held_out

    place = folder()
    rows = []
    for e in read_index(place.path).splits:
        definition, problem = _definition(place, e.hash)
        what = problem if definition is None else held_out(definition, shown=10_000 if as_csv else 3)
        folds = definition.cv.k if definition is not None and definition.cv else None
        row = {"hash": e.hash[:12], "dataset": e.dataset, "kind": e.kind, "fold": e.fold, "folds": folds}
        if as_csv or as_json:
            row = {"split_hash": e.hash, "key": e.key, **row, "cv_group": e.cv_group, "board": e.board}
        rows.append({**row, "held_out": what})
    if as_csv:
        emit_csv(rows)
    else:
        emit_rows(
            rows, as_json, empty=f"{place.path} has no split; freeze one with `perturbfm splits create`"
        )


def _definition(place: SplitFolder, split_hash: str) -> tuple[Split | None, str | None]:
    """Return the definition of a split, or why it cannot be read."""
    try:
        return place.load(split_hash).definition, None
    except SplitError as error:
        return None, f"cannot be read: {error}"


@app.command("verify")
def verify(
    split: Annotated[str | None, typer.Argument(help="Hash, prefix or key (or --all).")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every split of the folder.")] = False,
    data: SplitDataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check files against their hashes and, where the data are at hand, against the data."""
    from perturbfm_core.pipeline.dataset import find_dataset, open_dataset

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
                frozen_split = found.load(split_hash)
                place = data or find_dataset(home, frozen_split)
                ds = open_dataset(place) if place else None
            except SplitError:
                pass  # reported by verify
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
    from perturbfm_core.pipeline.dataset import open_dataset
    from perturbfm_core.pipeline.split import migrate_split

    split = folder().load(old)
    with progress() as tell:
        tell("comparing conditions")
        new, stats = migrate_split(store(), split, open_dataset(data))
    emit({**_summary(new, stats), "supersedes": split.hash}, as_json)
