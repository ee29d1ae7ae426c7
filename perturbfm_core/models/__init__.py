"""Models that predict expression deltas: the common base class, the baselines and PerturbFM.

Discovering them does not import torch.
"""
