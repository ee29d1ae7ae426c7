"""Verbs of `perturbfm knowledge` on the public files of a test, and what they report."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.command import Answer, attempt, perturbfm


def lines(files: Path) -> dict[str, tuple[object, ...]]:
    """Return {source: options that name its files}."""
    return {
        "string": (
            "--from",
            files / "9606.protein.links.v12.0.txt.gz",
            "--names",
            files / "9606.protein.info.v12.0.txt.gz",
        ),
        "go": ("--from", files / "goa_human.gaf.gz", "--ontology", files / "go-basic.obo"),
        "reactome": ("--from", files / "ReactomePathways.gmt.zip"),
        "collectri": ("--from", files / "CollecTRI_regulons.csv"),
        "dorothea": ("--from", files / "dorothea.tsv"),
        "hgnc": ("--from", files / "hgnc_complete_set.txt", "--ontology", files / "hierarchy_closure.csv"),
        "human-tfs": ("--from", files / "DatabaseExtract_v_1.01.csv"),
    }


def added(*argv: object) -> Answer:
    """Register a source; its licence is all that there is on standard error."""
    answer = attempt("knowledge", "add", *argv)
    assert answer.code == 0, answer.err
    assert re.fullmatch(r"licence of [^\n]*\n", answer.err), answer.err
    return answer


def refused(*argv: object) -> str:
    """Return why a verb refuses, in one line after the licence."""
    answer = attempt("knowledge", *argv)
    assert (answer.code, answer.out) == (2, "")
    last = answer.err.strip().split("\n")
    assert len(last) == 1 + last[0].startswith("licence of "), answer.err
    return last[-1]


def states() -> dict[str, str]:
    return {row["name"]: row["state"] for row in perturbfm("knowledge", "list", "--json").json}


def stored() -> list[str]:
    return sorted(str(p.relative_to("data")) for p in Path("data").rglob("*.npz"))
