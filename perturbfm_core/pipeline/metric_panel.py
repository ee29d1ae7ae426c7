"""Stage `metric_panel`: a prediction scored by every panel, one object per panel, and its calibration report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.data.memory import give_back
from perturbfm_core.data.prediction import RowPrediction, read_prediction
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.comparison import Comparison, ObservedSide, compare, observed
from perturbfm_core.evaluation.panel import PANELS, Strata, evaluate, headlines, metrics_json
from perturbfm_core.evaluation.panel import PanelScores as EvaluatedPanels
from perturbfm_core.pipeline.calibration_report import CALIBRATION_PANEL, calibration_json, source_of_variance
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.panel_scale import shared_scales, stored_scales
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import Artifact, ArtifactStore
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.store.code import code_of
from perturbfm_core.uncertainty.calibrator import calibration_of

STRATA_FILE = "strata.json"


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """A scored prediction.

    Attributes
    ----------
    table
        Long scores without the columns that name the run.
    metrics, calibration
        Content of ``metrics.json`` and ``calibration.json``.
    comparison
        Aligned truth and prediction.
    stats
        The split's statistics.
    cell_panels
        Names of the panels that read predicted cells.
    """

    table: pd.DataFrame
    metrics: dict[str, Any]
    calibration: dict[str, Any]
    comparison: Comparison
    stats: SplitStats
    cell_panels: tuple[str, ...] = ()

    @property
    def flags(self) -> dict[str, bool | None]:
        """Return the flags that every reader of these scores must see."""
        return {
            "no_signal": self.stats.no_signal,
            "shared_control": bool(self.comparison.shared_control.any()),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what is suspicious about the prediction, such as a copied control; empty if nothing is."""
        return tuple(self.comparison.notes.get("warnings", ()))

    def __repr__(self) -> str:
        shown = {k: v for k, v in headlines(self.metrics).items() if v is not None}
        lines = [f"    {name}: {value:.4f}" for name, value in shown.items()]
        lines += [f"    warning: {text}" for text in self.warnings]
        return "\n".join([f"Scores of {len(self.comparison)} test conditions", *lines])


@dataclass(frozen=True, eq=False)
class PanelScores:
    """The scores of an experiment as objects of the store.

    Attributes
    ----------
    panels
        {panel: its object with ``scores.parquet``}, in the order of reports.
    calibration
        The object with ``calibration.json``.
    code
        Digest of the code behind all of them.
    compare
        Gives aligned truth and prediction, made when it is first asked for.
    read_scales
        Gives {panel: its scale} of the panels that have one.
    generator
        How predicted cells were generated, None where there are none.
    """

    panels: Mapping[str, Artifact]
    calibration: Artifact
    code: str
    compare: Callable[[], Comparison]
    read_scales: Callable[[], dict[str, dict[str, Any]]] = dict
    generator: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """Return one identity of all scores."""
        return content_hash(
            {**{n: a.key for n, a in self.panels.items()}, "calibration": self.calibration.key}
        )

    @property
    def reused(self) -> bool:
        """Return whether nothing had to be scored."""
        return self.calibration.reused and all(a.reused for a in self.panels.values())

    @cached_property
    def table(self) -> pd.DataFrame:
        """Return the scores of all panels in long form."""
        parts = [pd.read_parquet(a.path / schema.SCORES_FILE) for a in self.panels.values()]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return metrics_json(self.table, self.read_scales(), self.generator)

    @property
    def comparison(self) -> Comparison:
        """Return aligned truth and prediction."""
        return self.compare()


