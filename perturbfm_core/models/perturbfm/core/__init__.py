"""Core of PerturbFM: a Gaussian process over interventions, stacked with baselines; without torch."""
