"""Time cell-eval2 on given cells, in its own environment: ``python time_cell_eval2.py FOLDER {vcc2026,full,scale}``.

FOLDER holds ``{real,pred}.{data,indices,indptr}.npy``, ``labels.npy`` and ``genes.npy``. ``scale`` is the replicate
anchor and the baseline. Prints CPU-seconds, without those of imports, the peak memory of the process, and values, as
JSON.
"""

import json
import logging
import resource
import sys
import time
import warnings
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from cell_eval2.anchor import compute_replicate_anchor
from cell_eval2.baseline import build_generic_baseline
from cell_eval2.config import EvalConfig
from cell_eval2.run import aggregate_metrics_wide, compute_metrics, metric_output_names


def load(folder, name):
    """Return one side."""
    data, indices, indptr = (np.load(f"{folder}/{name}.{part}.npy") for part in ("data", "indices", "indptr"))
    labels, genes = (np.load(f"{folder}/{part}.npy") for part in ("labels", "genes"))
    obs = pd.DataFrame({"target": pd.Categorical(labels)}, index=[f"c{i}" for i in range(len(labels))])
    X = sp.csr_matrix((data, indices, indptr), shape=(len(labels), len(genes)))
    return anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(index=genes))


def main():
    """Run one profile, or the scale."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder, profile = sys.argv[1:3]
    config = EvalConfig.from_preset("vcc2026")
    config = replace(
        config,
        control="non-targeting",
        metrics="full" if profile == "full" else "vcc2026",
        de=replace(config.de, backend="scanpy"),
    )
    real = load(folder, "real")
    out = {"cpu_s": {}}
    if profile == "scale":
        start = time.process_time()
        _, anchor = compute_replicate_anchor(real, config=config)
        middle = time.process_time()
        base = build_generic_baseline(real, config=config)
        out["cpu_s"] = {"anchor": middle - start, "baseline": time.process_time() - middle}
        mean = base.agg.filter(base.agg["statistic"] == "mean").to_dicts()[0]
        out["values"] = {f"anchor.{r['metric']}": r["replicate"] for r in anchor.to_dicts()}
        out["values"] |= {f"baseline.{k}": float(v) for k, v in mean.items() if k != "statistic"}
    else:
        pred = load(folder, "pred")
        start = time.process_time()
        found = compute_metrics(pred, real, config=config)
        wide = aggregate_metrics_wide(found, metrics=metric_output_names(config))
        out["cpu_s"] = {profile: time.process_time() - start}
        mean = wide.filter(wide["statistic"] == "mean").to_dicts()[0]
        out["values"] = {f"mean.{k}": float(v) for k, v in mean.items() if k != "statistic"}
        for row in found.to_dicts():
            out["values"][f"{row['metric']}/{row['perturbation']}"] = row["value"]
    out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(out))


if __name__ == "__main__":
    main()
