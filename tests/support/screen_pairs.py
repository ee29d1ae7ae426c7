"""Simulated pairs of screens that share a network: one that borrows, and a donor of effects."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.graphs.donor import DonorEffects, directions_of
from perturbfm_core.graphs.donor_effects import effects_of
from perturbfm_core.graphs.side_info import SideInfo
from tests.benchmarks.claims.measuring import Run

TARGET, DONOR = "C0", "C1"
N_PERTS = 40


@lru_cache(maxsize=4)
def world(seed: int, cells: int = 20) -> PerturbDataset:
    """Return two contexts of one network, with other baselines and some edges of their own, 80 genes perturbed in each."""
    config = SimulationConfig(
        n_obs=2 * (2 * N_PERTS * cells + 400),
        n_genes=160,
        n_contexts=2,
        n_perts=2 * N_PERTS,
        n_combos=0,
        control_fraction=0.2,
        context_shift=1.0,
        seed=seed,
    )
    return simulate(config)[0]


def part(
    ds: PerturbDataset, context: str, perts: list[str], name: str, **columns: dict[str, Any]
) -> PerturbDataset:
    """Return the controls of a context and its rows of some perturbations as a data set of its own.

    Parameters
    ----------
    ds
        The whole.
    context
        The context.
    perts
        Its perturbations.
    name
        Name of the new data set.
    columns
        {column of the rows: {old value: new value}}.
    """
    here = (ds.obs[schema.CONTEXT_ID].astype(str) == context).to_numpy()
    rows = np.flatnonzero(here & (ds.is_control | ds.obs[schema.PERT_ID].astype(str).isin(perts).to_numpy()))
    obs = ds.obs.iloc[rows]
    kept = (schema.PERT_ID, schema.CONTEXT_ID, schema.BATCH_ID, schema.MODALITY, schema.DOSES)
    table = {c: [columns.get(c, {}).get(str(x), str(x)) for x in obs[c]] for c in kept}
    made = make_obs(table, [str(i) for i in obs.index])
    metadata = DatasetMetadata(name=name, space="counts", normalization=ds.metadata.normalization)
    counts: Any = ds.values.counts
    return PerturbDataset(made, ds.genes, Values(counts=counts[rows]), metadata)


def pair(seed: int, overlap: float, cells: int = 20) -> tuple[PerturbDataset, PerturbDataset]:
    """Return a screen and a donor of as many genes, of which a share is perturbed in both.

    Parameters
    ----------
    seed
        Of the network and of the choice of genes.
    overlap
        Share of the perturbed genes that both have, 0 to 1.
    cells
        Cells of each perturbation.
    """
    ds = world(seed, cells)
    perts = sorted(set(ds.conditions[schema.PERT_ID].astype(str)))
    order = np.random.default_rng([seed, 7]).permutation(len(perts))
    ours, others = ([perts[i] for i in order[k : k + N_PERTS]] for k in (0, N_PERTS))
    shared = round(overlap * N_PERTS)
    given = ours[:shared] + others[: N_PERTS - shared]
    # Shared genes are drawn among all of the target's, so that train and test have their share.
    return part(ds, TARGET, ours, "target"), part(ds, DONOR, given, "donor")


def shuffled(donor: PerturbDataset, seed: int = 0) -> PerturbDataset:
    """Return a donor whose perturbed genes have each other's names."""
    perts = sorted(set(donor.conditions[schema.PERT_ID].astype(str)))
    other = np.roll(np.random.default_rng(seed).permutation(perts), 1)
    names = dict(zip(np.roll(other, 1).tolist(), other.tolist(), strict=True))
    return part(donor, donor.contexts[0], perts, "shuffled", **{schema.PERT_ID: names})


def unrelated(seed: int, cells: int = 20) -> PerturbDataset:
    """Return a donor of another network, whose measured genes have each other's names as well."""
    ds = world(seed + 50, cells)
    perts = sorted(set(ds.conditions[schema.PERT_ID].astype(str)))
    donor = part(ds, DONOR, perts, "unrelated")
    order = np.random.default_rng([seed, 3]).permutation(donor.n_genes)
    counts: Any = donor.values.counts
    return PerturbDataset(donor.obs, donor.genes, Values(counts=counts[:, order]), donor.metadata)


def gain_of(one: Run, other: Run, metric: str) -> tuple[float, float]:
    """Return mean paired difference and its standard error; a constant prediction, which has no correlation, counts as zero."""
    d = np.nan_to_num(one.values[metric]) - np.nan_to_num(other.values[metric])
    return float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))


def lent(target: PerturbDataset, donor: PerturbDataset, name: str = "donor") -> DonorEffects:
    """Return the effects that a target borrows, outside of any store."""
    effects = effects_of(donor, None, target.genes, name)
    directions, by_gene = directions_of(target.conditions)
    return DonorEffects(**{**vars(effects), "directions": directions, "by_gene": by_gene})


def knowledge(target: PerturbDataset, **donors: PerturbDataset) -> SideInfo:
    """Return the side information of a target that borrows from donors by name."""
    return SideInfo(donors={name: lent(target, donor, name) for name, donor in donors.items()})
