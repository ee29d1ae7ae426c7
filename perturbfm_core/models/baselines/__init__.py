"""Baselines: what every model has to beat. Importing this package registers them."""

from perturbfm_core.models.baselines import additive, latent, linear, means, ridge

__all__ = ["additive", "latent", "linear", "means", "ridge"]
