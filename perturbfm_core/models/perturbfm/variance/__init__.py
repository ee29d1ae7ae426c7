"""The predictive variance of PerturbFM: one level per condition, one per gene, one per entry."""
