"""An experiment: one model entry with one seed on one split, the value that the stages of a run pass along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import Field

from perturbfm_core.catalog.entries import ModelEntry, Tuned
from perturbfm_core.config import Frozen, content_hash, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.graphs.side_info import AUTO, SideInfo
from perturbfm_core.models.base import Model, new_model
from perturbfm_core.models.named_inputs import NAMING
from perturbfm_core.models.parameters import recorded
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.schema import DEFAULT_GENERATOR, CountGenerator
from perturbfm_core.splits.audit.borrowed import borrowed_findings
from perturbfm_core.splits.audit.core import Finding, require_clean
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import TrainView
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.code import code_of
from perturbfm_core.uncertainty.config import UncertaintyConfig

# Gives a model that `asks_ahead` the conditions that it will be asked for, from its train view.
LookAhead = Callable[[TrainView], Any]


class ModelConfig(Frozen):
    """One entry with one seed, all parameters resolved: its hash names the run.

    `tuned` is not part of the hash: it says where the parameters come from. Neither is `auto`, the parameters that take
    what is registered of public sources, nor `registered`, the names that they took for one data set: what these hold is
    part of the key of the fit, by its content. `generator`, by which counts are drawn of the
    prediction when it is scored, is where it is not the default.
    """

    entry: str
    model: str
    params: dict[str, Any]
    seed: int
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    generator: CountGenerator = Field(default=DEFAULT_GENERATOR, exclude_if=lambda g: g == DEFAULT_GENERATOR)
    tuned: Tuned | None = Field(default=None, exclude=True)
    auto: tuple[str, ...] = Field(default=(), exclude=True)
    registered: dict[str, tuple[str, ...]] = Field(default_factory=dict, exclude=True)

    @property
    def config_hash(self) -> str:
        """Return the hash with the seed."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def entry_hash(self) -> str:
        """Return the hash without the seed: all seeds of one configuration share it."""
        return content_hash(self.model_dump(mode="json", exclude={"seed"}))

    @property
    def fit_hash(self) -> str:
        """Return the hash of what is fitted and predicted, however it is scored."""
        return content_hash(self.model_dump(mode="json", exclude={"generator"}))

    @property
    def other_generator(self) -> dict[str, str]:
        """Return {"generator": its name} if it is another than by default."""
        return {} if self.generator == DEFAULT_GENERATOR else {"generator": self.generator}

    def new_model(self) -> Model:
        """Return the unfitted model: the entry's own, or an ensemble of it."""
        asked = self.uncertainty
        params = {
            **self.params,
            **{name: [*self.params[name], *found] for name, found in self.registered.items() if found},
        }
        if asked.ensemble == 1:
            return new_model(self.model, params, self.entry)
        members = {"model": self.model, "params": params, "members": asked.ensemble, "bag": asked.bag}
        return new_model("ensemble", members)


def model_configs(entry: ModelEntry) -> list[ModelConfig]:
    """Return one resolved configuration per seed of a catalog entry."""
    own = new_model(entry.model, entry.params, entry.name).params
    params = recorded(own.model_dump(mode="json"), own)
    auto = tuple(name for name in NAMING if AUTO in (params.get(name) or ()))
    params |= {name: [n for n in params[name] if n != AUTO] for name in auto}
    asked = parse(UncertaintyConfig, entry.uncertainty, f"uncertainty of entry {entry.name!r}")
    return [
        ModelConfig(
            entry=entry.name,
            model=entry.model,
            params=params,
            seed=seed,
            uncertainty=asked,
            tuned=entry.tuned,
            auto=auto,
            generator=entry.generator or DEFAULT_GENERATOR,
        )
        for seed in entry.seeds
    ]


@dataclass(frozen=True)
class Keys:
    """Identities of what an experiment makes before it is scored, under ``runs/.objects``.

    Attributes
    ----------
    model
        Of the fit: data, split, configuration with seed, side information, code.
    prediction
        Of the prediction: the fit, and the code that predicts.
    code
        {stage: digest} of the code behind both.
    libraries
        {distribution: "major.minor"} of the numeric libraries behind both.
    """

    model: str
    prediction: str
    code: dict[str, str]
    libraries: dict[str, str]


@dataclass(frozen=True, eq=False)
class Experiment:
    """One entry with one seed on one frozen split: what a fit, a prediction, scores and a run belong to.

    Attributes
    ----------
    store
        Where artifacts lie.
    dataset, split
        The data set, and a split that was frozen on it.
    config
        The resolved entry.
    side_info
        Graphs, gene features, encoder, masks and donors that the model reads.
    read_stats
        Gives what is stored beside the split; called when it is first needed.
    tell
        Called with a line of text about progress.
    look_ahead
        Sets `Model.ahead` before a fit, None for models that need no such thing.
    """

    store: ArtifactStore
    dataset: PerturbDataset
    split: FrozenSplit
    config: ModelConfig
    side_info: SideInfo
    read_stats: Callable[[], SplitStats]
    tell: Progress = quiet
    look_ahead: LookAhead | None = None

    @property
    def name(self) -> str:
        """Return what its runs are called, but for their time."""
        return f"{self.split.hash[:7]}_{self.config.entry}_{self.config.config_hash[:8]}"

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Return the warnings of the leakage audit.

        Raises
        ------
        SplitError
            If the split is of other data, or the audit blocks it.
        """
        self.split.check_dataset(self.dataset)
        borrowed = [d.record for d in self.side_info.donors.values() if d.record is not None]
        return (*require_clean(self.dataset, self.split), *borrowed_findings(borrowed))

    @cached_property
    def stats(self) -> SplitStats:
        """Return the split's statistics, ceilings, floors and strata."""
        return self.read_stats()

    @cached_property
    def keys(self) -> Keys:
        """Return the keys of the fit and the prediction."""
        unfitted = self.config.new_model()
        own, identity = unfitted.modules(), unfitted.identity()
        fit = code_of(f"{__package__}.trained_model", *own)
        predict = code_of(f"{__package__}.prediction", *own)
        model = content_hash(
            {
                "stage": "trained_model",
                "data": self.dataset.content_sha256,
                "split": self.split.hash,
                "config": self.config.fit_hash,
                "side_info": self.side_info.digests,
                "code": fit.digest,
                **({"identity": identity} if identity else {}),
            }
        )
        return Keys(
            model=model,
            prediction=content_hash({"stage": "prediction", "model": model, "code": predict.digest}),
            code={"trained_model": fit.digest, "prediction": predict.digest},
            libraries={**predict.libraries, **fit.libraries},
        )
