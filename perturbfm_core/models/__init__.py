"""Models that predict deltas: one contract, the baselines, PerturbFM. Finding them does not import torch."""
