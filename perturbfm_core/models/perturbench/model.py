"""PerturBench's simple networks (Wu et al. 2024), registered by name."""

from __future__ import annotations

from typing import ClassVar

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.perturbench.network_model import ExpressionNetwork
from perturbfm_core.models.perturbench.params import (
    DecoderOnlyParams,
    LatentAdditiveParams,
    LinearAdditiveParams,
)
from perturbfm_core.models.search import Choice, FloatRange, IntRange, SearchSpace

TRAINING_SPACE: SearchSpace = {"lr": FloatRange(1e-4, 2e-2), "weight_decay": FloatRange(1e-8, 1e-3)}
LAYER_SPACE: SearchSpace = {"hidden_dim": IntRange(32, 1024, log=True), "n_layers": IntRange(1, 3)}


@MODELS.register("linear_additive")
class LinearAdditive(ExpressionNetwork):
    """Predicts control expression plus a linear effect of perturbation and covariates, through softplus."""

    search_space: ClassVar[SearchSpace] = {**TRAINING_SPACE, "covariates": Choice((True, False))}

    class Params(LinearAdditiveParams):
        """Options of `LinearAdditive`."""


@MODELS.register("latent_additive")
class LatentAdditive(ExpressionNetwork):
    """Adds the encoded perturbation to the encoded control in a latent space and decodes the sum."""

    search_space: ClassVar[SearchSpace] = {
        **TRAINING_SPACE,
        **LAYER_SPACE,
        "latent_dim": IntRange(8, 256, log=True),
        "dropout": FloatRange(0.0, 0.5, log=False),
        "encoder_covariates": Choice((True, False)),
        "decoder_covariates": Choice((True, False)),
    }

    class Params(LatentAdditiveParams):
        """Options of `LatentAdditive`."""


@MODELS.register("decoder_only")
class DecoderOnly(ExpressionNetwork):
    """Predicts expression from perturbation and covariates alone, without reading control expression."""

    reads_control: ClassVar[bool] = False
    search_space: ClassVar[SearchSpace] = {
        **TRAINING_SPACE,
        **LAYER_SPACE,
        "covariates": Choice((True, False)),
    }

    class Params(DecoderOnlyParams):
        """Options of `DecoderOnly`."""

    def reads_perturbations(self) -> bool:
        """Return whether perturbations are read, which the option `perturbations` switches off."""
        return bool(self.params.perturbations)
