"""Time PerturBench's evaluation on given cells, in its own environment: ``python time_perturbench.py FOLDER``.

FOLDER holds ``{real,pred}.{data,indices,indptr}.npy`` and ``{real,pred}_group.npy``, the perturbation of each cell, -1
for controls, which only real has: the predictions are given the real ones, as in PerturBench's test step. Runs the pairs
of aggregation and metric of its default evaluation that versions 1 and 2 share, each with ranks. Prints CPU-seconds,
without those of imports, and values as JSON.
"""

import json
import sys
import time
import warnings

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from perturbench.analysis.benchmarks.evaluation import Evaluation

PAIRS = (("average", "rmse"), ("logfc", "cosine"))
CONTROL, COVARIATE = "control", "c"


def load(folder, name):
    """Return one matrix in CSR and the names of its cells' perturbations."""
    data, indices, indptr = (np.load(f"{folder}/{name}.{part}.npy") for part in ("data", "indices", "indptr"))
    group = np.load(f"{folder}/{name}_group.npy")
    names = np.asarray([CONTROL if g < 0 else f"g{g}" for g in group])
    return sp.csr_matrix((data, indices, indptr)), names


def cells(X, names):
    """Return cells as PerturBench takes them."""
    obs = pd.DataFrame(
        {"condition": pd.Categorical(names), "cell_type": pd.Categorical([COVARIATE] * len(names))}
    )
    obs.index = [f"c{i}" for i in range(len(names))]
    return anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(index=[f"x{j}" for j in range(X.shape[1])]))


def of_perturbations(column, names):
    """Return the values of a column by perturbation, which may stand behind its covariate."""
    found = {str(key).removeprefix(f"{COVARIATE}_"): float(value) for key, value in column.items()}
    return [found[name] for name in names]


def main():
    """Run the evaluation."""
    warnings.filterwarnings("ignore")
    (X, real), (Y, pred) = (load(sys.argv[1], name) for name in ("real", "pred"))
    still = real == CONTROL
    reference = cells(X, real)
    model = cells(sp.vstack([X[still], Y], format="csr"), np.concatenate([real[still], pred]))
    names = [f"g{i}" for i in range(len(set(pred)))]
    cpu, values = {}, {}
    start = time.process_time()
    evaluation = Evaluation(
        model_adatas={"model": model},
        ref_adata=reference,
        pert_col="condition",
        cov_cols=["cell_type"],
        ctrl=CONTROL,
    )
    for aggregation, metric in PAIRS:
        begin = time.process_time()
        evaluation.aggregate(aggr_method=aggregation)
        evaluation.evaluate(aggr_method=aggregation, metric=metric)
        evaluation.evaluate_pairwise(aggr_method=aggregation, metric=metric)
        evaluation.evaluate_rank(aggr_method=aggregation, metric=metric)
        cpu[f"{metric}_{aggregation}"] = time.process_time() - begin
    total = time.process_time() - start
    for aggregation, metric in PAIRS:
        table = evaluation.evals[aggregation][metric].set_index("cov_pert")["metric"]
        ranks = evaluation.rank_evals[aggregation][metric].set_index("cov_pert")["rank"]
        values[f"{metric}_{aggregation}"] = of_perturbations(table, names)
        values[f"{metric}_rank_{aggregation}"] = of_perturbations(ranks, names)
    # Version 2 divides ranks by the number of the other perturbations.
    version = 2 if hasattr(Evaluation, "list_available_metrics") else 1
    print(json.dumps({"cpu_s": total, "cpu_s_by_pair": cpu, "version": version, "values": values}))


if __name__ == "__main__":
    main()
