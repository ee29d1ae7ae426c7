"""Metrics and metric panels, ceilings and floors, attacks on metrics, and parity checks with other benchmarks."""