def score(
    e: Experiment,
    fitted: Artifact,
    predicted: Artifact,
    kept: Mapping[str, Artifact | None] | None = None,
) -> PanelScores:
    """Score an experiment's prediction; a panel that the same prediction and code were scored by is found.

    Parameters
    ----------
    e
        The experiment.
    fitted, predicted
        What `fit` and `predict` returned for it.
    kept
        {panel: its scores by an earlier version, which stay as they are; None to leave it out}; none by default.

    Raises
    ------
    MetricError
        If a metric fails: a panel is complete or fails.
    """
    scoring, kept = _Scoring(e, fitted, predicted), kept or {}
    panels = {
        name: made
        for name in PANELS
        if (made := kept[name] if name in kept else scoring.panel(name)) is not None
    }
    calibration = scoring.calibration(panels)
    # Scores of several versions are those of none: the run is not found as one of this code.
    current = all(n in panels and panels[n].key == scoring.panel_key(n) for n in PANELS if n in kept)
    return PanelScores(
        panels,
        calibration,
        content_hash(scoring.digests if current else {name: a.key for name, a in panels.items()}),
        lambda: scoring.comparison,
        lambda: scoring.scales(panels),
        scoring.generator.model_dump(mode="json"),
    )


def scoring_code() -> dict[str, str]:
    """Return {panel, or what panels share: digest of the code behind it}."""
    adding = [m for p in PANELS.values() if p.strata is not None for m in p.modules]
    modules = {"strata": adding, **{name: panel.modules for name, panel in PANELS.items()}}
    modules["calibration"] = PANELS.get(CALIBRATION_PANEL).modules
    return {name: code_of(__name__, *of).digest for name, of in modules.items()}


