"""The stages of one experiment, each called from its parts: store, data set, split, configuration."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline import metric_panel, prediction, run, trained_model
from perturbfm_core.pipeline.experiment import Experiment, ModelConfig
from perturbfm_core.pipeline.opening import open_experiment
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import Artifact, ArtifactStore


def opened(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    config: ModelConfig,
    tell: Progress = quiet,
) -> Experiment:
    """Open an experiment."""
    return open_experiment(store, ds, split, config, tell)


def fit(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    config: ModelConfig,
    tell: Progress = quiet,
) -> Artifact:
    """Fit, or find the fit."""
    return trained_model.fit(opened(store, ds, split, config, tell))


def predict(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    config: ModelConfig,
    tell: Progress = quiet,
) -> Artifact:
    """Fit and predict, or find both."""
    e = opened(store, ds, split, config, tell)
    return prediction.predict(e, trained_model.fit(e))


def score(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    config: ModelConfig,
    tell: Progress = quiet,
) -> metric_panel.PanelScores:
    """Fit, predict and score, or find all three."""
    e = opened(store, ds, split, config, tell)
    fitted = trained_model.fit(e)
    return metric_panel.score(e, fitted, prediction.predict(e, fitted))


def publish(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    config: ModelConfig,
    tell: Progress = quiet,
    *,
    again: bool = False,
) -> Path:
    """Take all stages, or find the run, and return its directory."""
    return run.run(opened(store, ds, split, config, tell), again=again)
