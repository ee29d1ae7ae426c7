"""Torch modules from control expression, perturbations and covariates to expression."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn
from torch.nn import functional

from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.models.perturbench.params import (
    DecoderOnlyParams,
    LatentAdditiveParams,
    LinearAdditiveParams,
    NetworkParams,
)
from perturbfm_core.models.perturbench.perceptron import perceptron

Tensor = torch.Tensor


class ExpressionModule(nn.Module):
    """Expression [b, G] of cells from controls [b, G], perturbations [b, P] and covariates [b, K]."""

    def __init__(self, softplus: bool) -> None:
        super().__init__()
        self.softplus = softplus

    def forward(self, control: Tensor, perturbation: Tensor, covariates: Tensor) -> Tensor:
        """Return predicted expression, positive with softplus.

        Parameters
        ----------
        control
            float32 [b, G], log1p expression of control cells.
        perturbation
            float32 [b, P], amount of each perturbation.
        covariates
            float32 [b, K], one-hot context and covariates.
        """
        out = self.output(control, perturbation, covariates)
        return functional.softplus(out) if self.softplus else out

    @abstractmethod
    def output(self, control: Tensor, perturbation: Tensor, covariates: Tensor) -> Tensor:
        """Return the output before softplus. Parameters are those of `forward`."""


class LinearAdditiveModule(ExpressionModule):
    """Control expression plus a linear function of the perturbation and, if wanted, covariates."""

    def __init__(self, params: LinearAdditiveParams, sizes: tuple[int, int, int], softplus: bool) -> None:
        super().__init__(softplus)
        genes, perturbations, covariates = sizes
        self.covariates = params.covariates
        self.effect = nn.Linear(perturbations + covariates * params.covariates, genes)

    def output(self, control: Tensor, perturbation: Tensor, covariates: Tensor) -> Tensor:
        """Return control plus effect. Parameters are those of `forward`."""
        given = torch.cat([perturbation, covariates], dim=1) if self.covariates else perturbation
        effect: Tensor = self.effect(given)
        return control + effect


class LatentAdditiveModule(ExpressionModule):
    """Sum of encoded control and encoded perturbation, decoded."""

    def __init__(self, params: LatentAdditiveParams, sizes: tuple[int, int, int], softplus: bool) -> None:
        super().__init__(softplus)
        genes, perturbations, covariates = sizes
        p = params
        self.encoder_covariates, self.decoder_covariates = p.encoder_covariates, p.decoder_covariates
        hidden = (p.hidden_dim, p.n_layers, p.dropout)
        self.control = perceptron(genes + covariates * p.encoder_covariates, p.latent_dim, *hidden)
        self.perturbation = perceptron(perturbations, p.latent_dim, *hidden)
        self.decoder = perceptron(p.latent_dim + covariates * p.decoder_covariates, genes, *hidden)

    def output(self, control: Tensor, perturbation: Tensor, covariates: Tensor) -> Tensor:
        """Return the decoded sum. Parameters are those of `forward`."""
        state = torch.cat([control, covariates], dim=1) if self.encoder_covariates else control
        latent = self.control(state) + self.perturbation(perturbation)
        decoded: Tensor = self.decoder(
            torch.cat([latent, covariates], dim=1) if self.decoder_covariates else latent
        )
        return decoded


class DecoderOnlyModule(ExpressionModule):
    """Expression from perturbation and covariates alone; control expression is not read."""

    def __init__(self, params: DecoderOnlyParams, sizes: tuple[int, int, int], softplus: bool) -> None:
        super().__init__(softplus)
        genes, perturbations, covariates = sizes
        self.covariates, self.perturbations = params.covariates, params.perturbations
        width = perturbations * params.perturbations + covariates * params.covariates
        self.decoder = perceptron(width, genes, params.hidden_dim, params.n_layers, 0.0)

    def output(self, control: Tensor, perturbation: Tensor, covariates: Tensor) -> Tensor:
        """Return the decoded inputs. Parameters are those of `forward`."""
        given = [perturbation] * self.perturbations + [covariates] * self.covariates
        decoded: Tensor = self.decoder(torch.cat(given, dim=1))
        return decoded


def new_module(params: NetworkParams, design: Design, genes: int, expression: bool) -> ExpressionModule:
    """Return an untrained module of the kind that the parameters belong to.

    Parameters
    ----------
    params, design
        Parameters of one of the three networks, and columns of its inputs.
    genes
        Number of genes.
    expression
        Whether the output is expression; differences may be negative and do without softplus.
    """
    sizes = (genes, len(design.perturbations), len(design.covariates))
    softplus = params.softplus and expression
    if isinstance(params, LinearAdditiveParams):
        return LinearAdditiveModule(params, sizes, softplus)
    if isinstance(params, LatentAdditiveParams):
        return LatentAdditiveModule(params, sizes, softplus)
    assert isinstance(params, DecoderOnlyParams)  # noqa: S101 - there are three
    return DecoderOnlyModule(params, sizes, softplus)
