"""Measured counts beside predicted log1p values: the pair that the peer scores as log1p values on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells, row_totals
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth

# Depth to which measured counts are scaled beside log1p values.
TARGET_SUM = 1e6


def log_values(cells: LabelledCells) -> LabelledCells:
    """Return counts as log1p of counts scaled to a depth of 1e6, in single precision as the peer takes them."""
    X = sp.csr_array(cells.X)
    depth = np.where(cells.totals > 0, cells.totals / TARGET_SUM, 1.0)
    scaled = (X.data / np.repeat(depth, np.diff(X.indptr))).astype(np.float32)
    out = sp.csr_array((np.log1p(scaled), X.indices, X.indptr), shape=X.shape)
    return replace(cells, X=out, totals=row_totals(out), input_type="lognorm")


def beside_log_values(truth: Truth) -> Truth:
    """Return measured counts as the truth of log1p values.

    Expression is compared in log1p values. The measured table is that of counts, with its gate of genes; predicted cells
    are tested against the measured controls in log1p values, which have no gate.

    Parameters
    ----------
    truth
        The measured cells, counts.
    """
    logged = Truth(log_values(truth.cells), truth.test, truth.target_genes)
    out = replace(truth)
    out.__dict__.update(
        profiles=logged.profiles,
        reference=logged.reference,
        table=truth.table,
        target=truth.target,
        tested_target=truth.tested_target,
    )
    return out
