"""Public files are fetched whole or not at all, whatever the host does, and go on to data sets."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.downloads import registry as registry_module
from perturbfm_core.data.downloads.fetching import Fetched, fetch, place_of, verify
from perturbfm_core.data.downloads.pins import PINS_FILE, read_pins
from perturbfm_core.data.downloads.registry import RemoteFile, registry, remote_file
from perturbfm_core.data.downloads.unpacking import unpacked
from perturbfm_core.errors import ConfigError, DiskError, DownloadError
from perturbfm_core.store import disk
from tests.support.command import attempt, perturbfm
from tests.support.http_host import Host, serving

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
NAME = "lab/screen"


@pytest.fixture
def host() -> Iterator[Host]:
    with serving(Host(CONTENT)) as running:
        yield running


def entry_of(host: Host, **fields: Any) -> RemoteFile:
    known: dict[str, Any] = {"sha256": SHA256, "size": len(CONTENT)}
    return RemoteFile(
        **{"name": NAME, "url": f"{host.url}/screen.h5ad", "filename": "screen.h5ad", **known, **fields}
    )


def got(host: Host, folder: Path, **fields: Any) -> Fetched:
    return fetch(entry_of(host, **fields), folder, wait=0.001)


def left(folder: Path) -> list[str]:
    """Return the files of a folder of downloads but for its locks."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts
    )


HASHES: list[dict[str, Any]] = [{}, {"sha256": "", "md5": MD5}, {"sha256": "", "size": None}]


@pytest.mark.parametrize("fields", HASHES)
def test_a_file_is_fetched_once(host: Host, tmp_path: Path, fields: dict[str, Any]) -> None:
    first = got(host, tmp_path, **fields)
    assert first.path.read_bytes() == CONTENT
    assert (first.sha256, first.size, first.source) == (SHA256, len(CONTENT), "host")
    assert first.pinned == (not fields.get("md5") and "sha256" in fields)
    assert left(tmp_path) == [PINS_FILE, f"{NAME}/screen.h5ad"]
    second = got(host, tmp_path, **fields)
    assert (second.source, second.sha256, second.pinned) == ("here", SHA256, False)
    assert len(host.requests) == 1


@pytest.mark.parametrize("fields", HASHES)
def test_a_dropped_connection_goes_on_where_it_stopped(
    host: Host, tmp_path: Path, fields: dict[str, Any]
) -> None:
    host.drops = [100_000, 50_000, 1]
    assert got(host, tmp_path, **fields).path.read_bytes() == CONTENT
    assert [asked for _, asked in host.requests] == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_a_host_that_ignores_ranges_starts_again(host: Host, tmp_path: Path) -> None:
    host.drops, host.ranges = [100_000], False
    assert got(host, tmp_path).path.read_bytes() == CONTENT
    assert len(host.requests) == 2


def test_a_host_that_sends_another_part_starts_again(host: Host, tmp_path: Path) -> None:
    host.drops, host.shift = [100_000], 7
    assert got(host, tmp_path).path.read_bytes() == CONTENT
    assert [asked for _, asked in host.requests] == [None, "bytes=100000-", None]


