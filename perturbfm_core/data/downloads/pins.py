"""The user's lock file of downloads: the hash and revision that each file had when it was first fetched."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from perturbfm_core.config import Frozen, parse
from perturbfm_core.errors import DownloadError
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.store.locks import file_lock

PINS_FILE = "downloads.lock.json"


class Pin(Frozen):
    """What one file was when it was first fetched.

    Attributes
    ----------
    sha256, size
        Its hash and bytes.
    url
        Where it came from.
    revision
        Commit of the repository that holds it, "" where its host has none.
    """

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int
    url: str
    revision: str = ""


class _Pins(Frozen):
    """Content of the lock file."""

    schema_version: int = 1
    files: dict[str, Pin] = Field(default_factory=dict)


def read_pins(folder: Path) -> dict[str, Pin]:
    """Return {name: pin} of a folder of downloads, none where it has no lock file.

    Raises
    ------
    DownloadError
        If the file is damaged.
    """
    path = folder / PINS_FILE
    if not path.exists():
        return {}
    return parse(_Pins, read_json(path, DownloadError), str(path)).files


def write_pin(folder: Path, name: str, pin: Pin) -> None:
    """Add or replace the pin of one file.

    Parameters
    ----------
    folder
        The folder of downloads.
    name, pin
        Name of the file, and what it is.
    """
    with file_lock(folder / ".locks" / "pins"):
        pins = {**read_pins(folder), name: pin}
        content = _Pins(files=dict(sorted(pins.items())))
        write_json(folder / PINS_FILE, content.model_dump(mode="json"))
