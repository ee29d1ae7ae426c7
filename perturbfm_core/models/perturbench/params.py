"""Options of PerturBench's networks."""

from __future__ import annotations

from pydantic import Field, model_validator

from perturbfm_core.config import Frozen
from perturbfm_core.training.options import DeviceName, Precision


class NetworkParams(Frozen):
    """Options that all of PerturBench's networks share.

    Attributes
    ----------
    softplus
        Pass the output through softplus, which keeps predicted expression positive; data without controls
        are differences, for which it is left out.
    lr
        Learning rate.
    weight_decay
        Weight decay of AdamW.
    epochs
        Maximum number of epochs.
    patience
        Epochs without a better validation score after which training stops.
    batch_size
        Rows per step.
    min_steps
        Fewest steps of an epoch: small data are cut into smaller batches.
    max_cells
        Maximum number of perturbed cells to train on, drawn once; none means all.
    control_cells
        Control cells per context whose mean prediction is the prediction of a condition.
    ema_decay
        Decay of the moving average of the weights, which is what is kept.
    device
        Where the network is trained.
    precision
        Precision of the forward pass; takes effect on CUDA.
    """

    softplus: bool = True
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    epochs: int = Field(default=200, ge=1)
    patience: int = Field(default=50, ge=1)
    batch_size: int = Field(default=512, ge=1)
    min_steps: int = Field(default=16, ge=1)
    max_cells: int | None = Field(default=50_000, ge=1)
    control_cells: int = Field(default=64, ge=1)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    device: DeviceName = "auto"
    precision: Precision = "auto"


class LinearAdditiveParams(NetworkParams):
    """Options of `LinearAdditive`.

    Attributes
    ----------
    covariates
        Give context and covariates to the linear layer beside the perturbation.
    lr
        Learning rate; a single layer needs a larger one than the deeper networks.
    """

    covariates: bool = True
    lr: float = Field(default=5e-3, gt=0)


class LatentAdditiveParams(NetworkParams):
    """Options of `LatentAdditive`.

    Attributes
    ----------
    hidden_dim
        Width of hidden layers.
    n_layers
        Hidden layers of each of the three parts.
    latent_dim
        Size of the latent state in which control and perturbation are added.
    dropout
        Share of hidden values dropped in training.
    encoder_covariates, decoder_covariates
        Give context and covariates to the encoder of the control, and to the decoder.
    """

    hidden_dim: int = Field(default=128, ge=1)
    n_layers: int = Field(default=2, ge=1)
    latent_dim: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    encoder_covariates: bool = True
    decoder_covariates: bool = True


class DecoderOnlyParams(NetworkParams):
    """Options of `DecoderOnly`; at least one of its two inputs must be used.

    Attributes
    ----------
    hidden_dim
        Width of hidden layers.
    n_layers
        Hidden layers.
    covariates, perturbations
        What the decoder reads.
    """

    hidden_dim: int = Field(default=128, ge=1)
    n_layers: int = Field(default=2, ge=1)
    covariates: bool = True
    perturbations: bool = True

    @model_validator(mode="after")
    def _some_input(self) -> DecoderOnlyParams:
        if not (self.covariates or self.perturbations):
            msg = "covariates and perturbations are both off; the decoder needs at least one of them"
            raise ValueError(msg)
        return self