def test_a_file_that_changes_in_between_is_not_joined(host: Host, tmp_path: Path) -> None:
    """The first part is of an older file: its mark differs, so that all of it is sent again."""
    older = bytes(100_000)
    part = place_of(entry_of(host), tmp_path).with_name("screen.h5ad.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(older)
    part.with_name("screen.h5ad.part.json").write_text(
        json.dumps({"url": f"{host.url}/screen.h5ad", "validator": '"older"'})
    )
    assert got(host, tmp_path).path.read_bytes() == CONTENT
    assert host.requests[0][1] == "bytes=100000-"


@pytest.mark.parametrize("fields", HASHES)
def test_a_host_that_sends_the_rest_of_another_file_all_the_same_is_found_by_its_mark(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    older = bytes(100_000)
    part = place_of(entry_of(host), tmp_path).with_name("screen.h5ad.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(older)
    part.with_name("screen.h5ad.part.json").write_text(
        json.dumps({"url": f"{host.url}/screen.h5ad", "validator": '"older"'})
    )
    host.any_mark = True
    assert got(host, tmp_path, **fields).path.read_bytes() == CONTENT
    assert [asked for _, asked in host.requests] == ["bytes=100000-", None]


@pytest.mark.parametrize("known", [True, False])
def test_a_part_without_a_mark_is_used_only_if_a_hash_will_tell(
    host: Host, tmp_path: Path, known: bool
) -> None:
    host.tag, host.drops = "", [100_000]
    fields: dict[str, Any] = {} if known else {"sha256": "", "size": None}
    assert got(host, tmp_path, **fields).path.read_bytes() == CONTENT
    assert host.requests[1][1] == ("bytes=100000-" if known else None)


def test_parts_of_different_files_are_found_by_the_hash(host: Host, tmp_path: Path) -> None:
    host.tag = ""
    part = place_of(entry_of(host), tmp_path).with_name("screen.h5ad.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(100_000))
    assert got(host, tmp_path).path.read_bytes() == CONTENT
    assert [asked for _, asked in host.requests] == ["bytes=100000-", None]


def test_a_whole_part_needs_only_its_hash(host: Host, tmp_path: Path) -> None:
    """What a kill between transfer and check leaves."""
    part = place_of(entry_of(host), tmp_path).with_name("screen.h5ad.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert got(host, tmp_path).path.read_bytes() == CONTENT
    assert host.requests == []


def test_a_host_that_always_cuts_off_is_given_up_and_the_part_kept(host: Host, tmp_path: Path) -> None:
    host.drops = [1000] + [0] * 20
    with pytest.raises(DownloadError, match=r"cut off 6 times in a row .* repeat the command") as caught:
        got(host, tmp_path)
    assert "\n" not in str(caught.value)
    assert not place_of(entry_of(host), tmp_path).exists()
    host.drops = []
    assert got(host, tmp_path).path.read_bytes() == CONTENT
    assert host.requests[-1][1] == "bytes=1000-"


def test_a_busy_host_is_asked_again(host: Host, tmp_path: Path) -> None:
    host.statuses = [503, 429, 500]
    assert got(host, tmp_path).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "refuses automated downloads"),
        (401, "--file PATH"),
        (404, "answered 404"),
        (410, "answered 410"),
    ],
)
def test_a_refusal_is_final(host: Host, tmp_path: Path, status: int, said: str) -> None:
    host.statuses = [status] * 3
    with pytest.raises(DownloadError, match=said):
        got(host, tmp_path)
    assert len(host.requests) == 1
    assert left(tmp_path) == []


def test_a_web_page_is_not_the_file(host: Host, tmp_path: Path) -> None:
    host.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DownloadError, match="web page"):
        got(host, tmp_path, sha256="", size=None)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Please log in</body></html>", "web page"),
        (b"\xef\xbb\xbf\r\n <HTML>login</HTML>", "web page"),
    ],
)
def test_an_empty_file_and_a_web_page_under_another_name_are_not_the_file(
    host: Host, tmp_path: Path, content: bytes, said: str
) -> None:
    host.content, host.headers = content, {"Content-Type": "application/octet-stream"}
    with pytest.raises(DownloadError, match=said):
        got(host, tmp_path / "web", sha256="", size=None)
    saved = tmp_path / "saved"
    saved.write_bytes(content)
    with pytest.raises(DownloadError, match=said):
        fetch(entry_of(host, sha256="", size=None), tmp_path / "file", file=saved)
    assert left(tmp_path / "web") == left(tmp_path / "file") == []


@pytest.mark.parametrize("coding", ["gzip", "br"])
@pytest.mark.parametrize("fields", HASHES)
def test_what_a_host_compresses_unasked_is_the_file_without_that(
    host: Host, tmp_path: Path, fields: dict[str, Any], coding: str
) -> None:
    host.content = packed = gzip.compress(CONTENT, 1)
    host.headers = {"Content-Encoding": coding}
    if coding == "br":
        with pytest.raises(DownloadError, match="the encoding 'br', which was not asked for"):
            got(host, tmp_path, **fields)
        return
    host.drops = [100_000]
    assert got(host, tmp_path, **fields).path.read_bytes() == CONTENT
    assert [asked for _, asked in host.requests] == [None, None]
    # Of a file that is compressed itself, some hosts say so as well.
    known = {"sha256": hashlib.sha256(packed).hexdigest(), "size": len(packed), "filename": "x.h5ad.gz"}
    assert got(host, tmp_path / "gz", **known).path.read_bytes() == packed


