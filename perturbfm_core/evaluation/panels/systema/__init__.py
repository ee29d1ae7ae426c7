"""Metrics of Systema (Viñas Torné et al. 2025): scores against the mean of perturbed conditions, systematic variation."""
