"""PerturbFM v0 to v3: nested configurations of one network on top of a learned prior."""
