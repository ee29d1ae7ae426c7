"""Weights of the components of the kernel between conditions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """Weights of the components of the kernel.

    S [n, labels] is the incidence of perturbed genes (gene and modality, weighted by amount), and e the
    measured effect of a single in the space of the first principal components of the train deltas.

    Attributes
    ----------
    identity
        S S', shared perturbed genes.
    effect
        RBF kernel of the summed single effects.
    pair
        Sum over pairs of genes of an RBF kernel of their single effects.
    linear
        Inner product of the summed single effects.
    features
        Sum over pairs of genes of the similarity of their external features.
    context
        Share of all these components that is multiplied by the similarity of contexts, 0 to 1.
    level
        Weight of the similarity of contexts alone, an effect that all perturbations in a context share.
    covariates
        Share of all these components that counts only between conditions with the same covariates (such as the time),
        whatever their contexts, 0 to 1.
    by_size
        Whether the mean of the process is that of conditions with as many perturbed genes, or of all
        conditions.
    tables
        Weight of each table in the similarity of features; empty weighs all alike.
    """

    identity: float = 0.0
    effect: float = 0.0
    pair: float = 0.0
    linear: float = 0.0
    features: float = 0.0
    context: float = 0.0
    level: float = 0.0
    covariates: float = 0.0
    by_size: bool = True
    tables: tuple[float, ...] = ()


# Kernel weights that the process chooses from.
PRESETS: tuple[Kernel, ...] = (
    Kernel(identity=1.0),
    Kernel(identity=0.3, effect=1.0, pair=1.0, linear=0.5, by_size=False),
    Kernel(identity=0.3, effect=1.0, pair=1.0, linear=2.0, by_size=False),
    Kernel(identity=0.3, effect=1.0, pair=1.0, linear=0.5),
    Kernel(identity=2.0, features=1.0),
    Kernel(identity=6.0, features=1.0),
    Kernel(identity=1.0, effect=0.5, pair=0.5, linear=0.5, features=0.5),
)
