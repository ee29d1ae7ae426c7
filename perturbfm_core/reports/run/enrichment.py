"""Gene sets whose genes are predicted worse, or better, than other genes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr
from scipy.stats import rankdata

from perturbfm_core.catalog.loading import load_catalog, user_folder
from perturbfm_core.errors import PerturbFMError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.graphs.tables import GENE_COLUMNS, TERM_COLUMNS, find_column, read_table
from perturbfm_core.reports.run.values import one
from perturbfm_core.schema import FloatArray

FOLDER = "gene_sets"
SMALLEST, LARGEST = 5, 500
MOST_SETS = 60
_SUFFIXES = (".gmt", ".gmt.gz")


def gene_set_files() -> list[Path]:
    """Return the gene-set files of the catalog: those of its folder ``gene_sets``, and the sources of its graphs and features."""
    folder = user_folder() / FOLDER
    found = sorted(p for p in folder.glob("*") if p.name.endswith(_SUFFIXES)) if folder.is_dir() else []
    catalog = load_catalog()
    named = [e.source for e in catalog.graphs.values()] + [e.source for e in catalog.features.values()]
    sources = [Path(source) for source in named if source.endswith(_SUFFIXES)]
    return list(dict.fromkeys([*found, *(p for p in sources if p.is_file())]))


def enrichment(comparison: Comparison, files: Sequence[Path]) -> dict[str, Any]:
    """Return gene sets by how the errors of their genes rank among all genes.

    The error of a gene is its root mean squared error over the test conditions. Of each set the mean rank is compared
    with that of the other genes (Mann-Whitney, two-sided, ties corrected), adjusted over all sets (Benjamini and
    Hochberg).

    Returns
    -------
    dict
        ``files``; ``tested``; ``rows`` of set, file, genes, share of other genes with smaller errors, p and adjusted p,
        most extreme first; ``problems``, one sentence per file that cannot be read.
    """
    names, members, problems, used = [], [], [], []
    position = {str(g): i for i, g in enumerate(comparison.genes)}
    for file in files:
        try:
            sets = _sets(file, position)
        except (PerturbFMError, OSError) as problem:
            problems.append(f"{file.name} cannot be read: {' '.join(str(problem).split())[:160]}")
            continue
        used.append(file.name)
        names += [(name, file.name) for name in sets]
        members += list(sets.values())
    error: FloatArray = np.sqrt(np.square(comparison.observed - comparison.predicted).mean(axis=0))
    rows = _ranked(names, members, error) if members else []
    return {"files": used, "tested": len(members), "rows": rows, "problems": problems}


def _sets(file: Path, position: dict[str, int]) -> dict[str, list[int]]:
    """Return {set: positions of its measured genes} of the sets of a usable size."""
    table = read_table(file)
    terms, genes = find_column(table, TERM_COLUMNS), find_column(table, GENE_COLUMNS)
    found: dict[str, set[int]] = {}
    for term, gene in zip(terms.astype(str), genes.astype(str), strict=True):
        if gene in position:
            found.setdefault(term, set()).add(position[gene])
    most = min(LARGEST, len(position) - 1)
    return {t: sorted(g) for t, g in found.items() if SMALLEST <= len(g) <= most}


def _ranked(names: list[tuple[str, str]], members: list[list[int]], error: FloatArray) -> list[list[Any]]:
    n = len(error)
    sizes = np.asarray([len(m) for m in members])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    matrix = sp.csr_matrix((np.ones(starts[-1]), np.concatenate(members), starts), shape=(len(members), n))
    ranks = rankdata(error)
    u = matrix @ ranks - sizes * (sizes + 1) / 2
    rest = n - sizes
    _, counts = np.unique(ranks, return_counts=True)
    ties = float((counts**3 - counts).sum()) / max(n * (n - 1), 1)
    spread = np.sqrt(np.maximum(sizes * rest / 12.0 * (n + 1 - ties), 1e-12))
    z = (u - sizes * rest / 2.0) / spread
    p: FloatArray = np.minimum(2 * ndtr(-np.abs(z)), 1.0)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    larger = u / (sizes * rest)
    return [
        [*names[i], int(sizes[i]), one(float(larger[i])), one(float(p[i])), one(float(adjusted[i]))]
        for i in order[:MOST_SETS]
    ]
