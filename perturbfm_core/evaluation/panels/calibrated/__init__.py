"""Calibrated metrics (Mejia et al. 2025, Miller et al. 2025): scores between a negative and a positive control."""
