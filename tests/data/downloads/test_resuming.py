"""Downloads that are cut off go on where they stopped, and parts of different files are never joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core.data.downloads.fetching import place_of
from perturbfm_core.data.downloads.pins import PINS_FILE
from perturbfm_core.errors import DownloadError
from tests.support.downloaded import CONTENT, HASHES, NAME, SHA256, entry_of, got, left
from tests.support.http_host import Host


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
