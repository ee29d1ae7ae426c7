"""Hyperparameter search: trials scored on the validation of a split, each stored as soon as it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.config import check_key, content_hash
from perturbfm_core.errors import ConfigError, ModelError, NotApplicableError
from perturbfm_core.models.base import MODELS, new_model
from perturbfm_core.models.parameters import every_parameter
from perturbfm_core.models.search import SearchSpace, with_values
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.reports.pages.study import study_page
from perturbfm_core.splits.audit.core import require_clean
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.folder import SplitFolder, traits_of
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_atomic
from perturbfm_core.tuning.identity import identity_of
from perturbfm_core.tuning.record import OWN, Tuning, study_record
from perturbfm_core.tuning.study import OUTCOME, ask, finished, open_study, space_json
from perturbfm_core.tuning.validation import FoldScore, Validation, value_of
from perturbfm_core.tuning.workers import Job, Score, WorkerLostError, check_jobs, scorer

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial


def tune(
    store: ArtifactStore,
    split: str,
    entry: ModelEntry,
    *,
    data: Path | None = None,
    fixed: Collection[str] = (),
    trials: int = 30,
    timeout: float | None = None,
    seed: int = 0,
    name: str | None = None,
    jobs: int = 1,
    tell: Progress = quiet,
) -> Tuning:
    """Search the parameter space that a model declares for the best score on a split's validation.

    The entry's own parameters are scored first, and stay selected unless a trial is better.

    Parameters
    ----------
    store
        Store of artifacts and studies.
    split
        Hash, prefix or key of the split.
    entry
        The entry that is tuned.
    data
        Directory of the data set, unless the store has it.
    fixed
        Parameters of the search space that keep the entry's value.
    trials
        Number of trials in total; an existing study is continued up to this number.
    timeout
        Seconds after which no further trial is started.
    seed
        Seed of the search and of every fit.
    name
        Name of the study (default: derived from its inputs and the version of the code).
    jobs
        Number of trials in parallel, each in its own process.
    tell
        Called with a message on every trial.

    Raises
    ------
    ModelError
        If the configured model has nothing to search.
    NotApplicableError
        If the split has no validation, or the entry is not applicable to it.
    ConfigError
        If the study of this name was made with other inputs, or there are more jobs than training slots.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    check_jobs(jobs)
    # Validated parameters, in which text from the command line has become numbers.
    validated = every_parameter(entry.model, entry.params, entry.name)
    entry = entry.model_copy(update={"params": {name: validated[name] for name in entry.params}})
    space = _space(entry, fixed)
    frozen_split = SplitFolder(store.split_dir).load(split)
    ds = dataset_of(store, frozen_split, data)
    reason = why_not(traits_of(frozen_split, ds), entry, SplitConditions.of(frozen_split, ds))
    if reason is not None:
        msg = f"entry {entry.name!r} is not applicable to split {frozen_split.definition.key}: it {reason}"
        raise NotApplicableError(msg, reason)
    require_clean(ds, frozen_split)
    validation = Validation(store, ds, frozen_split, entry, seed, tell)
    reads = validation.reads(entry.params)
    identity = {
        **identity_of(entry, ds, frozen_split, seed),
        "search space": space_json(space),
        **({"side information": reads} if reads else {}),
    }
    if name is None:
        name = f"{entry.name}.{frozen_split.hash[:7]}.{content_hash(identity)[:8]}"
    check_key(name, "study name")
    job = Job(store.home, store.split_dir, frozen_split.hash, data, entry, seed)
    with (
        open_study(store, name, identity) as study,
        scorer(validation, job, jobs) as score,
        ThreadPoolExecutor(jobs) as threads,
    ):
        search = _Search(study, entry, space, score, len(validation), seed, tell)
        search.own()
        run = map if jobs == 1 else threads.map
        while (left := trials - search.begin(trials)) > 0 and (
            deadline is None or time.monotonic() < deadline
        ):
            search.batch(min(jobs, left), run)
        record = study_record(study, entry, space, frozen_split, validation, seed)
    page = store.study_page(name)
    write_atomic(page, study_page(record))
    selected = {} if record.own_is_best else record.selected.params
    tuned = entry.model_copy(update={"params": entry.params | selected})
    return Tuning(record, tuned, store.study(name), page, ds.content_sha256)


def _space(entry: ModelEntry, fixed: Collection[str]) -> SearchSpace:
    declared = new_model(entry.model, entry.params, entry.name).searchable()
    space = {name: dimension for name, dimension in declared.items() if name not in fixed}
    if declared and not space:
        msg = f"all that {entry.model!r} searches is fixed ({', '.join(declared)}); leave some of it open"
        raise ModelError(msg)
    if not space:
        others = [name for name, kind in MODELS.items() if kind.search_space]
        msg = f"{entry.name!r} has nothing to search in this configuration; models that declare it: {', '.join(others)}"
        raise ModelError(msg)
    return space


