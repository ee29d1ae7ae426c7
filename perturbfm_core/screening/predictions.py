"""`Predictions` for requested conditions: expression changes with intervals and a verdict on trust."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from perturbfm_core import schema
from perturbfm_core.data.condition import canonical_pert, keys_of, part_id, pert_parts
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.data.quantities import split_doses
from perturbfm_core.errors import ConfigError
from perturbfm_core.schema import BoolArray, FloatArray, StrArray
from perturbfm_core.screening.fitted_run import FittedRun, epistemic_share
from perturbfm_core.screening.requests import Requests, controls, take_query, unknown_covariates
from perturbfm_core.splits.view import Query
from perturbfm_core.uncertainty.novelty import (
    Evidence,
    Trust,
    Verdict,
    judge,
    membership,
    overlap,
    p_values,
    part_labels,
    state_distance,
)

_TIE = 1e-9
_TIE_DELTA = 1e-6
# Name of a gene that does not exist, in place of one that the model may know nothing about.
_NO_GENE = "~"

BLOCK = 512


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of requested conditions, with a verdict on how far each can be trusted.

    Attributes
    ----------
    conditions
        Condition table [C].
    genes
        Gene ids [G].
    mean, sd, lower, upper
        float64 [C, G], delta in log1p units, its standard deviation, and bounds of its interval (NaN if none
        can be given).
    share
        float64 [C, G], epistemic share of the variance, None if the model does not give it.
    level
        Nominal coverage of the intervals.
    method
        How the intervals were computed.
    evidence, verdicts
        Verdict on each condition, and the evidence for it.
    nearest
        (key, similarity from 0 to 1) of the most similar training condition; the key is empty if none is
        similar.
    notes
        Notes for the user on each condition.
    """

    conditions: pd.DataFrame
    genes: StrArray
    mean: FloatArray
    sd: FloatArray
    lower: FloatArray
    upper: FloatArray
    share: FloatArray | None
    level: float
    method: str
    evidence: list[Evidence]
    verdicts: list[Verdict]
    nearest: list[tuple[str, float]]
    notes: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.conditions)

    def top(self, i: int, n: int) -> pd.DataFrame:
        """Return the `n` genes of largest predicted change of condition `i`, as a table."""
        at = np.argsort(-np.abs(self.mean[i]), kind="stable")[: max(n, 0)]
        return pd.DataFrame(
            {
                "gene": self.genes[at],
                "mean": self.mean[i, at],
                "sd": self.sd[i, at],
                "lower": self.lower[i, at],
                "upper": self.upper[i, at],
                "epistemic_share": np.nan if self.share is None else self.share[i, at],
            }
        )

    def summary(self, i: int) -> dict[str, Any]:
        """Return a summary of condition `i` without values per gene, ready for JSON."""
        verdict, evidence = self.verdicts[i], self.evidence[i]
        return {
            "condition": str(self.conditions.index[i]),
            **{str(c): str(self.conditions.iloc[i][c]) for c in schema.CONDITION_COLUMNS},
            "effect_size": float(np.linalg.norm(self.mean[i])),
            "level": self.level,
            "intervals": self.method,
            "verdict": verdict.text,
            "kind": verdict.kind,
            "in_distribution": verdict.in_distribution,
            "trust": verdict.trust,
            "reasons": list(verdict.reasons),
            "nearest": self.nearest[i][0],
            "nearest_similarity": self.nearest[i][1],
            "evidence": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(evidence).items()},
            "notes": list(self.notes[i]),
        }

    def long(self) -> pd.DataFrame:
        """Return one row per condition and gene: mean, sd, lower, upper, epistemic_share, verdict."""
        C, G = self.mean.shape
        codes = np.repeat(np.arange(C), G)
        texts, text = np.unique([v.text for v in self.verdicts], return_inverse=True)

        def flat(values: FloatArray | None) -> Any:
            if values is None:
                return np.full(C * G, np.nan, dtype=np.float32)
            return values.astype(np.float32).ravel()

        return pd.DataFrame(
            {
                "condition": pd.Categorical.from_codes(codes, self.conditions.index.astype(str).tolist()),
                "gene": pd.Categorical.from_codes(np.tile(np.arange(G), C), self.genes.tolist()),
                "mean": flat(self.mean),
                "sd": flat(self.sd),
                "lower": flat(self.lower),
                "upper": flat(self.upper),
                "epistemic_share": flat(self.share),
                "verdict": pd.Categorical.from_codes(text[codes], texts.tolist()),
            }
        )


