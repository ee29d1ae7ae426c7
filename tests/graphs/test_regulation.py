"""Regulation: CollecTRI, DoRothEA and TRRUST, by symbols and by Ensembl ids."""

from __future__ import annotations

import pandas as pd
import pytest

from perturbfm_core.graphs.sources.identifiers import ENSEMBL
from tests.support import source_files as made
from tests.support.converted_sources import converted, edges, refusal
from tests.support.source_files import GENES, written


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