def test_redirects_are_followed_and_a_revision_of_the_first_answer_is_kept(
    host: Host, tmp_path: Path
) -> None:
    host.redirects, host.headers = 2, {"X-Repo-Commit": "abc123"}
    url = f"{host.url}/datasets/x/resolve/main/screen.h5ad"
    got(host, tmp_path, url=url, sha256="")
    assert read_pins(tmp_path)[NAME].revision == "abc123"
    place_of(entry_of(host), tmp_path).unlink()
    got(host, tmp_path, url=url, sha256="")
    assert host.requests[-1][0] == "/datasets/x/resolve/abc123/screen.h5ad"
    host.redirects = 100
    place_of(entry_of(host), tmp_path).unlink()
    with pytest.raises(DownloadError, match="cannot be fetched"):
        got(host, tmp_path)


def test_a_wrong_file_is_refused_and_the_present_one_kept(host: Host, tmp_path: Path) -> None:
    wrong = bytes(len(CONTENT))
    host.content = wrong
    with pytest.raises(DownloadError, match=r"is not lab/screen: its sha256 is not .* nothing was kept"):
        got(host, tmp_path)
    assert left(tmp_path) == []
    host.content = wrong[:-1]
    with pytest.raises(DownloadError, match="has 299999 bytes, the registry says 300000"):
        got(host, tmp_path)
    assert left(tmp_path) == []


def test_a_changed_file_without_a_published_hash_is_refused_until_it_is_accepted(
    host: Host, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"sha256": "", "size": None}
    path = got(host, tmp_path, **fields).path
    path.unlink()
    host.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match=r"downloads.lock.json, from its first use.*--repin"):
        got(host, tmp_path, **fields)
    again = fetch(entry_of(host, **fields), tmp_path, repin=True)
    assert again.sha256 == read_pins(tmp_path)[NAME].sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_a_file_that_is_damaged_on_disk_is_fetched_again(host: Host, tmp_path: Path) -> None:
    path = got(host, tmp_path).path
    assert verify(entry_of(host), tmp_path) == ("ok", "sha256 of the registry")
    path.write_bytes(CONTENT[:-1] + b"x")
    assert verify(entry_of(host), tmp_path)[0] == "changed"
    assert got(host, tmp_path).path.read_bytes() == CONTENT


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


# ---- the registry and the command line --------------------------------------------------------------------


def test_the_registry_is_sound() -> None:
    files = registry()
    assert len(files) >= 80
    assert len({(f.name.lower()) for f in files.values()}) == len(files)
    assert all(not f.url or f.url.startswith("https://") for f in files.values())
    assert {f.preset for f in files.values()} == {
        None,
        "scperturb",
        "perturbench",
        "replogle",
        "gears",
        "tahoe",
    }
    assert remote_file("scperturb/norman_2019_filtered").known_hash == (
        "sha256:efde6f5301fe256725dce1d980f37bd96a13481a9a16135515897368e631affc"
    )
    with pytest.raises(DownloadError, match=r"no public file is called 'norman19'.*perturbench/norman19"):
        remote_file("norman19")


@pytest.mark.parametrize(
    "fields",
    [{"name": "../evil/x"}, {"name": "x"}, {"filename": "../x"}, {"filename": "a/b"}, {"sha256": "1"}],
)
def test_a_registry_cannot_name_places_outside(host: Host, fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"name|sha256"):
        entry_of(host, **fields)


def scperturb_file(path: Path) -> None:
    rng = np.random.default_rng(0)
    perturbation = np.repeat(["control", "TP53", "MDM2", "KLF1"], 30)
    obs = pd.DataFrame(
        {"perturbation": perturbation, "cell_line": "K562", "ncounts": 1.0},
        index=[f"c{i}" for i in range(120)],
    )
    X = rng.poisson(2.0, (120, 8)).astype(np.float32)
    var = pd.DataFrame(index=["TP53", "MDM2", "KLF1", "A", "B", "C", "D", "E"])
    anndata.AnnData(X, obs, var).write_h5ad(path)


