"""A whole panel timed on given cells of one context, whose predictions are cells as well."""

import time

import numpy as np
import pandas as pd

from perturbfm_core.evaluation.cells import Cells, Generator
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panel import PANELS, evaluate


def comparison_of(X, truth, control, Y, predicted):
    """Return the comparison of predicted with observed cells.

    Parameters
    ----------
    X, Y
        CSR [N, G] with the observed and controls, and with the predicted cells, log1p.
    truth, predicted
        Rows of each perturbation in X and in Y.
    control
        Rows of the controls in X.
    """

    def means(M, rows):
        return np.stack([np.asarray(M[r].mean(axis=0, dtype=np.float64)).reshape(-1) for r in rows])

    (base,), n, genes = means(X, [control]), len(truth), X.shape[1]
    delta, zero = means(Y, predicted) - base, np.zeros((n, genes))
    keys = [f"c|P{i}|||" for i in range(n)]
    observed = means(X, truth) - base
    pool = {"c": control}
    return Comparison(
        conditions=pd.DataFrame({"context_id": "c", "pert_id": [f"P{i}" for i in range(n)]}, index=keys),
        genes=np.asarray([f"x{j}" for j in range(genes)]),
        observed=observed,
        predicted=delta,
        predicted_var=zero,
        train_mean=observed.mean(axis=0),
        control=np.tile(base, (n, 1)),
        n=np.asarray([len(r) for r in truth]),
        shared_control=np.zeros(n, dtype=np.bool_),
        s2=zero,
        cells=Cells(
            *(X, list(truth), pool, pool, ["c"] * n, delta, zero, Generator(), tuple(keys)),
            own=Y,
            own_rows=list(predicted),
        ),
    )


def panel_seconds(comparison, panel):
    """Return the CPU-seconds of all metrics of a panel, and those with the observed side known, and their number."""
    # Imports are not counted, as in the peers' figures.
    count = len(PANELS.get(panel).metrics)
    out = {}
    for name in (f"whole panel, {count} metrics", "whole panel, observed side known"):
        comparison.shared.clear()
        start = time.process_time()
        evaluate(comparison, [panel])
        out[name] = time.process_time() - start
    return out
