"""Splits, cells and scores in words: what stands beside the keys of the grid in the UI."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from perturbfm_assets.clocks import wrong_clocks
from perturbfm_assets.partitions import CATALOG, SPLITS
from perturbfm_assets.show import table
from perturbfm_core.errors import PerturbFMError
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.leaderboard.headline import HEADLINE, headline_of, headline_value, marks_of
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.folder import SplitFolder, SplitStats
from perturbfm_core.splits.held_out import held_out
from perturbfm_core.splits.split import Split
from perturbfm_core.store.artifacts import ArtifactStore

# Beyond these the tables of the grid are not written out: each load of the code location would pay for them.
MOST_SPLITS, MOST_CELLS = 50, 1000


def described_split(key: str) -> dict[str, str]:
    """Return data set, kind, what is held out and, of a cross-validation, the fold of a split of the grid."""
    entry = SPLITS[key]
    out = {"dataset": entry.dataset, "kind": entry.kind}
    definition = _definition(key)
    if isinstance(definition, PerturbFMError):
        # Said here as well, and refused where it is used.
        return {**out, "held_out": f"cannot be read: {definition}"}
    out["held_out"] = held_out(definition)
    if definition.cv is not None:
        out["fold"] = f"{definition.cv.fold} of {definition.cv.k} (from 0)"
    return out


def conditions_of(key: str) -> SplitConditions | None:
    """Return the conditions that a split of the grid states; None if its file cannot be read or lists rows."""
    definition = _definition(key)
    try:
        return None if isinstance(definition, PerturbFMError) else SplitConditions.stated(definition)
    except PerturbFMError:
        return None


def _definition(key: str) -> Split | PerturbFMError:
    """Return what a split of the grid states, or why it cannot be read."""
    try:
        return SplitFolder(ArtifactStore().split_dir).load(SPLITS[key].hash).definition
    except PerturbFMError as error:
        return error


def splits_table() -> dg.MetadataValue:
    """Return what every split key of the grid stands for."""
    order = ("held_out", "fold", "dataset", "kind")
    rows = [
        [key, *(described_split(key).get(name, "-") for name in order)] for key in list(SPLITS)[:MOST_SPLITS]
    ]
    more = f"\n\n{len(SPLITS) - len(rows)} more: `perturbfm splits list`" if len(SPLITS) > len(rows) else ""
    shown = table(["split", "held out", "fold", "data", "kind"], rows)
    return dg.MetadataValue.md(f"{shown}{more}")


def not_applicable_table() -> dg.MetadataValue:
    """Return the cells of the grid that cannot exist, with the reason, without anything being run.

    Of a large grid it says where to ask instead: the code location loads as often as a run starts.
    """
    if len(SPLITS) * len(CATALOG.models) > MOST_CELLS:
        return dg.MetadataValue.md(
            f"{len(SPLITS)} splits x {len(CATALOG.models)} entries: `perturbfm suite status NAME` says which cells of a "
            "suite cannot run, and a cell that is asked for says it as well."
        )
    found: dict[tuple[str, str], list[str]] = {}
    conditions = {key: conditions_of(key) for key in SPLITS}
    for model, entry in CATALOG.models.items():
        for key, split in SPLITS.items():
            try:
                reason = why_not(split.traits, entry, conditions[key])
            except PerturbFMError as error:
                # One entry that cannot be read must not take the grid with it: its own cells fail with the same words.
                reason = f"is no valid entry: {error}"
            if reason is not None:
                found.setdefault((model, reason), []).append(key)
    if not found:
        return dg.MetadataValue.md("Every entry can run on every split of the grid.")
    rows = [
        [model, "all splits" if len(keys) == len(SPLITS) else ", ".join(keys), reason]
        for (model, reason), keys in found.items()
    ]
    return dg.MetadataValue.md(table(["entry", "splits", "why it cannot run"], rows))


def no_schedule() -> dict[str, dg.MetadataValue]:
    """Return the suites whose clock cannot be read with the reason, nothing where there are none."""
    rows = [[name, line] for name, line in wrong_clocks().items()]
    return (
        {"no_schedule": dg.MetadataValue.md(table(["suite", "why it has no schedule"], rows))} if rows else {}
    )


def headline_table(metrics: Mapping[str, Any], stats: SplitStats | None) -> dg.MetadataValue:
    """Return the headline metric of the benchmark and of each panel between floor and ceiling.

    Parameters
    ----------
    metrics
        Content of ``metrics.json``.
    stats
        Statistics of the split, None if they are unknown.
    """
    rows = []
    for panel in [None, *(p for p in PANELS if p in metrics and f"{p}.{PANELS.get(p).headline}" != HEADLINE)]:
        metric = headline_of(panel)
        marks = marks_of(stats.ceiling, stats.floor, metric) if stats else marks_of(None, None)
        values = (
            headline_value(metrics, panel),
            marks.control_mean,
            marks.train_mean,
            marks.half,
            marks.noise_free,
        )
        name = f"{metric.panel}.{metric.name}"
        shown = [_value(v, "undefined" if i < 3 else "not known") for i, v in enumerate(values)]
        rows.append([f"{name} (headline)" if panel is None else name, metric.direction, *shown])
    head = ["metric", "better", "value", "control", "train mean", "half of the cells", "noise-free"]
    return dg.MetadataValue.md(table(head, rows))


def _value(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.4f}"
