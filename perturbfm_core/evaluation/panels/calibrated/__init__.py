"""Metrics calibrated between a negative and a positive control (Mejia et al. 2025, Miller et al. 2025)."""
