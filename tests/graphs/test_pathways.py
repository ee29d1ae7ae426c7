"""Pathways and gene sets: GMT, mapping files and tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perturbfm_core.graphs.sources.gene_sets import read_gene_sets
from perturbfm_core.graphs.sources.identifiers import ENSEMBL, SYMBOLS
from tests.support import source_files as made
from tests.support.converted_sources import converted, near, refusal
from tests.support.source_files import GENES, written


@pytest.mark.parametrize("name", ["ReactomePathways.gmt", "ReactomePathways.gmt.zip", "x.gmt.gz"])
def test_pathways_as_gmt(tmp_path, name):
    got = converted("reactome", {"main": written(tmp_path, name, made.gmt())})
    assert got.identifiers == SYMBOLS
    assert set(got.features.genes.tolist()) == set(GENES)
    assert near(got.features, "CDKN1A", "ATM") < 1e-6 < near(got.features, "CDKN1A", "KLF1")


def test_a_gmt_of_long_sets_is_no_annotation_file(tmp_path):
    genes = [f"GENE{i}" for i in range(20)]
    sets = "".join("\t".join([f"S{k}", "d", *genes[k:]]) + "\n" for k in range(4))
    got = converted("go", {"main": written(tmp_path, "go.gmt", sets)})
    assert len(got.features.genes) == 20


@pytest.mark.parametrize("organism", ["human", "mouse"])
def test_pathways_by_the_mapping_file(tmp_path, organism):
    path = written(tmp_path, "Ensembl2Reactome_All_Levels.txt", made.reactome_mapping())
    got = converted("reactome", {"main": path}, organism=organism, ids=ENSEMBL)
    assert set(got.features.genes.tolist()) == {made.ensembl(i, organism) for i in range(8)}
    assert got.notes == ("8 ids of transcripts and proteins are left out",)
    names = pd.DataFrame(
        [(made.ensembl(i, organism), g) for i, g in enumerate(GENES if organism == "human" else made.MOUSE)]
    )
    names.to_csv(tmp_path / "names.tsv", sep="\t", index=False, header=["gene_id", "name"])
    named = converted("reactome", {"main": path, "names": tmp_path / "names.tsv"}, organism=organism)
    assert named.identifiers == SYMBOLS
    assert len(named.features.genes) == 8


def test_pathways_that_are_damaged_or_of_another_organism(tmp_path):
    def said(text, name="x.gmt", **options):
        return refusal("reactome", {"main": written(tmp_path, name, text)}, **options)

    assert "holds pathways of MMU, asked for is human (HSA)" in said(made.gmt("MMU", made.MOUSE))
    assert "line 7 names no gene; the file is cut off" in said(made.gmt() + "Pathway 7\tR-HSA-7\t\n")
    assert "holds no gene sets: its first line has 1 cells" in said("one line\n")
    only_human = "\n".join(r for r in made.reactome_mapping().splitlines() if "sapiens" in r)
    assert "has no pathway of Mus musculus; it has Homo sapiens" in said(only_human, organism="mouse")
    assert "wanted are Ensembl ids; give a table of both" in said(made.gmt(), ids=ENSEMBL)
    proteins = made.gmt(
        genes=["P04637", "Q00987", "P38936", "Q13315", "Q13351", "P15976", "P17542", "P25791"]
    )
    assert "names genes by UniProt accessions" in said(proteins)
    assert "is an archive of 2 files" in refusal("reactome", {"main": two_files(tmp_path)})
    assert "sets of at most 2 genes" in said("A\td\tX1\tX2\n", max_term=2)
    table = pd.DataFrame({"term": ["a", "b"], "name": ["X", "Y"]})
    table.to_parquet(tmp_path / "t.parquet")
    assert "has no column of genes" in refusal("reactome", {"main": tmp_path / "t.parquet"})


def two_files(folder: Path) -> Path:
    import zipfile

    path = folder / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x")
        archive.writestr("b", "y")
    return path


def test_repeated_memberships_count_once_and_are_stated(tmp_path):
    once = converted("reactome", {"main": written(tmp_path, "a.gmt", made.gmt())})
    twice = converted(
        "reactome", {"main": written(tmp_path, "b.gmt", made.gmt() + made.gmt().splitlines()[0] + "\n")}
    )
    assert twice.notes == ("4 repeated memberships count once",)
    assert twice.features.sha256 == once.features.sha256


def test_gene_sets_as_a_table(tmp_path):
    csv = written(tmp_path, "sets.csv", "term,gene\nA,TP53\nA,MDM2\n")
    assert read_gene_sets(csv, "human").to_dict("list") == {"term": ["A", "A"], "gene": ["TP53", "MDM2"]}
