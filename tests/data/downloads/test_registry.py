"""The registry of public files, and `perturbfm data download`."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.downloads import registry as registry_module
from perturbfm_core.data.downloads.fetching import fetch, place_of
from perturbfm_core.data.downloads.pins import PINS_FILE, read_pins
from perturbfm_core.data.downloads.registry import RemoteFile, registry, remote_file
from perturbfm_core.errors import ConfigError, DownloadError
from tests.support.command import attempt, perturbfm
from tests.support.downloaded import CONTENT, NAME, SHA256, entry_of, got, left
from tests.support.http_host import Host


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
    assert perturbfm("data", "cite", "scperturb-tiny").values["citation"] == "A and B 2024"
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
