"""Submissions as they lie in the inbox: a prediction file, and a YAML file that describes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from perturbfm_core.config import Frozen, content_hash, load_yaml, parse
from perturbfm_core.errors import ConfigError, PerturbFMError
from perturbfm_core.schema import CountGenerator, PredictionKind
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import fsync_path, write_atomic
from perturbfm_core.store.disk import writing

ACCEPTED, REJECTED = "accepted", "rejected"
REASON_FILE = "reason.txt"
# Endings of what is still being copied.
UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".filepart")
ENDINGS = (".npz", ".h5ad", ".parquet", ".csv", ".tsv")


class Request(Frozen):
    """The YAML file of a submission.

    Attributes
    ----------
    entry, split
        Name on the leaderboard; hash, prefix or key of the split.
    file
        Name of the prediction file (default: the one with the name of the YAML file).
    data
        Name, directory or beginning of the content hash of the data set (default: the split's, looked for).
    seed, note, url, kind, missing, generator
        As the options of `perturbfm submit`.
    condition_col, pert_col, context_col, control_label, layer, gene_col
        Names of columns, likewise.
    """

    entry: str
    split: str
    file: str | None = None
    data: str | None = None
    seed: int = Field(0, ge=0)
    note: str | None = None
    url: str | None = None
    kind: PredictionKind | None = None
    missing: Literal["refuse", "control"] = "refuse"
    generator: CountGenerator | None = None
    condition_col: str | None = None
    pert_col: str | None = None
    context_col: str | None = None
    control_label: str | None = None
    layer: str | None = None
    gene_col: str | None = None


def inbox_of(store: ArtifactStore) -> Path:
    """Return the folder of submissions, which need not exist."""
    return store.home / "inbox"


def ready(store: ArtifactStore) -> str | None:
    """Return an identity of the submissions that a scan would take now, None if there is none."""
    inbox = inbox_of(store)
    found = {}
    for description in descriptions(inbox):
        try:
            file: Path | None = file_of(inbox, description, read_request(description))
        except PerturbFMError:
            file = None
        if file is None or is_complete(file):
            found[description.name] = [_identity(p) for p in (description, file) if p is not None]
    return content_hash(found) if found else None


def is_complete(file: Path) -> bool:
    """Return whether a prediction file is there and no longer being copied."""
    return file.exists() and not file.name.endswith(UNFINISHED)


def _identity(path: Path) -> list[int]:
    # A description that is a link without a target is refused by the scan, which has to be asked for.
    found = path.stat() if path.exists() else path.lstat()
    # Time of the last change of the file's entry: one that is moved back from `rejected` is new.
    return [found.st_ctime_ns // 1000, found.st_size]


def descriptions(inbox: Path) -> list[Path]:
    """Return the YAML files of the inbox, sorted."""
    return sorted(p for end in ("yaml", "yml") for p in inbox.glob(f"*.{end}") if not p.name.startswith("."))


def undescribed(inbox: Path) -> Iterator[str]:
    """Yield the names of prediction files that no YAML file describes, apart from unfinished ones."""
    described = set()
    for description in descriptions(inbox):
        try:
            file = file_of(inbox, description, read_request(description))
            described.add(file.name)
        except PerturbFMError:
            described |= {p.name for p in inbox.glob("*") if p.stem == description.stem}
    for path in sorted(inbox.glob("*")):
        if path.suffix.lower() in ENDINGS and path.name not in described and not path.name.startswith("."):
            yield path.name


def read_request(description: Path) -> Request:
    """Read a YAML file of the inbox; one that is not valid raises `ConfigError`."""
    return parse(Request, load_yaml(description), str(description))


def file_of(inbox: Path, description: Path, request: Request) -> Path:
    """Return the prediction file of a description, which need not exist.

    Parameters
    ----------
    inbox, description, request
        The folder, the YAML file in it, and its content.

    Raises
    ------
    ConfigError
        If it names a file elsewhere, or several files have its name.
    """
    if request.file is not None:
        if Path(request.file).name != request.file or request.file == description.name:
            msg = f"{description.name}: file {request.file!r} must be the name of a file beside it"
            raise ConfigError(msg)
        return inbox / request.file
    found = [p for p in sorted(inbox.glob("*")) if p.stem == description.stem and p.suffix.lower() in ENDINGS]
    if len(found) > 1:
        msg = f"{description.name} describes one of {[p.name for p in found]}; name it by `file:`"
        raise ConfigError(msg)
    return found[0] if found else inbox / f"{description.stem}.npz"


def move_parts(folder: Path, parts: list[Path], name: str, reason: str | None) -> None:
    """Move a submission into a folder of its own, its description last: until then it is found again.

    Parameters
    ----------
    folder, name
        Where that folder is made, and its name.
    parts
        The files, the description last.
    reason
        Why the submission was rejected, None where it was not.
    """
    target, n = folder / name, 1
    while target.exists():
        n += 1
        target = folder / f"{name}-{n}"
    with writing(target):
        target.mkdir(parents=True)
        if reason is not None:
            write_atomic(target / REASON_FILE, reason + "\n")
        for part in parts:
            part.rename(target / part.name)
        fsync_path(target)


def restore_parts(inbox: Path) -> None:
    """Move back what a killed scan had moved without its description."""
    for folder in (p for name in (ACCEPTED, REJECTED) for p in (inbox / name).glob("*") if p.is_dir()):
        left = [p for p in folder.iterdir() if p.name != REASON_FILE]
        if any(p.suffix in (".yaml", ".yml") for p in left):
            continue
        for part in left:
            if not (inbox / part.name).exists():
                part.rename(inbox / part.name)
        (folder / REASON_FILE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
