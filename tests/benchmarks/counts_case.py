"""Simulated counts of a screen: measured cells and predicted ones, in parts that any environment can load."""

import numpy as np
import scipy.sparse as sp

CONTROL = "non-targeting"
PARTS = ("data", "indices", "indptr")


class Screen:
    """Counts with perturbed expression, drawn group by group.

    A tenth of the cells are controls. Every perturbation changes a tenth of the genes, by a factor of exp(normal of
    spread 0.5). Counts are negative binomial with 3 as their size, depths of cells spread by exp(normal of spread 0.3).
    """

    def __init__(self, n_cells, n_genes, n_perturbations, mean_log_rate=-1.0, spread=1.5, effects=0):
        rng = np.random.default_rng(effects)
        self.rate = rng.lognormal(mean_log_rate, spread, n_genes)
        self.factors = np.ones((n_perturbations + 1, n_genes), dtype=np.float32)
        for p in range(1, n_perturbations + 1):
            changed = rng.choice(n_genes, n_genes // 10, replace=False)
            self.factors[p, changed] = rng.lognormal(0.0, 0.5, len(changed))
        controls = n_cells // 10
        groups = np.concatenate(
            [np.zeros(controls, int), 1 + np.arange(n_cells - controls) % n_perturbations]
        )
        self.groups = rng.permutation(groups)
        self.genes = np.asarray([f"G{j}" for j in range(n_genes)])
        self.names = np.asarray([CONTROL, *self.genes[:n_perturbations]])

    @property
    def labels(self):
        """Return the label of each cell."""
        return self.names[self.groups]

    def rows(self, seed, block=2_000):
        """Yield CSR float32 blocks of cells, in the order of `labels`."""
        rng = np.random.default_rng(seed)
        for start in range(0, len(self.groups), block):
            groups = self.groups[start : start + block]
            depth = rng.lognormal(0.0, 0.3, (len(groups), 1))
            mean = depth * self.rate * self.factors[groups]
            yield sp.csr_array(rng.poisson(rng.gamma(3.0, mean / 3.0)).astype(np.float32))


def write_parts(folder, name, X):
    """Write one CSR matrix as arrays of their own."""
    for part in PARTS:
        np.save(folder / f"{name}.{part}.npy", getattr(X, part))


def write_pair(folder, screen):
    """Write both sides and what names their rows and columns."""
    for seed, name in enumerate(("real", "pred"), start=1):
        write_parts(folder, name, sp.vstack(list(screen.rows(seed)), format="csr"))
    np.save(folder / "labels.npy", screen.labels)
    np.save(folder / "genes.npy", screen.genes)


def write_sparse_screen(path, seed, n_cells, n_genes, n_perturbations, *, density=0.12, block=1_000):
    """Write an h5ad file of counts of all genes of a genome: CSR float32, most of it zero.

    A gene is seen in a cell with a probability that spreads over genes by exp(normal of spread 1.8), at most 1, with
    the mean `density`; a seen count is geometric, with a mean that grows with the gene's probability. Cells have depths
    spread by exp(normal of spread 0.3), and a perturbation changes a twentieth of the genes by exp(normal of spread
    0.5). Labels and effects are those of seed 0 for all seeds.
    """
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    fixed = np.random.default_rng(0)
    rate = fixed.lognormal(0.0, 1.8, n_genes).astype(np.float32)
    for _ in range(50):
        rate *= np.float32(density / np.minimum(rate, 1.0).mean())
    changed = fixed.random((n_perturbations + 1, n_genes), dtype=np.float32) < 0.05
    changed[0] = False
    factors = np.where(changed, fixed.lognormal(0.0, 0.5, changed.shape), 1.0).astype(np.float32)
    controls = n_cells // 10
    groups = np.concatenate([np.zeros(controls, int), 1 + np.arange(n_cells - controls) % n_perturbations])
    groups = fixed.permutation(groups)
    genes = np.asarray([f"G{j}" for j in range(n_genes)])
    names = np.asarray([CONTROL, *genes[fixed.choice(n_genes, n_perturbations, replace=False)]])
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        labels = pd.Categorical(names[groups])
        write_elem(file, "obs", pd.DataFrame({"target": labels}, index=[f"c{i}" for i in range(n_cells)]))
        write_elem(file, "var", pd.DataFrame(index=genes))
        X = file.create_group("X")
        X.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, n_genes)}
        )
        for name, kind in (("data", np.float32), ("indices", np.int32)):
            X.create_dataset(name, (0,), maxshape=(None,), dtype=kind, chunks=(1 << 20,))
        stored = [np.zeros(1, dtype=np.int64)]
        for start in range(0, n_cells, block):
            part = groups[start : start + block]
            seen = factors[part]
            seen *= rng.lognormal(0.0, 0.3, (len(part), 1)).astype(np.float32)
            mean = 4.0 * rate * seen
            seen *= rate
            cell, gene = np.nonzero(rng.random(seen.shape, dtype=np.float32) < seen)
            # One more than an exponential's whole part is geometric.
            counts = 1.0 + np.floor(rng.standard_exponential(len(cell), dtype=np.float32) * mean[cell, gene])
            offset = int(stored[-1][-1])
            for name, values in (("data", counts), ("indices", gene)):
                X[name].resize((offset + len(cell),))
                X[name][offset:] = values
            stored.append(offset + np.cumsum(np.bincount(cell, minlength=len(part))))
        X["indptr"] = np.concatenate(stored)
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return int(stored[-1][-1]) / n_cells / n_genes
