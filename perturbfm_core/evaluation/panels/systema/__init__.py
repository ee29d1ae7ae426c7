"""Systema (Viñas Torné et al. 2025): scores against the perturbed reference, and what variation is systematic."""
