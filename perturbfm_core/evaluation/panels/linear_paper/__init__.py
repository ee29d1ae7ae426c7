"""Metrics of Ahlmann-Eltze et al. 2025: errors on highly expressed genes, and detection of genetic interactions."""
