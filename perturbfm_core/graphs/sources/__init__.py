"""Public sources of gene graphs and gene features: their records, readers of their files, and conversion."""
