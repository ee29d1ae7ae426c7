"""Public sources in the forms of their publishers: what becomes of each, by hand, and what is refused in one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.downloads.registry import registry
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.graph import from_edges
from perturbfm_core.graphs.sources.annotations import annotation_table
from perturbfm_core.graphs.sources.conversion import Converted, Options
from perturbfm_core.graphs.sources.gene_sets import read_gene_sets
from perturbfm_core.graphs.sources.identifiers import (
    ENSEMBL,
    SYMBOLS,
    check_identifiers,
    kind_of,
    organism_of,
    without_version,
)
from perturbfm_core.graphs.sources.known import SOURCES, known_source
from perturbfm_core.graphs.sources.neighbourhood import neighbourhood_features
from perturbfm_core.graphs.sources.ontology import read_obo
from perturbfm_core.graphs.sources.text_files import opened
from tests.support import source_files as made
from tests.support.source_files import GENES, written


def converted(source: str, files: dict[str, Path], name: str = "x", **options) -> Converted:
    return known_source(source).convert(files, Options(**options), name)


def refusal(source: str, files: dict[str, Path], **options) -> str:
    with pytest.raises(GraphError) as refused:
        converted(source, files, **options)
    text = str(refused.value)
    assert "\n" not in text
    return text


def edges(graph) -> dict[tuple[str, str], float]:
    coo = graph.adjacency.tocoo()
    return {
        (str(graph.genes[i]), str(graph.genes[j])): round(float(w), 4)
        for i, j, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


def near(features, a: str, b: str) -> float:
    rows = features.matrix[[features.position[a], features.position[b]]].astype(np.float64)
    return float(np.linalg.norm(rows[0] - rows[1]))


# ---- the table of sources ----------------------------------------------------------------------------------------


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


# ---- identifiers -------------------------------------------------------------------------------------------------


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


# ---- STRING ------------------------------------------------------------------------------------------------------


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


# ---- Gene Ontology -----------------------------------------------------------------------------------------------


def ontology_files(tmp_path, text=None, **kwargs) -> dict[str, Path]:
    return {
        "main": written(tmp_path, "goa_human.gaf.gz", made.gaf(**kwargs) if text is None else text),
        "ontology": written(tmp_path, "go-basic.obo", made.obo()),
    }


def test_annotations_hold_for_all_ancestors(tmp_path):
    files = ontology_files(tmp_path)
    table, version, said = annotation_table(files["main"], files["ontology"], "human", "P")
    terms = table.groupby("gene")["term"].apply(lambda t: sorted(x[-1] for x in t)).to_dict()
    assert terms == {
        **{g: ["1", "2", "4"] for g in GENES[:4]},
        **{g: ["1", "3", "5"] for g in GENES[4:6]},
        **{g: ["1", "3"] for g in GENES[6:]},
    }
    assert version == "2024-06-17 (annotations of 2024-06-10)"
    assert said == []
    function = annotation_table(files["main"], files["ontology"], "human", "f")[0]
    assert function.to_dict("records") == [{"term": "GO:0000011", "gene": "TAL1"}]
    both = annotation_table(files["main"], files["ontology"], "human", "PF")[0]
    assert len(both) == len(table) + 1


def test_the_closure_follows_is_a_and_part_of_and_ends_in_a_cycle(tmp_path):
    terms, reach = read_obo(written(tmp_path, "go.obo", made.obo())).closure()
    rows = {
        t[-1]: sorted(terms[j][-1] for j in reach[[i]].indices) for i, t in enumerate(terms) if t[-2:] != "11"
    }
    assert rows == {
        "1": ["1"],
        "2": ["1", "2"],
        "3": ["1", "3"],
        "4": ["1", "2", "4"],
        "5": ["1", "3", "5"],
        "6": ["6"],
    }
    cycle = (
        "[Term]\nid: A\nis_a: B\n\n[Term]\nid: B\nis_a: A\n\n[Term]\nid: C\nis_a: A\nrelationship: part_of\n"
    )
    terms, reach = read_obo(written(tmp_path, "cycle.obo", cycle)).closure()
    assert reach.toarray().tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_features_of_annotations(tmp_path):
    got = converted("go", ontology_files(tmp_path))
    assert got.graph is None
    assert near(got.features, "TP53", "ATM") < 1e-6 < near(got.features, "TP53", "KLF1")
    assert 1e-3 < near(got.features, "KLF1", "LMO2") < near(got.features, "TP53", "LMO2")


def test_annotations_of_terms_that_the_ontology_lacks_are_stated(tmp_path):
    rows = [
        made.gaf_row("TP53", "GO:0000004"),
        made.gaf_row("MDM2", "GO:0000002"),
        made.gaf_row("ATM", "GO:0099999"),
    ]
    files = ontology_files(tmp_path, rows=rows)
    said = annotation_table(files["main"], files["ontology"], "human", "P")[2]
    assert said == ["1 of 3 annotations name terms that the ontology lacks"]
    files = ontology_files(tmp_path, rows=rows[2:])
    assert "has none of the terms" in refusal("go", files)


def test_blank_lines_before_the_first_annotation_do_not_count(tmp_path):
    first, *rest = made.gaf().splitlines(keepends=True)
    plain = converted("go", ontology_files(tmp_path, first + "".join(rest)))
    blank = converted("go", ontology_files(tmp_path, first + "\n" + "".join(rest)))
    np.testing.assert_array_equal(plain.features.matrix, blank.features.matrix)


GAF_FAULTS = [
    ("!gaf-version: 2.2\n", "has no row"),
    (
        "!gaf-version: 2.2\nUniProtKB\tP1\tTP53\n",
        "its first row has 3 columns separated by tabs, 13 are needed",
    ),
    (made.gaf()[:-40], "has no taxon; the file is cut off or damaged"),
    (made.gaf(organism="mouse"), "annotates genes of taxon 10090 (mouse), asked for is human (9606)"),
    (made.gaf([made.gaf_row("x", "GO:0000001", taxon="7227")]), "taxon 7227 (another organism)"),
    (made.gaf([made.gaf_row("TP53", "GO:0000004", "NOT")]), "has no annotation left of 1 (P); see --aspects"),
    (made.gaf([made.gaf_row("TP53", "GO:0000004")]), "features need two of each"),
    (made.gaf([made.gaf_row("", "GO:0000004")]), "row 4 has no symbol"),
]


@pytest.mark.parametrize(("text", "said"), GAF_FAULTS)
def test_annotations_that_are_damaged_or_of_another_organism(tmp_path, text, said):
    assert said in refusal("go", ontology_files(tmp_path, text))


def test_an_ontology_that_is_missing_or_of_another_kind(tmp_path):
    files = ontology_files(tmp_path)
    assert "give the ontology (go-basic.obo) with --ontology" in refusal("go", {"main": files["main"]})
    files["ontology"] = written(tmp_path, "x.obo", "just text\n")
    assert "holds no term of an ontology" in refusal("go", files)
    files = ontology_files(tmp_path)
    assert "--aspects 'X' is unknown" in refusal("go", files, aspects="X")


# ---- pathways ----------------------------------------------------------------------------------------------------


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


# ---- regulation --------------------------------------------------------------------------------------------------


def test_collectri(tmp_path):
    got = converted("collectri", {"main": written(tmp_path, "CollecTRI_regulons.csv", made.collectri())})
    assert edges(got.graph) == {("TP53", "MDM2"): 1, ("TP53", "CDKN1A"): 1, ("GATA1", "KLF1"): -1}
    assert got.graph.meta["directed"] is True
    assert got.notes == ("2 repeated pairs of genes have the mean of their signs",)
    assert got.features is None


def test_dorothea_of_the_web_service(tmp_path):
    files = {"main": written(tmp_path, "dorothea.tsv", made.omnipath())}
    assert edges(converted("dorothea", files).graph) == {
        ("TP53", "MDM2"): 1,
        # No consensus, but one resource states a stimulation; the best of its levels counts.
        ("TP53", "CDKN1A"): 1,
        ("GATA1", "KLF1"): -1,
    }
    assert set(edges(converted("dorothea", files, confidence="D").graph)) == {("TAL1", "LMO2")}
    assert set(edges(converted("dorothea", files, confidence="A").graph)) == {
        ("TP53", "MDM2"),
        ("TP53", "CDKN1A"),
    }


def test_dorothea_as_a_table_and_trrust(tmp_path):
    pd.DataFrame(
        {"tf": ["TP53", "GATA1"], "target": ["MDM2", "KLF1"], "mor": [1, -1], "confidence": ["A", "D"]}
    ).to_parquet(tmp_path / "dorothea_hs.parquet")
    assert edges(converted("dorothea", {"main": tmp_path / "dorothea_hs.parquet"}).graph) == {
        ("TP53", "MDM2"): 1
    }
    trrust = converted("trrust", {"main": written(tmp_path, "trrust.tsv", made.trrust())})
    assert edges(trrust.graph) == {("TP53", "MDM2"): 1, ("GATA1", "KLF1"): -1}


def test_regulation_by_ensembl_ids(tmp_path):
    names = "".join(f"{g},{made.ensembl(i)}.7\n" for i, g in enumerate(GENES[:3]))
    files = {
        "main": written(tmp_path, "c.csv", made.collectri()),
        "names": written(tmp_path, "names.csv", "gene,id\n" + names),
    }
    got = converted("collectri", files, ids=ENSEMBL)
    assert edges(got.graph) == {(made.ensembl(0), made.ensembl(1)): 1, (made.ensembl(0), made.ensembl(2)): 1}
    assert got.notes[0] == "4 ids have no name in names.csv and are left out"
    files["names"] = written(tmp_path, "other.csv", "gene,id\nX,Y\n")
    assert "names none of the 7 ids" in refusal("collectri", files)


REGULATION_FAULTS = [
    ("who,whom\nA,B\n", "has no column of regulators; its first line is 'who,whom'"),
    ("source,target\nA,B\n", "the table has no column of signs"),
    ("source,target,weight\nA,B,strong\n", "holds 'strong', which is no number"),
    ("source,target,weight\nA,B,1\nC,D,1,2,3\n", "is damaged or of another kind"),
    ("TP53\tMDM2\tActivation\t1\nTP53\tMDM2\tSplicing\t1\n", "mode 'Splicing' is unknown"),
    (
        made.omnipath().replace("True\tFalse\tTrue", "maybe\tmaybe\tTrue"),
        "'maybe', which is neither true nor false",
    ),
    ("source,target,weight\nA,B,0\n", "would have no edge"),
    ("source,target,weight\nTrp53,Mdm2,1\nGata1,Klf1,1\n", "holds genes of mouse"),
]


@pytest.mark.parametrize(("text", "said"), REGULATION_FAULTS)
def test_regulation_that_is_damaged_or_of_another_kind(tmp_path, text, said):
    assert said in refusal("collectri", {"main": written(tmp_path, "c.csv", text)})


# ---- files of one's own ------------------------------------------------------------------------------------------


def test_files_of_ones_own(tmp_path):
    np.savez(tmp_path / "emb.npz", genes=np.asarray(GENES), features=np.eye(8))
    assert converted("file", {"main": tmp_path / "emb.npz"}).features.matrix.shape == (8, 8)
    table = written(tmp_path, "emb.tsv", "gene\ta\tb\nTP53\t1\t2\nMDM2\t3\t4\n")
    assert converted("file", {"main": table}).features.matrix.tolist() == [[1, 2], [3, 4]]
    assert len(converted("file", {"main": written(tmp_path, "s.gmt", made.gmt())}).features.genes) == 8
    pairs = written(tmp_path, "e.csv", "source,target,weight\nTP53,MDM2,2\n")
    assert edges(converted("file", {"main": pairs}, directed=True).graph) == {("TP53", "MDM2"): 2}
    assert len(edges(converted("file", {"main": pairs}, directed=False).graph)) == 2
    np.savez(tmp_path / "graph.npz", genes=np.asarray(GENES[:2]), adjacency=np.asarray([[0, 1], [0, 0]]))
    assert edges(converted("file", {"main": tmp_path / "graph.npz"}).graph) == {("TP53", "MDM2"): 1}


def test_files_of_ones_own_that_are_refused(tmp_path):
    def said(name, text, **options):
        return refusal("file", {"main": written(tmp_path, name, text)}, **options)

    assert "give --directed or --undirected" in said("e.csv", "source,target\nTP53,MDM2\n")
    assert "names a gene twice: 'TP53' (1 rows repeat one)" in said(
        "x.csv", "gene,a\nTP53,1\nMDM2,2\nTP53,3\n"
    )
    assert "known are an npz of a graph" in said("x.csv", "what,a\nTP53,1\n")
    assert "is empty" in said("x.csv", "")
    np.savez(
        tmp_path / "bound.npz",
        genes=np.asarray(GENES[:2]),
        adjacency=np.eye(2),
        split_hash=np.asarray("a" * 64),
    )
    assert "was built from the train rows of split" in refusal("file", {"main": tmp_path / "bound.npz"})


SYMBOL_TO_ID = "".join(f"{g}\t{made.ensembl(i)}\n" for i, g in enumerate(GENES))


@pytest.mark.parametrize(
    "header", ["tf,confidence,target,mor", "TF,Confidence,Target,MOR", "regulator,confidence,Target,mor"]
)
def test_both_ends_of_regulation_are_translated_whatever_they_are_called(tmp_path, header):
    rows = "TP53,A,MDM2,1\nTP53,A,MDM2,1\nTP53,B,ATM,-1\nGATA1,A,MDM2,1\n"
    files = {"main": written(tmp_path, "d.csv", f"# a comment\n\n{header}\n{rows}")}
    said = ("1 repeated pairs of genes have the mean of their signs",)
    plain = converted("dorothea", files)
    assert (set(edges(plain.graph)), plain.notes) == (
        {("TP53", "MDM2"), ("TP53", "ATM"), ("GATA1", "MDM2")},
        said,
    )
    files["names"] = written(tmp_path, "s2e.tsv", SYMBOL_TO_ID)
    got = converted("dorothea", files, ids=ENSEMBL)
    at = {g: made.ensembl(i) for i, g in enumerate(GENES)}
    assert edges(got.graph) == {(at[a], at[b]): w for (a, b), w in edges(plain.graph).items()}
    assert got.notes == said
    assert "by way of" in refusal("dorothea", files, ids=SYMBOLS)


def test_names_translate_files_of_ones_own(tmp_path):
    few = written(
        tmp_path, "few.csv", "symbol,id\nTP53, ENSG00000000001.4\nMDM2,ENSG00000000002\nATM,ENSG00000000002\n"
    )
    lost = "1 ids have no name in few.csv and are left out"
    values = np.asarray([[1.0], [2.0], [4.0], [9.0]])
    np.savez(tmp_path / "f.npz", genes=np.asarray(["TP53", "MDM2", "ATM", "KLF1"]), features=values)
    table = written(tmp_path, "f.csv", "gene,a\nTP53,1\nMDM2,2\nATM,4\nKLF1,9\n")
    for main in (tmp_path / "f.npz", table):
        got = converted("file", {"main": main, "names": few}, ids=ENSEMBL)
        assert got.features.genes.tolist() == ["ENSG00000000001", "ENSG00000000002"]
        assert got.features.matrix.tolist() == [[1.0], [3.0]]
        assert got.notes == (lost, "1 genes have the mean of several rows")
        assert got.identifiers == ENSEMBL
    pairs = written(tmp_path, "e.csv", "Source,Target,weight\nTP53,MDM2,1\nTP53,ATM,-2\nKLF1,ATM,1\n")
    got = converted("file", {"main": pairs, "names": few}, directed=True)
    assert edges(got.graph) == {("ENSG00000000001", "ENSG00000000002"): -2}
    assert got.notes == (lost, "1 repeated pairs of genes keep the weight of largest magnitude")
    A = np.zeros((4, 4))
    A[0, 1] = A[1, 0] = 1
    A[0, 2] = A[2, 0] = -2
    np.savez(tmp_path / "g.npz", genes=np.asarray(["TP53", "MDM2", "ATM", "KLF1"]), adjacency=A)
    got = converted("file", {"main": tmp_path / "g.npz", "names": few})
    assert set(edges(got.graph).values()) == {-2}
    assert got.notes == (lost, "1 genes have the edges of several ids")


def test_the_kind_of_names_that_is_wanted_holds_for_files_of_ones_own(tmp_path):
    np.savez(tmp_path / "f.npz", genes=np.asarray(GENES), features=np.eye(8))
    np.savez(tmp_path / "g.npz", genes=np.asarray(GENES), adjacency=np.ones((8, 8)))
    texts = {"f.csv": "gene,a\nTP53,1\nMDM2,2\n", "e.csv": "source,target\nTP53,MDM2\n"}
    places = [tmp_path / "f.npz", tmp_path / "g.npz", *(written(tmp_path, n, t) for n, t in texts.items())]
    for main in places:
        said = (
            refusal("file", {"main": main}, ids=ENSEMBL, directed=True)
            if main.name == "e.csv"
            else refusal("file", {"main": main}, ids=ENSEMBL)
        )
        assert "names genes by symbols, wanted are Ensembl ids; give a table of both with --names" in said
    other = written(tmp_path, "other.csv", "a,b\nX,Y\n")
    for main in places[:3]:
        assert "names none of the" in refusal("file", {"main": main, "names": other})


def test_versions_and_blanks_of_names_do_not_count(tmp_path):
    a, b = made.ensembl(1), made.ensembl(2)
    table = written(tmp_path, "f.csv", f"gene,x\n {a}.5 ,1\n{b}.1,2\n")
    np.savez(tmp_path / "f.npz", genes=np.asarray([f"{a}.5 ", f" {b}"]), features=np.eye(2))
    np.savez(
        tmp_path / "g.npz", genes=np.asarray([f"{a}.5 ", f" {b}"]), adjacency=np.asarray([[0, 1], [1, 0]])
    )
    pairs = written(tmp_path, "e.csv", f"source,target\n{a}.5, {b}.2\n")
    for main in (table, tmp_path / "f.npz", tmp_path / "g.npz"):
        got = converted("file", {"main": main})
        assert (got.features or got.graph).genes.tolist() == [a, b]
    assert set(edges(converted("file", {"main": pairs}, directed=True).graph)) == {(a, b)}
    written(tmp_path, "f.csv", f"gene,x\n{a}.5,1\n{a}.6,2\n")
    assert f"names a gene twice: '{a}'" in refusal("file", {"main": table})
    written(tmp_path, "f.csv", "gene,x\nTP53,1\n ,2\n")
    assert "names no gene in row 2" in refusal("file", {"main": table})
    written(tmp_path, "e.csv", "source,target\nTP53,\nTP53,MDM2\n")
    assert "1 rows of the table name no gene" in refusal("file", {"main": pairs}, directed=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.sif", "G01\tG02\t0.53\nG02\tG03\t0.5\n"),
        ("e.tsv", "G01\tG02\t0.53\nG02\tG03\t0.5\n"),
        ("e.txt", "G01\tpp\tG02\nG02\tpp\tG03\n"),
        ("f.tsv", "G01\t0.1\t-2e-3\t.5\nG02\t0.3\t1\t2\n"),
        ("f.tsv.gz", "G01\t1\t2\t3\nG02\t4\t5\t6\n"),
        ("f.csv", "G01,1,2\nG02,4,5\n"),
    ],
)
def test_tables_without_a_header_are_no_gene_sets(tmp_path, name, text):
    said = refusal("file", {"main": written(tmp_path, name, text)}, directed=True)
    assert "has no header of known names" in said or "is no table that can be read" in said


def test_gene_sets_are_known_by_their_lines(tmp_path):
    once = converted("file", {"main": written(tmp_path, "a.gmt", made.gmt())}).features.sha256
    for name in ("a.txt", "a.tsv.gz", "a.zip"):
        assert converted("file", {"main": written(tmp_path, name, made.gmt())}).features.sha256 == once
    for head in ("\n", "# made up\n", "\n#a\tb\tc\n \n"):
        main = written(tmp_path, "b.gmt", head + made.gmt())
        assert converted("file", {"main": main}).features.sha256 == once
        assert converted("reactome", {"main": main}).features.sha256 == once
    numbers = written(tmp_path, "n.zip", "G01\t0.1\t0.2\nG02\t0.3\t1\n")
    assert "is an archive of a table" in refusal("file", {"main": numbers})
    values = written(tmp_path, "n.gmt", "G01\t0.1\t0.2\t0.7\nG02\t0.3\t1\t5\n")
    assert "has numbers where genes are looked for" in refusal("reactome", {"main": values})
    assert "add go" in refusal("file", {"main": written(tmp_path, "x.gaf", made.gaf())})


def test_the_export_of_strings_pages_is_a_table_of_edges(tmp_path):
    head = "#node1\tnode2\tnode1_string_id\tnode2_string_id\tcombined_score\n"
    main = written(tmp_path, "s.tsv", head + "TP53\tMDM2\t9606.P1\t9606.P2\t0.9\n")
    assert edges(converted("file", {"main": main}, directed=True).graph) == {("TP53", "MDM2"): 0.9}


@pytest.mark.parametrize("cell", ["", "NA", "nan", "?", "inf", "1e60"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_cell_that_is_no_number_is_named(tmp_path, cell, form):
    table = pd.DataFrame({"gene": GENES, "a": "1.5", "b": ["1", "2", cell, "4", "5", "6", "7", "8"]})
    getattr(table, f"to_{form}")(tmp_path / f"t.{form}", index=False)
    said = refusal("file", {"main": tmp_path / f"t.{form}"})
    assert "column 'b' holds" in said
    assert "in row 3 (gene 'CDKN1A')" in said


def test_columns_of_text_are_left_out_by_name(tmp_path):
    main = written(tmp_path, "t.csv", "gene,kind,a,note\nTP53,x,1,\nMDM2,y,2,\nATM,3,3,\n")
    got = converted("file", {"main": main})
    assert got.features.matrix.tolist() == [[1], [2], [3]]
    assert got.notes == ("2 columns hold no numbers and are left out: 'kind', 'note'",)
    few = written(tmp_path, "few.csv", "gene,a\nTP53,1\nMDM2,\nATM,NA\n")
    assert "column 'a' holds '' in row 2" in refusal("file", {"main": few})


@pytest.mark.parametrize(
    "header",
    [
        *("gene", "Gene", "genes", "gene_id", "GENE_ID", "index", "gene_symbol", "Gene name", "gene_name"),
        *("symbol", "ensembl_id", "", '""', "Unnamed: 0"),
    ],
)
def test_headers_of_gene_ids(tmp_path, header):
    main = written(tmp_path, "f.csv", f"{header},0,1\nTP53,1,2\nMDM2,3,4\n")
    got = converted("file", {"main": main}).features
    assert (got.genes.tolist(), got.matrix.tolist()) == (["TP53", "MDM2"], [[1, 2], [3, 4]])


def test_row_numbers_are_no_feature(tmp_path):
    pd.DataFrame({"gene": ["TP53", "MDM2"], "a": [3.0, 5.0]}).to_csv(tmp_path / "f.csv")
    assert converted("file", {"main": tmp_path / "f.csv"}).features.matrix.tolist() == [[3], [5]]


@pytest.mark.parametrize(("header", "sep"), [("id,name\n", ","), ("", ","), ("", "\t"), ("a b\n", " ")])
def test_names_of_proteins_in_a_table_of_ones_own(tmp_path, header, sep):
    names = "".join(f"{made.protein(i)}{sep}{g}\n" for i, g in enumerate(GENES))
    files = {
        "main": written(tmp_path, "links.txt", made.string_links()),
        "names": written(tmp_path, "names.csv", header + names),
    }
    assert set(converted("string", files).graph.genes.tolist()) == set(GENES)


def test_options_that_a_file_has_no_use_for(tmp_path):
    np.savez(tmp_path / "f.npz", genes=np.asarray(GENES), features=np.eye(8))
    sets = written(tmp_path, "s.gmt", made.gmt())
    bare = written(tmp_path, "d.csv", "tf,target,mor\nTP53,MDM2,1\n")
    for source, main, options in (
        ("file", tmp_path / "f.npz", {"dim": 2}),
        ("file", written(tmp_path, "f.csv", "gene,a\nTP53,1\n"), {"directed": True}),
        ("file", sets, {"directed": True}),
        ("go", sets, {"aspects": "F"}),
        ("dorothea", bare, {"confidence": "A"}),
    ):
        said = refusal(source, {"main": main}, given=tuple(options), **options)
        assert f"--{next(iter(options))}" in said
        assert "has no use with" in said
    assert "--ontology has no use with" in refusal("go", {"main": sets, "ontology": sets})
    assert converted("go", {"main": sets}, dim=2, given=("dim",)).read == ("dim", "max_term")
    assert converted("dorothea", {"main": bare}).read == ()


def test_a_text_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "named.txt"
    path.write_bytes(gzip.compress(b"a\tb\n"))
    with opened(path) as handle:
        assert handle.read() == "a\tb\n"
    with pytest.raises(GraphError, match="is a folder"), opened(tmp_path):
        pass
