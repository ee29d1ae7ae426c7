"""Storage of hyperparameter studies: one SQLite file per study, which a later search can continue."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbfm_core.errors import StoreError
from perturbfm_core.models.search import Choice, FloatRange, SearchDimension, SearchSpace
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_atomic
from perturbfm_core.store.disk import disk_error, refusal, writing
from perturbfm_core.store.locks import read_holder
from perturbfm_core.training.seeds import derived_seed
from perturbfm_core.tuning.identity import check_identity

# Optuna with its database layer takes half a second to load, so other commands do not import it.
if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

IDENTITY = "identity"
"""Attribute of a study: everything that its scores depend on."""

OUTCOME = "outcome"
"""Attribute of a trial that was not interrupted: parameters, scores of folds, seconds, reason of failure."""

_BUSY_S = 60
# What the tables of an empty study take, and its copy in place.
_STUDY_BYTES = 320_000
# What one more trial takes at most, with the journal of its transaction.
_TRIAL_BYTES = 64_000


@contextlib.contextmanager
def open_study(store: ArtifactStore, name: str, identity: dict[str, Any]) -> Iterator[Study]:
    """Open a study for one process at a time, and create it if it does not exist.

    Trials that an interrupted search left in the state "running" are marked as failed.

    Parameters
    ----------
    store
        Store of the study.
    name
        Name of the study.
    identity
        Everything that its scores depend on; an existing study with another identity is refused.

    Raises
    ------
    ConfigError
        If the study of this name was made with another identity.
    StoreError
        If another process has it open, or the file is damaged.
    """
    with store.lock(f"study-{name}", wait=False) as held:
        if not held:
            holder = read_holder(store.locks / f"study-{name}.lock")
            who = "another process" if holder is None else f"another process, {holder}"
            msg = f"study {name!r} is being run by {who}; wait for it, or give another --study NAME"
            raise StoreError(msg)
        path = store.study(name)
        if not path.is_file():
            _create(store, name, identity)
        with writing(path, _TRIAL_BYTES), _storage(path) as storage:
            study = _load(storage, name, path)
            check_identity(f"study {name!r}", study.user_attrs.get(IDENTITY, {}), identity, "--study NAME")
            _fail_interrupted(study)
            yield study


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[RDBStorage]:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import QueuePool

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A function that connects instead of a URL, in which some characters of a path would have to be escaped.
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
    """Return the error of a study that cannot be opened: the disk's, if it is the disk that refuses."""
    reason = refusal(error, path)
    if reason is not None:
        return disk_error(path, reason, _STUDY_BYTES)
    detail = " ".join(str(error).split())[:120]
    return StoreError(
        f"{path} is not a study that can be read ({detail}); remove it, or give another --study NAME"
    )


def _create(store: ArtifactStore, name: str, identity: dict[str, Any]) -> None:
    """Write an empty study atomically, since an incomplete database would look like a damaged one."""
    import optuna

    with store.stage() as staging, writing(store.study(name), _STUDY_BYTES, staging.path):
        path = staging.path / "study.db"
        with _storage(path) as storage:
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
            study.set_user_attr(IDENTITY, identity)
        write_atomic(store.study(name), path.read_bytes())


def _load(storage: RDBStorage, name: str, path: Path) -> Study:
    import optuna

    # Trials report a value after each fold but the last; those below the median of earlier trials may be
    # stopped.
    pruner = optuna.pruners.MedianPruner()
    try:
        return optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    except (KeyError, optuna.exceptions.StorageInternalError) as error:
        raise _damaged(path, error) from error


def _fail_interrupted(study: Study) -> None:
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that count: complete, pruned, or failed for another reason than an interruption."""
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [t for t in found if OUTCOME in t.user_attrs]


def ask(study: Study, space: SearchSpace, seed: int, index: int) -> tuple[Trial, dict[str, Any]]:
    """Return (next trial, {searched parameter: value}).

    The sampler is seeded by (seed, index), so that a resumed search draws the same values as an uninterrupted
    one.

    Parameters
    ----------
    study
        The open study.
    space
        Search space of the parameters.
    seed
        Seed of the search.
    index
        Number of the trial, from 0.
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
    """Return a real number rounded to four digits, so that the value shown is the value used."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def space_json(space: SearchSpace) -> dict[str, Any]:
    """Return a search space as JSON."""
    return {
        name: {"what": type(d).__name__}
        | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(d).items()}
        for name, d in space.items()
    }