class _Scoring:
    """One experiment being scored; what panels share is made once, and only if a panel is not found."""

    def __init__(self, e: Experiment, fitted: Artifact, predicted: Artifact) -> None:
        self._e, self._fitted, self._predicted = e, fitted, predicted
        self.digests = scoring_code()
        self._announced = False

    @property
    def generator(self) -> Generator:
        """Return how predicted means become cells."""
        return Generator(counts=self._e.config.generator)

    @cached_property
    def comparison(self) -> Comparison:
        """Return aligned truth and prediction."""
        e = self._e
        prediction = read_prediction(self._predicted.path / schema.PREDICTIONS_FILE)
        side = observed_side(e.dataset, e.split)
        return compare(e.dataset, e.split, prediction, side, self.generator)

    def _announce(self) -> None:
        if not self._announced:
            self._e.tell(f"scoring {self._e.config.entry}, seed {self._e.config.seed}")
            self._announced = True

    @cached_property
    def _strata(self) -> dict[str, dict[str, str]]:
        """Return the strata of test conditions: those beside the split, and those that panels add.

        The latter are of the observed side alone, so all entries on a split share them.
        """
        e = self._e
        key = content_hash(
            {
                "stage": "strata",
                "data": e.dataset.content_sha256,
                "split": e.split.hash,
                "code": self.digests["strata"],
            }
        )
        found = e.store.find(key)
        if found is None:

            def fill(folder: Path) -> None:
                self._announce()
                write_json(folder / STRATA_FILE, _added_strata(self.comparison))

            e.store.put_object(key, fill)
        added = read_json(e.store.object(key) / STRATA_FILE)
        return {**e.stats.strata, **added}

    def scales(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the scales of the panels that have one."""
        e = self._e
        return stored_scales(e.store, e.dataset, e.split, names, lambda: self.comparison, e.tell)

    def panel_key(self, name: str) -> str:
        """Return the key of the scores of one panel."""
        return content_hash(
            {
                "stage": "metric_panel",
                "panel": name,
                "prediction": self._predicted.key,
                "strata": self._strata,
                "code": self.digests[name],
                # Named only where it is another than by default.
                **self._e.config.other_generator,
            }
        )

    def panel(self, name: str) -> Artifact:
        """Return the scores of one panel."""
        e, key = self._e, self.panel_key(name)
        if (found := e.store.find(key)) is not None:
            return found

        def fill(folder: Path) -> None:
            self._announce()
            shared_scales(self.comparison, [name], e.store, e.dataset, e.split)
            scored = evaluate(self.comparison, [name], level=e.dataset.metadata.level, strata=self._strata)
            scored.table().to_parquet(folder / schema.SCORES_FILE, index=False)
            give_back()

        return Artifact(key, e.store.put_object(key, fill), reused=False)

    def calibration(self, panels: Mapping[str, Artifact]) -> Artifact:
        """Return the calibration report; it repeats some values of its panel."""
        e = self._e
        key = content_hash(
            {
                "stage": "calibration",
                "prediction": self._predicted.key,
                "strata": e.stats.strata,
                "panel": panels[CALIBRATION_PANEL].key,
                "code": self.digests["calibration"],
            }
        )
        if (found := e.store.find(key)) is not None:
            return found

        def fill(folder: Path) -> None:
            table = pd.read_parquet(panels[CALIBRATION_PANEL].path / schema.SCORES_FILE)
            content = calibration_json(
                self.comparison,
                metrics_json(table),
                e.stats.strata,
                variance_source=source_of_variance(self._fitted.path),
                calibrator=calibration_of(self._fitted.path),
            )
            write_json(folder / schema.CALIBRATION_FILE, content)

        return Artifact(key, e.store.put_object(key, fill), reused=False)


def _added_strata(comparison: Comparison) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for panel in PANELS.values():
        if panel.strata is not None:
            out |= {name: dict(of) for name, of in panel.strata(comparison).items()}
    return out


def score_prediction(
    ds: PerturbDataset,
    split: FrozenSplit,
    prediction: RowPrediction,
    stats: SplitStats,
    *,
    panels: Iterable[str] | None = None,
    variance_source: str = "as given",
    calibrator: dict[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    store: ArtifactStore | None = None,
    generator: Generator | None = None,
) -> Scores:
    """Score any prediction on a split, whoever made it, with every panel (or the named ones).

    Parameters
    ----------
    ds, split
        Data and split.
    prediction
        What is to be scored.
    stats
        What is stored beside the split.
    panels
        Names of panels, all by default.
    variance_source
        Where the variance comes from, for ``calibration.json``.
    calibrator
        What the prediction's calibrator says of itself, for ``calibration.json``.
    notes
        What is known of the prediction beside its numbers, for the record of the run.
    store
        Where scales of panels are kept for all entries; without it they are computed.
    generator
        How predicted means become cells, the default `Generator` if None.

    Raises
    ------
    PredictionError
        If the prediction does not cover, or does not belong to, the split.
    """
    comparison = compare(ds, split, prediction, observed_side(ds, split), generator)
    strata = {**stats.strata, **_added_strata(comparison)}
    names = list(PANELS) if panels is None else list(panels)
    scales = shared_scales(comparison, names, store, ds, split)
    table, readers = _evaluated(comparison, names, ds.metadata.level, strata)
    cells = comparison.cells
    own = (
        {}
        if cells is None or not cells.n_own
        else {"own_cells": {"conditions": cells.n_own, "panels": readers}}
    )
    comparison = replace(comparison, notes={**comparison.notes, **(notes or {}), **own})
    metrics = metrics_json(table, scales, None if cells is None else cells.generated_by)
    calibration = calibration_json(
        comparison, metrics, stats.strata, variance_source=variance_source, calibrator=calibrator
    )
    return Scores(table, metrics, calibration, comparison, stats, tuple(readers))


def _evaluated(
    comparison: Comparison, panels: Iterable[str], level: str, strata: Strata
) -> tuple[pd.DataFrame, list[str]]:
    """Return (scores in long form, names of the panels that read predicted cells)."""
    results, readers = [], []
    for name in panels:
        before = 0 if comparison.cells is None else comparison.cells.reads.total()
        results += evaluate(comparison, [name], level=level, strata=strata).results
        if comparison.cells is not None and comparison.cells.reads.total() > before:
            readers.append(name)
    plain = {k: dict(v) for k, v in strata.items()}
    return EvaluatedPanels(comparison.conditions, results, plain).table(), readers


_OBSERVED: dict[tuple[str, str, str], ObservedSide] = {}


def observed_side(ds: PerturbDataset, split: FrozenSplit) -> ObservedSide:
    """Return the observed side of a split, kept for the next entry on it."""
    # The content is the same for all orders of the rows, whose positions the observed side holds.
    key = (ds.content_sha256, rows_digest(ds.row_ids), split.hash)
    if key not in _OBSERVED:
        while len(_OBSERVED) >= 2:
            _OBSERVED.pop(next(iter(_OBSERVED)))
        _OBSERVED[key] = observed(ds, split)
    return _OBSERVED[key]
