"""Opening experiments: a split and an entry found by name, checked against each other, side information gathered."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import ConfigError, NotApplicableError
from perturbfm_core.graphs.side_info import AUTO, Needs
from perturbfm_core.models.base import MODELS, applicable, new_model
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.experiment import Experiment, LookAhead, ModelConfig, model_configs
from perturbfm_core.pipeline.gene_graph import gather, missing
from perturbfm_core.pipeline.pretrained_encoder import no_cells
from perturbfm_core.pipeline.registered import names_for
from perturbfm_core.pipeline.split import stats_with_bounds
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.folder import SplitFolder, traits_of
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.entry_names import run_of_entry


def needs_of(entry: ModelEntry) -> Needs:
    """Return the graphs, gene features, encoder and masks that a configured model reads."""
    return new_model(entry.model, entry.params, entry.name).needs()


def why_not(traits: SplitTraits, entry: ModelEntry, conditions: SplitConditions | None = None) -> str | None:
    """Return why an entry cannot run on a split with these traits, None if it can.

    Parameters
    ----------
    traits
        Of the split.
    entry
        The catalog entry.
    conditions
        Conditions of the split, where they are at hand.
    """
    model = new_model(entry.model, entry.params, entry.name)
    needs = model.needs()
    reason = applicable(traits, model.requirements()) or missing(needs)
    reason = reason or (no_cells(traits) if needs.encoder is not None else None)
    return reason or (None if conditions is None else model.cannot(conditions)) or model.absent()


def check_generator(dataset: PerturbDataset, generator: str) -> None:
    """Refuse a generator of counts for data that keep none.

    Raises
    ------
    ConfigError
        If the data set has no counts, of which alone others can be drawn.
    """
    if dataset.streamed.counts is None or dataset.metadata.level != "cell" or not dataset.has_controls:
        msg = (
            f"data set {dataset.name!r} has no counts of control cells, so that {generator!r} has nothing to draw from; leave out "
            "--generator, or import it with --space counts"
        )
        raise ConfigError(msg)


def open_experiment(
    store: ArtifactStore,
    dataset: PerturbDataset,
    split: FrozenSplit,
    config: ModelConfig,
    tell: Progress = quiet,
) -> Experiment:
    """Open the experiment of a resolved configuration, its side information built or loaded.

    Parameters
    ----------
    store
        Where artifacts lie.
    dataset, split
        The data set, and a split that was frozen on it.
    config
        The resolved entry.
    tell
        Called with a line of text about progress.

    Raises
    ------
    SplitError
        If the split is of other data, or the audit blocks it.
    GraphError, ModelError
        If side information is missing, or belongs to another split.
    """
    # Data and split are checked before anything is built from them, whoever calls.
    split.check_dataset(dataset)
    config = with_registered(store, dataset, config, tell)
    return Experiment(
        store=store,
        dataset=dataset,
        split=split,
        config=config,
        side_info=gather(store, dataset, split, config.new_model().needs(), tell),
        read_stats=lambda: stats_with_bounds(store, dataset, split),
        tell=tell,
        look_ahead=_look_ahead(store, dataset, split, config, tell),
    )


def with_registered(
    store: ArtifactStore, dataset: PerturbDataset, config: ModelConfig, tell: Progress = quiet
) -> ModelConfig:
    """Return a configuration with the names that ``auto`` stands for on a data set; its hash stays.

    Parameters
    ----------
    store
        Where artifacts lie.
    dataset
        The data set.
    config
        The resolved entry.
    tell
        Called with a line of text about progress.
    """
    if not config.auto:
        return config
    params = {**config.params, **{name: [*config.params[name], AUTO] for name in config.auto}}
    return config.model_copy(update={"registered": names_for(store, dataset, config.model, params, tell)})


def _look_ahead(
    store: ArtifactStore, dataset: PerturbDataset, split: FrozenSplit, config: ModelConfig, tell: Progress
) -> LookAhead | None:
    """Return what gives a model the conditions that it will be asked for, None for models that are asked later."""
    if not MODELS.get(config.model).asks_ahead:
        return None
    from perturbfm_core.external.request import ahead_of

    return lambda view: ahead_of(store, dataset, split, view, tell)


def open_experiments(
    store: ArtifactStore,
    split: str | FrozenSplit,
    entry: ModelEntry,
    *,
    data: Path | PerturbDataset | None = None,
    tell: Progress = quiet,
) -> list[Experiment]:
    """Open one experiment per seed of an entry.

    Parameters
    ----------
    store
        Where artifacts lie.
    split
        A frozen split; or its hash, a prefix of it, or its key.
    entry
        The catalog entry.
    data
        The data set, or the directory of its artifact; by default it is looked for.
    tell
        Called with a line of text about progress.

    Raises
    ------
    NotApplicableError
        If the entry is not applicable to the split.
    ConfigError
        If predictions made elsewhere have its name, or counts are to be drawn for data without counts.
    """
    found = split if isinstance(split, FrozenSplit) else SplitFolder(store.split_dir).load(split)
    dataset = data if isinstance(data, PerturbDataset) else dataset_of(store, found, data)
    reason = why_not(traits_of(found, dataset), entry, SplitConditions.of(found, dataset))
    if reason is not None:
        msg = f"entry {entry.name!r} is not applicable to split {found.definition.key}: it {reason}"
        raise NotApplicableError(msg, reason)
    if (run := run_of_entry(store, entry.name, external=True)) is not None:
        msg = f"entry {entry.name!r} has runs of predictions made elsewhere, e.g. {run}; give another name (--name)"
        raise ConfigError(msg)
    if entry.generator is not None:
        check_generator(dataset, entry.generator)
    return [open_experiment(store, dataset, found, config, tell) for config in model_configs(entry)]
