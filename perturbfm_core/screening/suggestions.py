"""Experimental design: the untested perturbations whose measurement would inform a run's model most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import distinct_genes, part_id, pert_genes
from perturbfm_core.data.quantities import split_doses
from perturbfm_core.errors import ConfigError
from perturbfm_core.graphs.masks import read_masks
from perturbfm_core.models.similarity import ConditionProcess
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.screening.doses import most_used
from perturbfm_core.screening.fitted_run import FittedRun
from perturbfm_core.screening.predictions import nearest
from perturbfm_core.screening.requests import Request, Requests, resolve_requests, take_query, unknown
from perturbfm_core.splits.view import Query
from perturbfm_core.training.seeds import derived_seed
from perturbfm_core.uncertainty.information import diverse, greedy_information

Method = Literal["entropy", "variance"]

MAX_CANDIDATES = 10_000
_PREDICTED = 256
_COMPARED = 2_000
# Default weight of dissimilarity in the method ``variance``.
_DIVERSITY = 0.5
# Standard deviations that differ by a smaller share are the same.
_SAME = 1e-5
_ALIKE = (
    "the model is equally uncertain of all candidates: only the difference of their predictions ranks them"
)
# Notes on the names and doses of given candidates that are shown.
_NOTES = 5


@dataclass(frozen=True, eq=False)
class Suggestions:
    """Suggested experiments, best first.

    Attributes
    ----------
    table
        rank, perturbation, context, modality, doses, covariates, information, novelty, effect_size, nearest.
    method
        How they were chosen.
    unit
        Unit of the column `information`.
    n_candidates, n_possible
        Number of different candidates that were compared, and number that exist; if there are too many, a
        seeded random sample is compared.
    notes
        Which of the given candidates were left out; which have unknown names, or doses that were taken from train.
    """

    table: pd.DataFrame
    method: Method
    unit: str
    n_candidates: int
    n_possible: int
    notes: tuple[str, ...] = ()


def suggest(
    run: FittedRun,
    k: int = 10,
    *,
    contexts: Sequence[str] = (),
    candidates: Sequence[Request] = (),
    method: Method | None = None,
    diversity: float | None = None,
) -> Suggestions:
    """Choose perturbations to measure.

    Parameters
    ----------
    run
        The fitted run whose model is used.
    k
        Number of perturbations to choose.
    contexts
        Contexts to choose in (default: every context of train, or of `candidates`).
    candidates
        Conditions to choose from; those in train are left out. By default, these are all pairs of genes that
        train has as single perturbations, the same single perturbations in contexts without them, and new
        single perturbations of genes with features, without any that are measured in the data set.
    method
        ``entropy``: greedy maximisation of the log determinant of the covariance given train, under the
        model's Gaussian process over conditions (default if the model has one); ``variance``: epistemic (or
        else total) variance, with a penalty for similar predictions.
    diversity
        Weight from 0 to 1 of that penalty in ``variance``: the largest cosine similarity to a predicted delta
        chosen before (default 0.5).

    Raises
    ------
    ConfigError
        If there are no candidates, a context is unknown, an option is out of range, or the method does not
        fit the model or `diversity`.
    """
    weight = _DIVERSITY if diversity is None else diversity
    if k < 1 or not 0.0 <= weight <= 1.0:
        msg = f"--k is {k} and --diversity {weight:g}; give at least 1, and 0 to 1"
        raise ConfigError(msg)
    process = run.process
    if method == "entropy" and process is None:
        msg = f"model {run.record.model!r} has no process over conditions; use --method variance"
        raise ConfigError(msg)
    if diversity is not None and process is not None and method != "variance":
        msg = "--diversity serves --method variance only, entropy is used; leave it out or give --method variance"
        raise ConfigError(msg)
    for context in contexts:
        if context not in run.ds.contexts:
            raise ConfigError(unknown("context", context, run.ds.contexts))
    if candidates:
        chosen, notes = _listed(run, contexts, candidates)
        possible = len(chosen.query)
    else:
        untested, possible = _untested(run, contexts)
        if not untested:
            msg = "nothing is left to suggest: all pairs and singles of train are measured; give --candidates FILE"
            raise ConfigError(msg)
        chosen, notes = resolve_requests(run, untested), ()
    query = chosen.query
    if process is not None and method != "variance":
        at, information = _by_entropy(process, query, k)
        used: Method = "entropy"
        unit = "bits per gene"
    else:
        at, information, unit, alike = _by_variance(run, query, k, weight)
        used, notes = "variance", (*notes, *([_ALIKE] if alike else []))
    picked = chosen.take(at)
    prediction = run.predict(picked.query)
    table = picked.query.conditions
    out = pd.DataFrame(
        {
            "rank": np.arange(1, len(at) + 1),
            "perturbation": table[schema.PERT_ID].astype(str).to_numpy(),
            "context": table[schema.CONTEXT_ID].astype(str).to_numpy(),
            "modality": table[schema.MODALITY].astype(str).to_numpy(),
            "doses": table[schema.DOSES].astype(str).to_numpy(),
            "covariates": table[schema.COVARIATES].astype(str).to_numpy(),
            "information": information,
            "novelty": run.novelty(picked.query),
            "effect_size": np.linalg.norm(prediction.mean.astype(np.float64), axis=1),
            "nearest": [key for key, _ in nearest(run, picked)],
        }
    )
    return Suggestions(out, used, unit, len(query), possible, notes)


def _listed(
    run: FittedRun, contexts: Sequence[str], candidates: Sequence[Request]
) -> tuple[Requests, tuple[str, ...]]:
    """Return (the given candidates in the given contexts that are not in train, notes on them and on those left out)."""
    here = [request for request in candidates if not contexts or request.context in contexts]
    if not here:
        msg = f"no candidate is of context {', '.join(contexts)}; the first is of {candidates[0].context!r}"
        raise ConfigError(msg)
    every = resolve_requests(run, here)
    new = np.flatnonzero(~every.query.conditions.index.isin(run.view.conditions.index))
    left_out = {
        f"of other contexts than {', '.join(contexts)}": len(candidates) - len(here),
        "already in train": len(every.query) - len(new),
    }
    notes = [f"candidates left out: {n} {why}" for why, n in left_out.items() if n]
    if not len(new):
        msg = f"nothing is left to suggest: train has all {len(every.query)} candidates; give others"
        raise ConfigError(msg)
    chosen = every.take(new)
    of_names = list(dict.fromkeys(note for some in chosen.notes for note in some))
    more = len(of_names) - _NOTES
    notes += of_names[:_NOTES] + ([f"{more} more notes on candidates"] if more > 0 else [])
    return chosen, tuple(notes)


def _by_entropy(process: ConditionProcess, query: Query, k: int) -> tuple[IntArray, FloatArray]:
    """Return (positions of k conditions, information gained by each in bits per gene).

    The gain of a condition is conditional on those chosen before (see
    `perturbfm_core.uncertainty.information`).
    """
    left = process.posterior(query)
    at, gain = greedy_information(left.variance, left.column, left.noise, left.weights, k)
    # From nats to bits; weights are shares of the genes, hence per gene.
    return at, gain / np.log(2.0)


def _by_variance(
    run: FittedRun, query: Query, k: int, diversity: float
) -> tuple[IntArray, FloatArray, str, bool]:
    """Return (positions of k conditions, standard deviation of each, name of the latter, whether all have the same)."""
    sd = np.zeros(len(query))
    unit = "predictive sd"
    for start in range(0, len(query), _PREDICTED):
        at = np.arange(start, min(start + _PREDICTED, len(query)))
        prediction = run.predict(take_query(query, at))
        variance = prediction.var
        if prediction.var_epistemic is not None:
            variance, unit = prediction.var_epistemic, "epistemic sd"
        # Root of the mean variance over genes.
        sd[at] = np.sqrt(variance.mean(axis=1, dtype=np.float64))
    # Only the predicted deltas of the most uncertain candidates are compared, which bounds the memory.
    top = np.sort(np.argsort(-sd, kind="stable")[: max(_COMPARED, k)])
    parts = [top[i : i + _PREDICTED] for i in range(0, len(top), _PREDICTED)]
    deltas = np.concatenate([run.predict(take_query(query, at)).mean for at in parts])
    found = top[diverse(sd[top], deltas, k, diversity)]
    alike = len(sd) > 1 and float(np.ptp(sd)) <= _SAME * float(sd.max())
    return found, sd[found], unit, alike


def _untested(run: FittedRun, contexts: Sequence[str]) -> tuple[list[Request], int]:
    """Return (default candidates sorted by name, or a seeded sample of them; number of possible ones)."""
    train = run.view.conditions
    where = sorted(set(contexts) or set(train[schema.CONTEXT_ID].astype(str)))
    modality = _most_frequent(train[schema.MODALITY].astype(str))
    of_modality = train[train[schema.MODALITY].astype(str) == modality]
    singles = sorted({p for p in of_modality[schema.PERT_ID].astype(str) if len(pert_genes(p)) == 1})
    # As ids, in which the plus sign of a name does not join parts.
    new = [part_id(name) for name in new_names(run, modality)]
    # Names of measured conditions in all folds, test included; their values are not read.
    measured = set(
        run.ds.conditions[[schema.CONTEXT_ID, schema.PERT_ID]].astype(str).itertuples(index=False, name=None)
    )
    alone = [(c, p) for c in where for p in (*singles, *new) if (c, p) not in measured]
    pairs = len(where) * comb(len(singles), 2)
    room = max(MAX_CANDIDATES - len(alone), 0)
    rng = np.random.default_rng(derived_seed(0, "candidates"))
    if pairs <= 4 * MAX_CANDIDATES:
        joined = [(c, schema.COMBO_SEPARATOR.join(p)) for c in where for p in combinations(singles, 2)]
        together = [x for x in joined if x not in measured]
        possible = len(alone) + len(together)
        if len(together) > room:
            together = [together[i] for i in np.sort(rng.permutation(len(together))[:room])]
    else:
        # Too many pairs to list: random triples (context, gene, gene) are drawn, twice as many as there is
        # room for.
        possible = len(alone) + pairs
        draws = rng.integers(0, [[len(where)], [len(singles)], [len(singles)]], size=(3, 2 * room))
        drawn = {
            (where[c], schema.COMBO_SEPARATOR.join(sorted((singles[a], singles[b]))))
            for c, a, b in draws.T
            if a != b
        }
        together = sorted(drawn - measured)
        together = [together[i] for i in np.sort(rng.permutation(len(together))[:room])]
    alone = [alone[i] for i in np.sort(rng.permutation(len(alone))[:MAX_CANDIDATES])]
    doses = of_modality[schema.DOSES].astype(str)
    dose = most_used(d for text in doses for d in split_doses(text))
    covariates = _most_frequent(of_modality[schema.COVARIATES].astype(str))
    return [Request(p, c, modality, dose, covariates) for c, p in [*alone, *together]], possible


def new_names(run: FittedRun, modality: str) -> list[str]:
    """Return names that have features and are not perturbed in train, of the kind that `modality` perturbs.

    If most names perturbed by this modality are measured genes, these are measured genes. Otherwise (e.g.
    drugs) they are names with targets in the perturbation masks, and names perturbed by this modality
    anywhere in the data set.
    """
    if run.process is None:
        return []
    described = set(run.process.describable())
    train = run.view.conditions
    perturbed = _names(train, modality)
    measured = {str(g) for g in run.ds.genes}
    # More than half of the perturbed names are measured genes.
    if 2 * len(perturbed & measured) > len(perturbed):
        fit = measured
    else:
        fit = _names(run.ds.conditions, modality) | _masked(run)
    return sorted((described & fit) - set(distinct_genes(train[schema.PERT_ID].astype(str))))


def _names(conditions: pd.DataFrame, modality: str) -> set[str]:
    of_modality = conditions[schema.MODALITY].astype(str) == modality
    return set(distinct_genes(conditions.loc[of_modality, schema.PERT_ID].astype(str)))


def _masked(run: FittedRun) -> set[str]:
    """Return the perturbations in the model's masks, none if it has no masks."""
    masks = run.model.needs().masks
    if masks is None or not Path(masks).is_file():
        return set()
    return {str(p) for p in read_masks(Path(masks)).perturbations}


def _most_frequent(values: pd.Series) -> str:
    """Return the most frequent value; of equally frequent ones, the first by name."""
    counts = values.value_counts()
    return str(min(counts.index[counts == counts.max()]))
