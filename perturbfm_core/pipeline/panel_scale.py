"""Scales of panels as objects beside a split: values of reference predictions, computed once for all entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panel import PANELS, Panel, scale_key, scale_of
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.store.code import code_of

SCALE_FILE = "scale.json"


def scale_object(ds: PerturbDataset, split: FrozenSplit, panel: Panel) -> str:
    """Return the key of the scale of a panel: of data, split and the code that computes it.

    Parameters
    ----------
    ds, split
        Data and split.
    panel
        A panel that has a scale.
    """
    compute: Any = panel.scale
    return content_hash(
        {
            "stage": "panel_scale",
            "panel": panel.name,
            "data": ds.content_sha256,
            "split": split.hash,
            "code": code_of(compute.__module__).digest,
        }
    )


def stored_scales(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    panels: Iterable[str],
    comparison: Callable[[], Comparison],
    tell: Progress = quiet,
) -> dict[str, dict[str, Any]]:
    """Return {panel: its scale} of those that have one, computed and stored if they are not there yet.

    Parameters
    ----------
    store
        Where the objects lie.
    ds, split
        Data and split.
    panels
        Names of panels.
    comparison
        Gives a comparison on the split, of which the observed side is read; called only if a scale is not there.
    tell
        Called with a line of text about progress.
    """
    out = {}
    for name in panels:
        panel = PANELS.get(name)
        if panel.scale is None:
            continue
        key = scale_object(ds, split, panel)
        if store.find(key) is None:

            def fill(folder: Path, name: str = name) -> None:
                write_json(folder / SCALE_FILE, dict(scale_of(comparison(), name)))

            # Runs of several entries that start together compute it once.
            with store.lock(f"scale-{key[:16]}", what=f"the scale of panel {name}", tell=tell):
                store.put_object(key, fill)
        out[name] = read_json(store.object(key) / SCALE_FILE)
    return out


def shared_scales(
    comparison: Comparison,
    panels: Iterable[str],
    store: ArtifactStore | None,
    ds: PerturbDataset,
    split: FrozenSplit,
) -> dict[str, dict[str, Any]]:
    """Return {panel: its scale}, which the metrics of all comparisons with the same observed side read from then on.

    Parameters
    ----------
    comparison
        Aligned truth and prediction.
    panels
        Names of panels.
    store
        Where scales are kept; without it they are computed.
    ds, split
        Data and split of the comparison.
    """
    if store is None:
        return {n: dict(scale_of(comparison, n)) for n in panels if PANELS.get(n).scale is not None}
    found = stored_scales(store, ds, split, panels, lambda: comparison)
    comparison.observed_shared.update({scale_key(name): scale for name, scale in found.items()})
    return found
