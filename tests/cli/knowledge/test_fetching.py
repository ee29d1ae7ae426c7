"""Sources fetched from an address: cut off, resumed, damaged, read from a mirror."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.data.downloads import transfer
from perturbfm_core.errors import StoreError
from perturbfm_core.pipeline import source_registering
from tests.support import source_files as made
from tests.support.http_host import Host, serving
from tests.support.source_commands import added, lines, refused, states, stored


@pytest.fixture
def hurried(monkeypatch):
    """Wait for nothing between the attempts of a transfer."""
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)


def packed_links() -> bytes:
    rng = np.random.default_rng(0)
    more = "".join(
        f"{made.protein(100 + int(a))} {made.protein(100 + int(b))} 200\n"
        for a, b in rng.integers(0, 5000, (4000, 2))
    )
    return gzip.compress((made.string_links() + more).encode())


def test_files_are_fetched_from_an_address_and_go_on_where_they_were_cut(files, hurried):
    info = (files / "9606.protein.info.v12.0.txt.gz").read_bytes()
    content = packed_links()
    with serving(Host(content, drops=[9_000, 1_000])) as links, serving(Host(info)) as names:
        place = f"{links.url}/protein.links.v12.0/9606.protein.links.v12.0.txt.gz"
        got = added("string", "--from", place, "--names", f"{names.url}/info.txt.gz", "--json").json
        assert [asked for _, asked in links.requests] == [None, "bytes=9000-", "bytes=10000-"]
    assert got["files"][0] == {
        "role": "main",
        "place": place,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    assert got["version"] == "12.0"
    assert got["graph"]["edges"] == len(made.pairs())


def test_a_transfer_that_is_cut_off_registers_nothing_and_is_finished_later(files, hurried):
    content, names = packed_links(), files / "9606.protein.info.v12.0.txt.gz"
    with serving(Host(content, drops=[5_000, *[0] * 30])) as host:
        line = ("add", "string", "--from", f"{host.url}/9606.protein.links.v12.0.txt.gz", "--names", names)
        assert "times in a row" in refused(*line)
        assert states()["string"] == "can be added"
        assert stored() == []
        host.drops.clear()
        host.requests.clear()
        added(*line[1:])
        assert [asked for _, asked in host.requests] == ["bytes=5000-"]
    assert states()["string"] == "registered"


def test_a_wrong_hash_a_page_and_a_damaged_file_register_nothing(files, hurried):
    good = (files / "ReactomePathways.gmt.zip").read_bytes()
    with serving(Host(good)) as host:
        place = f"{host.url}/ReactomePathways.gmt.zip"
        assert "its sha256 is not aaaaaaaaaaaa" in refused(
            "add", "reactome", "--from", place, "--sha256", "a" * 64
        )
        assert "is not a valid RemoteFile" in refused("add", "reactome", "--from", place, "--sha256", "xyz")
        host.statuses = [404]
        assert "answered 404" in refused("add", "reactome", "--from", place)
        host.content = good[: len(good) // 2]
        said = refused("add", "reactome", "--from", place)
        assert "--repin fetches it anew" in said
        assert stored() == []
        host.content = good
        assert "--repin fetches it anew" in refused("add", "reactome", "--from", place)
        added("reactome", "--from", place, "--repin")
    assert states()["reactome"] == "registered"


def test_the_registry_is_read_by_way_of_a_mirror(files, monkeypatch):
    mirror = files / "mirror"
    for name, file in (
        ("go/human_annotations", "goa_human.gaf.gz"),
        ("go/ontology", "go-basic.obo"),
        ("string/human_links", "9606.protein.links.v12.0.txt.gz"),
        ("string/human_info", "9606.protein.info.v12.0.txt.gz"),
    ):
        (mirror / name).mkdir(parents=True)
        (mirror / name / file).write_bytes((files / file).read_bytes())
    monkeypatch.setenv("PERTURBFM_MIRROR", str(mirror))
    got = added("go", "--json").json
    assert [f["place"].rpartition("/")[2] for f in got["files"]] == ["goa_human.gaf.gz", "go-basic.obo"]
    assert added("string").values["version"] == "12.0"
    # An address that is given is the place.
    with serving(Host((files / "ReactomePathways.gmt.zip").read_bytes())) as host:
        place = f"{host.url}/ReactomePathways.gmt.zip"
        assert added("reactome", "--from", place, "--json").json["files"][0]["place"] == place
        assert len(host.requests) == 1


def test_what_cannot_be_written_registers_nothing(files, monkeypatch):
    def fails(*_):
        msg = "no room"
        raise StoreError(msg)

    monkeypatch.setattr(source_registering, "write_graph", fails)
    assert "no room" in refused("add", "string", *lines(files)["string"])
    assert states()["string"] == "can be added"


def test_an_entry_that_was_cut_off_between_graph_and_features_is_finished(files):
    whole = added("string", *lines(files)["string"], "--json").json
    for folder in ("graphs", "features"):
        (entry,) = Path(".perturbfm/catalog", folder).glob("string.yaml")
        entry.unlink()
        assert states()["string"] == "registered"
        again = added("string", *lines(files)["string"], "--json").json
        assert {w: again[w]["sha256"] for w in ("graph", "features")} == {
            w: whole[w]["sha256"] for w in ("graph", "features")
        }
    assert "is registered already" in refused("add", "string", *lines(files)["string"])
