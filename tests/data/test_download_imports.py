"""Downloads that go on to data sets: each collection by its preset, archives and scores too, and what no preset reads."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.downloads.registry import registry
from perturbfm_core.data.downloads.unpacking import unpacked
from perturbfm_core.data.preset import PRESETS
from perturbfm_core.errors import DownloadError
from perturbfm_core.pipeline.dataset import open_dataset
from tests.support.command import attempt, perturbfm

GENES = ["TP53", "MDM2", "KLF1", "AHR", "G1", "G2", "G3", "G4"]


def cells(labels: list[str], column: str, obs: dict[str, str], scale: str) -> anndata.AnnData:
    """Return 30 cells of each label, in counts, log1p or z-scores."""
    n = 30 * len(labels)
    X = np.random.default_rng(0).poisson(3.0, (n, len(GENES))).astype(np.float32)
    if scale != "counts":
        X = np.log1p(X / np.maximum(X.sum(axis=1, keepdims=True), 1) * 1e4)
    if scale == "zscore":
        X = (X - X.mean(axis=0)) / X.std(axis=0)
    table = pd.DataFrame({column: np.repeat(labels, 30), **obs}, index=[f"c{i}" for i in range(n)])
    matrix: Any = X if scale == "zscore" else sp.csr_matrix(X)
    return anndata.AnnData(matrix.astype(np.float32), table, pd.DataFrame({"gene_name": GENES}, index=GENES))


NORMAN = ["control", "TP53", "MDM2", "KLF1"]
FORMS: dict[str, tuple[anndata.AnnData, set[str], str]] = {
    # Norman in each form that it is published in.
    "perturbench/norman19_processed": (
        cells([*NORMAN, "TP53+KLF1"], "condition", {"cell_type": "K562", "treatment": "none"}, "log1p"),
        {"TP53", "MDM2", "KLF1", "KLF1+TP53"},
        "log1p",
    ),
    "perturbench/norman19_source": (
        cells(
            [*NORMAN, "TP53_KLF1"],
            "perturbation",
            {"cell_line": "K562", "perturbation_type": "CRISPR"},
            "counts",
        ),
        {"TP53", "MDM2", "KLF1", "KLF1+TP53"},
        "counts",
    ),
    "gears/norman": (
        cells(["ctrl", "TP53+ctrl", "ctrl+MDM2", "TP53+KLF1"], "condition", {"cell_type": "A549"}, "log1p"),
        {"TP53", "MDM2", "KLF1+TP53"},
        "log1p",
    ),
    "scperturb/norman_2019_filtered": (
        cells([*NORMAN, "TP53_KLF1"], "perturbation", {"cell_line": "K562"}, "counts"),
        {"TP53", "MDM2", "KLF1", "KLF1+TP53"},
        "counts",
    ),
    "replogle/k562_essential_normalized": (
        cells(["non-targeting", "TP53", "MDM2"], "gene", {"gem_group": "1"}, "zscore"),
        {"TP53", "MDM2"},
        "zscore",
    ),
    "replogle/rpe1_raw": (
        cells(["non-targeting", "TP53", "MDM2"], "gene", {"gem_group": "1"}, "counts"),
        {"TP53", "MDM2"},
        "counts",
    ),
}


def published(name: str, made: anndata.AnnData, folder: Path) -> Path:
    """Write cells under the name, and in the packing, that the registry knows."""
    folder.mkdir()
    plain = folder / "perturb_processed.h5ad"
    made.write_h5ad(plain)
    path = folder / registry()[name].filename
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("norman/data_pyg/cell_graphs.pkl", b"never read")
            archive.write(plain, "norman/perturb_processed.h5ad")
    else:
        plain.replace(path)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_it_goes_on_to_a_data_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, expected, space = FORMS[name]
    entry = registry()[name]
    path = published(name, made, tmp_path / "given")
    # The small file has another hash and size than the published one.
    known = {**registry(), name: entry.model_copy(update={"size": None, "md5": "", "sha256": ""})}
    from perturbfm_core.data.downloads import registry as module

    monkeypatch.setattr(module, "registry", lambda: known)
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "home"))
    line = ("data", "download", name, "--import", "--out", tmp_path / "D", "--json")
    shown = perturbfm(*line, "--file", path, warns=True)
    ds = open_dataset(tmp_path / "D")
    assert set(ds.conditions["pert_id"].astype(str)) == expected
    assert ds.metadata.space == space
    assert (ds.metadata.licence, ds.metadata.notes["citation"]) == (
        entry.licence or "unknown",
        entry.citation,
    )
    assert shown.json["n_conditions"] == len(expected)


def test_what_an_import_refuses_of_a_file_names_the_verb_that_takes_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "scperturb/dixit_2016_7days"
    path = published(
        name, cells(["NT", "TP53"], "perturbation", {"cell_line": "K562"}, "counts"), tmp_path / "given"
    )
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "home"))
    answer = attempt("data", "download", name, "--file", path, "--import")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    verb, option = (
        answer.err.rpartition(" is here: `perturbfm ")[2].partition(" --out DIR`")[0].split(),
        "--control-label",
    )
    assert "control label 'control' does not occur" in answer.err
    assert perturbfm(*verb, "--out", tmp_path / "D", option, "NT").values["n_perturbations"] == "1"


def test_every_file_has_a_preset_or_a_reason() -> None:
    files = registry()
    for entry in files.values():
        if entry.preset is not None:
            assert entry.preset in PRESETS
        else:
            assert entry.why_no_preset
    assert {n for n, e in files.items() if e.preset == "gears"} == {
        n for n, e in files.items() if n.startswith("gears/") and e.filename.endswith(".zip")
    }
    assert files["tahoe/tahoe-100m"].preset == "tahoe"
    assert files["replogle/k562_essential_raw"].space is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pertpy/norman_2019", "its columns are those of no known collection"),
        ("pertpy/papalexi_2021", "it holds several kinds of measurement"),
        ("gears/gene2go_all", "it is a pickle, which is never loaded"),
        ("perturbench/jiang24_split", "it is a table without cells"),
        ("perturbench/mcfaline23_gxe_splits", "it is a table without cells"),
        ("go/ontology", "it is no file of cells"),
    ],
)
def test_what_no_preset_reads_is_one_line_before_anything_is_fetched(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    answer = attempt("data", "download", name, "--import")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"error: no preset reads {name}: {why}; download it without --import")
    assert not (tmp_path / "downloads").exists()


def test_an_archive_without_the_file_or_damaged_is_said(tmp_path: Path) -> None:
    path = tmp_path / "norman.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/other.h5ad", b"x" * 5000)
    with pytest.raises(
        DownloadError, match=r"has 0 files called perturb_processed\.h5ad, among a/other\.h5ad"
    ):
        unpacked(path, member="perturb_processed.h5ad")
    assert unpacked(path) == path
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DownloadError, match="is damaged"):
        unpacked(path, member="other.h5ad")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/other.h5ad", b"x" * 5000)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="is damaged"):
        unpacked(path, member="other.h5ad")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["norman.zip"]
