"""Presets for the import of public collections, one module per collection."""
