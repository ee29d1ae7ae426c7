"""Public files: the registry of what there is, their transfer, and the hashes that were found."""
