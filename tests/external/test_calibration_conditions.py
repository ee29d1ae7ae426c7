"""Calibration conditions of external models: only what the worker predicts of them calibrates anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import perturbfm_core.external.work as work
from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.models.base import load_model
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.uncertainty.calibrator import load_calibrator
from tests.support import stages
from tests.support.factories import simulated, split_one

MARK = "    keys, rows, skipped = predicted(request, train, controls)\n"
SAVED = '    replace(out / "raw.npz"'
# Answers that differ, each near its control.
DIFFERENT = "rows = np.maximum(rows + np.random.default_rng(0).normal(0, 0.2, rows.shape), 0)\n"
CALIBRATION = "of = [i for i, k in enumerate(keys) if role[k] == 'calibration']\n"
ROLES = "role = {c['key']: c['role'] for c in request['conditions']}\n"


@pytest.fixture(scope="module")
def world():
    """Return a simulated screen and a split of it with a calibration fold."""
    ds = simulated(n_obs=900, n_genes=25, n_contexts=2, n_perts=12, n_combos=2)
    fields = {"calibration": "fold", "calib_frac": 0.4, "validation": "inner_cv"}
    split = split_one(ds, "perturbation_ood", folds=3, fold=0, **fields)
    assert len(split.rows(ds, "calib"))
    return ds, split, len(np.unique(ds.condition_codes[split.rows(ds, "calib")]))


@pytest.fixture(scope="module")
def fitted(world, tmp_path_factory):
    """Return a function that fits the template with its output changed, by parameters and uncertainty."""
    folder = tmp_path_factory.mktemp("calibration")
    store = ArtifactStore(folder / "home")
    text = (work.WORKERS / "template_worker.py").read_text()
    assert text.count(MARK) == 1

    def fit(change: str = "", *, uncertainty: dict | None = None, own: bool = False, **params):
        path = Path(folder / f"w{abs(hash(change))}{own}.py")
        code = "".join(f"    {line}\n" for line in (ROLES + DIFFERENT + CALIBRATION + change).splitlines())
        var = "    arrays['var'] = 0.05 + 0 * rows\n" if own else ""
        path.write_text(text.replace(MARK, MARK + code).replace(SAVED, var + SAVED))
        entry = ModelEntry(
            name="mine", description="", model="external-worker", params={"worker": str(path), **params},
            seeds=(0,), **({} if uncertainty is None else {"uncertainty": uncertainty}),
        )  # fmt: skip
        (config,) = model_configs(entry)
        made = stages.fit(store, *world[:2], config)
        return load_model(made.path).training, load_calibrator(made.path).info

    return fit


LEFT = "left = [i for i in range(len(keys)) if i not in of[:{n}]]\nkeys, rows = [keys[i] for i in left], rows[left]"


@pytest.mark.parametrize("n", [0, 1, 3])
def test_what_the_worker_skips_calibrates_nothing(world, fitted, n):
    training, info = fitted(LEFT.format(n=n))
    there = world[2] - n
    assert training["variance"] == {
        "source": "calibration conditions",
        "conditions": there,
        "of_calibration_fold": True,
    }
    assert info["n_conditions"] == there
    assert training["conversion"]["counts"]["missing"] == 0
    said = f"calibration: {n} of {world[2]} conditions have no prediction"
    assert (said in training["conversion"]["notes"]) is (n > 0)


@pytest.mark.parametrize("change", [LEFT.format(n=99), "rows[of[0]] = np.nan"])
def test_without_any_of_them_there_is_no_calibrator(fitted, change):
    """Where none is predicted, or their conversion refuses them all: zeros are not taken for predictions."""
    training, info = fitted(change)
    assert not training["variance"]["of_calibration_fold"]
    assert training["variance"]["source"] != "calibration conditions"
    assert (info["method"], info["reason"]) == ("none", "none of the calibration conditions is predicted")


@pytest.mark.parametrize("degenerate", ["refuse", "flag"])
@pytest.mark.parametrize(
    "change",
    [
        # The control under another name, and one answer for two perturbations of a context.
        "for i in of[:2]: rows[i] = mean(controls.X[labels(controls, 'context_id') == keys[i].split('|')[0]])",
        "same = [i for i in of if keys[i].split('|')[0] == keys[of[0]].split('|')[0]][:2]\nrows[same[1]] = rows[same[0]]",
    ],
)
def test_what_would_be_refused_of_a_test_condition_is_no_prediction_of_these(
    world, fitted, change, degenerate
):
    training, info = fitted(change, degenerate=degenerate)
    n = world[2] - (2 if degenerate == "refuse" else 0)
    assert (training["variance"]["conditions"], info["n_conditions"]) == (n, n)


@pytest.mark.parametrize("method", ["hierarchical", "mondrian"])
def test_no_guarantee_where_the_variance_reads_the_same_conditions(fitted, method):
    block = {"scale": False, "conformal": {"method": method}}
    _, info = fitted(uncertainty=block)
    assert info["variance_fitted_on"] == "the same conditions"
    assert info["guarantee"].startswith("none")
    if method == "hierarchical":
        assert info["guarantee"] == "none: the variance was fitted on the same residuals"
        # With a variance of the model's own the guarantee holds.
        training, info = fitted(uncertainty=block, own=True)
        assert training["variance"]["source"] == "the model's own"
        assert "variance_fitted_on" not in info
        assert "at least" in info["guarantee"]["0.5"]
