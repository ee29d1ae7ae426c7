"""Small files in the forms that public sources publish them: STRING, Gene Ontology, Reactome, CollecTRI, DoRothEA, TRRUST."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path

# Genes in two blocks of four; those of a block interact and share terms.
GENES = ("TP53", "MDM2", "CDKN1A", "ATM", "KLF1", "GATA1", "TAL1", "LMO2")
MOUSE = tuple(g.capitalize() for g in GENES)
TAXON = {"human": "9606", "mouse": "10090"}


def ensembl(i: int, organism: str = "human") -> str:
    """Return a made-up Ensembl id of the i-th gene."""
    return f"{'ENSG' if organism == 'human' else 'ENSMUSG'}{i:011d}"


def protein(i: int, organism: str = "human") -> str:
    """Return a made-up STRING id of the i-th gene's protein."""
    return f"{TAXON[organism]}.ENS{'' if organism == 'human' else 'MUS'}P{i:011d}"


def pairs() -> list[tuple[int, int]]:
    """Return the pairs of genes of the same block."""
    return [(i, j) for block in (range(4), range(4, 8)) for i in block for j in block if i < j]


def string_links(organism: str = "human", weak: int = 300) -> str:
    """Return ``protein.links``: every pair of a block in both directions, and one weak pair between the blocks."""
    lines = ["protein1 protein2 combined_score"]
    for i, j in pairs():
        score = 900 + i
        lines += [f"{protein(a, organism)} {protein(b, organism)} {score}" for a, b in ((i, j), (j, i))]
    lines += [f"{protein(a, organism)} {protein(b, organism)} {weak}" for a, b in ((0, 7), (7, 0))]
    return "\n".join(lines) + "\n"


def string_info(organism: str = "human", genes: Sequence[str] = GENES) -> str:
    """Return ``protein.info``."""
    head = "#string_protein_id\tpreferred_name\tprotein_size\tannotation"
    return (
        "\n".join(
            [head, *(f'{protein(i, organism)}\t{g}\t100\tA "protein" of {g}.' for i, g in enumerate(genes))]
        )
        + "\n"
    )


def string_aliases(organism: str = "human") -> str:
    """Return ``protein.aliases``: several names of each protein."""
    lines = ["#string_protein_id\talias\tsource"]
    for i, g in enumerate(GENES):
        own = protein(i, organism)
        lines += [
            f"{own}\t{g}old\tUniProt_GN_Synonyms",
            f"{own}\t{ensembl(i, organism)}\tEnsembl_gene",
            f"{own}\t{g}\tEnsembl_HGNC_symbol",
            f"{own}\t{1000 + i}\tEnsembl_HGNC_entrez_id",
        ]
    return "\n".join(lines) + "\n"


def obo() -> str:
    """Return an ontology: P:4 is a P:2, P:2 and P:3 are P:1; P:5 is part of P:3; F:1 stands alone; P:9 is obsolete."""
    terms = [
        ("GO:0000001", "biological_process", []),
        ("GO:0000002", "biological_process", ["is_a: GO:0000001 ! root"]),
        ("GO:0000003", "biological_process", ["is_a: GO:0000001 ! root", "alt_id: GO:0000033"]),
        ("GO:0000004", "biological_process", ['is_a: GO:0000002 {source="x"} ! two']),
        ("GO:0000005", "biological_process", ["relationship: part_of GO:0000003 ! three"]),
        ("GO:0000006", "biological_process", ["relationship: regulates GO:0000002 ! two"]),
        ("GO:0000011", "molecular_function", []),
        ("GO:0000009", "biological_process", ["is_obsolete: true"]),
    ]
    text = "format-version: 1.2\ndata-version: releases/2024-06-17\nontology: go\n"
    for term, namespace, lines in terms:
        text += (
            "\n".join(["", "[Term]", f"id: {term}", f"name: {term}", f"namespace: {namespace}", *lines])
            + "\n"
        )
    return text + "\n[Typedef]\nid: part_of\nname: part of\n"


def gaf_row(gene: str, term: str, qualifier: str = "", evidence: str = "IDA", taxon: str = "9606") -> str:
    """Return one annotation of 17 columns."""
    aspect = "F" if term.endswith("11") else "P"
    cells = [
        "UniProtKB",
        "P00001",
        gene,
        qualifier,
        term,
        "PMID:1",
        evidence,
        "",
        aspect,
        f"{gene} protein",
        "",
        "protein",
    ]
    return "\t".join([*cells, f"taxon:{taxon}", "20240101", "UniProt", "", ""])


def gaf(rows: Sequence[str] | None = None, organism: str = "human") -> str:
    """Return annotations: the first block is P:4, of the second some are P:5, some P:33 (an older id of P:3)."""
    genes = GENES if organism == "human" else MOUSE
    own = [
        *(gaf_row(g, "GO:0000004", "involved_in", taxon=TAXON[organism]) for g in genes[:4]),
        *(gaf_row(g, "GO:0000005", taxon=TAXON[organism]) for g in genes[4:6]),
        *(gaf_row(g, "GO:0000033", taxon=TAXON[organism]) for g in genes[6:]),
        gaf_row(genes[0], "GO:0000004", "involved_in", "IEA", taxon=TAXON[organism]),
        gaf_row(genes[4], "GO:0000004", "NOT|involved_in", taxon=TAXON[organism]),
        gaf_row(genes[5], "GO:0000001", evidence="ND", taxon=TAXON[organism]),
        gaf_row(genes[6], "GO:0000011", taxon=TAXON[organism]),
    ]
    head = ["!gaf-version: 2.2", "!generated-by: GOC", "!date-generated: 2024-06-10T00:00"]
    return "\n".join([*head, *(own if rows is None else rows)]) + "\n"


