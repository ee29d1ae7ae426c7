"""Cell encoders: networks from log1p expression of a cell, or of a pseudobulk, to a state vector."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from perturbfm_core.config import Frozen
from perturbfm_core.errors import ModelError
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.training.determinism import deterministic

Tensor = torch.Tensor

_VALUE_HIDDEN = 16


class EncoderConfig(Frozen):
    """Architecture of a cell encoder.

    Attributes
    ----------
    kind
        ``mlp``, or ``set-transformer`` with genes as tokens.
    dim
        Size of the state.
    hidden_dim
        Width of the hidden layers of ``mlp``.
    n_layers
        Hidden layers, or attention blocks, the first of which attends to the genes.
    n_heads, n_latents
        Attention heads and latent vectors of ``set-transformer``.
    dropout
        Share of hidden values dropped in training.
    hvg_count
        How many highly variable genes of the train rows are used as input, None for all genes.
    """

    kind: Literal["mlp", "set-transformer"] = "mlp"
    dim: int = Field(default=64, ge=1)
    hidden_dim: int = Field(default=256, ge=1)
    n_layers: int = Field(default=2, ge=1)
    n_heads: int = Field(default=4, ge=1)
    n_latents: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    hvg_count: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> EncoderConfig:
        if self.kind == "set-transformer" and self.dim % self.n_heads:
            msg = f"dim {self.dim} is not a multiple of n_heads {self.n_heads}"
            raise ValueError(msg)
        return self


class Encoder(nn.Module):
    """Base class of cell encoders: input genes and their standardisation.

    Parameters
    ----------
    columns
        int64 [H], positions of the input genes.
    center, scale
        float [H], mean and standard deviation of their log1p expression over train rows.
    dim
        Size of the state.
    """

    columns: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, columns: IntArray, center: FloatArray, scale: FloatArray, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("columns", torch.as_tensor(np.asarray(columns, dtype=np.int64)))
        self.register_buffer("center", torch.as_tensor(np.asarray(center, dtype=np.float32)))
        self.register_buffer("scale", torch.as_tensor(np.asarray(scale, dtype=np.float32)))

    def standardise(self, x: Tensor) -> Tensor:
        """Return [n, H], the input genes of log1p expression [n, G], centred and scaled."""
        return (x[:, self.columns] - self.center) / self.scale

    @property
    def zero(self) -> Tensor:
        """Return [H], the standardised value of zero expression."""
        return -self.center / self.scale

    @abstractmethod
    def encode(self, z: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return the state [n, dim] of standardised expression [n, H].

        Parameters
        ----------
        z
            float [n, H], standardised expression.
        masked
            bool [n, H], genes whose value is hidden.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Return the state [n, dim] of log1p expression [n, G]."""
        return self.encode(self.standardise(x))

    def embed(self, x: FloatArray, batch_size: int = 256) -> FloatArray:
        """Return float32 [n, dim], the state of log1p expression [n, G], in evaluation mode."""
        training = self.training
        self.eval()
        with torch.no_grad():
            parts = [
                # Torch needs writable memory, and arrays read from a data set are not writable: copy them.
                self(torch.from_numpy(np.array(part, dtype=np.float32)).to(self.center.device)).cpu().numpy()
                for part in np.array_split(x, max(1, -(-len(x) // batch_size)))
            ]
        self.train(training)
        return np.concatenate(parts).astype(np.float32)


class CellEncoder(Encoder):
    """A multilayer perceptron on standardised log1p expression; a hidden value is set to the mean."""

    def __init__(
        self, columns: IntArray, center: FloatArray, scale: FloatArray, config: EncoderConfig
    ) -> None:
        super().__init__(columns, center, scale, config.dim)
        layers: list[nn.Module] = []
        width = len(columns)
        for _ in range(config.n_layers):
            layers += [
                nn.Linear(width, config.hidden_dim),
                nn.LayerNorm(config.hidden_dim),
                nn.GELU(),
                nn.Dropout(config.dropout),
            ]
            width = config.hidden_dim
        self.layers = nn.Sequential(*layers, nn.Linear(width, config.dim))

    def encode(self, z: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return the state [n, dim] of standardised expression [n, H] (see `Encoder.encode`)."""
        state: Tensor = self.layers(z if masked is None else z.masked_fill(masked, 0.0))
        return state


class SetTransformerEncoder(Encoder):
    """Set transformer: genes are tokens that a fixed number of latent vectors attend to.

    The cost is linear in the number of genes. A token is the gene's embedding, modulated by its value:

        E_g * (1 + f(z_g))

    with one f for all genes, so that it depends on both gene and expression. The order of genes does not
    matter. After Lee et al. 2019 (induced points) and Jaegle et al. 2021 (latents that attend to a long input
    once).
    """

    def __init__(
        self, columns: IntArray, center: FloatArray, scale: FloatArray, config: EncoderConfig
    ) -> None:
        super().__init__(columns, center, scale, config.dim)
        dim = config.dim
        self.genes = nn.Parameter(torch.randn(len(columns), dim))
        self.hidden_value = nn.Parameter(torch.zeros(dim))
        self.value = nn.Sequential(nn.Linear(1, _VALUE_HIDDEN), nn.GELU(), nn.Linear(_VALUE_HIDDEN, dim))
        self.latents = nn.Parameter(torch.randn(config.n_latents, dim))
        self.blocks = nn.ModuleList(
            _Block(dim, config.n_heads, config.dropout) for _ in range(config.n_layers)
        )
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def encode(self, z: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return the state [n, dim] of standardised expression [n, H] (see `Encoder.encode`)."""
        value = self.value(z[..., None])
        if masked is not None:
            value = torch.where(masked[..., None], self.hidden_value, value)
        tokens = self.genes * (1.0 + value)
        latents = self.latents.expand(len(z), -1, -1)
        for i, block in enumerate(self.blocks):
            # The first block attends to the genes, the others to the latents: [n, n_latents, dim].
            latents = block(latents, tokens if i == 0 else latents)
        state: Tensor = self.out(latents.mean(dim=1))
        return state


class _Block(nn.Module):
    """Attention of latents to tokens (or themselves), then a perceptron; residual, with pre-normalisation."""

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_latents, self.norm_tokens, self.norm = (nn.LayerNorm(dim) for _ in range(3))
        self.query, self.merge = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.perceptron = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        query = self._heads(self.query(self.norm_latents(latents)))
        key, value = self.key_value(self.norm_tokens(tokens)).chunk(2, dim=-1)
        read = functional.scaled_dot_product_attention(query, self._heads(key), self._heads(value))
        latents = latents + self.dropout(self.merge(read.transpose(1, 2).flatten(2)))
        out: Tensor = latents + self.dropout(self.perceptron(self.norm(latents)))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.n_heads, x.shape[-1] // self.n_heads).transpose(1, 2)


def new_encoder(
    config: EncoderConfig, columns: IntArray, center: FloatArray, scale: FloatArray
) -> CellEncoder | SetTransformerEncoder:
    """Return an encoder of the configured kind, initialised from torch's global generator.

    Parameters
    ----------
    config
        Architecture.
    columns
        int64 [H], positions of the input genes.
    center, scale
        float [H], mean and standard deviation of their log1p expression over train rows.
    """
    kind = CellEncoder if config.kind == "mlp" else SetTransformerEncoder
    return kind(columns, center, scale, config)


def encoder_from_state(
    config: EncoderConfig, state: dict[str, Tensor]
) -> CellEncoder | SetTransformerEncoder:
    """Return the encoder of a configuration with saved weights.

    Raises
    ------
    ModelError
        If weights are missing, superfluous, or of another shape.
    """
    try:
        columns, center, scale = (state[k].numpy() for k in ("columns", "center", "scale"))
        with deterministic(0):
            encoder = new_encoder(config, columns, center, scale)
        encoder.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        msg = f"the weights are not those of a {config.kind} encoder: {' '.join(str(error).split())[:200]}"
        raise ModelError(msg) from error
    return encoder


def highly_variable(mean: FloatArray, var: FloatArray, count: int | None) -> IntArray:
    """Return int64 [min(count, G)], positions of the most variable genes, ascending.

    The variance of log1p expression is divided by that of genes with a similar mean: the median of a running
    window of a twentieth of the genes. Genes without variance come last, ties in the order of the genes.

    Parameters
    ----------
    mean, var
        float [G], of log1p expression over train rows.
    count
        How many genes, None for all.
    """
    n = len(mean)
    if count is None or count >= n:
        return np.arange(n)
    order = np.argsort(mean, kind="stable")
    half = max(n // 40, 5)
    padded = np.pad(var[order], half, mode="reflect" if n > half else "edge")
    usual = np.empty(n)
    # Median variance of the neighbours in mean expression; the ratio to it removes the mean-variance trend.
    usual[order] = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    # The floor keeps the ratio finite where most neighbours have no variance.
    positive = var[var > 0]
    floor = float(np.median(positive)) * 1e-3 if len(positive) else 1.0
    ratio = var / np.maximum(usual, floor)
    return np.sort(np.argsort(-ratio, kind="stable")[:count])


def state_arrays(module: nn.Module) -> dict[str, Any]:
    """Return a module's state as contiguous CPU tensors, for safetensors."""
    return {k: v.detach().to("cpu").contiguous() for k, v in module.state_dict().items()}
