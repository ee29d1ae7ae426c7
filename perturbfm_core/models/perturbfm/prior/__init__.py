"""Prior of PerturbFM: a stack of baselines and a Gaussian process over interventions; without torch."""
