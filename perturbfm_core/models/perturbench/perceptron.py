"""Perceptron with layer normalisation."""

from __future__ import annotations

from torch import nn


def perceptron(inputs: int, outputs: int, hidden: int, layers: int, dropout: float) -> nn.Sequential:
    """Return a perceptron whose hidden layers are normalised, without weights, before their ReLU.

    Parameters
    ----------
    inputs, outputs
        Sizes of input and output.
    hidden, layers
        Width and number of hidden layers.
    dropout
        Share of hidden values dropped in training.
    """
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Linear(inputs if i == 0 else hidden, hidden)]
        parts += [nn.LayerNorm(hidden, elementwise_affine=False), nn.ReLU()]
        parts += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))
