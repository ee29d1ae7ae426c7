"""Statistics of the `uncertainty` panel, as plain functions of arrays."""
