"""The prior of PerturbFM: a stack of baselines and a Gaussian process over interventions; no torch."""
