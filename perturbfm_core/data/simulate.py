"""Simulator of single-cell perturbation screens with known ground truth.

Single and combined perturbations act on their target genes and propagate over a signed, sparse regulatory
network with a saturating response. Combinations are not sums: perturbations that engage the same pathways
buffer each other, and gene programs respond that neither perturbation activates alone. Each context has its
own baseline expression and its own active edges; each cell has a state that shifts its baseline and,
optionally, scales its response; batches shift genes. Counts are negative binomial.

Expression rates are computed without BLAS and rounded to six significant digits before sampling, so that the
data do not depend on the number of threads or the instruction set.

This module is longer than 400 lines because the steps of one generative model are to be read in order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from pydantic import Field, model_validator

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.data.condition import condition_key
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values, row_blocks
from perturbfm_core.data.metadata import DatasetMetadata, GeneSelection, Normalization
from perturbfm_core.data.modality import switches_off
from perturbfm_core.data.obs import make_obs
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import FloatArray, IntArray

_PROPAGATION_STEPS = 6
_ROW_GAIN = 0.8
_PATHWAYS = 4
_PROGRAM_GAIN = 0.15


class SimulationConfig(Frozen):
    """Parameters of one simulated data set.

    `n_combos` pairs are drawn from the single perturbations (default: half as many as singles). `doses` scale
    a perturbation's strength by a Hill curve with its half-maximal effect at dose 1. `context_specificity` is
    the expected share of edges switched off in a context; `state_gating` is how strongly a cell's state
    scales its response.
    """

    name: str = "synth"
    n_obs: int = Field(default=2000, ge=1)
    n_genes: int = Field(default=200, ge=2)
    n_contexts: int = Field(default=3, ge=1)
    n_perts: int = Field(default=10, ge=1)
    n_combos: int | None = Field(default=None, ge=0)
    n_batches: int = Field(default=1, ge=1)
    n_states: int = Field(default=1, ge=1)
    doses: tuple[float, ...] = ()
    control_fraction: float = Field(default=0.25, gt=0, lt=1)
    edges_per_gene: int = Field(default=4, ge=0)
    effect_size: float = Field(default=2.0, ge=0)
    interaction: float = Field(default=0.5, ge=0)
    context_specificity: float = Field(default=0.2, ge=0, le=1)
    context_shift: float = Field(default=0.5, ge=0)
    batch_shift: float = Field(default=0.05, ge=0)
    state_shift: float = Field(default=0.5, ge=0)
    state_gating: float = Field(default=0.0, ge=0, le=1)
    depth: float = Field(default=2000.0, gt=0)
    dispersion: float = Field(default=5.0, gt=0)
    modality: str = "CRISPRa"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> SimulationConfig:
        if self.n_perts > self.n_genes:
            msg = f"n_perts ({self.n_perts}) must not exceed n_genes ({self.n_genes})"
            raise ValueError(msg)
        pairs = self.n_perts * (self.n_perts - 1) // 2
        if self.combos > pairs:
            msg = (
                f"n_combos ({self.combos}) must not exceed the {pairs} pairs of {self.n_perts} perturbations"
            )
            raise ValueError(msg)
        if any(d <= 0 for d in self.doses) or len(set(self.doses)) != len(self.doses):
            msg = "doses must be different positive numbers"
            raise ValueError(msg)
        return self

    @property
    def combos(self) -> int:
        """Return the number of combinations of two perturbations."""
        return self.n_perts // 2 if self.n_combos is None else self.n_combos


@dataclass(frozen=True, eq=False)
class SimulationTruth:
    """Ground truth of a simulated data set.

    Attributes
    ----------
    network
        CSR [G, G], ``network[target, regulator]`` = signed weight.
    conditions
        Condition keys [C], contexts outermost.
    log_fold_change
        float32 [C, G], natural-log change of the expression rate, averaged over cell states.
    genes
        Gene ids [G].
    """

    network: Any
    conditions: list[str]
    log_fold_change: FloatArray
    genes: list[str]

    def arrays(self) -> dict[str, Any]:
        """Return the truth as plain arrays for an npz."""
        coo = self.network.tocoo()
        return {
            "edge_index": np.stack([coo.col, coo.row]).astype(np.int64),
            "edge_weight": coo.data.astype(np.float32),
            "genes": np.asarray(self.genes, dtype=np.str_),
            "conditions": np.asarray(self.conditions, dtype=np.str_),
            "log_fold_change": self.log_fold_change,
        }


@dataclass(frozen=True, eq=False)
class _World:
    network: Any
    active: list[Any]  # network of each context
    baseline: FloatArray  # [contexts, G]
    state_program: FloatArray  # [states, G]
    gate: FloatArray  # [states, G]
    batch_factor: FloatArray  # [batches, G]
    dispersion: FloatArray  # [G]
    strength: FloatArray  # [perts]
    targets: IntArray  # [perts]
    combos: list[tuple[int, int]]
    pathways: FloatArray  # [perts, pathways], how strongly a perturbation engages each pathway
    programs: FloatArray  # [pathways, G], genes that respond when two perturbations meet in a pathway


def simulate(config: SimulationConfig) -> tuple[PerturbDataset, SimulationTruth]:
    """Simulate a data set and return it with its ground truth.

    Raises
    ------
    DatasetError
        If `n_obs` is too small to give every condition a cell.
    """
    rng = np.random.default_rng(config.seed)
    genes = [f"G{i:0{len(str(config.n_genes - 1))}d}" for i in range(config.n_genes)]
    world = _build_world(config, rng)
    treatments = _treatments(config, world, genes)
    per_context = _cells_per_context(config, len(treatments))
    columns, context, treatment, batch, state = _assign_cells(config, treatments, per_context, rng)
    lfc = _effects(config, world, treatments)
    counts = _sample(config, world, lfc, context, treatment, batch, state, rng)
    row_ids = [f"cell{i:07d}" for i in range(len(context))]
    metadata = DatasetMetadata(
        name=config.name,
        source="simulated",
        licence="MIT",
        space="counts",
        normalization=Normalization(),
        gene_selection=GeneSelection(method="none", rows="train"),
        notes={"simulation": config.model_dump(mode="json")},
    )
    ds = PerturbDataset(make_obs(columns, row_ids), genes, Values(counts=counts), metadata)
    keys, rows = [], []
    for c in range(config.n_contexts):
        for t, (pert, dose) in enumerate(treatments):
            keys.append(condition_key(f"C{c}", pert, config.modality, dose))
            rows.append((lfc[c, t] * world.gate).mean(axis=0))
    truth = SimulationTruth(world.network, keys, np.asarray(rows, dtype=np.float32), genes)
    return ds, truth


def _build_world(config: SimulationConfig, rng: np.random.Generator) -> _World:
    G = config.n_genes
    fan_in = min(config.edges_per_gene, G - 1)
    # Few genes regulate many others: the chance of being a regulator falls off as a power of a random rank.
    popularity = (1.0 + rng.permutation(G)) ** -0.7
    popularity /= popularity.sum()
    regulators = np.concatenate([rng.choice(G, size=fan_in, replace=False, p=popularity) for _ in range(G)])
    targets = np.repeat(np.arange(G), fan_in)
    weights = rng.normal(0.0, 1.0, size=len(targets))
    keep = regulators.astype(np.int64) != targets
    edges = (regulators[keep].astype(np.int64), targets[keep], weights[keep])
    gain = np.zeros(G)
    np.add.at(gain, edges[1], np.abs(edges[2]))
    # The absolute weights of the edges into a gene sum to `_ROW_GAIN`, which bounds what a step of
    # propagation adds.
    scaled = _ROW_GAIN * edges[2] / np.where(gain[edges[1]] > 0, gain[edges[1]], 1.0)
    network = sp.csr_array((scaled, (edges[1], edges[0])), shape=(G, G))
    active = []
    for _ in range(config.n_contexts):
        on = rng.random(len(scaled)) >= config.context_specificity
        active.append(sp.csr_array((scaled * on, (edges[1], edges[0])), shape=(G, G)))
    base = rng.normal(0.0, 1.2, size=G)
    shifted = rng.random((config.n_contexts, G)) < 0.3
    baseline = base + config.context_shift * shifted * rng.normal(0.0, 1.0, size=(config.n_contexts, G))
    level = np.linspace(-1.0, 1.0, config.n_states) if config.n_states > 1 else np.zeros(1)
    program = rng.normal(0.0, 1.0, size=G) * (rng.random(G) < 0.2)
    loading = rng.choice([-1.0, 1.0], size=G)
    # Perturbed genes are drawn from the strongest regulators, so that perturbations have downstream effects.
    out_degree = np.bincount(edges[0], minlength=G)
    hubs = np.argsort(-out_degree, kind="stable")[: max(2 * config.n_perts, 1)]
    pert_targets = np.sort(rng.choice(hubs, size=config.n_perts, replace=False))
    sign = -1.0 if switches_off(config.modality) else 1.0
    strength = sign * config.effect_size * rng.uniform(0.6, 1.4, size=config.n_perts)
    pairs = [(i, j) for i in range(config.n_perts) for j in range(i + 1, config.n_perts)]
    chosen: Any = np.sort(rng.choice(len(pairs), size=config.combos, replace=False)) if pairs else []
    return _World(
        network=network,
        active=active,
        baseline=baseline,
        state_program=config.state_shift * level[:, None] * program,
        gate=1.0 + config.state_gating * level[:, None] * loading,
        batch_factor=_round_significant(np.exp(config.batch_shift * rng.normal(size=(config.n_batches, G)))),
        dispersion=config.dispersion * rng.uniform(0.5, 1.5, size=G),
        strength=strength,
        targets=pert_targets.astype(np.int64),
        combos=[pairs[int(k)] for k in chosen],
        pathways=rng.normal(0.0, 1.0, size=(config.n_perts, _PATHWAYS)),
        programs=rng.normal(0.0, 1.0, size=(_PATHWAYS, G)) * (rng.random((_PATHWAYS, G)) < 0.1),
    )


def _treatments(config: SimulationConfig, world: _World, genes: list[str]) -> list[tuple[str, str]]:
    """Return (pert_id, doses) of every treatment: singles at every dose, combinations at the highest dose."""
    names = [genes[t] for t in world.targets]
    texts = [f"{d:g}" for d in config.doses] or [""]
    top = f"{max(config.doses):g}" if config.doses else ""
    out = [(name, dose) for name in names for dose in texts]
    for i, j in world.combos:
        pair = schema.COMBO_SEPARATOR.join(sorted((names[i], names[j])))
        out.append((pair, f"{top}{schema.COMBO_SEPARATOR}{top}" if top else ""))
    return out


def _cells_per_context(config: SimulationConfig, n_treatments: int) -> list[int]:
    n = [
        config.n_obs // config.n_contexts + (c < config.n_obs % config.n_contexts)
        for c in range(config.n_contexts)
    ]
    smallest = min(n)
    control = max(1, round(config.control_fraction * smallest))
    if smallest - control < n_treatments:
        need = math.ceil(n_treatments / (1 - config.control_fraction) + 1) * config.n_contexts
        msg = (
            f"{config.n_obs} cells cannot give each of {n_treatments} treatments in {config.n_contexts} contexts a cell; "
            f"use n_obs of at least {need}"
        )
        raise DatasetError(msg)
    return n


def _assign_cells(
    config: SimulationConfig,
    treatments: list[tuple[str, str]],
    per_context: list[int],
    rng: np.random.Generator,
) -> tuple[dict[str, Any], IntArray, IntArray, IntArray, IntArray]:
    context, treatment = [], []
    for c, n in enumerate(per_context):
        control = max(1, round(config.control_fraction * n))
        spread = np.arange(n - control) % len(treatments)
        context.append(np.full(n, c))
        treatment.append(np.concatenate([np.full(control, -1), np.sort(spread)]))
    ctx, treat = np.concatenate(context), np.concatenate(treatment)
    batch = rng.integers(0, config.n_batches, size=len(ctx))
    # Batches differ in their proportions of cell states, as real samples do.
    if config.n_states > 1:
        lean = rng.random((config.n_batches, config.n_states)) + 0.5
        # Inverse sampling: a cell's state is the number of cumulative proportions below a uniform number.
        edges = np.cumsum(lean / lean.sum(axis=1, keepdims=True), axis=1)
        state = (rng.random(len(ctx))[:, None] > edges[batch]).sum(axis=1)
    else:
        state = np.zeros(len(ctx), dtype=np.int64)
    columns = {
        schema.PERT_ID: [schema.CONTROL if t < 0 else treatments[t][0] for t in treat],
        schema.CONTEXT_ID: [f"C{c}" for c in ctx],
        schema.BATCH_ID: [f"B{b}" for b in batch],
        schema.MODALITY: ["" if t < 0 else config.modality for t in treat],
        schema.DOSES: ["" if t < 0 else treatments[t][1] for t in treat],
    }
    return columns, ctx, treat, batch, state


def _effects(config: SimulationConfig, world: _World, treatments: list[tuple[str, str]]) -> FloatArray:
    """Return float64 [contexts, treatments, G]: log changes of the rate at an average state."""
    n_single = config.n_perts * max(len(config.doses), 1)
    # Hill curve with coefficient 1, scaled so that dose 1 has the factor 1 and the limit is 2.
    hill = [d / (1.0 + d) * 2.0 for d in config.doses] or [1.0]
    top = max(hill)
    out = np.zeros((config.n_contexts, len(treatments), config.n_genes))
    for c in range(config.n_contexts):
        for t in range(len(treatments)):
            if t < n_single:
                p, h = divmod(t, len(hill))
                out[c, t] = _propagate(world, c, [(p, hill[h])])
            else:
                i, j = world.combos[t - n_single]
                both = _propagate(world, c, [(i, top), (j, top)])
                a, b = _propagate(world, c, [(i, top)]), _propagate(world, c, [(j, top)])
                together = _epistasis(world, i, j, a, b, config.effect_size)
                out[c, t] = both + config.interaction * together
    return out


def _epistasis(world: _World, i: int, j: int, a: FloatArray, b: FloatArray, effect_size: float) -> FloatArray:
    """Return float64 [G], the interaction of two perturbations with single effects `a` and `b` [G].

    Perturbations with similar pathway loadings buffer each other, those with opposite loadings enhance each
    other; in addition, the gene programs of shared pathways respond, which neither perturbation activates
    alone. Both depend only on the pathway loadings of the two perturbations, so they can be learned from
    other pairs.
    """
    # Python sums instead of dot products: BLAS may round differently from machine to machine.
    shared = world.pathways[i] * world.pathways[j]
    alike = math.tanh(float(sum(shared)))
    program = sum(weight * genes for weight, genes in zip(shared, world.programs, strict=True))
    out: FloatArray = -0.5 * alike * (a + b) + _PROGRAM_GAIN * effect_size * program
    return out


def _propagate(world: _World, context: int, doses: list[tuple[int, float]]) -> FloatArray:
    """Return float64 [G], log changes caused by perturbations (index, dose factor) in one context."""
    A = world.active[context]
    source = np.zeros(A.shape[0])
    for p, dose in doses:
        source[world.targets[p]] += world.strength[p] * dose
    x = source
    for _ in range(_PROPAGATION_STEPS):
        # tanh saturates: a regulator transmits at most a change of 2, however strongly it is perturbed.
        x = source + A @ (2.0 * np.tanh(x / 1.5))
    return np.asarray(x)


def _round_significant(x: FloatArray) -> FloatArray:
    """Round positive numbers to 20 significant bits (six digits), to remove differences in the last bits."""
    # frexp: x = mantissa * 2**exponent with mantissa in [0.5, 1), so x * scale has 20 bits before the point.
    _, exponent = np.frexp(x)
    scale = np.ldexp(1.0, np.asarray(20 - exponent, dtype=np.int32))
    out: FloatArray = np.rint(x * scale) / scale
    return out


def _sample(
    config: SimulationConfig,
    world: _World,
    lfc: FloatArray,
    context: IntArray,
    treatment: IntArray,
    batch: IntArray,
    state: IntArray,
    rng: np.random.Generator,
) -> Any:
    """Draw the counts block by block and return them as CSR int32."""
    size = _round_significant(np.exp(rng.normal(0.0, 0.3, size=len(context))))
    cache: dict[tuple[int, int, int], FloatArray] = {}

    def rates(c: int, t: int, s: int) -> FloatArray:
        key = (c, t, s)
        if key not in cache:
            change = lfc[c, t] * world.gate[s] if t >= 0 else 0.0
            # Relative to the total of the unperturbed context: a perturbation may change a cell's total
            # counts.
            rate = np.exp(np.clip(world.baseline[c] + world.state_program[s] + change, -12.0, 8.0))
            cache[key] = _round_significant(rate / np.exp(world.baseline[c]).sum() * config.depth)
        return cache[key]

    data: list[IntArray] = []
    indices: list[IntArray] = []
    lengths: list[IntArray] = []

    def narrow(x: IntArray) -> IntArray:
        return x.astype(np.uint16 if x.size == 0 or x.max() < 2**16 else np.int32)

    for block in row_blocks(len(context), max(1, 4_000_000 // config.n_genes)):
        span = range(block.start, block.stop)
        mean = np.stack([rates(int(context[i]), int(treatment[i]), int(state[i])) for i in span])
        mean *= world.batch_factor[batch[block]]
        mean *= size[block][:, None]
        # Negative binomial as a gamma-Poisson mixture: variance = mean + mean^2 / dispersion.
        lam = rng.standard_gamma(np.broadcast_to(world.dispersion, mean.shape))
        lam *= mean
        lam /= world.dispersion
        drawn = rng.poisson(lam)
        row, column = np.nonzero(drawn)
        # Stored in the narrowest type: the lists and the array they are joined into are in memory together.
        data.append(narrow(drawn[row, column]))
        indices.append(narrow(column))
        lengths.append(np.bincount(row, minlength=block.stop - block.start))
        if len(cache) * config.n_genes > 50_000_000:
            cache.clear()
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    # 64-bit row pointers would make scipy convert the column indices to 64 bits as well.
    indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
    values = np.concatenate(data, dtype=np.int32)
    data.clear()
    columns = np.concatenate(indices, dtype=np.int32)
    indices.clear()
    return sp.csr_array((values, columns, indptr), shape=(len(context), config.n_genes))
