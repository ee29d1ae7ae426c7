"""Perturbation data sets: files, content hash, control matching, condition tables, import, simulation."""
