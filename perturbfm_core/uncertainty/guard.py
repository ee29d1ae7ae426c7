"""Guard of calibration: refuses rows that the predictor was fitted on, and test rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import OutOfFold
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Fold
from perturbfm_core.splits.split import FrozenSplit, RowFolds


@dataclass(frozen=True)
class CalibrationGuard:
    """Which conditions may be used for calibration.

    Attributes
    ----------
    fitted, calibration, test
        Keys of the conditions that entries are fitted on, of the calibration fold, and of the test fold.
    by_row
        Whether the split divides rows, so that a condition may be in several folds.
    """

    fitted: frozenset[str]
    calibration: frozenset[str]
    test: frozenset[str]
    by_row: bool = False

    def check(self, residuals: OutOfFold) -> None:
        """Check that every row is of train or the calibration fold and was not seen by its predictor.

        Raises
        ------
        SplitError
            If test conditions, or conditions that the predictor was fitted or stopped on, are among the rows,
            or if the residuals do not state what their predictor was fitted on.
        """
        keys = [str(k) for k in residuals.conditions.index]
        if residuals.source == "in_sample":
            msg = "residuals are the model's own fit; calibrate on conditions that its predictor did not see"
            raise SplitError(msg)
        if not residuals.fitted:
            msg = "residuals do not say what their predictors were fitted on; fill `fitted`"
            raise SplitError(msg)
        if not self.by_row:
            tested = sorted(set(keys) & self.test)
            if tested:
                msg = f"{len(tested)} test conditions are among the calibration residuals (first: {tested[0]!r}); test rows must not be read"
                raise SplitError(msg)
        allowed = self.fitted if residuals.source == "out_of_fold" else self.calibration
        strange = sorted(set(keys) - allowed)
        if strange:
            side = "train" if residuals.source == "out_of_fold" else "the calibration fold"
            msg = f"{len(strange)} calibration conditions are not of {side} (first: {strange[0]!r})"
            raise SplitError(msg)
        if residuals.source == "calibration_fold" and self.by_row:
            return
        for fold, seen in enumerate(residuals.fitted):
            mine = {k for k, f in zip(keys, residuals.fold, strict=True) if f == fold}
            both = sorted(mine & seen)
            if both:
                msg = (
                    f"{len(both)} calibration conditions were fitted or stopped on by the predictor of fold {fold} "
                    f"(first: {both[0]!r}); use residuals of predictors that exclude them"
                )
                raise SplitError(msg)
        if not all(residuals.units):
            msg = "some calibration conditions have no unit that is new to their predictor; leave whole units out"
            raise SplitError(msg)


def guard_of(ds: PerturbDataset, split: FrozenSplit) -> CalibrationGuard:
    """Return the guard of a split."""

    def keys(*folds: Fold) -> frozenset[str]:
        rows = split.rows(ds, *folds)
        return frozenset(ds.conditions.index[np.unique(ds.condition_codes[rows])].astype(str))

    by_row = isinstance(split.definition.folds, RowFolds)
    return CalibrationGuard(keys(*split.fit_folds), keys("calib"), keys("test"), by_row)
