"""Time our metrics of cell-eval2 on given cells: ``python time_ours_cell_eval2.py FOLDER {vcc2026,full,scale}``.

Reads and prints what ``time_cell_eval2.py`` does.
"""

import json
import resource
import sys
import time

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.anchor import anchor_means, anchor_splits
from perturbfm_core.evaluation.panels.cell_eval2.baseline import mean_response_cells
from perturbfm_core.evaluation.panels.cell_eval2.catalog import PROFILES
from perturbfm_core.evaluation.panels.cell_eval2.cells import label_cells
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate

CONTROL = "non-targeting"


def main():
    """Run one profile, or the scale."""
    folder, profile = sys.argv[1:3]
    labels, genes = (np.load(f"{folder}/{part}.npy") for part in ("labels", "genes"))

    def load(name):
        parts = (np.load(f"{folder}/{name}.{part}.npy") for part in ("data", "indices", "indptr"))
        return sp.csr_array(tuple(parts), shape=(len(labels), len(genes)))

    measured = load("real")
    predicted = None if profile == "scale" else load("pred")
    start = time.process_time()
    truth = Truth(label_cells(measured, labels, genes, CONTROL))
    if predicted is None:
        values = {f"anchor.{m}": v for m, v in anchor_means(anchor_splits(truth)).items()}
        middle = time.process_time()
        base = aggregates(evaluate(truth, mean_response_cells(truth)))["mean"]
        values |= {f"baseline.{m}": v for m, v in base.items()}
        seconds = {"anchor": middle - start, "baseline": time.process_time() - middle}
    else:
        found = evaluate(truth, label_cells(predicted, labels, genes, CONTROL), PROFILES[profile])
        values = {f"mean.{m}": v for m, v in aggregates(found)["mean"].items()}
        seconds = {profile: time.process_time() - start}
        for metric, row in found.values.items():
            for name, value in zip(found.names, row, strict=True):
                values[f"{metric}/{name}"] = float(value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_s": seconds, "values": values, "peak_mb": peak}))


if __name__ == "__main__":
    main()
