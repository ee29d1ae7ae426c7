"""Time cell-eval on given cells, in its own environment: ``python time_cell_eval.py FOLDER {full,vcc}``.

FOLDER holds ``{real,pred}.{data,indices,indptr}.npy``: 5,000 controls then 100 x 450 cells in real, the latter
only in pred (which is given the real controls, as cell-eval asks). Prints the CPU-seconds as JSON.
"""

import json
import sys
import tempfile
import time

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

P, CELLS, CONTROLS = 100, 450, 5_000


def load(folder, name):
    """Return one CSR matrix."""
    data, indices, indptr = (np.load(f"{folder}/{name}.{part}.npy") for part in ("data", "indices", "indptr"))
    return sp.csr_matrix((data, indices, indptr))


def main():
    """Run one profile."""
    folder, profile = sys.argv[1:3]
    real = load(folder, "real")
    pred = sp.vstack([real[:CONTROLS], load(folder, "pred")], format="csr")
    labels = ["non-targeting"] * CONTROLS + [f"g{i}" for i in range(P) for _ in range(CELLS)]
    obs = pd.DataFrame({"target": labels}, index=[f"c{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"g{i}" for i in range(real.shape[1])])
    both = [anndata.AnnData(X=X, obs=obs.copy(), var=var.copy()) for X in (pred, real)]
    start = time.process_time()
    from cell_eval import MetricsEvaluator

    with tempfile.TemporaryDirectory() as out:
        evaluator = MetricsEvaluator(
            adata_pred=both[0],
            adata_real=both[1],
            control_pert="non-targeting",
            pert_col="target",
            num_threads=2,
            outdir=out,
        )
        evaluator.compute(profile=profile, write_csv=False)
    print(json.dumps({"peer": "cell-eval", "profile": profile, "cpu_s": time.process_time() - start}))


if __name__ == "__main__":
    main()
