"""Gene Ontology: annotations and their ancestors, and files that are damaged or of another kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.graphs.sources.annotations import annotation_table
from perturbfm_core.graphs.sources.ontology import read_obo
from tests.support import source_files as made
from tests.support.converted_sources import converted, near, refusal
from tests.support.source_files import GENES, written


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
