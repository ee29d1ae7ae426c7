"""Baselines: what every model has to beat. Importing this package registers them."""

from perturbfm_core.models.baselines import (
    additive,
    combo_kernel_ridge,
    gene_embedding_ridge,
    kernel_ridge,
    knn,
    latent,
    linear,
    matching_mean,
    means,
    ridge,
    scaled_additive,
    set_kernel_ridge,
)

__all__ = [
    "additive",
    "combo_kernel_ridge",
    "gene_embedding_ridge",
    "kernel_ridge",
    "knn",
    "latent",
    "linear",
    "matching_mean",
    "means",
    "ridge",
    "scaled_additive",
    "set_kernel_ridge",
]
