"""HTML page of one tuning study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from perturbfm_core.reports.html import DASH, number, render
from perturbfm_core.reports.plots import study as study_plots

TrialState = Literal["complete", "pruned", "failed"]
_MEASURE = "mean centred Pearson on validation"


@dataclass(frozen=True)
class TrialRecord:
    """One trial: a configuration of parameters and its score on validation.

    Attributes
    ----------
    number
        Its number in the study.
    state
        ``complete``, ``pruned`` (stopped after some of the folds) or ``failed``.
    value, mse
        Mean Pearson correlation of centred deltas, and mean squared error; None unless complete.
    params
        Values of the searched parameters.
    seconds
        Wall time, seconds.
    undefined
        Validation conditions where the prediction has no correlation; they count as 0.
    reason
        Why it failed.
    """

    number: int
    state: TrialState
    value: float | None
    mse: float | None
    params: dict[str, Any]
    seconds: float | None = None
    undefined: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class StudyRecord:
    """Content of the page of a study.

    Attributes
    ----------
    name, entry, model, dataset, split_key, split_hash, seed
        Name of the study; the tuned entry and its model; the data set, split and seed.
    policy, unit, folds, conditions, units
        Validation of the split: its policy and unit, and the numbers of folds, conditions and units.
    own
        The entry with its own parameters.
    trials
        All finished trials, in order.
    selected
        The best of `own` and the complete trials, the earlier one of equals.
    gain, gain_se
        Paired difference of `selected` to `own` over units, and its standard error; None for the latter below
        two units.
    importances
        Importance of each parameter for the score of a trial, as shares of 1; empty with too few trials.
    log
        Parameters searched on a log scale.
    """

    name: str
    entry: str
    model: str
    dataset: str
    split_key: str
    split_hash: str
    seed: int
    policy: str
    unit: str
    folds: int
    conditions: int
    units: int
    own: TrialRecord
    trials: tuple[TrialRecord, ...]
    selected: TrialRecord
    gain: float
    gain_se: float | None
    importances: dict[str, float] = field(default_factory=dict)
    log: frozenset[str] = frozenset()

    @property
    def complete(self) -> list[TrialRecord]:
        """Return the complete trials, in order."""
        return [t for t in self.trials if t.state == "complete"]

    @property
    def own_is_best(self) -> bool:
        """Return whether no trial was better than the entry itself."""
        return self.selected is self.own

    def count(self, state: TrialState) -> int:
        """Return the number of trials in a state."""
        return sum(t.state == state for t in self.trials)


def study_page(study: StudyRecord) -> str:
    """Return the HTML page of a study."""
    complete = study.complete
    names = list(study.own.params)
    values = [_value(t) for t in complete]
    panels = [(n, [_plain(t.params[n]) for t in complete], n in study.log) for n in names]
    return render(
        "study.html",
        study=study,
        counts={s: study.count(s) for s in ("complete", "pruned", "failed")},
        flags=_flags(study),
        chosen=[[n, _shown(study.own.params[n]), _shown(study.selected.params[n])] for n in names],
        scores=[
            ["mean centred Pearson", number(study.own.value, 4), number(study.selected.value, 4)],
            ["mean squared error", number(study.own.mse, 4), number(study.selected.mse, 4)],
        ],
        gain=number(study.gain, 4)
        + (f" \N{PLUS-MINUS SIGN} {number(study.gain_se, 4)}" if study.gain_se is not None else ""),
        history=_history(study) if complete else None,
        importances=study_plots.importances(study.importances) if study.importances else None,
        slices=study_plots.slices(panels, values, "centred Pearson") if complete else None,
        names=names,
        trials=_trials(study, names),
    )


def _value(trial: TrialRecord) -> float:
    return float("nan") if trial.value is None else trial.value


def _history(study: StudyRecord) -> str:
    complete = study.complete
    return study_plots.history(
        [t.number for t in complete], [_value(t) for t in complete], _value(study.own), _MEASURE
    )


def _flags(study: StudyRecord) -> list[str]:
    out = []
    if study.own_is_best:
        out.append("No trial was better than the entry as it is; its own parameters stay.")
    elif study.gain_se is not None and study.gain < 2 * study.gain_se:
        out.append("The gain over the entry as it is is less than two standard errors: it may be chance.")
    if study.own.undefined or study.selected.undefined:
        out.append(
            f"The prediction equals the train mean, up to a constant, in {study.own.undefined} conditions for the entry "
            f"itself and in {study.selected.undefined} for the selected parameters; these count as 0."
        )
    return out


def _trials(study: StudyRecord, names: Sequence[str]) -> list[list[str]]:
    """Return the rows of the table, best first, those without a value last."""
    rows = [("own", study.own), *((str(t.number), t) for t in study.trials)]
    rows.sort(key=lambda item: (item[1].value is None, -(item[1].value or 0.0)))
    return [
        [
            label + (" (selected)" if trial is study.selected else ""),
            trial.state,
            number(trial.value, 4),
            number(trial.mse, 4),
            *(_shown(trial.params.get(n)) for n in names),
            DASH if trial.seconds is None else number(trial.seconds, 1),
            trial.reason or "",
        ]
        for label, trial in rows
    ]


def _plain(value: Any) -> Any:
    """Return the one value of a list of one."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _shown(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, list | tuple):
        return ", ".join(_shown(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
