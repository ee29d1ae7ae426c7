"""Search space of the PerturbFM options, and the part of it that affects a given configuration."""

from __future__ import annotations

from perturbfm_core.models.perturbfm.params import PerturbFMParams
from perturbfm_core.models.search import Choice, FloatRange, IntRange, SearchDimension, SearchSpace

SEARCH_SPACE: SearchSpace = {
    "lr": FloatRange(3e-4, 3e-2),
    "weight_decay": FloatRange(1e-4, 1e-1),
    "hidden_dim": IntRange(16, 128, log=True),
    "dropout": FloatRange(0.0, 0.5, log=False),
    "direction_weight": FloatRange(0.0, 1.0, log=False),
    "diffusion_steps": IntRange(1, 8),
    "gating_mode": Choice(("none", "scalar", "node", "lowrank", "mlp")),
    "num_bases": IntRange(1, 8),
}

_GRAPH = {"diffusion_steps", "gating_mode"}


def effective(version: int, params: PerturbFMParams) -> dict[str, SearchDimension]:
    """Return the dimensions that affect the predictions of a configuration of a version."""
    if params.gate == "off":
        return {}
    idle: set[str] = set()
    if version < 1 or not params.graph or not params.adjacency:
        idle |= _GRAPH
    if not params.gating:
        idle.add("gating_mode")
    if version < 2:
        idle.add("num_bases")
    return {name: dimension for name, dimension in SEARCH_SPACE.items() if name not in idle}
