"""Public sources: the table of them, and how identifiers and organisms are recognised."""

from __future__ import annotations

import pytest

from perturbfm_core.data.downloads.registry import registry
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.identifiers import (
    ENSEMBL,
    SYMBOLS,
    check_identifiers,
    kind_of,
    organism_of,
    without_version,
)
from perturbfm_core.graphs.sources.known import SOURCES, known_source
from tests.support import source_files as made
from tests.support.source_files import GENES

# ---- the table of sources -------------------------------------------------------------------------------------------


def test_every_source_names_files_of_the_registry_with_its_licence():
    for source in SOURCES.values():
        for files in (*source.files.values(), *source.ensembl_files.values()):
            for name in files.values():
                entry = registry()[name]
                assert entry.url.startswith("https://")
                # "mixed" stands first in both.
                assert entry.licence.split()[0].rstrip(",") == source.licence.split()[0]
                assert entry.citation == source.citation
    string = known_source("string")
    assert string.files_of("mouse", None) == {"main": "string/mouse_links", "names": "string/mouse_info"}
    assert string.files_of("human", ENSEMBL)["names"] == "string/human_aliases"
    assert known_source("reactome").files_of("mouse", ENSEMBL) == {"main": "reactome/ensembl_pathways"}
    with pytest.raises(GraphError, match="unknown source 'strnig'; known: string, go, reactome"):
        known_source("strnig")
    with pytest.raises(
        GraphError, match=r"no public file of collectri for mouse is known \(known: human\); give the file"
    ):
        known_source("collectri").files_of("mouse", None)
    with pytest.raises(GraphError, match=r"reactome for mouse is known \(with --ids ensembl\)"):
        known_source("reactome").files_of("mouse", None)


# ---- identifiers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kind", "organism"),
    [
        (GENES, SYMBOLS, "human"),
        (made.MOUSE, SYMBOLS, "mouse"),
        (("C1orf112", "TP53", "MDM2", "KLF1", "BRCA1", "EGFR"), SYMBOLS, "human"),
        (("G01", "G02", "G03"), SYMBOLS, None),
        ((made.ensembl(1), made.ensembl(2) + ".4"), ENSEMBL, "human"),
        ((made.ensembl(1, "mouse"),), ENSEMBL, "mouse"),
        (("ENSDARG00000012345",), ENSEMBL, None),
        (("P04637", "Q00987", "A0A024R1R8"), "UniProt accessions", None),
        (("7157", "4193"), "NCBI gene numbers", None),
        ((made.protein(1),), "Ensembl protein ids", None),
        ((), SYMBOLS, None),
    ],
)
def test_kind_and_organism_of_gene_names(names, kind, organism):
    assert (kind_of(names), organism_of(names)) == (kind, organism)


def test_names_of_proteins_and_of_another_organism_are_refused():
    assert check_identifiers(set(GENES), "human", "f") == SYMBOLS
    with pytest.raises(GraphError, match=r"f names genes by UniProt accessions \(e.g. 'P04637'\).*--names"):
        check_identifiers({"P04637", "Q00987"}, "human", "f")
    with pytest.raises(GraphError, match=r"f holds genes of mouse by their symbols .* give --organism mouse"):
        check_identifiers(set(made.MOUSE), "human", "f")
    assert [without_version(n) for n in ("ENSG00000141510.18", "TP53", "RP11-34.2")] == [
        "ENSG00000141510",
        "TP53",
        "RP11-34.2",
    ]
