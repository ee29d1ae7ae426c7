"""PerturbFM v0 to v3: a Gaussian process over interventions with baselines as the core, a network that may correct it."""