def test_a_download_goes_on_to_a_data_set_with_licence_and_citation(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scperturb_file(tmp_path / "a.h5ad")
    host.content = gzip.compress((tmp_path / "a.h5ad").read_bytes())
    entry = RemoteFile(
        name="scperturb/tiny",
        url=f"{host.url}/tiny.h5ad.gz",
        filename="tiny.h5ad.gz",
        licence="CC-BY-4.0",
        citation="A and B 2024",
    )
    monkeypatch.setattr(registry_module, "registry", lambda: {entry.name: entry})
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    listed = perturbfm("data", "download", "list", "--json").json
    assert [(r["name"], r["here"], r["hash"]) for r in listed] == [
        ("scperturb/tiny", "no", "pinned at first use")
    ]
    made = perturbfm("data", "download", "scperturb/tiny", "--import", "--json", warns=True).json
    assert (made["n_conditions"], made["licence"], made["citation"]) == (3, "CC-BY-4.0", "A and B 2024")
    assert perturbfm("data", "cite", tmp_path / "data" / "scperturb-tiny").values == {
        "name": "scperturb-tiny",
        "citation": "A and B 2024",
        "licence": "CC-BY-4.0",
        "source": entry.url,
    }
    assert perturbfm("data", "cite", "scperturb/tiny").values["citation"] == "A and B 2024"
    assert perturbfm("data", "download", "verify").out.split()[3:5] == ["scperturb/tiny", "ok"]
    again = perturbfm("data", "download", "scperturb/tiny")
    assert again.values["from"] == "here"
    assert attempt("data", "download", "scperturb/tiny", "--import").err.startswith("error: ")
    place_of(entry, tmp_path / "downloads").write_bytes(b"other")
    assert attempt("data", "download", "verify").code == 1


def test_what_was_not_published_is_shown_as_pinned(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(host, sha256="", size=None)
    monkeypatch.setattr(registry_module, "registry", lambda: {entry.name: entry})
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    shown = perturbfm("data", "download", NAME).values
    assert shown["sha256"] == SHA256
    assert shown["pinned"].startswith(str(tmp_path / "downloads" / PINS_FILE))
    assert "pinned" not in perturbfm("data", "download", NAME).values
    assert attempt("data", "download", NAME, "--import").err.startswith("error: no preset reads lab/screen")


@pytest.mark.parametrize(
    "argv",
    [
        ("nothing-like-it",),
        (NAME, "other/one", "--file", "x"),
        (NAME, "--out", "x"),
        (NAME, "--match", "x"),
    ],
)
def test_bad_requests_get_one_line(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    entry = entry_of(host)
    monkeypatch.setattr(registry_module, "registry", lambda: {entry.name: entry})
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    answer = attempt("data", "download", *argv)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1


def test_a_damaged_lock_file_is_said(tmp_path: Path) -> None:
    (tmp_path / PINS_FILE).write_text("{")
    with pytest.raises(DownloadError, match=PINS_FILE):
        read_pins(tmp_path)
    (tmp_path / PINS_FILE).write_text('{"files": {"a/b": {"sha256": "1"}}}')
    with pytest.raises(ConfigError, match="sha256"):
        read_pins(tmp_path)


def test_repin_fetches_a_file_anew_that_is_there(host: Host, tmp_path: Path) -> None:
    unknown: dict[str, Any] = {"sha256": "", "size": None}
    first = got(host, tmp_path, **unknown)
    host.content, host.tag = CONTENT[:-5] + b"other", '"two"'
    # The file that is there is the one that was pinned.
    assert got(host, tmp_path, **unknown).sha256 == first.sha256
    again = fetch(entry_of(host, **unknown), tmp_path, repin=True, wait=0.001)
    assert again.path.read_bytes() == host.content
    assert read_pins(tmp_path)[NAME].sha256 == again.sha256 != first.sha256
    assert left(tmp_path) == [PINS_FILE, f"{NAME}/screen.h5ad"]
    # Refused or cut off, the older file stays.
    host.statuses = [404]
    with pytest.raises(DownloadError, match="answered 404"):
        fetch(entry_of(host, **unknown), tmp_path, repin=True, wait=0.001)
    assert again.path.read_bytes() == host.content
