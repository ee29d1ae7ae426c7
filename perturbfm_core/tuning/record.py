"""Results of a hyperparameter study, for its report page and as an entry of the user's catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core.catalog import registering
from perturbfm_core.catalog.entries import ModelEntry, Tuned
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import new_model
from perturbfm_core.models.search import SearchSpace
from perturbfm_core.reports.pages.study import StudyRecord, TrialRecord, TrialState
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.tuning.study import OUTCOME, finished
from perturbfm_core.tuning.validation import FoldScore, Validation, value_of

if TYPE_CHECKING:
    from optuna import Study

OWN = "own"
"""Attribute of a study that holds the scores of the entry with its own parameters."""

_MIN_IMPORTANCE = 10


@dataclass(frozen=True, eq=False)
class Tuning:
    """A finished search.

    Attributes
    ----------
    study
        Trials of the study and the selected one.
    entry
        The tuned entry, with the selected parameters.
    database, page
        SQLite file and HTML page of the study.
    data_content_sha256
        Content hash of the data set that it was tuned on.
    """

    study: StudyRecord
    entry: ModelEntry
    database: Path
    page: Path
    data_content_sha256: str


def study_record(
    study: Study,
    entry: ModelEntry,
    space: SearchSpace,
    split: FrozenSplit,
    validation: Validation,
    seed: int,
) -> StudyRecord:
    """Return the results of a study, with the paired gain over the entry with its own parameters.

    Parameters
    ----------
    study
        The stored study.
    entry
        The entry that is tuned.
    space
        Search space of the parameters.
    split
        The split whose validation is used.
    validation
        Validation of the split.
    seed
        Seed of the search.
    """
    own_params = new_model(entry.model, entry.params, entry.name).params.model_dump(mode="json")
    saved = study.user_attrs[OWN]
    own = _record(-1, "complete", {**saved, "params": {n: own_params[n] for n in space}})
    states: dict[str, TrialState] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    kept = finished(study)
    trials = tuple(_record(t.number, states[t.state.name], t.user_attrs[OUTCOME]) for t in kept)
    scored = [(own, saved)]
    scored += [(r, t.user_attrs[OUTCOME]) for r, t in zip(trials, kept, strict=True) if r.value is not None]
    # The first of equal scores: the entry's own parameters are kept unless a trial is better.
    selected, scores = max(scored, key=lambda item: item[0].value or 0.0)
    gain = _units(scores) - _units(saved)
    return StudyRecord(
        name=study.study_name,
        entry=entry.name,
        model=entry.model,
        dataset=split.definition.dataset.name,
        split_key=split.definition.key,
        split_hash=split.hash,
        seed=seed,
        policy=validation.policy,
        unit=split.definition.unit,
        folds=len(validation),
        conditions=sum(s["conditions"] for s in saved["scores"]),
        units=len(gain),
        own=own,
        trials=trials,
        selected=selected,
        gain=(selected.value or 0.0) - (own.value or 0.0),
        gain_se=float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else None,
        importances=_importances(study, space, trials),
        log=frozenset(n for n, d in space.items() if getattr(d, "log", False)),
    )


def _record(number: int, state: TrialState, saved: dict[str, Any]) -> TrialRecord:
    scores = [FoldScore.from_json(s) for s in saved["scores"]] if state == "complete" else []
    return TrialRecord(
        number=number,
        state=state,
        value=value_of(scores) if scores else None,
        mse=float(np.mean([np.mean(s.mse) for s in scores])) if scores else None,
        params=saved["params"],
        seconds=saved.get("seconds"),
        undefined=sum(s.undefined for s in scores),
        reason=saved.get("reason"),
    )


def _units(saved: dict[str, Any]) -> Any:
    return np.concatenate([s["pearson"] for s in saved["scores"]])


def _importances(study: Study, space: SearchSpace, trials: tuple[TrialRecord, ...]) -> dict[str, float]:
    """Return {parameter: PED-ANOVA importance}, empty with few trials or equal scores of all."""
    from optuna.importance import get_param_importances

    values = {t.value for t in trials if t.value is not None}
    if len(values) < 2 or sum(t.value is not None for t in trials) < _MIN_IMPORTANCE:
        return {}
    return {k: float(v) for k, v in get_param_importances(study, params=list(space)).items()}


def check_registration(name: str) -> Path:
    """Return the file to register an entry called `name` in.

    An entry of the user's own catalog that comes from a study may be replaced.

    Raises
    ------
    ConfigError
        If the name is invalid, or the catalog has an entry of this name that is not from a study.
    """
    known = load_catalog().models.get(name)
    if known is not None and known.tuned is None:
        msg = f"the catalog already has an entry {name!r}, which is not from a study; give another --register NAME"
        raise ConfigError(msg)
    return registering.entry_file(ModelEntry, name, "--register NAME")


def register(tuning: Tuning, name: str) -> Path:
    """Write the selected configuration as an entry of the user's catalog, and return its file."""
    check_registration(name)
    study, entry = tuning.study, tuning.entry
    selected = study.selected
    registered = entry.model_copy(
        update={
            "name": name,
            "description": f"{entry.name} tuned on the validation of {study.split_key}.",
            "tuned": Tuned(
                study=study.name,
                split=study.split_hash,
                data_content_sha256=tuning.data_content_sha256,
                trial=None if study.own_is_best else selected.number,
                trials=len(study.trials),
                value=selected.value or 0.0,
            ),
        }
    )
    return registering.register(registered)
