"""Public files fetched into the store: from the host, a mirror or a file at hand, checked, and pinned."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from perturbfm_core.data.downloads.pins import PINS_FILE, Pin, read_pins, write_pin
from perturbfm_core.data.downloads.registry import RemoteFile
from perturbfm_core.data.downloads.unpacking import EXPANDS, is_packed
from perturbfm_core.errors import DownloadError
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.disk import amount, writing
from perturbfm_core.store.locks import file_lock

MIRROR = "PERTURBFM_MIRROR"
_CHUNK = 1 << 20
# How files begin, by the ends of their names.
_BEGIN = {".gz": b"\x1f\x8b", ".zip": b"PK", ".h5ad": b"\x89HDF", ".h5mu": b"\x89HDF"}


@dataclass(frozen=True)
class Fetched:
    """A public file in the store.

    Attributes
    ----------
    path
        Where it lies.
    sha256, size
        Its hash and bytes.
    source
        ``host``, ``mirror``, ``file``, or ``here`` if it was there already.
    pinned
        Whether its hash was unknown and stands in the lock file from now on.
    """

    path: Path
    sha256: str
    size: int
    source: str
    pinned: bool


def place_of(entry: RemoteFile, folder: Path) -> Path:
    """Return where a file lies in a folder of downloads."""
    return folder / entry.name / entry.filename


def fetch(
    entry: RemoteFile,
    folder: Path,
    *,
    file: Path | None = None,
    repin: bool = False,
    mirrored: bool = True,
    unpacks: bool = False,
    tell: Progress = quiet,
    attempts: int = 6,
    wait: float = 1.0,
) -> Fetched:
    """Return a public file, fetched if it is not there or not what it must be.

    Parameters
    ----------
    entry
        The file.
    folder
        The folder of downloads.
    file
        The file itself, fetched by other means; None to fetch it.
    repin
        Accept that a file without a published hash differs from what was pinned.
    mirrored
        Read the mirror that the environment names, if there is one, instead of the host.
    unpacks
        Whether it is to be unpacked afterwards: then there must be room for that as well before anything is fetched.
    tell
        Called with the progress.
    attempts, wait
        See `Transfer`.

    Raises
    ------
    DownloadError
        If it cannot be fetched or is not the file that the registry or the lock file names.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")
    target = place_of(entry, folder)
    with file_lock(
        folder / ".locks" / entry.name.replace("/", "--"), what=f"download of {entry.name}", tell=tell
    ):
        pin = None if repin else read_pins(folder).get(entry.name)
        known = entry.known_hash or (f"sha256:{pin.sha256}" if pin else None)
        if file is None and target.is_file() and known and pooch.hashes.hash_matches(str(target), known):
            return Fetched(target, _sha256(target), target.stat().st_size, "here", pinned=False)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        revision, pinned_revision = "", pin.revision if pin else ""
        if file is not None:
            source = "file"
            _take(file, entry, known, target)
        elif (mirror := _mirrored(entry) if mirrored else None) is not None and not _is_web(mirror):
            source = "mirror"
            place = Path(mirror.removeprefix("file://"))
            if not place.is_file():
                msg = f"{MIRROR} names no web address and no folder with {place}; correct it, or unset it to read the hosts"
                raise DownloadError(msg)
            _take(place, entry, known, target)
        else:
            source = "host" if mirror is None else "mirror"
            revision = _transfer(
                entry,
                mirror or _pinned_url(entry, pinned_revision),
                known,
                target,
                tell,
                attempts,
                wait,
                unpacks,
            )
        sha256, size = _sha256(target), target.stat().st_size
        is_new = entry.known_hash is None and pin is None
        if pin is None or pin.sha256 != sha256:
            write_pin(
                folder,
                entry.name,
                Pin(sha256=sha256, size=size, url=entry.url, revision=revision or pinned_revision),
            )
    return Fetched(target, sha256, size, source, pinned=is_new)


