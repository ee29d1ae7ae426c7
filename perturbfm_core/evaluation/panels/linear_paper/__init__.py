"""Ahlmann-Eltze et al. 2025: errors on well expressed genes, and how genetic interactions are found."""
