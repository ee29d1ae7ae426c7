"""Downloads that are not the published file are refused, and what is there is kept."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core.data.downloads.fetching import fetch, place_of, verify
from perturbfm_core.data.downloads.pins import read_pins
from perturbfm_core.errors import DownloadError
from tests.support.downloaded import CONTENT, HASHES, NAME, entry_of, got, left
from tests.support.http_host import Host


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


@pytest.mark.parametrize(
    ("filename", "content", "cure"),
    [
        ("a.h5ad.gz", b"\x89HDF unpacked by a browser", "give it as it was fetched, or import it by"),
        ("a.zip", b"\x89HDF unpacked by a browser", "give it as it was fetched"),
        ("a.h5ad", b"\x1f\x8b packed", "give the file itself"),
        ("a.h5ad", b'{"error": "no such file"}', "give the file itself"),
    ],
)
def test_a_given_file_of_another_form_is_not_pinned(
    host: Host, tmp_path: Path, filename: str, content: bytes, cure: str
) -> None:
    (tmp_path / "given").write_bytes(content)
    entry = entry_of(host, sha256="", size=None, filename=filename)
    with pytest.raises(DownloadError, match=f"so it is not {filename}; .*{cure}"):
        fetch(entry, tmp_path / "D", file=tmp_path / "given")
    assert left(tmp_path / "D") == []


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
