"""Novelty of a condition relative to train: membership, distance with p-value, and a one-line verdict.

Novelty is compared with that of the conditions that inner folds held out, each relative to the conditions its
fold was fitted on. The same residuals calibrate intervals, so that no interval was calibrated for a condition
that is more novel than these. The comparison is a conformal p-value (Laxhammar and Falkman 2010; Bates et al.
2023): for a condition that is exchangeable with the held-out ones, ``P(p <= a) <= a``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

Trust = Literal["high", "fair", "low"]

# P-values of novelty: out of distribution up to the first, typical from the second.
OUT_OF_DISTRIBUTION = 0.05
TYPICAL = 0.5
# Share of epistemic variance above which trust falls by a step.
MOSTLY_EPISTEMIC = 0.5
_OTHER_CONTEXT = 0.9
_SLACK = 1e-9
_ORDER: tuple[Trust, ...] = ("low", "fair", "high")


@dataclass(frozen=True, eq=False)
class Membership:
    """Overlap of conditions with train, judged by names alone; a part is a gene with its modality.

    Attributes
    ----------
    parts
        int64 [C], number of perturbed genes.
    alone, anywhere, here
        int64 [C], how many of them are in train as singles, in any condition, and in any condition of this
        context.
    same, known, context
        bool [C], whether train has the condition itself, its perturbation and modality, and its context.
    """

    parts: IntArray
    alone: IntArray
    anywhere: IntArray
    here: IntArray
    same: BoolArray
    known: BoolArray
    context: BoolArray

    @property
    def lacking(self) -> FloatArray:
        """Return float64 [C], the share of parts that are in no train condition."""
        return np.asarray(1.0 - self.anywhere / np.maximum(self.parts, 1))

    def with_similarity(self, similarity: FloatArray) -> FloatArray:
        """Return float64 [C] from 0 to 1, the mean of dissimilarity to train and the share of parts it lacks.

        The highest `similarity` [C] alone would call a gene of unknown effect familiar, since the kernel
        treats an unknown effect as zero and thus as similar to genes without effect.
        """
        return np.asarray(0.5 * (1.0 - similarity) + 0.5 * self.lacking)

    @property
    def novelty(self) -> FloatArray:
        """Return float64 [C] from 0 (in train) to 1; only the order of the values is meaningful.

        Half for the share of parts that train lacks (a part that occurs in combinations only counts half), a
        quarter for a new perturbation, a quarter for the share of parts that are new to the context.
        """
        n = np.maximum(self.parts, 1)
        # A part seen as a single counts in both `alone` and `anywhere`, one seen in combinations only in the
        # latter.
        lacking = np.where(self.known, 0.0, 1.0 - (self.alone + self.anywhere) / (2.0 * n))
        out = 0.5 * lacking + 0.25 * ~self.known + 0.25 * (1.0 - self.here / n)
        return np.asarray(np.where(self.same, 0.0, out))


def part_labels(conditions: pd.DataFrame) -> list[list[str]]:
    """Return the parts of each condition as gene and modality, since activation and repression differ."""
    perts, modality = (conditions[c].astype(str) for c in (schema.PERT_ID, schema.MODALITY))
    return [[f"{g}|{m}" for g in pert_genes(p)] for p, m in zip(perts, modality, strict=True)]


def membership(conditions: pd.DataFrame, train: pd.DataFrame) -> Membership:
    """Return the overlap of `conditions` [C] with `train` conditions [n]."""
    seen = part_labels(train)
    contexts = train[schema.CONTEXT_ID].astype(str).tolist()
    singles = {parts[0] for parts in seen if len(parts) == 1}
    everything = {x for parts in seen for x in parts}
    local = {(c, x) for c, parts in zip(contexts, seen, strict=True) for x in parts}
    whole = {tuple(parts) for parts in seen}
    keys, known_contexts = set(train.index.astype(str)), set(contexts)
    query_parts = part_labels(conditions)
    where = conditions[schema.CONTEXT_ID].astype(str).tolist()

    def count(values: list[int]) -> IntArray:
        return np.asarray(values, dtype=np.int64)

    return Membership(
        parts=count([len(p) for p in query_parts]),
        alone=count([sum(x in singles for x in p) for p in query_parts]),
        anywhere=count([sum(x in everything for x in p) for p in query_parts]),
        here=count([sum((c, x) in local for x in p) for c, p in zip(where, query_parts, strict=True)]),
        same=np.asarray([str(k) in keys for k in conditions.index], dtype=np.bool_),
        known=np.asarray([tuple(p) in whole for p in query_parts], dtype=np.bool_),
        context=np.asarray([c in known_contexts for c in where], dtype=np.bool_),
    )


def overlap(conditions: pd.DataFrame, train: pd.DataFrame) -> FloatArray:
    """Return float64 [C, n], similarity by shared parts, a tenth less in another context.

    It is the number of shared parts divided by the root of the product of both numbers of parts.
    """
    query_parts, seen = part_labels(conditions), part_labels(train)
    names = {x: i for i, x in enumerate(sorted({x for parts in seen for x in parts}))}

    def incidence(parts: list[list[str]]) -> Any:
        rows = [i for i, p in enumerate(parts) for x in p if x in names]
        columns = [names[x] for p in parts for x in p if x in names]
        return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(parts), len(names)))

    # Cosine between binary incidence vectors: shared parts / sqrt(|a| |b|).
    shared = (incidence(query_parts) @ incidence(seen).T).toarray()
    sizes = np.sqrt(np.outer([max(len(p), 1) for p in query_parts], [max(len(p), 1) for p in seen]))
    here, there = (t[schema.CONTEXT_ID].astype(str).to_numpy() for t in (conditions, train))
    return np.asarray(shared / sizes * np.where(here[:, None] == there[None], 1.0, _OTHER_CONTEXT))


def p_values(novelty: FloatArray, reference: FloatArray) -> FloatArray:
    """Return float64 [C], conformal p-values of novelty.

    The p-value is the share of `reference` [m] that is at least as novel, with the condition itself counted
    in both numerator and denominator.
    """
    ordered = np.sort(np.asarray(reference, dtype=np.float64))
    # The slack counts a reference of equal novelty as at least as novel, in spite of rounding.
    as_novel = len(ordered) - np.searchsorted(ordered, np.asarray(novelty) - _SLACK, side="left")
    return np.asarray((1.0 + as_novel) / (1.0 + len(ordered)))


def state_distance(control: FloatArray, train: FloatArray) -> FloatArray | None:
    """Return float64 [C], relative distance of control states to the nearest train context.

    The unit is the largest distance of a train context to its nearest other train context: above 1, a state
    is farther from train than any train context is from the rest. None with fewer than 3 train contexts.

    Parameters
    ----------
    control
        float [C, G], control states of the conditions, log1p expression.
    train
        float [n, G], control states of the train contexts.
    """
    if len(train) < 3:
        return None

    def gaps(A: FloatArray, B: FloatArray) -> FloatArray:
        A, B = A.astype(np.float64), B.astype(np.float64)
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, by one matrix product.
        squared = (A**2).sum(axis=1)[:, None] + (B**2).sum(axis=1)[None] - 2.0 * A @ B.T
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))

    among = gaps(train, train)
    np.fill_diagonal(among, np.inf)
    return np.asarray(gaps(control, train).min(axis=1) / max(float(among.min(axis=1).max()), 1e-300))


@dataclass(frozen=True)
class Evidence:
    """Evidence for the verdict on one condition.

    Attributes
    ----------
    parts, alone, anywhere, same, known, known_here, context_seen
        See `Membership`; `known_here`: the perturbation is in train in this context, at another dose or
        covariate.
    unseen
        Perturbed genes that train lacks.
    blank
        Those of them about which the model has no information: any other such gene would get the same
        prediction.
    novelty, p, n_reference
        Distance to train, its p-value among held-out train conditions, and the number of the latter.
    epistemic, train_epistemic
        Share of the predicted variance that more data would remove; its median over the fitted conditions.
    state
        See `state_distance`.
    contexts_held_out
        Whether inner folds held out whole contexts.
    calibrated, widened
        Whether there are calibrated intervals; whether too few calibration units are similar to the
        condition.
    other_modality
        Those of `unseen` that train has under another modality.
    doses, dose_trust
        Differences from the doses in train, and the highest trust that they allow.
    covariates
        Covariates that train lacks.
    """

    parts: int
    alone: int
    anywhere: int
    same: bool
    known: bool
    known_here: bool
    context_seen: bool
    unseen: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()
    novelty: float = 0.0
    p: float | None = None
    n_reference: int = 0
    epistemic: float | None = None
    train_epistemic: float | None = None
    state: float | None = None
    contexts_held_out: bool = False
    calibrated: bool = True
    widened: bool = False
    other_modality: tuple[str, ...] = ()
    doses: tuple[str, ...] = ()
    dose_trust: Trust = "high"
    covariates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """In or out of distribution, and how far the prediction can be trusted.

    Attributes
    ----------
    kind
        What is new about the condition.
    in_distribution
        None where there are too few held-out conditions to decide.
    trust
        ``high``: as familiar as the typical held-out condition; ``fair``: within the range of conditions on
        which intervals were calibrated; ``low``: outside it, or for one of the `reasons`.
    reasons
        Facts behind the verdict, in words.
    """

    kind: str
    in_distribution: bool | None
    trust: Trust
    reasons: tuple[str, ...] = field(default=())

    @property
    def text(self) -> str:
        """Return the verdict in one line."""
        side = {True: "in distribution", False: "out of distribution", None: "distribution unknown"}
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{side[self.in_distribution]}: {self.kind}; trust: {self.trust}{why}"


def judge(e: Evidence) -> Verdict:
    """Return the verdict on one condition.

    Trust starts at ``high`` if the condition is in train or at least half of the held-out conditions are as
    novel (p >= .5), at ``fair`` if more than 5 % are, else at ``low``. It falls by one step if more than half
    of the variance is epistemic.

    It is at most ``fair`` in a context that train lacks, or if fewer than 19 conditions were held out (no
    p-value can reach .05). It is ``low`` if the model has no information about a gene, if nothing was held
    out or calibrated, or if an interval was widened. In an unseen context it is also ``low`` if no context
    was ever held out, if the control state is farther from train than train contexts are from each other, or
    if there are fewer than 3 contexts to judge this by.

    Doses allow at most `dose_trust`, an unknown covariate at most ``fair``. Novelty ignores both, so that
    such a condition cannot be called in distribution; at a ``low`` dose it is out of distribution.
    """
    reasons: list[str] = []
    # Position in `_ORDER`: 0 low, 1 fair, 2 high.
    level = 2
    inside: bool | None = True
    if e.same:
        reasons.append("train has this condition")
    elif e.p is None:
        level, inside = 0, None
        reasons.append("nothing was held out of train to compare with")
    else:
        level = 2 if e.p >= TYPICAL else 1 if e.p > OUT_OF_DISTRIBUTION else 0
        inside = e.p > OUT_OF_DISTRIBUTION
        # Inverts p = (1 + as novel) / (1 + n_reference).
        as_novel = round(e.p * (e.n_reference + 1)) - 1
        reasons.append(f"{as_novel} of {e.n_reference} held-out train conditions are as novel")
        if e.n_reference + 1 < 1 / OUT_OF_DISTRIBUTION:
            level, inside = min(level, 1), None
            reasons.append("too few to call anything out of distribution")
    if e.epistemic is not None and e.epistemic > MOSTLY_EPISTEMIC:
        level = max(level - 1, 0)
        reasons.append(f"{e.epistemic:.0%} of the variance is epistemic")
    if not e.context_seen:
        level = min(level, 1)
        if not e.contexts_held_out:
            level = 0
            reasons.append("no context was held out to calibrate on")
        elif e.state is None:
            level = 0
            reasons.append("fewer than 3 train contexts to compare its control state with")
        elif e.state > 1.0:
            level = 0
            reasons.append("its control state is farther from train than train contexts are from each other")
    if e.blank:
        level, inside = 0, False if inside is False else None
        strange = [g for g in e.blank if g not in e.other_modality]
        if strange:
            reasons.append(f"unknown features: the model knows nothing of {', '.join(strange)}")
        moved = [g for g in e.blank if g in e.other_modality]
        if moved:
            reasons.append(f"train has {', '.join(moved)} under another modality only")
    if e.doses or e.covariates:
        allowed = min(_ORDER.index(e.dose_trust), 1 if e.covariates else 2)
        level = min(level, allowed)
        inside = False if inside is False or allowed == 0 else None
        reasons.extend((*e.doses, *e.covariates))
    if e.widened:
        level = 0
        reasons.append("too few calibration units resemble it")
    if not e.calibrated:
        level = 0
        reasons.append("intervals are not calibrated")
    return Verdict(_kind(e), inside, _ORDER[level], tuple(reasons))


def _kind(e: Evidence) -> str:
    if e.same:
        return "in train"
    if e.known:
        what = "seen perturbation at a new dose or covariate" if e.known_here else "seen perturbation"
    elif e.unseen:
        moved = set(e.unseen) <= set(e.other_modality)
        what = (
            f"gene seen under another modality ({e.unseen[0]})" if moved else f"unseen gene ({e.unseen[0]})"
        )
        if e.parts > 1:
            how = "seen under another modality only" if moved else "unseen"
            what = f"new combination, {len(e.unseen)} of {e.parts} genes {how} ({', '.join(e.unseen)})"
    elif e.alone == e.parts:
        what = "new combination of seen genes"
    elif e.parts > 1:
        what = f"new combination of genes seen in others, {e.alone} of {e.parts} seen alone"
    else:
        what = "gene seen in combinations only"
    if not e.context_seen:
        return f"{what}, unseen context"
    return what if e.known_here or not e.known else f"{what}, new to this context"
