"""Default parameters of graph and gene-feature builders, importable without loading the builders."""

from __future__ import annotations

# Co-expression graphs: edges kept per gene, and largest number of cells that correlations are computed on.
TOP_K = 20
MAX_CELLS = 5000
# Features from gene sets: number of features, and size of the largest gene set used.
DIMENSIONS = 64
MAX_TERM = 300