def predict_requests(run: FittedRun, requests: Requests, level: float = 0.9) -> Predictions:
    """Predict requested conditions, each with an interval of one level and a verdict.

    Neither values nor numbers of test rows are read, even if a requested condition is a test condition.

    Parameters
    ----------
    run
        The fitted run.
    requests
        Resolved requests.
    level
        Nominal coverage of the intervals, between 0 and 1.

    Raises
    ------
    ConfigError
        If the run's calibrated intervals do not have the level.
    """
    query = requests.query
    prediction = run.predict(query)
    half, method = half_widths(run, prediction, level)
    # Flagged conditions have intervals that were widened for lack of similar calibration units.
    flags = None if prediction.intervals is None else prediction.intervals.flag
    evidence = _evidence(run, requests, prediction, flags, calibrated=prediction.intervals is not None)
    mean = prediction.mean.astype(np.float64)
    share = None
    if prediction.var_epistemic is not None:
        share = np.clip(
            prediction.var_epistemic.astype(np.float64) / np.maximum(prediction.var, 1e-300), 0.0, 1.0
        )
    return Predictions(
        conditions=query.conditions,
        genes=query.genes,
        mean=mean,
        sd=np.sqrt(prediction.var.astype(np.float64)),
        lower=mean - half,
        upper=mean + half,
        share=share,
        level=level,
        method=method,
        evidence=evidence,
        verdicts=[judge(e) for e in evidence],
        nearest=nearest(run, requests),
        notes=requests.notes,
    )


def predict_blocks(
    run: FittedRun, requests: Requests, level: float = 0.9, size: int = BLOCK
) -> Iterator[Predictions]:
    """Predict requested conditions in blocks, which bounds the memory.

    Parameters
    ----------
    run
        The fitted run.
    requests
        Resolved requests.
    level
        Nominal coverage of the intervals, between 0 and 1.
    size
        Conditions per block.
    """
    method = None if run.calibrator is None else run.calibrator.info.get("method")
    # Weighted conformal intervals depend on all conditions of a query, so these are predicted in one block.
    step = max(len(requests.query), 1) if method == "weighted" else size
    for start in range(0, len(requests.query), step):
        yield predict_requests(
            run, requests.take(np.arange(start, min(start + step, len(requests.query)))), level
        )


def half_widths(run: FittedRun, prediction: Prediction, level: float) -> tuple[FloatArray, str]:
    """Return (float64 [C, G] half-width of each interval, NaN if none can be given; how it was computed).

    Parameters
    ----------
    run
        The fitted run.
    prediction
        Its prediction of C conditions.
    level
        Nominal coverage, between 0 and 1.

    Raises
    ------
    ConfigError
        If the level is not between 0 and 1, or calibrated intervals do not have it.
    """
    if not 0.0 < level < 1.0:
        msg = f"--level is {level:g}; give a coverage between 0 and 1"
        raise ConfigError(msg)
    intervals = prediction.intervals
    if intervals is None:
        info = {} if run.calibrator is None else run.calibrator.info
        reason = info.get("reason", "the run has no calibrator")
        z = float(stats.norm.ppf(0.5 + level / 2.0))
        return z * np.sqrt(prediction.var.astype(np.float64)), f"Gaussian, not calibrated: {reason}"
    at = np.flatnonzero(np.isclose(intervals.levels, level))
    if not len(at):
        known = ", ".join(f"{x:g}" for x in intervals.levels)
        msg = f"the intervals of run {run.id} are calibrated at {known}, not at {level:g}; give one of them as --level"
        raise ConfigError(msg)
    method = "calibrated" if run.calibrator is None else str(run.calibrator.info.get("method", "calibrated"))
    return intervals.half_width(int(at[0]), prediction.var), f"conformal, {method}"


def nearest(run: FittedRun, requests: Requests) -> list[tuple[str, float]]:
    """Return (key, similarity) of the training condition that is most similar to each requested one.

    Similarity is that of the model's process over conditions, or the overlap of perturbed genes without one.
    """
    query, train = requests.query, run.view.conditions
    if run.process is None:
        similarity, keys = overlap(query.conditions, train), train.index
    else:
        similarity, keys = run.process.similarity(query), run.process.conditions.index
    best = similarity.max(axis=1)
    # The first of (nearly) equal similarities, so that rounding does not decide.
    at = np.argmax(similarity >= best[:, None] - _TIE, axis=1)
    return [
        (str(keys[j]) if x > 0 else "", float(np.clip(x, 0.0, 1.0))) for j, x in zip(at, best, strict=True)
    ]


