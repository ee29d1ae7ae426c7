"""A small simulated data set, and entries that run on it, for tests of stages."""

from __future__ import annotations

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.simulate import SimulationConfig
from perturbfm_core.pipeline.experiment import ModelConfig, model_configs

CONFIG = SimulationConfig(name="small", n_obs=400, n_genes=40, n_contexts=3, n_perts=6)


def entry(model="global_mean", **fields) -> ModelEntry:
    return ModelEntry(**{"name": model, "description": "x", "model": model, **fields})


def config(model="global_mean", **fields) -> ModelConfig:
    return model_configs(entry(model, **fields))[0]
