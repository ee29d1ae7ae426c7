"""Gene features from symbols: roots, cosines, what tells no family; and the families of transcription factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.families import DIMENSIONS, family_features, has_families, root
from perturbfm_core.graphs.sources.conversion import Options
from perturbfm_core.graphs.sources.known import known_source

FACTORS = """number,Ensembl ID,HGNC symbol,DBD,Is TF?,Notes
0,ENSG00000102145,GATA1,GATA,Yes,"a, with a comma"
1,ENSG00000179348,GATA2,GATA,Yes,
2,ENSG00000105610,KLF1,C2H2 ZF,Yes,
3,ENSG00000184486,POU3F2,Homeodomain; POU,Yes,
4,ENSG00000006194,ZNF263,Unknown,Yes,
5,ENSG00000124762,CDKN1A,Unknown,No,
"""


def cosine(features, a: str, b: str) -> float:
    x, y = (features.matrix[features.position[g]].astype(np.float64) for g in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


# ---- symbols -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("FOXA1", "FOX"),
        ("FOXL2", "FOX"),
        ("CEBPB", "CEBP"),
        ("COL1A1", "COL"),
        ("Trp53", "TRP"),
        ("TBX2", "TBX"),
        ("PTPN13", "PTP"),
        ("NKX2-1", "NKX2"),
        ("SET", "SET"),
    ],
)
def test_the_root_of_a_symbol(symbol, expected):
    assert root(symbol) == expected


@pytest.mark.parametrize(
    "name", ["KIAA1804", "C19orf26", "LOC100", "AR", "G0012", "5'-UTR", "dexamethasone", ""]
)
def test_names_that_tell_no_family_have_no_root(name):
    assert root(name) == ""


def test_genes_of_one_root_are_alike_and_others_are_not():
    genes = ["CEBPA", "CEBPB", "FOXA1", "FOXA3", "FOXL2", "SPI1", "TBX2", "TBX3", "MYC", "SET"]
    features = family_features(genes)
    error = 4.0 / np.sqrt(DIMENSIONS)
    assert cosine(features, "FOXA1", "FOXL2") == cosine(features, "CEBPA", "CEBPB") == pytest.approx(1.0)
    assert cosine(features, "FOXA1", "SPI1") == pytest.approx(0.0, abs=error)
    assert cosine(features, "TBX2", "CEBPA") == pytest.approx(0.0, abs=error)
    assert sorted(features.genes.tolist()) == sorted(genes)
    assert features.matrix.dtype == np.float32


def test_features_depend_on_the_symbol_alone():
    few, many = (
        family_features(["TBX2", "TBX3", "MYC", "SET"]),
        family_features(["SET", "MYC", "TBX3", "TBX2", "IRF1", "FOXA1", "FOXA2", "SPI1"]),
    )
    for gene in ("TBX2", "SET"):
        assert np.array_equal(few.matrix[few.position[gene]], many.matrix[many.position[gene]])


def test_measured_genes_are_taken_where_they_are_of_a_perturbed_family():
    features = family_features(["TBX2", "TBX3", "MYC", "SET"], ["TBX5", "ACTB", "TBX2"])
    assert {"TBX5", "TBX2", "MYC"} <= set(features.genes.tolist())
    assert "ACTB" not in features.position


def test_a_root_of_most_perturbed_genes_tells_nothing():
    assert not has_families([f"GENE{i:04d}" for i in range(40)])
    assert not has_families([f"P{i}" for i in range(40)])
    assert not has_families(["MYC", "SPI1", "GATA1"])
    assert not has_families([])
    assert has_families([*(f"GENE{i:04d}" for i in range(40)), "FOXA1", "FOXA2"])
    assert (
        "GENE0000" not in family_features([*(f"GENE{i:04d}" for i in range(40)), "FOXA1", "FOXA2"]).position
    )


# ---- transcription factors ---------------------------------------------------------------------------------------


def factors(path: Path, text: str = FACTORS, **options):
    (path / "tfs.csv").write_text(text)
    return known_source("human-tfs").convert({"main": path / "tfs.csv"}, Options(**options), "tfs")


def test_factors_of_one_domain_are_nearest_and_others_are_none(tmp_path):
    features = factors(tmp_path).features
    assert sorted(features.genes.tolist()) == ["GATA1", "GATA2", "KLF1", "POU3F2", "ZNF263"]
    # The squared cosine is 1 / (1 + size / 50) in a family, and 0 otherwise but for what hashing leaves.
    error = 4.0 / np.sqrt(256)
    assert cosine(features, "GATA1", "GATA2") ** 2 == pytest.approx(1 / (1 + 2 / 50), abs=error)
    assert cosine(features, "GATA1", "KLF1") == pytest.approx(0.0, abs=error)
    assert cosine(features, "POU3F2", "KLF1") == pytest.approx(0.0, abs=error)
    # A factor of an unknown domain has what is its own alone, one of two domains half of each family.
    families = features.matrix[:, :4]
    assert (families[features.position["ZNF263"]] == 0).all()
    assert sorted((families[features.position["POU3F2"]] ** 2).tolist())[-2:] == pytest.approx(
        [0.5 / np.sqrt(1 + 1 / 50)] * 2
    )
    assert np.linalg.norm(features.matrix, axis=1) == pytest.approx(1.0)


def test_factors_by_ensembl_ids_and_as_text_with_tabs(tmp_path):
    by_id = factors(tmp_path, ids="Ensembl ids")
    assert by_id.identifiers == "Ensembl ids"
    assert "ENSG00000102145" in by_id.features.position
    tabs = FACTORS.replace('"a, with a comma"', "a").replace(",", "\t")
    assert factors(tmp_path, tabs).features.sha256 == factors(tmp_path).features.sha256


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (FACTORS.replace("DBD", "domain"), {}, "lacks the columns dbd of the Human Transcription Factors"),
        (FACTORS.replace("Yes", "No"), {}, "lists no transcription factor: no row has 'Yes'"),
        (FACTORS, {"organism": "mouse"}, "asked for is mouse"),
        (FACTORS, {"dim": 3, "given": ("dim",)}, "--dim has no use with"),
        ("", {}, "is empty; fetch it again"),
    ],
)
def test_a_wrong_list_of_factors_is_refused_in_one_line(tmp_path, text, options, said):
    with pytest.raises(GraphError, match=said) as refused:
        factors(tmp_path, text, **options)
    assert "\n" not in str(refused.value)
