"""What each generator of counts does to the six metrics of the 2026 challenge, on simulated counts.

Prints the table of docs/benchmarks.md: rows are ways to make cells of a point prediction, columns the metrics, for the
mean of the measured cells as a prediction and for the mean of the train conditions. Run by

    pytest -s -q -o addopts="" tests/benchmarks/test_count_generators.py
"""

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data.prediction import PredictedCells, RowPrediction
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.control_profile import ControlProfile
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.cell_eval2.anchor import anchor_means, anchor_splits
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.samples import samples_of
from tests.support.factories import simulated, split_all

SEED = 13
SIX = [m for m in sorted(VCC2026, key=VCC2026.index) if METRICS[m].scored]
GENERATORS = ("multinomial", "negative_binomial", "scaled", "redraw")


def cells_of(cells, rows_of):
    """Return cells whose counts are given for each condition."""
    parts = [rows_of(i) for i in range(len(cells))]
    counts = sp.csr_array(sp.vstack(parts, format="csr"))
    ends = np.cumsum([0, *(p.shape[0] for p in parts)])
    rows = {k: np.arange(a, b) for k, a, b in zip(cells.keys, ends[:-1], ends[1:], strict=True)}
    return PredictedCells(counts.astype(np.float32), rows, counts)


def copies(cells, i):
    """Return one profile, the predicted mean at a depth at which rounding does not matter, in every cell."""
    pool = cells.input_rows[cells.contexts[i]]
    log_mean = np.asarray(cells.X[pool].mean(axis=0, dtype=np.float64)).reshape(-1)
    profile = ControlProfile(cells.counts[pool], log_mean, cells.target_sum)
    one = np.rint(profile.composition(cells.delta[i]) * 1e5).astype(np.int32)
    return sp.csr_array(np.repeat(one[None], cells.n_predicted(i), axis=0))


@pytest.fixture(scope="module")
def table():
    ds = simulated(n_obs=16_000, n_genes=500, n_contexts=1, n_perts=40, n_combos=0, dispersion=2.0, seed=SEED)
    split = split_all(ds, "perturbation_ood", folds=2)[0]
    side = observed(ds, split)
    means = {
        "measured mean": side.observed,
        "train mean": np.tile(side.train_mean, (len(side.conditions), 1)),
    }

    def six(delta, generator, made=None):
        at_rows = delta.astype(np.float32)[side.codes]
        given = RowPrediction(mean=at_rows, var=np.ones_like(at_rows), idx=side.rows)
        if made is not None:
            cells = compare(ds, split, given, side).cells
            given = RowPrediction(
                mean=at_rows,
                var=np.ones_like(at_rows),
                idx=side.rows,
                cells=cells_of(cells, lambda i: made(cells, i)),
            )
        scores = evaluate(compare(ds, split, given, side, generator), ["vcc2026"]).table()
        scores = scores[scores["scope"] == "global"].set_index("metric")["value"]
        return [float(scores[m]) for m in SIX]

    out = {}
    for what, delta in means.items():
        out[what, "copies of the mean"] = six(delta, None, copies)
        for name in GENERATORS:
            out[what, name] = six(delta, Generator(counts=name))
    out["none", "controls pasted"] = six(side.observed * 0, None, lambda c, i: c.counts[c.template_rows[i]])
    at_rows = side.observed.astype(np.float32)[side.codes]
    sample = samples_of(compare(ds, split, RowPrediction(at_rows, np.ones_like(at_rows), side.rows), side))[0]
    anchor = anchor_means(anchor_splits(sample.truth))
    out["none", "replicate anchor"] = [anchor[m] for m in SIX]
    return out


def test_what_generators_do_to_the_six_metrics(table, capsys):
    with capsys.disabled():
        print("\n| prediction | cells | " + " | ".join(f"`{m}`" for m in SIX) + " |")
        print("|---" * (2 + len(SIX)) + "|")
        for (what, how), values in table.items():
            print(f"| {what} | {how} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    jaccard = SIX.index("de_wilcoxon_sig_jaccard")
    best = {how: v[jaccard] for (what, how), v in table.items() if what == "measured mean"}
    assert best["multinomial"] > best["copies of the mean"]
    assert best["multinomial"] > best["redraw"]
