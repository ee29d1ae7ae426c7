"""Downloads beside their content: room on the disk, waits, progress, mirrors, packed files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core.data.downloads.fetching import fetch
from perturbfm_core.data.downloads.unpacking import unpacked
from perturbfm_core.errors import DiskError, DownloadError
from perturbfm_core.store import disk
from tests.support.downloaded import CONTENT, NAME, entry_of, got, left
from tests.support.http_host import Host


def test_no_room_is_said_before_anything_is_fetched(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturbfm_core.data.downloads import transfer

    monkeypatch.setattr(transfer, "free_space", lambda _: 1000)
    monkeypatch.setattr(disk, "free_space", lambda _: 1000)
    with pytest.raises(DiskError, match=r"it needs 300\.0 kB, 1\.0 kB are free"):
        got(host, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_room_for_what_it_becomes_unpacked_is_looked_for_before_anything_is_fetched(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    """Also where the host alone says how long the file is."""
    from perturbfm_core.data.downloads import transfer

    said: list[str] = []
    given: dict[str, Any] = {"filename": "screen.h5ad.gz", "size": size}
    entry = entry_of(host, **given)
    for free in (1_000_000, 1_300_000):
        monkeypatch.setattr(transfer, "free_space", lambda _, free=free: free)
        monkeypatch.setattr(disk, "free_space", lambda _, free=free: free)
        if free < 1_200_000:
            with pytest.raises(DiskError, match=r"it needs 1\.2 MB, 1\.0 MB are free"):
                fetch(entry, tmp_path, unpacks=True, tell=said.append)
            assert left(tmp_path) == []
            assert "screen.h5ad.gz: 300.0 kB, with what it becomes unpacked about 1.2 MB" in said
        else:
            assert fetch(entry, tmp_path, unpacks=True).path.read_bytes() == CONTENT
    # What stays packed, or is not packed, needs its own size.
    monkeypatch.setattr(transfer, "free_space", lambda _: 400_000)
    for name, unpacks in (("b.h5ad.gz", False), ("b.h5ad", True)):
        assert fetch(entry_of(host, filename=name), tmp_path / name, unpacks=unpacks).size == len(CONTENT)


def test_waits_grow_up_to_a_minute_and_a_host_may_name_its_own(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturbfm_core.data.downloads import transfer

    waits: list[float] = []
    # The host of this test sleeps as well, for shorter.
    monkeypatch.setattr(transfer.time, "sleep", lambda s: waits.append(s) if s >= 1 else None)
    monkeypatch.setattr(transfer.random, "uniform", lambda low, high: 1.0)
    host.statuses, host.retry_after = [503] * 9, ""
    with pytest.raises(DownloadError, match="cut off 9 times in a row"):
        fetch(entry_of(host), tmp_path, attempts=9, wait=1.0)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    waits.clear()
    host.statuses, host.retry_after = [429], "7"
    assert fetch(entry_of(host), tmp_path, wait=1.0).size == len(CONTENT)
    assert waits == [7.0]
    # Whoever gets further begins with the shortest wait again.
    waits.clear()
    host.drops = [1000, 2000, 3000]
    assert fetch(entry_of(host), tmp_path / "other", wait=1.0).size == len(CONTENT)
    assert waits == [1.0, 1.0, 1.0]


def test_progress_says_how_much_of_all_has_come(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturbfm_core.data.downloads import transfer

    clock = iter(range(10_000))
    monkeypatch.setattr(transfer.time, "monotonic", lambda: float(next(clock)))
    said: list[str] = []
    fetch(entry_of(host), tmp_path, tell=said.append)
    shown = [line for line in said if line.startswith("screen.h5ad: ")]
    assert shown[-1] == "screen.h5ad: 300.0 kB of 300.0 kB"
    assert all(line.endswith(" of 300.0 kB") for line in shown)


def test_an_older_library_gives_the_same_file(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 2.0, urllib3 has no way to read what has come."""
    import urllib3

    for kind in (urllib3.response.HTTPResponse, urllib3.response.BaseHTTPResponse):
        monkeypatch.delattr(kind, "read1", raising=False)
    host.drops = [200_000]
    assert got(host, tmp_path).path.read_bytes() == CONTENT
    # All but the little that was waited for is kept.
    assert int(str(host.requests[1][1])[6:-1]) > 150_000


def test_a_nowhere_address_is_given_up(tmp_path: Path, host: Host) -> None:
    entry = entry_of(host, url="http://127.0.0.1:9/none.h5ad")
    with pytest.raises(DownloadError, match="cut off 2 times in a row"):
        fetch(entry, tmp_path, attempts=2, wait=0.001)
    for url, said in (("ftp://x/y", "no web address"), ("", "--file PATH")):
        with pytest.raises(DownloadError, match=said):
            fetch(entry_of(host, url=url), tmp_path)


def test_a_file_at_hand_is_checked(host: Host, tmp_path: Path) -> None:
    mine = tmp_path / "mine.h5ad"
    mine.write_bytes(CONTENT[:-1])
    folder = tmp_path / "downloads"
    with pytest.raises(DownloadError, match="another file or incomplete"):
        fetch(entry_of(host), folder, file=mine)
    mine.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DownloadError, match="is not lab/screen"):
        fetch(entry_of(host), folder, file=mine)
    with pytest.raises(DownloadError, match="is not a file"):
        fetch(entry_of(host), folder, file=tmp_path / "none")
    assert left(folder) == []
    mine.write_bytes(CONTENT)
    taken = fetch(entry_of(host), folder, file=mine)
    assert (taken.source, taken.path.read_bytes()) == ("file", CONTENT)
    assert fetch(entry_of(host), folder, file=taken.path).path.read_bytes() == CONTENT
    assert mine.exists()
    assert host.requests == []


@pytest.mark.parametrize("web", [True, False])
def test_a_mirror_stands_for_the_hosts(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: bool
) -> None:
    if web:
        monkeypatch.setenv("PERTURBFM_MIRROR", host.url + "/mirror/")
    else:
        place = tmp_path / "mirror" / NAME / "screen.h5ad"
        place.parent.mkdir(parents=True)
        place.write_bytes(CONTENT)
        monkeypatch.setenv("PERTURBFM_MIRROR", str(tmp_path / "mirror"))
    found = fetch(entry_of(host, url="https://nowhere.invalid/x"), tmp_path / "downloads")
    assert (found.source, found.path.read_bytes()) == ("mirror", CONTENT)
    assert host.requests == ([(f"/mirror/{NAME}/screen.h5ad", None)] if web else [])


def test_a_mirror_that_is_nowhere_is_named(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (str(tmp_path / "none"), "file:///none", "localhost:8000"):
        monkeypatch.setenv("PERTURBFM_MIRROR", place)
        with pytest.raises(DownloadError, match=r"PERTURBFM_MIRROR names no .*; correct it, or unset it"):
            got(host, tmp_path / "downloads")


def test_packed_files_are_unpacked_once_and_damage_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturbfm_core.data.downloads import unpacking

    packed = tmp_path / "a.h5ad.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    assert unpacked(packed).read_bytes() == CONTENT
    (tmp_path / "a.h5ad").unlink()
    monkeypatch.setattr(unpacking, "free_space", lambda _: 1000)
    with pytest.raises(DiskError):
        unpacked(packed)
    monkeypatch.undo()
    packed.write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises((DownloadError, DiskError)):
        unpacked(packed)
    packed.write_bytes(b"plain text, no gzip at all")
    with pytest.raises((DownloadError, DiskError)):
        unpacked(packed)
    assert left(tmp_path) == ["a.h5ad.gz"]