def _evidence(
    run: FittedRun, requests: Requests, prediction: Prediction, flags: BoolArray | None, *, calibrated: bool
) -> list[Evidence]:
    """Return the evidence for the verdict on each requested condition."""
    query, train = requests.query, run.view.conditions
    m = membership(query.conditions, train)
    seen = {label for parts in part_labels(train) for label in parts}
    unseen = [
        tuple(x.rpartition("|")[0] for x in parts if x not in seen) for parts in part_labels(query.conditions)
    ]
    # Genes that train perturbs in any modality (labels are "gene|modality").
    moved = {label.rpartition("|")[0] for label in seen}
    blank = _blank(run, query, unseen)
    doses = [
        _dose_evidence(run, *row) for row in _fields(query, schema.PERT_ID, schema.MODALITY, schema.DOSES)
    ]
    covariates = unknown_covariates(query.conditions, train)
    known_here = _known_here(query.conditions, train)
    novelty = run.novelty(query)
    p = p_values(novelty, run.reference) if len(run.reference) else None
    share = epistemic_share(prediction)
    contexts = query.conditions[schema.CONTEXT_ID].astype(str).tolist()
    state = _states(run, contexts)
    return [
        Evidence(
            parts=int(m.parts[i]),
            alone=int(m.alone[i]),
            anywhere=int(m.anywhere[i]),
            same=bool(m.same[i]),
            known=bool(m.known[i]),
            known_here=bool(known_here[i]),
            context_seen=bool(m.context[i]),
            unseen=unseen[i],
            blank=blank[i],
            novelty=float(novelty[i]),
            p=None if p is None else float(p[i]),
            n_reference=len(run.reference),
            epistemic=None if share is None else float(share[i]),
            train_epistemic=run.train_epistemic,
            state=None if state is None or m.context[i] else float(state[i]),
            contexts_held_out=run.contexts_held_out,
            calibrated=calibrated,
            widened=bool(flags[i]) if flags is not None else False,
            other_modality=tuple(g for g in unseen[i] if g in moved),
            doses=doses[i][1],
            dose_trust=doses[i][0],
            covariates=covariates[i],
        )
        for i in range(len(query))
    ]


def _fields(query: Query, *columns: str) -> list[tuple[str, ...]]:
    return list(query.conditions[list(columns)].astype(str).itertuples(index=False, name=None))


def _dose_evidence(run: FittedRun, pert: str, modality: str, doses: str) -> tuple[Trust, tuple[str, ...]]:
    """Return (trust that the doses of one condition allow, reasons why it is not higher)."""
    names = pert_parts(pert)
    each = split_doses(doses) if doses else [""] * len(names)
    found = [run.doses.judged(name, modality, dose) for name, dose in zip(names, each, strict=True)]
    order: tuple[Trust, ...] = ("low", "fair", "high")
    least = order[min((order.index(trust) for trust, _ in found), default=2)]
    return least, tuple(reason for _, reason in found if reason)


def _known_here(conditions: pd.DataFrame, train: pd.DataFrame) -> BoolArray:
    """Return bool [C]: whether train has the perturbation in the same context and modality, at any dose."""
    columns = [schema.CONTEXT_ID, schema.PERT_ID, schema.MODALITY]
    seen = set(train[columns].astype(str).itertuples(index=False, name=None))
    rows = conditions[columns].astype(str).itertuples(index=False, name=None)
    return np.asarray([row in seen for row in rows], dtype=np.bool_)


def _blank(run: FittedRun, query: Query, unseen: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the unseen genes of each condition about which the model knows nothing.

    Each gene is replaced by a name that does not exist. If the predicted deltas stay the same, except at the
    gene itself, the model cannot distinguish it from any other unknown gene.
    """
    owner = [(i, gene) for i, genes in enumerate(unseen) for gene in genes]
    if not owner:
        return [() for _ in unseen]
    rows = []
    for i, gene in owner:
        row = query.conditions.iloc[i].astype(str)
        parts = [_NO_GENE if p == part_id(gene) else p for p in pert_parts(row[schema.PERT_ID])]
        doses = split_doses(row[schema.DOSES]) if row[schema.DOSES] else None
        pert, dose = canonical_pert(schema.COMBO_SEPARATOR.join(parts), doses)
        rows.append((row[schema.CONTEXT_ID], pert, row[schema.MODALITY], dose, row[schema.COVARIATES]))
    table = pd.DataFrame(rows, columns=list(schema.CONDITION_COLUMNS))
    table.index = pd.Index(keys_of(table), name=schema.CONDITION)
    at = np.asarray([i for i, _ in owner])
    requested = take_query(query, at)
    replaced = Query(table, query.genes, requested.control, query.cells)
    change = np.abs(run.model.predict(requested).mean - run.model.predict(replaced).mean)
    # The perturbed gene's own delta may depend on its name without any information on the gene.
    change[np.asarray([gene for _, gene in owner])[:, None] == query.genes[None]] = 0.0
    same = change.max(axis=1) <= _TIE_DELTA
    out: list[tuple[str, ...]] = [() for _ in unseen]
    for (i, gene), blank in zip(owner, same, strict=True):
        if blank:
            out[i] = (*out[i], gene)
    return out


def _states(run: FittedRun, contexts: list[str]) -> FloatArray | None:
    """Return float64 [C], distance of each context's controls to those of train; None without controls."""
    requested = controls(run, contexts)
    if requested is None:
        return None
    known = controls(run, sorted(set(run.view.conditions[schema.CONTEXT_ID].astype(str))))
    return None if known is None else state_distance(requested, known)
