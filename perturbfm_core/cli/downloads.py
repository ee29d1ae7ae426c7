"""``perturbfm data download`` and ``data cite``: public files by name, checked, and what to cite for them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from perturbfm_core.cli.data_saving import checked_storage, must_be_free, save
from perturbfm_core.cli.output import JsonOption, emit, emit_rows, progress, store
from perturbfm_core.config import slug
from perturbfm_core.errors import ConfigError, DatasetError

_VERBS = ("list", "verify")


def download(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...|list|verify", help="Files such as scperturb/norman_2019_filtered."),
    ],
    match: Annotated[str | None, typer.Option(help="With list: only names that contain this.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="The file, fetched by other means; it is checked and put in its place."),
    ] = None,
    do_import: Annotated[
        bool, typer.Option("--import", help="Go on to a data set, with the preset of its collection.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="With --import: directory of the data set (default: its name under data/)."),
    ] = None,
    repin: Annotated[
        bool, typer.Option(help="Accept that a file without a published hash has changed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --import: replace an existing data set.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download public files by name; `list` shows what there is, `verify` checks what is here.

    A transfer that is cut off goes on where it stopped. Files lie under downloads/ of PERTURBFM_HOME;
    PERTURBFM_MIRROR names an address or folder with NAME/FILE to read from instead of the hosts. A hash that
    nobody published is pinned in downloads.lock.json when the file is first fetched.
    """
    from perturbfm_core.data.downloads.registry import registry, remote_file

    if match is not None and names != ["list"]:
        msg = "--match goes with `data download list`"
        raise ConfigError(msg)
    if names[0] in _VERBS:
        chosen = [remote_file(n) for n in names[1:]] or list(registry().values())
        rows = _listed(chosen, match) if names[0] == "list" else _verified(chosen, explicit=len(names) > 1)
        if rows or as_json:
            emit_rows(rows, as_json)
        elif names[0] == "list":
            print(f"(no rows: no name contains {match!r})")
        else:
            print("(no rows: nothing is downloaded yet)")
        if names[0] == "verify" and any(r["state"] == "changed" for r in rows):
            raise typer.Exit(1)
        return
    if file is not None and len(names) > 1:
        msg = f"--file gives one file, {len(names)} were named; name one"
        raise ConfigError(msg)
    if out is not None and (not do_import or len(names) > 1):
        msg = "--out is the directory of one data set: it goes with --import and one name"
        raise ConfigError(msg)
    for entry in [remote_file(n) for n in names]:
        _one(entry, file, do_import, out, repin, force, as_json)


def _one(
    entry: Any, file: Path | None, do_import: bool, out: Path | None, repin: bool, force: bool, as_json: bool
) -> None:
    from perturbfm_core.data.downloads.fetching import fetch
    from perturbfm_core.data.downloads.pins import PINS_FILE
    from perturbfm_core.data.downloads.unpacking import unpacked

    home = store()
    name = slug(entry.name.replace("/", "-"))
    place = out or home.dataset(name)
    if do_import:
        if entry.preset is None:
            msg = (
                f"no preset reads {entry.name}: {entry.why_no_preset}; download it without --import, and name the columns of an "
                "h5ad file with `perturbfm data import FILE`"
            )
            raise ConfigError(msg)
        checked_storage("zarr")
        must_be_free(place, force)
    with progress() as tell:
        fetched = fetch(entry, home.downloads, file=file, repin=repin, unpacks=do_import, tell=tell)
        if do_import:
            from perturbfm_core.data.importing import REPORT, import_h5ad
            from perturbfm_core.data.preset import PRESETS

            chosen, given = PRESETS.get(entry.preset), unpacked(fetched.path, tell, entry.member)
            with _options_named(given, entry.preset), chosen.opened(given, beside=place) as path:
                mapping = chosen.mapping(path)
                if entry.space is not None:
                    mapping = mapping.model_copy(update={"space": entry.space})
                ds = import_h5ad(
                    path,
                    mapping,
                    name=name if out is None else slug(out.name),
                    licence=entry.licence or "unknown",
                    source=entry.url or fetched.path.name,
                    tell=tell,
                    stream=True,
                )
                ds.metadata.notes["citation"] = entry.citation
                save(ds, place, "zarr", force, False, as_json, tell)
    if do_import:
        for warning in ds.metadata.notes[REPORT]["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        return
    emit(
        {
            "name": entry.name,
            "path": str(fetched.path),
            "bytes": fetched.size,
            "sha256": fetched.sha256,
            "from": fetched.source,
            "licence": entry.licence or "not stated",
            **(
                {"pinned": f"{home.downloads / PINS_FILE} (first use: no hash was published)"}
                if fetched.pinned
                else {}
            ),
        },
        as_json,
    )


@contextlib.contextmanager
def _options_named(file: Path, preset: str) -> Iterator[None]:
    """Name the verb whose options could correct what is refused of a file that is here by now."""
    try:
        yield
    except DatasetError as error:
        msg = f"{error}; {file} is here: `perturbfm data import-{preset} --dataset {file} --out DIR` takes options that correct this"
        raise DatasetError(msg) from error


def _listed(chosen: list[Any], match: str | None) -> list[dict[str, Any]]:
    from perturbfm_core.data.downloads.fetching import place_of
    from perturbfm_core.store.disk import amount

    folder = store().downloads
    rows = []
    for entry in chosen:
        if match is not None and match.lower() not in entry.name.lower():
            continue
        target = place_of(entry, folder)
        unfinished = target.with_name(target.name + ".part").is_file()
        rows.append(
            {
                "name": entry.name,
                "size": "unknown" if entry.size is None else amount(entry.size),
                "hash": (entry.known_hash or "pinned at first use").partition(":")[0],
                "import": entry.preset or "-",
                "licence": entry.licence.partition(" (")[0] or "not stated",
                "here": "yes" if target.is_file() else "unfinished" if unfinished else "no",
            }
        )
    return rows


def _verified(chosen: list[Any], *, explicit: bool) -> list[dict[str, Any]]:
    from perturbfm_core.data.downloads.fetching import verify

    folder = store().downloads
    rows = []
    with progress() as tell:
        for entry in chosen:
            tell(f"hashing {entry.name}")
            state, detail = verify(entry, folder)
            if explicit or state != "missing":
                rows.append({"name": entry.name, "state": state, "detail": detail})
    return rows


def cite(
    name: Annotated[
        str, typer.Argument(help="A public file, or the name or directory of a data set made from one.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Print what to cite for a public file or a data set, and its licence."""
    from perturbfm_core.data.downloads.registry import registry, remote_file
    from perturbfm_core.schema import META_FILE

    place = next((p for p in (Path(name), store().dataset(name)) if (p / META_FILE).is_file()), None)
    if name not in registry() and place is not None:
        from perturbfm_core.pipeline.dataset import open_dataset

        metadata = open_dataset(place).metadata
        result = {
            "name": metadata.name,
            "citation": str(metadata.notes.get("citation") or "not recorded; see its source"),
            "licence": metadata.licence,
            "source": metadata.source,
        }
    else:
        entry = remote_file(name)
        result = {
            "name": entry.name,
            "citation": entry.citation or "not stated by its publishers; see the address",
            "licence": entry.licence or "not stated",
            "source": entry.url or "no address is known",
        }
    emit(result, as_json)
