"""Neural network of PerturbFM: the correction that it adds to the prediction of the core.

    delta - core = (U k) * (1 + tanh(gamma x)) + sum_f c_f(z) s_f(x) phi_f

U [G, r] starts from the principal components of the train deltas; k [r] is computed from the latent state z
[d]; x is the control expression of each gene; phi_f [G] are channels over genes (diffusion over graphs, the
core itself, sums of measured singles), each with a coefficient c_f that depends on z and a gate s_f by
control expression. Parts that a version lacks are absent, not zeroed:

v0
    z from control state, context and features of the perturbed genes, with a factorisation-machine pair term
v1
    adds graphs: diffused node embeddings in z and diffusion channels, each graph weighted by its trust tau
v2
    adds intervention channels, mixing of graphs by context, the operator k = (B0 + sum_j alpha_j(context)
    B_j) q(z)
v3
    adds the control state as input of the operator, and gates by the control expression of each gene

This module is longer than 400 lines because the parts of the network refer to each other's shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from perturbfm_core.models.perturbfm.encoder.module import Encoder
from perturbfm_core.models.perturbfm.network.sparse_product import DiffusionRows
from perturbfm_core.models.perturbfm.params import GatingMode

Tensor = torch.Tensor

_LAST_LAYER = 1e-2
# Share of identity embeddings dropped in training, so that the network also learns from the features of a
# gene.
_ID_DROPOUT = 0.5
_GATE_RANK = 4
_TRUST_START = 0.0


@dataclass(frozen=True)
class NetworkSpec:
    """Sizes and parts of a network.

    Attributes
    ----------
    version
        0 to 3.
    genes, rank, dim, layers, dropout
        Number of genes G, rank r, width d, number of hidden layers, drop-out rate.
    ids, features
        Number of known perturbations (plus unknown and padding), width of gene features.
    basal, context
        Widths of control state and context, 0 where absent.
    graphs, steps, nodes, node_features
        Number of graphs, diffusion steps, nodes of each graph, width of node features.
    channels
        Channels over genes: graphs x steps, then those of the intervention.
    bases, gating, contextual
        Number of matrices of the operator, form of the node gates, whether the operator depends on the
        context.
    perturbation
        Whether identity and features of the perturbed genes are used.
    """

    version: int
    genes: int
    rank: int
    dim: int
    layers: int
    dropout: float
    ids: int
    features: int
    basal: int
    context: int
    graphs: int
    steps: int
    nodes: tuple[int, ...]
    node_features: int
    channels: int
    bases: int
    gating: GatingMode
    contextual: bool
    perturbation: bool = True


@dataclass(eq=False)
class Batch:
    """Conditions as tensors.

    Attributes
    ----------
    ids, amounts, features
        int64 [n, P], float [n, P] signed amounts (0 for padding), float [n, P, F].
    basal, context
        float [n, .]; with an encoder, `cells` [contexts, G] and `cell_row` [n] replace `basal`.
    spread
        Per graph [n * T, nodes]: the diffused intervention.
    channels
        float [n, F, G].
    state
        float [n, 2, G]: standardised control expression of each gene and its standardised square; None below
        v3.
    multi
        float [n], 1 where more than one gene is perturbed.
    """

    ids: Tensor
    amounts: Tensor
    features: Tensor
    basal: Tensor
    context: Tensor
    spread: list[DiffusionRows]
    channels: Tensor
    state: Tensor | None
    multi: Tensor
    cells: Tensor | None = None
    cell_row: Tensor | None = None


class PerturbationNetwork(nn.Module):
    """The network of all versions (see the module).

    Parameters
    ----------
    spec
        Sizes and parts.
    components
        float [G, r], initial U.
    nodes
        Per graph float [nodes, F], features of its nodes.
    encoder
        Cell encoder whose state of the controls replaces `basal`, None without.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        components: Tensor,
        nodes: Sequence[Tensor] = (),
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        d, v = spec.dim, spec.version
        self.encoder = encoder
        self.U = nn.Parameter(components.clone())
        width = 0
        if spec.perturbation:
            self.identity = nn.Embedding(spec.ids, d)
            nn.init.normal_(self.identity.weight, std=d**-0.5)
            self.described = nn.Linear(spec.features, d, bias=False) if spec.features else None
            width += 2 * d
        basal = spec.basal if encoder is None else encoder.dim
        self.control = nn.Linear(basal, d) if basal else None
        self.surroundings = _perceptron(spec.context, d, d, 1, spec.dropout) if spec.context else None
        width += d * (self.control is not None) + d * (self.surroundings is not None)
        self.graphs: _Graphs | None = None
        if v >= 1 and spec.graphs:
            self.graphs = _Graphs(spec, nodes)
            width += d
        self.trunk = _perceptron(max(width, 1), d, d, spec.layers, spec.dropout)
        self.head = _last(d, spec.rank)
        mixing = (d if self.surroundings is not None else 0) + (
            d if v >= 3 and self.control is not None else 0
        )
        self.operator = _Operator(spec.rank, spec.bases, mixing if spec.contextual else 0) if v >= 2 else None
        if spec.channels:
            self.coefficients = _last(d, spec.channels)
        if v >= 3:
            self.gene_gate = nn.Parameter(torch.randn(spec.genes) * _LAST_LAYER)
            self.channel_gate = nn.Parameter(torch.randn(2, max(spec.channels, 1)) * _LAST_LAYER)

    def latent(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the latent state z [n, d], and the embeddings of context and control state, if present."""
        pieces: list[Tensor] = []
        if self.spec.perturbation:
            e = self.identity(batch.ids)
            if self.training:
                kept = torch.rand(batch.ids.shape, device=e.device) >= _ID_DROPOUT
                e = e * kept[..., None]
            if self.described is not None:
                e = e + self.described(batch.features)
            e = e * batch.amounts[..., None]
            total = e.sum(dim=1)
            # Factorisation machine: half of (sum e)^2 - sum e^2 is the sum over pairs of parts of e_p * e_q,
            # [n, d].
            pieces += [total, 0.5 * (total.square() - e.square().sum(dim=1))]
        h_x = None
        if self.control is not None:
            basal = batch.basal
            if self.encoder is not None and batch.cells is not None and batch.cell_row is not None:
                basal = self.encoder(batch.cells)[batch.cell_row]
            h_x = torch.tanh(self.control(basal))
            pieces.append(h_x)
        e_c = None
        if self.surroundings is not None:
            e_c = self.surroundings(batch.context)
            pieces.append(e_c)
        if self.graphs is not None:
            pieces.append(self.graphs(batch.spread, len(batch.ids), e_c))
        if not pieces:
            pieces.append(batch.multi[:, None])
        return self.trunk(torch.cat(pieces, dim=1)), e_c, h_x

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the corrections through the latent state and through the channels, each [n, G]."""
        z, e_c, h_x = self.latent(batch)
        k = self.head(z)
        if self.operator is not None:
            mixing = [x for x in (e_c, h_x if self.spec.version >= 3 else None) if x is not None]
            k = self.operator(k, torch.cat(mixing, dim=1) if mixing and self.spec.contextual else None)
        # k [n, r] weighs the response components U [G, r].
        out = k @ self.U.T
        state = batch.state
        gated = self.spec.version >= 3 and state is not None
        if gated and state is not None:
            out = out * (1.0 + torch.tanh(self.gene_gate * state[:, 0]))
        if not self.spec.channels:
            return out, torch.zeros_like(out)
        # c [n, F] times channels [n, F, G], summed over the channels.
        c = self.coefficients(z)
        if self.graphs is not None:
            c = c * self.graphs.channel_trust(self.spec.channels)
        local = torch.bmm(c[:, None], batch.channels)[:, 0]
        if gated and state is not None:
            for moment in range(2):
                # s_f(x) = 1 + a_f x + b_f x2, with x and x2 the standardised expression and its square; here
                # the last terms.
                weights = (c * self.channel_gate[moment])[:, None]
                local = local + torch.bmm(weights, batch.channels)[:, 0] * state[:, moment]
        return out, local

    def start_channels(self, coefficients: Tensor) -> None:
        """Set the channels' mean coefficients to given values.

        `coefficients` is [1, F], or [3, F] with the coefficients of the channels times the two moments of the
        control state.
        """
        with torch.no_grad():
            trust = 1.0 if self.graphs is None else self.graphs.channel_trust(self.spec.channels)
            # `forward` multiplies by the trust, so that trust times bias is the given coefficient.
            self.coefficients.bias.copy_(coefficients[0] / trust)
            if len(coefficients) == 3 and self.spec.version >= 3:
                base = coefficients[0]
                tiny = 1e-3 * base.abs().max() + 1e-12
                # The gate multiplies the coefficient, so it starts at their ratio; where the coefficient is
                # about zero, the division by infinity gives 0 and the gate keeps its random start.
                ratio = coefficients[1:] / torch.where(base.abs() > tiny, base, torch.inf)
                self.channel_gate.copy_(torch.where(ratio == 0, self.channel_gate, ratio))


class _Operator(nn.Module):
    """k = (B0 + sum_j alpha_j B_j) q with B0 the identity.

    alpha [bases] depends on context and control state through `mix`; without these it is the same for all
    conditions.
    """

    def __init__(self, rank: int, bases: int, mixing: int) -> None:
        super().__init__()
        self.bases = nn.Parameter(torch.randn(bases, rank, rank) / rank)
        self.mix = nn.Linear(mixing, bases) if mixing else None
        self.alpha = nn.Parameter(torch.full((bases,), 1.0 / bases)) if not mixing else None

    def forward(self, q: Tensor, mixing: Tensor | None) -> Tensor:
        """Return k [n, r] from q [n, r]."""
        moved = torch.einsum("jrs,ns->njr", self.bases, q)
        alpha = self.mix(mixing) if self.mix is not None else self.alpha
        if alpha is None:
            return q
        weighted = alpha[..., None] if alpha.dim() == 2 else alpha[None, :, None]
        return q + (weighted * moved).sum(dim=1)


class _Graphs(nn.Module):
    """Graph state: h_S = sum_m tau_m sum_t theta_mt sum_j D^m[p, t, j] gamma_mj E_j.

    D^m is the diffused intervention on graph m after t steps, E_j the embedding of node j, gamma its gate,
    theta weights of the steps, and tau the trust in the graph. From v2 on, theta and a weight of each graph
    depend on the context.
    """

    def __init__(self, spec: NetworkSpec, nodes: Sequence[Tensor]) -> None:
        super().__init__()
        d, m = spec.dim, spec.graphs
        self.spec = spec
        self.steps = nn.Parameter(torch.zeros(m, spec.steps))
        self.trust = nn.Parameter(torch.full((m,), _TRUST_START))
        self.embed = nn.Linear(spec.node_features, d, bias=False) if spec.node_features else None
        self.nodes = nn.ParameterList(
            [
                nn.Parameter(torch.randn(n, d) * (0.1 * d**-0.5 if spec.node_features else d**-0.5))
                for n in spec.nodes
            ]
        )
        for i, features in enumerate(nodes):
            self.register_buffer(f"features{i}", features)
        # Graphs with the same node features share the embedding of these: the first such graph of each.
        self._alike = [
            next(j for j, y in enumerate(nodes) if x.shape == y.shape and torch.equal(x, y)) for x in nodes
        ]
        self.by_context = nn.Linear(d, m * spec.steps + m) if spec.version >= 2 and spec.context else None
        if self.by_context is not None:
            nn.init.normal_(self.by_context.weight, std=_LAST_LAYER)
            nn.init.zeros_(self.by_context.bias)
        if spec.gating == "scalar":
            self.gate: Any = nn.Parameter(torch.zeros(m))
        elif spec.gating == "node":
            self.gate = nn.ParameterList([nn.Parameter(torch.zeros(n)) for n in spec.nodes])
        elif spec.gating == "lowrank":
            # Both factors start away from zero: a product of two zeros has no gradient.
            self.gate = nn.ParameterList([nn.Parameter(torch.randn(n, _GATE_RANK) * 0.1) for n in spec.nodes])
            self.gate_row = nn.Parameter(torch.randn(m, _GATE_RANK) * 0.1)
            self.gate_context = nn.Linear(d, _GATE_RANK, bias=False) if spec.context else None
        elif spec.gating == "mlp":
            self.gate = _perceptron(d, max(d // 4, 1), 1, 1, 0.0)

    @property
    def tau(self) -> Tensor:
        """Return [graphs], the trust in each graph, in (0, 1)."""
        return torch.sigmoid(self.trust)

    def channel_trust(self, channels: int) -> Tensor:
        """Return [channels], the trust of each diffusion channel's graph, 1 for the channels after these."""
        per_graph = self.tau.repeat_interleave(self.spec.steps)
        return torch.cat([per_graph, per_graph.new_ones(channels - len(per_graph))])

    def _gated(self, i: int, E: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return gated node embeddings [nodes, d], and those of the context's part, [nodes, K, d] or None.

        All gates are 1 where their parameters are zero; scalar and node gates start there.
        """
        mode = self.spec.gating
        if mode == "scalar":
            return E * (2.0 * torch.sigmoid(self.gate[i])), None
        if mode == "node":
            return E * (2.0 * torch.sigmoid(self.gate[i]))[:, None], None
        if mode == "lowrank":
            u = self.gate[i]
            own = E * (1.0 + torch.tanh(u @ self.gate_row[i]))[:, None]
            part = (
                u[:, :, None] * E[:, None, :]
                if context is not None and self.gate_context is not None
                else None
            )
            return own, part
        if mode == "mlp":
            return E * (1.0 + torch.tanh(self.gate(E))), None
        return E, None

    def forward(self, spread: Sequence[DiffusionRows], n: int, context: Tensor | None) -> Tensor:
        """Return the graph state h_S [n, d].

        Parameters
        ----------
        spread
            Per graph sparse [n * T, nodes], the diffused intervention of each condition and step.
        n
            Number of conditions.
        context
            float [n, d], embedding of the context, None without.
        """
        T, d = self.spec.steps, self.spec.dim
        theta = self.steps[None]
        alpha = None
        if self.by_context is not None and context is not None:
            shift = self.by_context(context)
            m = self.spec.graphs
            theta = theta + shift[:, : m * T].view(n, m, T)
            # Weights of the graphs by context, with a mean of 1 over the m graphs.
            alpha = torch.softmax(shift[:, m * T :], dim=1) * m
        theta = torch.softmax(theta, dim=2)
        out = theta.new_zeros(n, d)
        described: dict[int, Tensor] = {}
        for i, D in enumerate(spread):
            E: Tensor = self.nodes[i]
            if self.embed is not None:
                first = self._alike[i]
                if first not in described:
                    described[first] = self.embed(self.get_buffer(f"features{first}"))
                E = E + described[first]
            own, part = self._gated(i, E, context)
            # Gated node embeddings summed over the nodes that the intervention reaches, per step.
            H = (D @ own).view(n, T, d)
            if part is not None and context is not None and self.gate_context is not None:
                K = part.shape[1]
                # The context adds u_j . c_i to the gate of node j in condition i, with c_i =
                # tanh(gate_context). The product with D is linear, so each of the K columns of u is
                # multiplied once for all conditions, and only then weighted by c_i.
                extra = (D @ part.reshape(len(part), K * d)).view(n, T, K, d)
                H = H + torch.einsum("ntkd,nk->ntd", extra, torch.tanh(self.gate_context(context)))
            h = (theta[:, i, :, None] * H).sum(dim=1)
            if alpha is not None:
                h = h * alpha[:, i, None]
            out = out + self.tau[i] * h
        return out


def _perceptron(inputs: int, hidden: int, outputs: int, layers: int, dropout: float) -> nn.Sequential:
    """Return hidden layers of GELU and drop-out, then a linear layer."""
    parts: list[nn.Module] = []
    width = inputs
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout)]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, outputs))


def _last(inputs: int, outputs: int) -> nn.Linear:
    """Return an output layer at a hundredth of the usual scale: near zero, but gradients pass through it."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(_LAST_LAYER)
        layer.bias.zero_()
    return layer
