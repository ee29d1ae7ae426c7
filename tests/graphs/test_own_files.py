"""Graphs and gene features from files of one's own: known by content, translated, or refused in one line."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.identifiers import ENSEMBL, SYMBOLS
from perturbfm_core.graphs.sources.text_files import opened
from tests.support import source_files as made
from tests.support.converted_sources import converted, edges, refusal
from tests.support.source_files import GENES, written


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


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("tf,gene,sign", ("TP53", "MDM2", "-1")),
        ("TF,gene,importance", ("TP53", "MDM2", "-1")),
        ("regulator,target_gene,mor", ("TP53", "MDM2", "-1")),
        ("gene_1,gene_2,coef_mean", ("TP53", "MDM2", "-1")),
    ],
)
@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_edges_of_ones_own_keep_their_signs(tmp_path, header, cells, sep, suffix):
    if (sep, suffix) == ("\t", "csv"):
        sep, suffix = ",", "tsv.csv"
    rows = f"{header}\n{','.join(cells)}\nTP53,ATM,2.5\n".replace(",", sep)
    if sep == ";":
        rows = rows.replace("2.5", "2,5")
    made_of = converted("file", {"main": written(tmp_path, f"e.{suffix}", rows)}, directed=True)
    assert edges(made_of.graph) == {("TP53", "MDM2"): -1, ("TP53", "ATM"): 2.5}
    assert made_of.notes == ()


def test_edges_without_a_known_weight_say_so(tmp_path):
    table = written(tmp_path, "e.csv", "source,target,n_papers\nTP53,MDM2,7\n")
    made_of = converted("file", {"main": table}, directed=True)
    assert set(edges(made_of.graph).values()) == {1}
    assert made_of.notes == (
        "every edge has weight 1: none of the columns of numbers (n_papers) is called weight or score",
    )
    plain = written(tmp_path, "p.csv", "source,target,paper\nTP53,MDM2,x\n")
    assert converted("file", {"main": plain}, directed=True).notes == ()


def test_words_of_regulation_are_signs_of_edges(tmp_path):
    rows = "TP53,MDM2,Repression\nTP53,ATM,activation\nGATA1,ATM,Unknown\n"
    table = written(tmp_path, "e.csv", f"tf,target,mode\n{rows}")
    assert edges(converted("file", {"main": table}, directed=True).graph) == {
        ("TP53", "MDM2"): -1,
        ("TP53", "ATM"): 1,
    }


@pytest.mark.parametrize("header", ["gene,tf,a", "gene;tf;a"])
def test_a_column_that_says_which_genes_are_factors_makes_no_edges(tmp_path, header):
    sep = ";" if ";" in header else ","
    text = "\n".join([header, f"TP53{sep}yes{sep}1", f"MDM2{sep}no{sep}2"])
    found = converted("file", {"main": written(tmp_path, "f.csv", text + "\n")})
    assert found.features.matrix.tolist() == [[1], [2]]


def test_what_is_no_table_of_text_says_what_would_be(tmp_path):
    np.save(tmp_path / "emb.npy", np.eye(2))
    (tmp_path / "emb.npy").rename(tmp_path / "emb.txt")
    assert "no text in UTF-8" in refusal("file", {"main": tmp_path / "emb.txt"})
    vectors = written(tmp_path, "w2v.txt", "2 3\nTP53 0.1 0.2 0.3\nMDM2 0.2 0.3 0.4\n")
    assert "line 2 has 4 cells, those before it 2; a table has as many in each line" in refusal(
        "file", {"main": vectors}
    )
