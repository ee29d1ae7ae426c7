"""Time pertpy's distances on given cells, in their own environment: ``python time_pertpy.py FOLDER [PERTURBATIONS]``.

FOLDER holds ``control.npy`` [n, G], ``stimulated.npy`` and ``imputed.npy`` [P, n, G] and ``first.npy`` [P, 100], the
first genes of each perturbation's test. As in scPerturBench each distance gets an AnnData of its own on the genes
it sees, and the transport cost only the first 100. Prints CPU-seconds and values as JSON.
"""

import importlib
import importlib.util
import json
import os
import sys
import time
import types

import anndata
import numpy as np
import pandas as pd

METRICS = ("mse", "pearson_distance", "edistance", "sym_kldiv", "wasserstein")


def distances():
    """Return the module with the distances, without the packages above it: those import all of pertpy."""
    (path,) = importlib.util.find_spec("pertpy").submodule_search_locations
    for name in ("pertpy", "pertpy.tools", "pertpy.tools._distances"):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(path, *name.split(".")[1:])]
        sys.modules[name] = package
    return importlib.import_module("pertpy.tools._distances._distances")


def cells(imputed, control, stimulated):
    """Return one evaluation's cells."""
    groups = {"imputed": imputed, "control": control, "stimulated": stimulated}
    labels = [name for name, X in groups.items() for _ in X]
    obs = pd.DataFrame({"group": labels}, index=[f"c{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"g{i}" for i in range(control.shape[1])])
    return anndata.AnnData(X=np.concatenate(list(groups.values())), obs=obs, var=var)


def value(Distance, data, genes, metric):
    """Return one distance of predicted and true cells."""
    data = data[:, genes].copy()
    if metric == "pearson_distance":
        data.X = data.X - data.X[data.obs["group"] == "control"].mean(axis=0)
    data.layers["X"] = data.X
    distance = Distance(metric=metric, layer_key="X")
    found = distance.onesided_distances(
        data, groupby="group", selected_group="imputed", groups=["stimulated"], show_progressbar=False
    )
    d = float(found["stimulated"])
    return float(np.log2(d + 1)) if metric == "sym_kldiv" else d


def main():
    """Run all perturbations."""
    folder = sys.argv[1]
    control = np.load(f"{folder}/control.npy")
    sides = [np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("imputed", "stimulated")]
    first = np.load(f"{folder}/first.npy")
    n = int(sys.argv[2]) if len(sys.argv) > 2 else len(first)
    Distance = distances().Distance
    everything = np.arange(control.shape[1])
    cpu, values = {}, {}
    for i in range(n):
        data = cells(np.asarray(sides[0][i]), control, np.asarray(sides[1][i]))
        for metric in METRICS:
            for top, genes in ((100, first[i]), (5000, everything)):
                if metric == "wasserstein" and top > 100:
                    continue
                start = time.process_time()
                values.setdefault(f"{metric}_top{top}", []).append(value(Distance, data, genes, metric))
                cpu[metric] = cpu.get(metric, 0.0) + time.process_time() - start
    print(json.dumps({"cpu_s": sum(cpu.values()), "cpu_s_by_metric": cpu, "values": values}))


if __name__ == "__main__":
    main()
