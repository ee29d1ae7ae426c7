"""The stored study: one SQLite file that a killed search leaves whole and the next one goes on with."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbfm_core.errors import ConfigError, StoreError
from perturbfm_core.models.search import Choice, FloatRange, SearchDimension, SearchSpace
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_atomic
from perturbfm_core.training.seeds import derived_seed

# Optuna with its database layer takes half a second to load, which other verbs need not wait for.
if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

IDENTITY = "identity"
"""Attribute of a study: what its values depend on."""

TOLD = "told"
"""Attribute of a trial that ended by itself: parameters as set, scores of its folds, seconds, why it failed."""

_BUSY_S = 60


@contextlib.contextmanager
def open_study(store: ArtifactStore, name: str, identity: dict[str, Any]) -> Iterator[Study]:
    """Open a study, made if it is not there yet, for one process at a time.

    Trials that an interrupted search left running are marked as failed.

    Parameters
    ----------
    store, name
        Where it lies.
    identity
        What its values depend on: one that was made with another is refused.

    Raises
    ------
    ConfigError
        If the study of this name is of something else.
    StoreError
        If another process has it open, or the file is damaged.
    """
    with store.lock(f"study-{name}", wait=False) as held:
        if not held:
            msg = f"study {name!r} is being run by another process; wait for it, or give another --study NAME"
            raise StoreError(msg)
        path = store.study(name)
        if not path.is_file():
            _create(store, name, identity)
        with _storage(path) as storage:
            study = _load(storage, name, path)
            _check_identity(name, study.user_attrs.get(IDENTITY, {}), identity)
            _fail_interrupted(study)
            yield study


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[RDBStorage]:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import QueuePool

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A creator rather than a URL: any path will do, whatever characters it has.
    options = {
        "creator": lambda: sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False),
        "poolclass": QueuePool,
    }
    try:
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=options)
    except (SQLAlchemyError, RuntimeError) as error:
        raise _damaged(path, error) from error
    try:
        yield storage
    finally:
        storage.scoped_session.remove()
        storage.engine.dispose()


def _damaged(path: Path, error: Exception) -> StoreError:
    detail = " ".join(str(error).split())[:120]
    return StoreError(
        f"{path} is not a study that can be read ({detail}); remove it, or give another --study NAME"
    )


def _create(store: ArtifactStore, name: str, identity: dict[str, Any]) -> None:
    """Write an empty study in one step, since a half-made database could not be told from a damaged one."""
    import optuna

    with store.stage() as staging:
        path = staging.path / "study.db"
        with _storage(path) as storage:
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
            study.set_user_attr(IDENTITY, identity)
        write_atomic(store.study(name), path.read_bytes())


def _load(storage: RDBStorage, name: str, path: Path) -> Study:
    import optuna

    # Only folds that are scored one after the other report values on the way.
    pruner = optuna.pruners.MedianPruner()
    try:
        return optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    except (KeyError, optuna.exceptions.StorageInternalError) as error:
        raise _damaged(path, error) from error


def _check_identity(name: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    other = [key for key in sorted(found | wanted) if found.get(key) != wanted.get(key)]
    if other:
        msg = f"study {name!r} was made with other {', '.join(other)}; its values do not compare, give another --study NAME"
        raise ConfigError(msg)


def _fail_interrupted(study: Study) -> None:
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that count: complete, pruned, or failed for a reason of their own."""
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [t for t in found if TOLD in t.user_attrs]


def ask(study: Study, space: SearchSpace, seed: int, index: int) -> tuple[Trial, dict[str, Any]]:
    """Return the next trial and what it sets each searched parameter to.

    The sampler is seeded by (seed, index): a search that goes on draws what one that was never interrupted draws.
    """
    from optuna.samplers import TPESampler

    study.sampler = TPESampler(seed=derived_seed(seed, "trial", index))
    trial = study.ask(fixed_distributions={name: _distribution(d) for name, d in space.items()})
    return trial, {name: _rounded(value) for name, value in trial.params.items()}


def _distribution(dimension: SearchDimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if isinstance(dimension, FloatRange):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return IntDistribution(dimension.low, dimension.high, log=dimension.log)


def _rounded(value: Any) -> Any:
    """Return a real number to four digits: what is written down is what was tried."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def space_json(space: SearchSpace) -> dict[str, Any]:
    """Return a search space as JSON."""
    return {
        name: {"what": type(d).__name__}
        | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(d).items()}
        for name, d in space.items()
    }
