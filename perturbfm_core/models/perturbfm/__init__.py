"""PerturbFM v0 to v3: one network on a learned prior, nested configurations of it."""