def _transfer(
    entry: RemoteFile,
    url: str,
    known: str | None,
    target: Path,
    tell: Progress,
    attempts: int,
    wait: float,
    unpacks: bool,
) -> str:
    """Fetch a file over HTTP and return the revision that its host names, "" without one.

    Parameters
    ----------
    entry
        The file.
    url
        Address of the host or mirror.
    known
        Hash that it must have, None if unknown.
    target
        Where it is put.
    tell, attempts, wait
        See `Transfer`.
    unpacks
        See `fetch`.
    """
    import pooch

    from perturbfm_core.data.downloads.transfer import Transfer

    if not url:
        msg = f"no address of {entry.name} is known; fetch {entry.filename} by other means and give it with --file PATH"
        raise DownloadError(msg)
    if not _is_web(url):
        msg = f"{url} is no web address; known: http://..., https://..."
        raise DownloadError(msg)
    part = target.with_name(target.name + ".part")
    # Without a hash that it must have, pooch would take the file that is there for the right one.
    place = target if known is not None or not target.exists() else target.with_name(target.name + ".new")
    if place != target:
        place.unlink(missing_ok=True)
    for again in (False, True):
        transfer = Transfer(
            part,
            size=entry.size,
            checked=known is not None,
            attempts=attempts,
            wait=wait,
            unpacked_times=EXPANDS if unpacks and is_packed(entry.filename) else 0,
            tell=tell,
        )
        try:
            pooch.retrieve(url, known_hash=known, fname=place.name, path=place.parent, downloader=transfer)
        except ValueError as error:
            transfer.finish()
            if transfer.resumed and not again:
                # Two halves of different files, perhaps: once more from the beginning.
                tell(f"{entry.name}: the joined parts are not the file; again from the beginning")
                continue
            raise _wrong(entry, known or "", f"what {url} sent") from error
        transfer.finish()
        if place != target:
            place.replace(target)
        return transfer.revision
    return ""


def _take(file: Path, entry: RemoteFile, known: str | None, target: Path) -> None:
    """Check a file at hand and copy it to its place.

    Parameters
    ----------
    file, entry
        The file, and what it must be.
    known
        Hash that it must have, None if unknown.
    target
        Where it is put.
    """
    import pooch

    from perturbfm_core.data.downloads.transfer import PAGES, is_web_page

    if not file.is_file():
        msg = f"{file} is not a file; give the path of {entry.filename}"
        raise DownloadError(msg)
    size = file.stat().st_size
    if entry.size is not None and size != entry.size:
        msg = f"{file} has {size} bytes, {entry.name} has {entry.size}; it is another file or incomplete"
        raise DownloadError(msg)
    if known is not None and not pooch.hashes.hash_matches(str(file), known):
        raise _wrong(entry, known, str(file))
    with file.open("rb") as handle:
        head = handle.read(64)
    if not head or (is_web_page(head) and not entry.filename.endswith(PAGES)):
        msg = f"{file} is {'a web page' if head else 'empty'}, not {entry.name}; give the file itself"
        raise DownloadError(msg)
    begin = _BEGIN.get(Path(entry.filename).suffix, b"")
    if known is None and not head.startswith(begin):
        # It would be pinned, and the right file refused from then on.
        packed = is_packed(entry.filename)
        preset = f"-{entry.preset}" if entry.preset else ""
        msg = (
            f"{file} does not begin as a file {Path(entry.filename).suffix} does, so it is not {entry.filename}"
            + (
                f"; if a program unpacked it, give it as it was fetched, or import it by `perturbfm data import{preset}`"
                if packed
                else "; give the file itself"
            )
        )
        raise DownloadError(msg)
    if target.exists() and target.samefile(file):
        return
    part = target.with_name(target.name + ".copy")
    try:
        with writing(target, size), file.open("rb") as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _wrong(entry: RemoteFile, known: str, what: str) -> DownloadError:
    algorithm, _, digits = known.partition(":")
    by = "the registry" if entry.known_hash else f"{PINS_FILE}, from its first use"
    more = "" if entry.known_hash else "; if the new file is right, repeat with --repin"
    return DownloadError(
        f"{what} is not {entry.name}: its {algorithm} is not {digits[:12]}... ({by}); nothing was kept{more}"
    )


def _mirrored(entry: RemoteFile) -> str | None:
    base = os.environ.get(MIRROR, "").rstrip("/")
    return f"{base}/{entry.name}/{entry.filename}" if base else None


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")


def _pinned_url(entry: RemoteFile, revision: str) -> str:
    """Return the address of the revision that was first fetched, where the host has revisions."""
    return entry.url.replace("/resolve/main/", f"/resolve/{revision}/") if revision else entry.url


def _sha256(path: Path) -> str:
    import pooch

    return str(pooch.file_hash(str(path), alg="sha256"))


def verify(entry: RemoteFile, folder: Path) -> tuple[str, str]:
    """Return (state, detail) of a file: ``ok``, ``changed``, ``unfinished`` or ``missing``.

    Parameters
    ----------
    entry
        The file.
    folder
        The folder of downloads.
    """
    import pooch

    target = place_of(entry, folder)
    if not target.is_file():
        part = target.with_name(target.name + ".part")
        return (
            ("unfinished", f"{amount(part.stat().st_size)} are here") if part.is_file() else ("missing", "")
        )
    pin = read_pins(folder).get(entry.name)
    known = entry.known_hash or (f"sha256:{pin.sha256}" if pin else None)
    if known is None:
        return "changed", "no hash of it is known"
    if pooch.hashes.hash_matches(str(target), known):
        return "ok", known.partition(":")[0] + (
            " of the registry" if entry.known_hash else " of its first use"
        )
    return "changed", f"its {known.partition(':')[0]} is not {known.partition(':')[2][:12]}..."
