"""Parts of the import of h5ad files: mapping, labels, doses, scales, and the report of what was decided."""
