"""Small views, graphs and networks for the tests of PerturbFM."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import Model, new_model
from perturbfm_core.models.perturbfm.network.featurizer import FIRST_ID, Featurizer
from perturbfm_core.models.perturbfm.network.fitting import NetworkFitter, scaled_components
from perturbfm_core.models.perturbfm.network.gate import TrainingRows
from perturbfm_core.models.perturbfm.network.members import Networks, rows_of
from perturbfm_core.models.perturbfm.network.module import PerturbationNetwork
from perturbfm_core.splits.view import TrainView
from tests.support.factories import view_of

VERSIONS = ("perturbfm-v0", "perturbfm-v1", "perturbfm-v2", "perturbfm-v3", "perturbfm-v3a")
GATINGS = ("none", "scalar", "node", "lowrank", "mlp")
# A network alone, of a size that trains in a moment.
QUICK: dict[str, Any] = {
    "core": "none",
    "gate": "on",
    "epochs": 6,
    "hidden_dim": 8,
    "rank": 6,
    "diffusion_steps": 2,
    "graph_features": 4,
    "device": "cpu",
}


def graph_of(genes: list[str], name: str = "ring", *, shift: int = 1, directed: bool = False) -> GeneGraph:
    """Return a ring: every gene is connected with the one `shift` places on."""
    n = len(genes)
    A = np.zeros((n, n), dtype=np.float32)
    A[np.arange(n), (np.arange(n) + shift) % n] = 1.0
    if not directed:
        A = np.maximum(A, A.T)
    return GeneGraph(name, np.asarray(genes, dtype=np.str_), sp.csr_array(A), None, {"kind": "edges"})


def screen_view(
    n: int = 12, n_genes: int = 20, *, contexts: int = 2, pairs: int = 3, seed: int = 0
) -> TrainView:
    """Return singles of the first `n` genes and some pairs in contexts with controls of their own; three inner folds."""
    rng = np.random.default_rng(seed)
    perts = [f"g{i}" for i in range(n)] + [f"g{i}+g{i + 1}" for i in range(pairs)]
    rows = [(f"c{c}", p, "CRISPRi", "", f'{{"batch":"b{c}"}}') for c in range(contexts) for p in perts]
    control = rng.uniform(0.5, 3.0, size=(contexts, n_genes))
    loadings = rng.normal(size=(3, n_genes))
    of = {p: rng.normal(size=3) for p in perts}
    delta = np.stack([of[r[1]] @ loadings for r in rows]) + 0.1 * rng.normal(size=(len(rows), n_genes))
    inner = [[i for i, r in enumerate(rows) if perts.index(r[1]) % 3 == j] for j in range(3)]
    view = view_of(rows, delta, control=control[[int(r[0][1:]) for r in rows]], inner=inner)
    view.s2[:] = 0.01
    return view


def rank4(
    n: int = 48, n_genes: int = 300, *, extra: int = 0, seed: int = 0
) -> tuple[TrainView, GeneFeatures]:
    """Return clean deltas of rank 4 for `n` perturbations in one context, and features of these and `extra` more."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(n + extra)]
    latent = rng.normal(size=(n + extra, 4))
    delta = latent[:n] @ rng.normal(size=(4, n_genes))
    control = np.repeat(rng.uniform(0.5, 3.0, size=(1, n_genes)), n, axis=0)
    view = view_of([("c", p) for p in names[:n]], delta, control=control)
    table = GeneFeatures("latent", np.asarray(names, dtype=np.str_), latent.astype(np.float32))
    return view, table


def fitted(
    name: str, view: TrainView, side_info: SideInfo | None = None, seed: int = 0, **params: Any
) -> Model:
    """Return a fitted model that was given all graphs and features of `side_info`."""
    side_info = side_info or SideInfo()
    requested = {"adjacency": list(side_info.graphs), "gene_features": list(side_info.features), **params}
    model = new_model(name, requested)
    model.side_info = side_info
    model.fit(view, seed)
    return model


def prepared(
    name: str, view: TrainView, side_info: SideInfo, **params: Any
) -> tuple[PerturbationNetwork, TrainingRows, NetworkFitter]:
    """Return an untrained network of a version as it is at the first step, with what it would be trained on."""
    requested = {
        **QUICK,
        "adjacency": list(side_info.graphs),
        "gene_features": list(side_info.features),
        **params,
    }
    model: Any = new_model(name, requested)
    p = model.params
    labels = sorted(
        {f"{g}|{m}" for s, m in view.conditions[["pert_id", "modality"]].to_numpy() for g in s.split("+")}
    )
    featurizer = Featurizer(
        p,
        model.version,
        list(side_info.features.values()),
        list(side_info.graphs.values()),
        {x: FIRST_ID + i for i, x in enumerate(labels)},
        masks=side_info.masks,
    ).fit(view)
    core = np.zeros_like(view.delta)
    inputs = featurizer.read(view.query(), core)
    featurizer.calibrate(inputs)
    n = len(view)
    data = rows_of(
        inputs,
        featurizer.scale,
        truth=view.delta,
        core=core,
        s2=view.s2,
        fold=np.full(n, -1, dtype=np.int64),
        groups=[str(k) for k in view.conditions.index],
    )
    networks = Networks(p, model.version)
    data = networks.prepare(view, featurizer, data, None, cell_encoder=model.cell_encoder)
    assert networks.spec is not None
    components = scaled_components(data.truth, p.rank, networks.spec.rank)
    return networks.fitter.new(components, 0), data, networks.fitter


def added(network: PerturbationNetwork, batch: Any) -> torch.Tensor:
    """Return what a network adds to the core, without drop-out."""
    network.eval()
    with torch.no_grad():
        latent, local = network(batch)
    return latent + local
