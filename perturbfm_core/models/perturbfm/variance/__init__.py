"""Predictive variance of PerturbFM, with a level per condition, per gene and per entry."""
