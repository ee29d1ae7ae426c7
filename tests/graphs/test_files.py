"""Graph files and published tables: what is read, what is refused, and by which message."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures, read_features
from perturbfm_core.graphs.graph import GeneGraph, from_edges
from perturbfm_core.graphs.io import read_graph, write_features, write_graph
from perturbfm_core.graphs.tables import gene_names, read_names, read_table

GENES = np.asarray(["A", "B", "C"])


def small(**fields) -> GeneGraph:
    """Return A→B 2, C→A -0.5."""
    return from_edges(
        "small",
        np.asarray(["A", "C"]),
        np.asarray(["B", "A"]),
        np.asarray([2.0, -0.5]),
        directed=True,
        **fields,
    )


# ---- npz ---------------------------------------------------------------------------------------------------------


def test_a_graph_comes_back_as_it_was_written(tmp_path):
    made = small(genes=np.asarray(["C", "B", "A", "lonely"]), meta={"kind": "edges", "é": 1})
    graph = replace(made, split_hash="f" * 64)
    write_graph(graph, tmp_path / "g.npz")
    back = read_graph(tmp_path / "g.npz", "small")
    assert back.genes.tolist() == ["C", "B", "A", "lonely"]
    assert back.adjacency.toarray().tolist() == graph.adjacency.toarray().tolist()
    assert (back.name, back.split_hash, back.meta) == ("small", "f" * 64, graph.meta)
    assert back.sha256 == graph.sha256
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"]
    first = (tmp_path / "g.npz").read_bytes()
    write_graph(back, tmp_path / "g.npz")
    assert (tmp_path / "g.npz").read_bytes() == first


def test_the_file_has_the_interchange_arrays(tmp_path):
    write_graph(small(), tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"edge_index", "edge_weight", "genes", "split_hash", "meta"}
        # Row 0 is the source.
        named = arrays["genes"][arrays["edge_index"]].T.tolist()
        assert dict(zip(map(tuple, named), arrays["edge_weight"].tolist(), strict=True)) == {
            ("A", "B"): 2.0,
            ("C", "A"): -0.5,
        }
        assert str(arrays["split_hash"]) == ""
        assert json.loads(str(arrays["meta"]))["directed"] is True


def test_both_forms_of_the_contract_are_the_same_graph(tmp_path):
    dense = np.zeros((3, 3), dtype=np.float32)
    dense[0, 1], dense[2, 0] = 2.0, -0.5
    np.savez(tmp_path / "dense.npz", adjacency=dense, genes=GENES)
    index = np.asarray([[0, 2], [1, 0]])
    np.savez(tmp_path / "edges.npz", edge_index=index, edge_weight=np.asarray([2.0, -0.5]), genes=GENES)
    one, two = read_graph(tmp_path / "dense.npz"), read_graph(tmp_path / "edges.npz")
    assert one.sha256 == two.sha256 == small(genes=GENES).sha256
    assert (one.name, one.split_hash, one.meta) == ("dense", None, {"directed": True})
    np.savez(tmp_path / "plain.npz", edge_index=np.asarray([[0, 1], [1, 0]]), genes=GENES)
    plain = read_graph(tmp_path / "plain.npz")
    assert plain.adjacency.data.tolist() == [1.0, 1.0]
    assert plain.meta == {"directed": False}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"edge_index": np.asarray([[0], [1]])}, "a graph needs 'genes' with 'adjacency'"),
        ({"genes": GENES}, "a graph needs 'genes' with 'adjacency'"),
        ({"genes": GENES, "adjacency": np.zeros((2, 3))}, r"adjacency \(2, 3\) for 3 genes"),
        ({"genes": GENES, "adjacency": np.zeros(3)}, r"it must be numbers \[genes, genes\]"),
        ({"genes": GENES, "adjacency": np.full((3, 3), np.nan)}, "weights that are not finite"),
        ({"genes": np.asarray(["A", "A", "B"]), "adjacency": np.eye(3)}, "names a gene twice"),
        ({"genes": GENES, "edge_index": np.asarray([[0], [3]])}, r"names gene 3, there are 3 \(0 to 2\)"),
        ({"genes": GENES, "edge_index": np.asarray([[0], [-1]])}, "names gene -1, there are 3"),
        ({"genes": GENES, "edge_index": np.asarray([[0.5], [1]])}, r"whole numbers \[2, edges\]"),
        ({"genes": GENES, "edge_index": np.asarray([0, 1])}, r"whole numbers \[2, edges\]"),
        (
            {"genes": GENES, "edge_index": np.asarray([[0], [1]]), "edge_weight": np.ones(2)},
            r"'edge_weight' .* \(2,\) for 1 edges",
        ),
        ({"genes": GENES, "adjacency": np.eye(3), "meta": np.asarray("{no")}, "is not valid JSON"),
        ({"genes": GENES, "adjacency": np.eye(3), "meta": np.asarray("[1]")}, "not a table of names"),
    ],
)
def test_graph_files_that_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(GraphError, match=message):
        read_graph(tmp_path / "bad.npz")


def test_pickled_and_missing_files_are_refused(tmp_path):
    np.savez(tmp_path / "pickled.npz", genes=np.asarray(["A"], dtype=object), adjacency=np.eye(1))
    with pytest.raises(GraphError, match="pickled objects, which are never loaded"):
        read_graph(tmp_path / "pickled.npz")
    with pytest.raises(GraphError, match="does not exist"):
        read_graph(tmp_path / "none.npz")


def test_features_come_back_as_they_were_written(tmp_path):
    table = GeneFeatures("t", np.asarray(["B", "A"]), np.asarray([[1, 2.5], [3, -4]], dtype=np.float32))
    write_features(table, tmp_path / "t.npz")
    back = read_features(tmp_path / "t.npz")
    assert back.sha256 == table.sha256
    assert back.matrix.tolist() == [[1, 2.5], [3, -4]]


# ---- tables ------------------------------------------------------------------------------------------------------


def test_tables_of_every_form_say_the_same(tmp_path):
    rows = pd.DataFrame({"source": ["A", "NA"], "target": ["B", "C"], "weight": [1.5, -2.0]})
    rows.to_parquet(tmp_path / "t.parquet")
    rows.to_csv(tmp_path / "t.csv", index=False)
    rows.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    rows.to_csv(tmp_path / "t.txt", index=False, sep=" ")
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress((tmp_path / "t.tsv").read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        table = read_table(path)
        # A gene may be called NA.
        assert table["source"].tolist() == ["A", "NA"], path
        assert table["weight"].tolist() == [1.5, -2.0], path


def test_a_gmt_file_is_one_row_per_gene(tmp_path):
    (tmp_path / "sets.gmt").write_text("one\tabout\tA\tB,1.0\t\ntwo\t\tC\n")
    assert read_table(tmp_path / "sets.gmt").to_numpy().tolist() == [["one", "A"], ["one", "B"], ["two", "C"]]


def test_a_table_without_a_header_has_numbered_columns(tmp_path):
    (tmp_path / "t.tsv").write_text("AATF\tBAX\tRepression\nAATF\tMYC\tActivation\n")
    table = read_table(tmp_path / "t.tsv")
    assert list(table.columns) == [0, 1, 2]
    assert len(table) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"x", "is no table that can be read; known: .parquet, .gmt, .csv, .tsv, .txt"),
        ("t", b"x", "is no table that can be read"),
        ("t.parquet", b"not parquet", "cannot be read"),
        ("t.csv.gz", b"not packed", "cannot be read"),
        ("t.csv", b"source,target\nA,B\nA,B,C\n", "cannot be read: line 3 has 3 cells, those before it 2"),
        ("t.csv", b"", "cannot be read"),
        ("t.csv", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_tables_that_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GraphError, match=message):
        read_table(tmp_path / name)


def test_a_missing_table_is_refused(tmp_path):
    for name in ("none.csv", "none.parquet", "none.gmt.gz"):
        with pytest.raises(GraphError, match="does not exist"):
            read_table(tmp_path / name)


def test_ids_are_translated_where_names_are_known(tmp_path):
    (tmp_path / "info.txt").write_text(
        "#string_protein_id\tpreferred_name\tsize\n9606.P1\tTP53\t1\n9606.P2\tMDM2\t2\n"
    )
    names = read_names(tmp_path / "info.txt")
    assert gene_names(pd.Series(["9606.P2", "9606.P9", " 9606.P1 "]), names).tolist() == [
        "MDM2",
        "9606.P9",
        "TP53",
    ]
    with pytest.raises(GraphError, match="1 rows of the table name no gene"):
        gene_names(pd.Series(["A", None]))
