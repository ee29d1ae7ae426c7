"""Yardstick of a run's verdicts, computed at the first request and kept beside the fitted model."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perturbfm_core.config import content_hash
from perturbfm_core.errors import StoreError
from perturbfm_core.schema import FloatArray
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json, write_json

_FILE = "yardstick.json"


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Values over the training conditions.

    Attributes
    ----------
    reference
        float64 [m], novelty of every held-out condition of the inner folds; empty without folds.
    train_epistemic
        Median epistemic share of the training conditions, None if the model has none.
    """

    reference: FloatArray
    train_epistemic: float | None


def kept_yardstick(
    store: ArtifactStore, model: str, modules: Iterable[str], compute: Callable[[], Yardstick]
) -> Yardstick:
    """Return the yardstick of a fitted model, found in the store or computed and kept there.

    Parameters
    ----------
    store
        Where objects lie; where it takes none, nothing is kept.
    model
        Key of the fitted model, which holds data and split.
    modules
        Names of the imported modules that it is computed by; their files are part of the key.
    compute
        Computes it.
    """
    key = content_hash({"stage": "yardstick", "model": model, "code": _source_digest(modules)})
    found = store.find(key)
    if found is None:
        made = compute()

        def fill(folder: Path) -> None:
            write_json(
                folder / _FILE,
                {"reference": made.reference.tolist(), "train_epistemic": made.train_epistemic},
            )

        # A store that is only read serves as well.
        with contextlib.suppress(StoreError, OSError):
            store.put_object(key, fill)
        return made
    values = read_json(found.path / _FILE)
    return Yardstick(np.asarray(values["reference"], dtype=np.float64), values["train_epistemic"])


def _source_digest(modules: Iterable[str]) -> str:
    """Return a digest of the files of modules: following imports would cost more than what is kept."""
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        file = getattr(sys.modules.get(name), "__file__", None)
        digest.update(name.encode() + (Path(file).read_bytes() if file else b""))
    return digest.hexdigest()
