"""Fenced blocks of the documentation, and the small files that their commands name."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from tests.support.paths import REPO

_FENCE = re.compile(
    r"(?P<mark><!-- not run: (?P<why>[^>]+?) -->\s*\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PERTURBED = ("TP53", "MYC", "KRAS", "EGFR", "KLF1", "MAP2K6", "CBL", "SET")
COMBOS = ("KLF1+MAP2K6", "CBL+KLF1", "TP53+MYC", "KRAS+EGFR", "CBL+SET", "MYC+SET")
CONTEXTS = ("K562", "RPE1")
GENES = (*PERTURBED, *(f"G{i:02d}" for i in range(24)))


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes
    ----------
    page, line
        File below the repository, and the line of its fence.
    language
        What stands behind the fence; empty for commands.
    text
        Its lines.
    why_not
        Why it is not run, None if it is.
    """

    page: str
    line: int
    language: str
    text: str
    why_not: str | None

    @property
    def commands(self) -> list[str]:
        """Return the command lines, those that go on over several lines joined; of a transcript those behind ``$``."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(x.startswith("$ ") for x in lines):
            return [x.removeprefix("$ ") for x in lines if x.startswith("$ ")]
        out: list[str] = []
        for x in lines:
            if out and out[-1].count('"') % 2:
                out[-1] += " " + x.strip()
            elif x.strip() and not x.startswith("#"):
                out.append(x.strip())
        return out


def pages() -> list[Path]:
    """Return the pages of the documentation."""
    return [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        name = str(page.relative_to(REPO))
        yield Block(name, line, found["language"].strip(), found["text"], found["why"])


def write_files(place: Path, *, counts: bool = False) -> None:
    """Write the files that the pages name, as a user has them.

    Parameters
    ----------
    place
        Folder to write to.
    counts
        Whether ``screen.h5ad`` holds counts and labels of guides' targets, as the Virtual Cell Challenge has them.
    """
    rng = np.random.default_rng(0)
    # A label of the challenge is one target.
    perturbed = PERTURBED if counts else PERTURBED + COMBOS
    names = [(p, c) for c in CONTEXTS for p in ("control",) * 6 + perturbed for _ in range(8)]
    effects = {p: rng.normal(0, 0.8, len(GENES)) for p in PERTURBED}
    base = rng.uniform(0.5, 2.5, len(GENES))
    rate = np.stack([base + sum(effects.get(x, 0.0) for x in p.split("+")) for p, _ in names])
    rate = np.maximum(rate + 0.3 * rng.normal(size=rate.shape), 0.05)
    X = rng.poisson(np.expm1(rate) * 3) if counts else rate
    perts = [p for p, _ in names]
    obs = pd.DataFrame(
        {
            "condition": perts,
            "target": ["non-targeting" if p == "control" else p for p in perts],
            "cell_type": [c for _, c in names],
            "batch": [f"b{i % 2}" for i in range(len(names))],
        },
        index=[f"cell{i}" for i in range(len(names))],
    )
    file = ad.AnnData(X.astype(np.float32), obs=obs, var=pd.DataFrame(index=list(GENES)))
    for name in ("screen.h5ad", "FILE.h5ad", "perturbench_file.h5ad"):
        file.write_h5ad(place / name)
    _write_splits(place, obs)
    _write_graphs(place)
    pd.DataFrame({"perturbation": ["TP53+CBL", "SET"], "context": CONTEXTS}).to_csv(
        place / "wanted.csv", index=False
    )


def _write_splits(place: Path, obs: pd.DataFrame) -> None:
    """Write a saved split as PerturBench has it, alone and in a folder."""
    test = {"KLF1+MAP2K6", "CBL"}
    fold = ["test" if p in test else "val" if p == "SET" else "train" for p in obs["condition"]]
    (place / "splits_of_perturbench").mkdir()
    for name in ("split.csv", "splits_of_perturbench/one.csv"):
        pd.Series(fold, index=obs.index).to_csv(place / name, header=False)


def _write_graphs(place: Path) -> None:
    """Write small public gene graphs and embeddings as their publishers write them."""
    proteins = [f"9606.P{i}" for i in range(len(GENES))]
    links = ["protein1 protein2 combined_score"]
    for i in range(len(GENES) - 1):
        links += [f"{proteins[i]} {proteins[i + 1]} 900", f"{proteins[i + 1]} {proteins[i]} 900"]
    info = [
        "#string_protein_id\tpreferred_name",
        *(f"{p}\t{g}" for p, g in zip(proteins, GENES, strict=True)),
    ]
    for name, lines in (
        ("9606.protein.links.v12.0.txt.gz", links),
        ("9606.protein.info.v12.0.txt.gz", info),
    ):
        (place / name).write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    members = [*GENES, *(f"H{i:02d}" for i in range(80))]
    sets = "".join(f"SET:{i}\t\t" + "\t".join(members[i : i + 6]) + "\n" for i in range(100))
    for name in ("GO_Biological_Process.gmt", "ReactomePathways.gmt"):
        (place / name).write_text(sets)
    edges = list(pairwise(GENES))
    pd.DataFrame(
        [(a, b, 1, "A") for a, b in edges], columns=["source", "target", "mor", "confidence"]
    ).to_parquet(place / "dorothea_hs.parquet")
    (place / "trrust_rawdata.human.tsv").write_text("".join(f"{a}\t{b}\tActivation\t1\n" for a, b in edges))
    pd.DataFrame(edges, columns=["protein1", "protein2"]).assign(combined_score=900).to_parquet(
        place / "links.parquet"
    )
    rng = np.random.default_rng(1)
    pd.DataFrame(rng.normal(size=(len(GENES), 8)), index=list(GENES)).rename(columns=str).to_parquet(
        place / "embeddings.parquet"
    )
