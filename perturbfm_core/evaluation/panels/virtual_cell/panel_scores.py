"""Panel `virtual_cell`, continued: normalised scores and split-half ceilings of cell-eval, by context.

A score compares an entry with the mean baseline on the same cells: 0 for the baseline or worse, 1 for a perfect entry.
A ceiling describes the data: the score of one half of all cells against the other half, corrected to full size. Both
are one number for a context, given for each of its conditions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import MetricFunction, metric
from perturbfm_core.evaluation.panels.virtual_cell.aggregate import (
    SPEARMAN_BROWN,
    describe,
    disjoint_halves,
    mean_vector,
    normalised_scores,
    split_half_ceiling,
)
from perturbfm_core.evaluation.panels.virtual_cell.differential import differential_expression
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups, as_dense
from perturbfm_core.evaluation.panels.virtual_cell.panel import PANEL, VERSION, Pair, pairs_of
from perturbfm_core.evaluation.panels.virtual_cell.profiles import (
    EDISTANCE,
    FULL,
    VCC,
    ControlCells,
    Sample,
    profile,
)
from perturbfm_core.schema import FloatArray

_SOURCE = "cell-eval (Arc Institute)"
_CONTROL = "\x00control"
# All cells of the baseline are equal, so that its E-distances are constant and their correlation is undefined.
_BASELINE = tuple(name for name in FULL if name != EDISTANCE)

Values = dict[str, float]


def _means(values: Mapping[str, FloatArray]) -> Values:
    return {name: summary["mean"] for name, summary in describe(values).items()}


def _baseline(c: Comparison, pair: Pair) -> Values:
    """Return the mean of every metric for the mean baseline: the unweighted mean of all groups, controls included."""
    rows, real, _ = pair
    vector = mean_vector(np.vstack([real.mean, real.control.ranked.mean])).astype(np.float32)
    # Groups of one size have the same cells, so that they are compared with the controls once.
    sizes, place = np.unique(real.groups.sizes, return_inverse=True)
    groups = CellGroups(sizes, real.groups.n_genes, lambda i: np.repeat(vector[None], int(sizes[i]), axis=0))
    found = differential_expression(groups, real.control.ranked).take(place)
    baseline = Sample(real.groups, real.control, known=found)
    values = profile(real, baseline, c.perturbations[rows], c.genes, _BASELINE)
    return _means(values) | {EDISTANCE: np.nan}


def _scores(c: Comparison) -> list[tuple[Pair, Values, Values]]:
    """Return (samples, scores of the full profile, scores of the challenge's profile) of each context."""
    pairs = pairs_of(c)
    baselines = c.once_per_observed("virtual_cell.baseline", lambda: [_baseline(c, pair) for pair in pairs])
    out = []
    for pair, baseline in zip(pairs, baselines, strict=True):
        rows, real, pred = pair
        entry = _means(profile(real, pred, c.perturbations[rows], c.genes, FULL))
        both = [name for name in FULL if name in entry and name in baseline]
        full = normalised_scores({n: entry[n] for n in both}, {n: baseline[n] for n in both})
        vcc = normalised_scores({n: entry[n] for n in VCC}, {n: baseline[n] for n in VCC})
        out.append((pair, full, vcc))
    return out


def _ceilings(c: Comparison) -> list[tuple[Pair, Values]]:
    def compute() -> list[tuple[Pair, Values]]:
        return [(pair, _ceiling(c, pair)) for pair in pairs_of(c)]

    return c.once_per_observed("virtual_cell.ceilings", compute)


def _ceiling(c: Comparison, pair: Pair) -> Values:
    rows, real, _ = pair
    groups = [real.groups.get(i) for i in range(len(rows))]
    # Cells are sorted by a hash of their values, those in the order of gene names, so that the halves do not depend on
    # the order of rows or columns.
    by_name = np.argsort(c.genes, kind="stable")
    parts = [part[_hash_order(as_dense(part)[:, by_name])] for part in (real.control.X, *groups)]
    names = [_CONTROL, *(f"{i:06d}" for i in range(len(groups)))]
    labels = np.repeat(np.asarray(names, dtype=np.str_), [part.shape[0] for part in parts])
    stacked = sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)
    first, second, kept = disjoint_halves(labels)
    if _CONTROL not in kept or len(kept) < 2:
        return {}
    present = [name for name in kept if name != _CONTROL]
    sides = []
    for half in (first, second):
        cells = [half[labels[half] == name] for name in present]
        sides.append(
            Sample(CellGroups.of_rows(stacked, cells), ControlCells(stacked[half[labels[half] == _CONTROL]]))
        )
    perturbations = c.perturbations[rows][[int(name) for name in present]]
    return split_half_ceiling(
        profile(sides[0], sides[1], perturbations, c.genes, (*SPEARMAN_BROWN, "de_nsig_counts_real"))
    )


def _hash_order(cells: FloatArray) -> np.ndarray:
    digests = [
        hashlib.blake2b(np.ascontiguousarray(row, dtype=np.float32).tobytes(), digest_size=8).digest()
        for row in cells
    ]
    return np.argsort(np.asarray(digests), kind="stable")


def _score(which: int) -> MetricFunction:
    def value(c: Comparison) -> FloatArray:
        out = np.full(len(c), np.nan)
        for (rows, _, _), *scores in c.once("virtual_cell.scores", lambda: _scores(c)):
            out[rows] = scores[which]["avg_score"]
        return out

    return value


def _ceiling_of(name: str) -> MetricFunction:
    def value(c: Comparison) -> FloatArray:
        out = np.full(len(c), np.nan)
        for (rows, _, _), ceiling in _ceilings(c):
            out[rows] = ceiling.get(name, np.nan)
        return out

    return value


for _name, _which, _text in (
    (
        "score_full",
        0,
        "Normalised score of the full profile: mean over its metrics of the way from the mean baseline to perfection, each at least 0.",
    ),
    (
        "score_vcc",
        1,
        "Normalised score of the Virtual Cell Challenge: mean over mae, discrimination_score_l1 and overlap_at_N of the way from the mean baseline to perfection.",
    ),
):
    metric(
        PANEL,
        _name,
        _text,
        direction="max",
        bounds=(0.0, 1.0),
        version=VERSION,
        source=_SOURCE,
        undefined="the context has no control cells",
        needs="cells",
    )(_score(_which))

for _name in SPEARMAN_BROWN:
    metric(
        PANEL,
        f"ceiling_{_name}",
        f"Split-half ceiling of {_name}: disjoint halves of cells and controls, Spearman-Brown corrected.",
        direction="target",
        bounds=(0.0, 1.0),
        version=VERSION,
        source=_SOURCE,
        undefined="the halves do not agree better than chance, or there are too few cells or DE genes",
        needs="cells",
    )(_ceiling_of(_name))
