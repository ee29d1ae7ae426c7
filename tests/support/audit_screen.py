"""A clean screen with clean splits for the leakage audit, and changes of their folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.audit.run import RunEvidence
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, RowFolds, codes_digest
from tests.support.factories import grid_rows, screen, split_one, table_of

SINGLES = ["A", "B", "C", "D", "E"]
PERTS = [*SINGLES, "A+B", "C+D"]


@dataclass(frozen=True, eq=False)
class Planted:
    """A data set, a split of it and a run, one of which leaks."""

    ds: PerturbDataset
    split: FrozenSplit
    run: RunEvidence | None = None

    def names(self) -> set[str]:
        """Return the names of all findings."""
        return {f.name for f in audit(self.ds, self.split, self.run)}


def _cells() -> PerturbDataset:
    """Return a screen of cells with effects, noise, 3 contexts with 120 controls each, and 2 batches."""
    rng = np.random.default_rng(5)
    rows = grid_rows(PERTS, ["x", "y", "z"], reps=12, controls=120)
    effect = {p: rng.normal(0, 0.25, 40) for p in SINGLES} | {"control": np.zeros(40)}
    X = []
    for pert, _ in rows:
        shift = sum(effect[g] for g in pert.split("+"))
        X.append(np.abs(2 + shift + rng.normal(0, 0.6, 40)))
    batches = [{"batch_id": f"b{i}"} for i in rng.integers(0, 2, len(rows))]
    full = [(*row, extra) for row, extra in zip(rows, batches, strict=True)]
    return screen(full, X=np.asarray(X), genes=40)


CELLS = _cells()
CONTEXT = split_one(CELLS, "context_ood", {"holdout": ["x"]})
GENE = split_one(CELLS, "perturbation_ood", {"holdout": ["A"]})
COMBO = split_one(CELLS, "combo_ood", {"holdout": ["A+B"]})
ROWS = split_one(CELLS, "iid", {"test_frac": 0.3})
BOTH = split_one(CELLS, "context_perturbation_ood", {"contexts": ["x"], "perturbations": ["A"]})
BATCH = split_one(CELLS, "batch_ood", {"holdout": ["b1"]})


def with_table(split: FrozenSplit, table: Mapping[str, Sequence[str]], **update: Any) -> FrozenSplit:
    """Return a split with other folds, past every validator."""
    folds = ConditionFolds(table={f: tuple(keys) for f, keys in table.items() if keys})  # type: ignore[misc]
    return FrozenSplit(split.definition.model_copy(update={"folds": folds, **update}))


def with_codes(split: FrozenSplit, codes: Any, **update: Any) -> FrozenSplit:
    """Return a by-row split with other codes and a fitting digest."""
    codes = np.asarray(codes, dtype=np.int8)
    folds = split.definition.folds
    assert isinstance(folds, RowFolds)
    folds = folds.model_copy(update={"codes_sha256": codes_digest(codes)})
    return FrozenSplit(split.definition.model_copy(update={"folds": folds, **update}), codes)


def moved(split: FrozenSplit, source: str, target: str, *, keep: bool = False, **update: Any) -> FrozenSplit:
    """Return a split with the first condition of a fold in another (too)."""
    table = table_of(split)
    key = table[source][0]
    table[source] = table[source] if keep else table[source][1:]
    table[target] = [*table[target], key]
    return with_table(split, table, **update)


def by_row(split: FrozenSplit, ds: PerturbDataset = CELLS) -> tuple[FrozenSplit, Any]:
    """Return a by-condition split as codes of rows, with a by-row split to put them into."""
    rows = split_one(ds, "iid", {"test_frac": 0.3})
    blank = rows.definition.model_copy(
        update={
            "ood_axes": split.definition.ood_axes,
            "validation": "none",
            "calibration": "none",
            "inner": None,
        }
    )
    return FrozenSplit(blank, rows.row_codes), split.codes(ds).copy()


def renamed(rows: list[tuple[str, str]], **metadata: Any) -> PerturbDataset:
    return screen(grid_rows(["C", "D"], ["x", "y"]) + [r for row in rows for r in (row, row)], **metadata)


def explicit_split(ds: PerturbDataset, test: list[str], axis: str = "combo") -> FrozenSplit:
    split = split_one(ds, "explicit", {"folds": {"test": test}})
    return FrozenSplit(split.definition.model_copy(update={"ood_axes": (axis,)}))
