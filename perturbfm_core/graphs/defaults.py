"""Defaults of graph and gene-feature builders, readable without importing them."""

from __future__ import annotations

# Co-expression: edges kept per gene, and cells that correlations are computed on.
TOP_K = 20
MAX_CELLS = 5000
# Features from gene sets: how many, and the genes of the largest set used.
DIMENSIONS = 64
MAX_TERM = 300
