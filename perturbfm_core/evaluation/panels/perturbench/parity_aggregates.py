"""Aggregated vectors of a PerturBench parity case (``aggregates_COMMIT.npz``), one record per vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.evaluation.panels.perturbench.aggregate import Version
from perturbfm_core.evaluation.panels.perturbench.parity_records import (
    COMPONENT_TOLERANCE,
    NOISE,
    TOLERANCE,
    label_name,
)
from perturbfm_core.evaluation.panels.perturbench.parity_sides import REFERENCE, Side
from perturbfm_core.evaluation.parity import Record, not_compared
from perturbfm_core.evaluation.parity_npz import read_arrays
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

FILES: dict[Version, str] = {"V1": "aggregates_d357dfa.npz", "V2": "aggregates_cafe4c9.npz"}
# V2 has the genes of these in the order of their names.
_BY_NAME = ("scores", "pvals", "logp")

Made = tuple[Mapping[str, FloatArray], Mapping[str, BoolArray]]
Vectors = Callable[[dict[str, Any], dict[str, Side], Version], Made]


def aggregate_records(
    folder: Path,
    ways: Mapping[str, dict[str, Any]],
    sides: dict[str, Side],
    version: Version,
    vectors: Vectors,
) -> Iterator[Record]:
    """Yield a record for each vector: its entry that differs most, as a share of what may differ.

    Parameters
    ----------
    folder
        The case.
    ways
        {aggregation: its settings}.
    sides, version
        The reference and the models, and PerturBench's version.
    vectors
        (settings of an aggregation, sides, version) -> {side: vectors [K, G]}, {side: whether an entry of a vector is left
        to the peer's rounding [K]}.
    """
    path = folder / FILES[version]
    stored = read_arrays(path) if path.is_file() else {}
    names = sorted({key.split("|")[0] for key in stored})
    for name in names:
        title = f"{version}.aggregate_{name}"
        given = {m: stored[f"{name}|{m}|X"] for m in sides if f"{name}|{m}|X" in stored}
        if name not in ways or not given:
            yield not_compared(title, name, "the case has no settings, or no side, of this aggregation")
            continue
        listed = {str(row) for m in given for row in stored[f"{name}|{m}|rows"]}
        method = ways[name]["aggr_method"]
        here = {m: side.as_in(version, method, listed) for m, side in sides.items()}
        made, noisy = vectors(ways[name], here, version)
        for side, expected in given.items():
            rows = {str(row): i for i, row in enumerate(stored[f"{name}|{side}|rows"].tolist())}
            labels = [label_name(label, version) for label in here[side].labels]
            shared = [(k, rows[label]) for k, label in enumerate(labels) if label in rows]
            for label in rows.keys() - set(labels):
                yield not_compared(title, f"{side}|{label}", "no such group in the cells of the case")
            ours = made[side]
            if method == "pca_average":
                ours = _as_directed(ours, expected, shared)
            else:
                expected = expected[:, _columns(stored.get(f"{name}|{side}|cols"), here, method, version)]
            tolerance = COMPONENT_TOLERANCE if method == "pca_average" else TOLERANCE
            for k, i in shared:
                record = _worst(title, f"{side}|{labels[k]}", expected[i], ours[k], tolerance)
                yield replace(record, skipped=NOISE) if noisy[side][k] and not record.ok else record


def _columns(cols: Any, sides: dict[str, Side], method: str, version: Version) -> IntArray:
    """Return the columns of a stored matrix in the order of the reference's genes."""
    genes = sides[REFERENCE].genes.astype(str).tolist()
    if cols is not None:
        names = [str(g) for g in cols]
    else:
        names = sorted(genes) if version == "V2" and method in _BY_NAME else genes
    return np.asarray([names.index(g) for g in genes], dtype=np.int64)


def _as_directed(ours: FloatArray, theirs: FloatArray, shared: list[tuple[int, int]]) -> FloatArray:
    """Return coordinates along components with the directions of the peer's, which are arbitrary."""
    k = min(ours.shape[1], theirs.shape[1])
    mine, other = ([pair[i] for pair in shared] for i in (0, 1))
    sign = np.sign((ours[mine, :k] * theirs[other, :k]).sum(axis=0))
    return np.asarray(ours[:, :k] * np.where(sign == 0, 1.0, sign))


def _worst(
    metric: str, key: str, expected: FloatArray, got: FloatArray, tolerance: dict[str, float]
) -> Record:
    with np.errstate(invalid="ignore"):
        excess = np.abs(got - expected) / (tolerance["atol"] + tolerance["rtol"] * np.abs(expected))
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    excess = np.where(same, 0.0, np.where(np.isnan(excess), np.inf, excess))
    j = int(np.argmax(excess))
    return Record(metric, key, float(expected[j]), float(got[j]), tolerance["atol"], tolerance["rtol"])
