"""Time cell-eval on given cells, in its own environment: ``python time_cell_eval.py FOLDER {full,vcc}``.

FOLDER holds ``{real,pred}.{data,indices,indptr}.npy``: 5,000 controls then 100 x 450 cells in real, the latter
only in pred (which is given the real controls, as cell-eval asks). Prints CPU-seconds, without those of imports,
and values as JSON. The agreement of clusterings, which has no counterpart here, is timed by itself.
"""

import json
import sys
import tempfile
import time

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from cell_eval import MetricsEvaluator

P, CELLS, CONTROLS = 100, 450, 5_000
CLUSTERING = "clustering_agreement"


def load(folder, name):
    """Return one CSR matrix."""
    data, indices, indptr = (np.load(f"{folder}/{name}.{part}.npy") for part in ("data", "indices", "indptr"))
    return sp.csr_matrix((data, indices, indptr))


def memory(key):
    """Return a figure of this process in MB."""
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) / 1024 for line in handle if line.startswith(key))


def main():
    """Run one profile."""
    folder, profile = sys.argv[1:3]
    real = load(folder, "real")
    pred = sp.vstack([real[:CONTROLS], load(folder, "pred")], format="csr")
    names = [f"g{i}" for i in range(P)]
    labels = ["non-targeting"] * CONTROLS + [name for name in names for _ in range(CELLS)]
    obs = pd.DataFrame({"target": labels}, index=[f"c{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"g{i}" for i in range(real.shape[1])])
    both = [anndata.AnnData(X=X, obs=obs.copy(), var=var.copy()) for X in (pred, real)]
    before = memory("VmRSS")
    out = {}
    with tempfile.TemporaryDirectory() as folder_out:
        start = time.process_time()
        evaluator = MetricsEvaluator(
            adata_pred=both[0],
            adata_real=both[1],
            control_pert="non-targeting",
            pert_col="target",
            num_threads=2,
            outdir=f"{folder_out}/results",
        )
        found, _ = evaluator.compute(profile=profile, write_csv=False, skip_metrics=[CLUSTERING])
        out["cpu_s"] = time.process_time() - start
        out["above_inputs_mb"] = memory("VmHWM") - before
        if profile == "full":
            others = [name for name in found.columns if name != "perturbation"]
            start = time.process_time()
            evaluator.compute(profile="anndata", write_csv=False, skip_metrics=others)
            out["clustering_cpu_s"] = time.process_time() - start
    table = found.to_pandas().set_index("perturbation").loc[names]
    out["values"] = {name: table[name].astype(float).tolist() for name in table.columns}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
