"""The gene groups of the HGNC as features: cosines by the smallest shared group, former symbols, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.conversion import MAIN, ONTOLOGY, Converted, Options
from perturbfm_core.graphs.sources.known import known_source
from tests.support.source_files import ensembl, gene_groups, group_hierarchy

# Random vectors of 256 signs have cosines of 0 ± 1 / 16.
ERROR = 4.0 / 16.0


def converted(
    path: Path, text: str = gene_groups(), above: str | None = group_hierarchy(), **options
) -> Converted:
    """Write the files and convert them."""
    (path / "hgnc_complete_set.txt").write_text(text)
    files = {MAIN: path / "hgnc_complete_set.txt"}
    if above is not None:
        (path / "hierarchy.csv").write_text(above)
        files[ONTOLOGY] = path / "hierarchy.csv"
    return known_source("hgnc").convert(files, Options(**options), "hgnc")


def cosine(made: Converted, a: str, b: str) -> float:
    x, y = (made.features.matrix[made.features.position[g]].astype(np.float64) for g in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def test_the_smallest_shared_group_says_how_alike_genes_are(tmp_path):
    made = converted(tmp_path)
    # TP53 and MDM2 share group 10, of two genes; both share only group 1, of four, with ATM and KLF1.
    assert cosine(made, "TP53", "MDM2") == pytest.approx((1 + 2 / 50) ** -0.5, abs=ERROR)
    assert cosine(made, "TP53", "KLF1") == pytest.approx((1 + 4 / 50) ** -0.5, abs=ERROR)
    assert cosine(made, "TP53", "GATA1") == pytest.approx(0.0, abs=ERROR)
    assert made.features.matrix.dtype == np.float32
    assert (made.identifiers, made.version) == ("symbols", "2026-08-01")


def test_cosines_fall_with_the_size_of_the_group(tmp_path):
    """Exact on average over many pairs, whatever their random vectors."""
    head, *rows = gene_groups().splitlines()
    more = [
        rows[0].replace("TP53", f"G{i}A").replace('"10|12"', f'"{20 + i // 150}"').replace('"P53|LFS1"', "")
        for i in range(300)
    ]
    made = converted(tmp_path, "\n".join([head, *rows, *more]))
    x = np.stack([made.features.matrix[made.features.position[f"G{i}A"]] for i in range(300)])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    within = (x[:150] @ x[:150].T)[np.triu_indices(150, 1)]
    assert within.mean() == pytest.approx((1 + 150 / 50) ** -0.5, abs=0.03)
    assert (x[:150] @ x[150:].T).mean() == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("above", [None, group_hierarchy()])
def test_groups_above_count_where_they_are_given(tmp_path, above):
    made = converted(tmp_path, above=above)
    assert (cosine(made, "MDM2", "KLF1") > 0.6) is (above is not None)
    assert any("--ontology hierarchy_closure.csv" in n for n in made.notes) is (above is None)


def test_steps_of_the_hierarchy_are_followed(tmp_path):
    steps = '"parent_fam_id","child_fam_id"\n"2","10"\n"1","2"\n"1","11"\n'
    assert cosine(converted(tmp_path, above=steps), "MDM2", "KLF1") > 0.6
    ring = steps + '"10","1"\n'
    assert cosine(converted(tmp_path, above=ring), "MDM2", "KLF1") > 0.6


def test_former_symbols_stand_for_one_gene_and_none_of_now(tmp_path):
    made = converted(tmp_path)
    assert np.array_equal(*(made.features.matrix[made.features.position[g]] for g in ("EKLF", "KLF1")))
    # ATC was two genes', TP53 is another's now, CDKN1's gene and GFX's have no row of their own.
    assert sorted(made.features.genes.tolist()) == sorted(
        ["TP53", "MDM2", "ATM", "KLF1", "GATA1", "TAL1", "P53", "LFS1", "ATA", "EKLF", "GF1"]
    )
    assert made.notes == ("5 former symbols stand for the genes that had them",)


def test_by_ensembl_ids(tmp_path):
    made = converted(tmp_path, ids="Ensembl ids")
    assert made.identifiers == "Ensembl ids"
    assert sorted(made.features.genes.tolist()) == [ensembl(i) for i in (0, 1, 3, 4, 5, 6)]
    assert cosine(made, ensembl(0), ensembl(1)) > 0.7


def test_features_of_a_gene_depend_on_no_order(tmp_path):
    head, *rows = gene_groups().splitlines()
    one, other = converted(tmp_path), converted(tmp_path, "\n".join([head, *rows[::-1]]))
    for gene in one.features.genes:
        assert np.array_equal(
            one.features.matrix[one.features.position[gene]],
            other.features.matrix[other.features.position[gene]],
        )


@pytest.mark.parametrize(
    ("text", "above", "options", "said"),
    [
        (gene_groups().replace("gene_group_id", "group"), None, {}, "lacks the columns gene_group_id of the HGNC"),
        (gene_groups().replace("protein-coding gene", "other"), None, {}, "has no protein-coding gene in a group"),
        (gene_groups()[:-90], None, {}, "line 8 has 8 cells, the header 9"),
        (gene_groups(), "a,b\n1,2\n", {}, "lacks the columns parent_fam_id, child_fam_id"),
        (gene_groups(), None, {"organism": "mouse"}, "asked for is mouse"),
        (gene_groups(), None, {"dim": 3, "given": ("dim",)}, "--dim has no use with"),
        ("", None, {}, "is empty; fetch it again"),
        ("<!DOCTYPE html><p>not here</p>", None, {}, "is a web page"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_in_one_line(tmp_path, text, above, options, said):
    with pytest.raises(GraphError, match=said) as refused:
        converted(tmp_path, text, above, **options)
    assert "\n" not in str(refused.value)