def gmt(code: str = "HSA", genes: Sequence[str] = GENES) -> str:
    """Return pathways as GMT: each block, all but one gene of each, and pairs."""
    sets = [genes[:4], genes[4:], genes[1:4], genes[5:], genes[:2], genes[4:6]]
    return "".join("\t".join([f"Pathway {i}", f"R-{code}-{i}", *s]) + "\n" for i, s in enumerate(sets))


def reactome_mapping() -> str:
    """Return ``Ensembl2Reactome_All_Levels``: genes and transcripts of both organisms."""
    lines = []
    for organism, (latin, code) in {
        "human": ("Homo sapiens", "HSA"),
        "mouse": ("Mus musculus", "MMU"),
    }.items():
        for k, members in enumerate([range(4), range(4, 8), range(1, 4), range(5, 8), range(2), range(4, 6)]):
            for i in members:
                own = ensembl(i, organism)
                rest = f"R-{code}-{k}\thttps://reactome.org/PathwayBrowser/#/R-{code}-{k}\tPathway {k}\tTAS\t{latin}"
                lines += [f"{own}\t{rest}", f"{own.replace('G0', 'T0')}\t{rest}"]
    return "\n".join(lines) + "\n"


def collectri() -> str:
    """Return CollecTRI's CSV: two activations, one repression, one edge whose records cancel, one written twice."""
    rows = ["TP53,MDM2,1", "TP53,CDKN1A,1", "GATA1,KLF1,-1", "TAL1,LMO2,1", "TAL1,LMO2,-1", "TP53,MDM2,1"]
    head = "source,target,weight,resources,references,sign_decision"
    return "\n".join([head, *(f'{r},"ExTRI;HTRI","1,2",PMID' for r in rows)]) + "\n"


def omnipath() -> str:
    """Return a table of the web service with DoRothEA's levels."""
    head = (
        "source\ttarget\tsource_genesymbol\ttarget_genesymbol\tis_directed\tis_stimulation\tis_inhibition\t"
        "consensus_direction\tconsensus_stimulation\tconsensus_inhibition\tdorothea_level"
    )
    rows = [
        ("TP53", "MDM2", "1\t1\t1\t1\t1\t0\tA"),
        ("TP53", "CDKN1A", "1\t1\t0\t0\t0\t0\tA;D"),
        ("GATA1", "KLF1", "True\tFalse\tTrue\tTrue\tFalse\tTrue\tC"),
        ("TAL1", "LMO2", "1\t1\t0\t1\t1\t0\tD"),
        ("TAL1", "GATA1", "1\t0\t0\t0\t0\t0\tB"),
    ]
    return "\n".join([head, *(f"P04637\tQ00987\t{a}\t{b}\t{rest}" for a, b, rest in rows)]) + "\n"


def trrust() -> str:
    """Return TRRUST's table, which has no header."""
    return "TP53\tMDM2\tActivation\t1;2\nGATA1\tKLF1\tRepression\t3\nTAL1\tLMO2\tUnknown\t4\n"


def written(folder: Path, name: str, text: str) -> Path:
    """Write a file, packed as its name says (.gz, .zip), and return its path."""
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name.removesuffix(".zip"), text)
    else:
        path.write_text(text)
    return path


def factors() -> str:
    """Return a list of transcription factors as the Human Transcription Factors give it: four of these genes, and one that is none."""
    rows = [
        ("ENSG00000105610", "KLF1", "C2H2 ZF", "Yes", '"of red cells, mostly"'),
        ("ENSG00000102145", "GATA1", "GATA", "Yes", ""),
        ("ENSG00000162367", "TAL1", "bHLH", "Yes", ""),
        ("ENSG00000141510", "TP53", "p53", "Yes", ""),
        ("ENSG00000124762", "CDKN1A", "Unknown", "No", ""),
    ]
    lines = [",".join((str(i), *row)) for i, row in enumerate(rows)]
    return "\n".join([",Ensembl ID,HGNC symbol,DBD,Is TF?,Notes", *lines]) + "\n"


def gene_groups() -> str:
    """Return a complete set of the HGNC: these genes in two groups below one and in one of their own, and a pseudogene."""
    coding = "protein-coding gene"
    rows = [
        ("HGNC:1", "TP53", coding, '"P53|LFS1"', "10|12"),
        ("HGNC:2", "MDM2", coding, "", "10"),
        ("HGNC:3", "CDKN1A", coding, "CDKN1", ""),
        ("HGNC:4", "ATM", coding, '"ATA|ATC"', "11"),
        ("HGNC:5", "KLF1", coding, "EKLF", "11"),
        ("HGNC:6", "GATA1", coding, '"GF1|ATC|TP53"', "13"),
        ("HGNC:7", "TAL1", coding, "", "13"),
        ("HGNC:8", "TP53P1", "pseudogene", "GFX", "13"),
    ]
    head = "hgnc_id\tsymbol\tname\tlocus_group\tprev_symbol\tgene_group_id\tdate_modified\tensembl_gene_id\tgencc"
    lines = [
        f'{i}\t{symbol}\t"gene, the {n}th"\t{locus}\t{former}\t"{groups}"\t2026-0{n}-01\t{ensembl(n - 1)}\t'
        for n, (i, symbol, locus, former, groups) in enumerate(rows, 1)
    ]
    return "\n".join([head, *lines]) + "\n"


def group_hierarchy() -> str:
    """Return the HGNC's table of groups above groups: group 1 above 10 and 11, each above itself at distance 0."""
    rows = ["1,1,0", "10,10,0", "1,10,1", "1,11,1", "12,12,0", "13,13,0"]
    return "\n".join(['"parent_fam_id","child_fam_id","distance"', *rows]) + "\n"