@dataclass
class _Outcome:
    """Result of a trial: scores of its folds, whether it was pruned, and the reason if it failed."""

    scores: list[FoldScore]
    pruned: bool = False
    reason: str | None = None
    seconds: float = 0.0


Run = Callable[..., Iterator[_Outcome]]


class _Search:
    """Trials of one study: drawn from the sampler, run, and recorded in order."""

    def __init__(
        self,
        study: Study,
        entry: ModelEntry,
        space: SearchSpace,
        score: Score,
        folds: int,
        seed: int,
        tell: Progress,
    ) -> None:
        self._study, self._entry, self._space = study, entry, space
        self._score, self._folds, self._seed, self._progress = score, folds, seed, tell
        self._shown = 0
        self._known: dict[str, list[FoldScore]] = {}

    def own(self) -> None:
        """Score the entry with its own parameters, unless the study has these scores."""
        if OWN not in self._study.user_attrs:
            self._progress(f"scoring {self._entry.name} as it is")
            start = time.perf_counter()
            scores = [self._score(self._entry.params, fold) for fold in range(self._folds)]
            saved = {"scores": [s.to_json() for s in scores], "seconds": time.perf_counter() - start}
            self._study.set_user_attr(OWN, saved)
        self._known[self._key({})] = _stored(self._study.user_attrs[OWN])
        for trial in finished(self._study):
            saved = trial.user_attrs[OUTCOME]
            if len(saved["scores"]) == self._folds:
                self._known[self._key(saved["params"])] = _stored(saved)

    def begin(self, trials: int) -> int:
        """Return the number of finished trials, and report it as progress."""
        done = len(finished(self._study))
        for _ in range(done - self._shown):
            self._progress("done:")
        self._shown = done
        best = max(value_of(scores) for scores in self._known.values())
        self._progress(f"trial {min(done + 1, trials)} of {trials}, best {best:.4f}")
        return done

    def batch(self, n: int, run: Run) -> None:
        """Run `n` trials in parallel.

        All are drawn from the sampler before the first runs, and recorded in order when all have ended, since one that
        is recorded may prune another: results do not depend on timing.
        """
        done = len(finished(self._study))
        asked = [ask(self._study, self._space, self._seed, done + i) for i in range(n)]
        for (trial, values), outcome in zip(asked, list(run(self._run, asked)), strict=True):
            self._tell(trial, values, outcome)

    def _params(self, values: dict[str, Any]) -> dict[str, Any]:
        return with_values(self._entry.params, self._space, values)

    def _key(self, set_: dict[str, Any]) -> str:
        """Return the identity of a configuration: its validated parameters as JSON text."""
        params = new_model(self._entry.model, self._entry.params | set_, self._entry.name).params
        return json.dumps(params.model_dump(mode="json"), sort_keys=True)

    def _run(self, asked: tuple[Trial, dict[str, Any]]) -> _Outcome:
        trial, values = asked
        params = self._params(values)
        start, outcome = time.perf_counter(), _Outcome([])
        try:
            known = self._known.get(self._key(params))
            if known is not None:
                # Integers and choices are drawn repeatedly; the same configuration gives the same scores.
                outcome.scores = known
                return outcome
            for fold in range(self._folds):
                outcome.scores.append(self._score(params, fold))
                if fold + 1 < self._folds:
                    trial.report(value_of(outcome.scores), fold)
                    if trial.should_prune():
                        outcome.pruned = True
                        break
        except WorkerLostError:
            raise
        except (ModelError, ConfigError, np.linalg.LinAlgError, MemoryError) as error:
            outcome.reason = " ".join(str(error).split()) or type(error).__name__
        finally:
            outcome.seconds = time.perf_counter() - start
        return outcome

    def _tell(self, trial: Trial, values: dict[str, Any], outcome: _Outcome) -> None:
        from optuna.trial import TrialState

        params = self._params(values)
        saved = {
            "params": {name: params[name] for name in self._space},
            "scores": [s.to_json() for s in outcome.scores],
            "seconds": outcome.seconds,
            "reason": outcome.reason,
        }
        trial.set_user_attr(OUTCOME, saved)
        if outcome.reason is not None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif outcome.pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, value_of(outcome.scores))
            self._known[self._key(params)] = outcome.scores


def _stored(saved: dict[str, Any]) -> list[FoldScore]:
    return [FoldScore.from_json(s) for s in saved["scores"]]
