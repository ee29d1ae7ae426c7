"""Baselines: the simple predictors that every other model has to beat."""
