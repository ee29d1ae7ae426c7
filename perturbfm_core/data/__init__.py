"""Data sets: the artifact, its content hash, control matching, condition tables, imports, simulator."""
