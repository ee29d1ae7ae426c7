"""STRING: links, names of proteins, packed and damaged files, and features of neighbourhoods."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.graph import from_edges
from perturbfm_core.graphs.sources.identifiers import ENSEMBL, SYMBOLS
from perturbfm_core.graphs.sources.neighbourhood import neighbourhood_features
from tests.support import source_files as made
from tests.support.converted_sources import converted, edges, near, refusal
from tests.support.source_files import GENES, written


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("names", ["info", "aliases"])
def test_string_joins_genes_of_strong_links(tmp_path, packed, names):
    files = {
        "main": written(tmp_path, f"9606.protein.links.v12.0.txt{packed}", made.string_links()),
        "names": written(tmp_path, f"names.txt{packed}", getattr(made, f"string_{names}")()),
    }
    got = converted("string", files)
    assert (got.version, got.identifiers, got.notes) == ("12.0", SYMBOLS, ())
    found = edges(got.graph)
    assert len(found) == 2 * len(made.pairs())
    assert found["TP53", "MDM2"] == found["MDM2", "TP53"] == 0.9
    assert found["CDKN1A", "ATM"] == 0.902
    # Genes of one block are near each other.
    assert near(got.features, "TP53", "MDM2") < 0.2 * near(got.features, "TP53", "KLF1")
    weak = converted("string", files, min_score=300)
    assert edges(weak.graph)["TP53", "LMO2"] == 0.3
    alone = converted("string", files, min_score=902)
    assert set(edges(alone.graph)) == {
        p for i, j in made.pairs() if 900 + i >= 902 for p in ((GENES[i], GENES[j]), (GENES[j], GENES[i]))
    }


def test_string_by_ensembl_ids(tmp_path):
    files = {
        "main": written(tmp_path, "links.txt", made.string_links()),
        "names": written(tmp_path, "aliases.txt", made.string_aliases()),
    }
    got = converted("string", files, ids=ENSEMBL)
    assert got.identifiers == ENSEMBL
    assert (made.ensembl(0), made.ensembl(1)) in edges(got.graph)
    files["names"] = written(tmp_path, "info.txt", made.string_info())
    assert "has no Ensembl ids; give STRING's protein.aliases with --names" in refusal(
        "string", files, ids=ENSEMBL
    )


def test_proteins_without_a_name_and_pairs_written_twice_are_stated(tmp_path):
    links = (
        made.string_links()
        + f"{made.protein(0)} {made.protein(99)} 950\n{made.protein(0)} {made.protein(1)} 990\n"
    )
    files = {
        "main": written(tmp_path, "links.txt", links),
        "names": written(tmp_path, "info.txt", made.string_info()),
    }
    got = converted("string", files)
    assert got.notes == (
        "1 proteins have no gene name and are left out",
        "1 repeated pairs of genes keep their highest score",
    )
    assert edges(got.graph)["MDM2", "TP53"] == 0.99


STRING_FAULTS = [
    ("", "is empty; fetch it again"),
    ("\n\n", "is empty"),
    ("<!DOCTYPE html><html></html>", "is a web page, not a table"),
    ("a\0b\n", "is no text"),
    ("protein1 protein2\n9606.A 9606.B\n", r"has no column combined_score; it has ['protein1', 'protein2']"),
    ("left right combined_score\n9606.A 9606.B 900\n", "the table has no column of sources"),
    ("protein1 protein2 combined_score\n9606.A 9606.B many\n", "holds 'many', which is no number"),
    ("protein1 protein2 combined_score\n9606.A 9606.B 900\n9606.A 96", "the file is cut off or another one"),
    ("protein1 protein2 combined_score\n9606.A 9606.B 900 7 8 9\n1 2 3 4 5\n", "column"),
    (
        "protein1 protein2 combined_score\n9606.A 9606.B 100\n",
        "has no link of score 700 or more among 1 (highest 100)",
    ),
    (
        "protein1 protein2 combined_score\n9606.A 9606.B 0.9\n",
        "register the file with `perturbfm knowledge add file`",
    ),
    (
        "protein1 protein2 combined_score\n10090.A 10090.B 900\n",
        "proteins of taxon 10090 (mouse), asked for is human (9606)",
    ),
    ("protein1 protein2 combined_score\n4932.A 4932.B 900\n", "proteins of taxon 4932 (another organism)"),
]


@pytest.mark.parametrize(("text", "said"), STRING_FAULTS)
def test_links_that_are_damaged_or_of_another_kind(tmp_path, text, said):
    files = {
        "main": written(tmp_path, "links.txt", text),
        "names": written(tmp_path, "info.txt", made.string_info()),
    }
    low = {"min_score": 0.0} if "0.9" in text else {}
    assert said in refusal("string", files, **low)


def test_names_that_do_not_fit_the_links(tmp_path):
    files = {"main": written(tmp_path, "links.txt", made.string_links())}
    assert "names proteins; give STRING's protein.info or protein.aliases with --names" in refusal(
        "string", files
    )
    files["names"] = written(tmp_path, "info.txt", made.string_info("mouse"))
    assert "names none of the 8 proteins" in refusal("string", files)
    files["names"] = written(tmp_path, "one.txt", "#string_protein_id\n9606.A\n")
    assert "has one column" in refusal("string", files)
    files["names"] = tmp_path / "none.txt"
    assert "does not exist" in refusal("string", files)
    files["names"] = written(tmp_path, "mouse.txt", made.string_info(genes=made.MOUSE))
    assert "holds genes of mouse by their symbols" in refusal("string", files)
    assert "must be from 0 to below 1000" in refusal("string", files, min_score=1200)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_packed_file_that_is_cut_off(tmp_path, keep):
    packed = gzip.compress(made.string_links().encode() * 20)
    (tmp_path / "links.txt.gz").write_bytes(packed[: int(keep * len(packed))])
    files = {"main": tmp_path / "links.txt.gz", "names": written(tmp_path, "info.txt", made.string_info())}
    assert "is cut off; fetch it again" in refusal("string", files)


def test_features_of_neighbourhoods_by_hand():
    graph = from_edges(
        "g", np.asarray(["A", "B"]), np.asarray(["C", "C"]), np.asarray([1.0, -0.5]), directed=True
    )
    got = neighbourhood_features(graph, 3, name="n")
    A = np.asarray([[1, 0, 1], [0, 1, 0.5], [1, 0.5, 1]]) / np.log1p([2, 2, 3])
    # Singular vectors are defined up to a sign: products of the rows are those of the matrix.
    U, S, _ = np.linalg.svd(A)
    kept = (U * S)[:, : got.matrix.shape[1]]
    assert got.matrix.shape == (3, 2)
    assert np.allclose(got.matrix @ got.matrix.T, kept @ kept.T, atol=1e-5)
    with pytest.raises(GraphError, match="has 2 genes; features of neighbourhoods need 3"):
        neighbourhood_features(
            from_edges("g", np.asarray(["A"]), np.asarray(["B"]), np.ones(1), directed=False), 3, name="n"
        )
