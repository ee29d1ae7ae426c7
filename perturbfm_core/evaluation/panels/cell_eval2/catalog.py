"""The metrics by the peer's names: what is better, how they are scored, and which profiles have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2 import direction, expression, significance
from perturbfm_core.evaluation.panels.cell_eval2.direction import Fidelity
from perturbfm_core.evaluation.panels.cell_eval2.expression import ProfilePair
from perturbfm_core.evaluation.panels.cell_eval2.tables import TablePair
from perturbfm_core.schema import BoolArray, FloatArray

SOURCE = "cell-eval2 0.20.0, rule 3"
NORM = "expr_mse_unbiased_capped_norm"
LFC_NMAE = "de_wilcoxon_lfc_nmae"
# Numerator and denominator of the metric that exists for all perturbations together only.
NORM_PARTS = ("expr_mse_unbiased_capped", "expr_distance_unbiased")


@dataclass(frozen=True)
class Scoring:
    """How a metric becomes a score: 0 at the baseline, 1 at the anchor.

    Attributes
    ----------
    better
        ``higher`` or ``lower``; None: described, not scored.
    anchor
        Best value; None: scores are relative to the baseline alone.
    low, high
        Bounds of the score; a `low` of None is the score of the value `worst`.
    convex
        Whether errors above the baseline's cost their square.
    worst
        Worst value, the score of which an undefined value gets.
    signed
        Whether the baseline may be negative.
    """

    better: str | None = None
    anchor: float | None = None
    low: float | None = 0.0
    high: float | None = None
    convex: bool = False
    worst: float | None = None
    signed: bool = False


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the metrics are computed from.

    Attributes
    ----------
    profiles
        Expression profiles, None if no metric needs them.
    tables
        Differential expression, None if no metric needs it.
    """

    profiles: ProfilePair | None
    tables: TablePair | None

    @property
    def profile_pair(self) -> ProfilePair:
        """Return the profiles."""
        if self.profiles is None:
            msg = "expression profiles are needed"
            raise MetricError(msg)
        return self.profiles

    @property
    def table_pair(self) -> TablePair:
        """Return the tables."""
        if self.tables is None:
            msg = "tables of differential expression are needed"
            raise MetricError(msg)
        return self.tables

    @cached_property
    def fidelity(self) -> Fidelity:
        """Return the signs of significant genes without targets."""
        return Fidelity(self.table_pair)


@dataclass(frozen=True, eq=False)
class PeerMetric:
    """One metric of the peer.

    Attributes
    ----------
    name
        The peer's name.
    compute
        Inputs -> (values [P], which perturbations have one); None: made of the sums of `NORM_PARTS`.
    scoring
        How it is scored.
    gated
        Whether the truth alone decides which perturbations have a value.
    v1
        The name that cell-eval 0.8 had for it, None for new ones.
    """

    name: str
    compute: Callable[[Inputs], tuple[FloatArray, BoolArray]] | None
    scoring: Scoring
    gated: bool = False
    v1: str | None = None

    @property
    def needs_tables(self) -> bool:
        """Return whether it needs tables of differential expression."""
        return self.name.startswith("de_")

    @property
    def scored(self) -> bool:
        """Return whether it has a direction and a score."""
        return self.scoring.better is not None


_BOUNDED = Scoring("higher", 1.0)
_UNFLOORED = Scoring("higher", 1.0, low=None, worst=0.0)
_ERROR = Scoring("lower", 0.0, low=-6.0, convex=True)
_OPEN = Scoring("higher", None, low=-2.0, high=2.0)
_SIGNED = Scoring("higher", None, low=-2.0, high=2.0, signed=True)
_DESCRIBED = Scoring()


def _expr(function: Callable[[ProfilePair], FloatArray]) -> Callable[[Inputs], tuple[FloatArray, BoolArray]]:
    return lambda inputs: _all(function(inputs.profile_pair))


def _table(function: Callable[[TablePair], FloatArray]) -> Callable[[Inputs], tuple[FloatArray, BoolArray]]:
    return lambda inputs: _all(function(inputs.table_pair))


def _sign(function: Callable[[Fidelity], FloatArray]) -> Callable[[Inputs], tuple[FloatArray, BoolArray]]:
    return lambda inputs: _all(function(inputs.fidelity))


def _all(values: FloatArray) -> tuple[FloatArray, BoolArray]:
    return values, np.ones(len(values), dtype=np.bool_)


def _expression_metrics() -> list[PeerMetric]:
    def distance(name: str) -> Callable[[Inputs], tuple[FloatArray, BoolArray]]:
        return _expr(partial(expression.discrimination, distance=name))

    return [
        PeerMetric("expr_mae", _expr(expression.expr_mae), _ERROR, v1="mae"),
        PeerMetric("pds_l1", distance("l1"), _BOUNDED, v1="discrimination_score_l1"),
        PeerMetric("pds_l2", distance("l2"), _BOUNDED, v1="discrimination_score_l2"),
        PeerMetric("pds_cosine", distance("cosine"), _UNFLOORED, v1="discrimination_score_cosine"),
        PeerMetric("delta_pearson", _expr(expression.delta_pearson), _BOUNDED, True, "pearson_delta"),
        PeerMetric("expr_mse", _expr(expression.expr_mse), _ERROR, v1="mse"),
        PeerMetric("expr_mse_unbiased", _expr(expression.expr_mse_unbiased), _DESCRIBED),
        PeerMetric("expr_mse_unbiased_capped", _expr(expression.expr_mse_unbiased_capped), _DESCRIBED),
        PeerMetric("expr_distance_unbiased", _expr(expression.expr_distance_unbiased), _DESCRIBED),
        PeerMetric("expr_real_mass_ratio", _expr(expression.expr_real_mass_ratio), _DESCRIBED),
        PeerMetric(NORM, None, Scoring("lower", 0.0, low=0.0, high=1.0, convex=True)),
        PeerMetric("delta_mse", _expr(expression.delta_mse), _ERROR, v1="mse_delta"),
        PeerMetric("delta_mae", _expr(expression.delta_mae), _ERROR, v1="mae_delta"),
    ]


def _table_metrics() -> list[PeerMetric]:
    s, d = significance, direction
    out = []
    for name, function in (("overlap", s.overlap), ("precision", s.precision)):
        for k in s.CUTOFFS:
            suffix, old = ("", "N") if k is None else (f"_top{k}", str(k))
            out.append(
                PeerMetric(f"{name}{suffix}", _table(partial(function, k=k)), _BOUNDED, v1=f"{name}_at_{old}")
            )
    real, pred = (lambda t: t.n_real.astype(float)), (lambda t: t.n_pred.astype(float))
    rise, fall = partial(s.lfc_spearman, sign=1), partial(s.lfc_spearman, sign=-1)
    near, far = (
        partial(d.direction_sensitivity, universe=False),
        partial(d.direction_sensitivity, universe=True),
    )
    out += [
        PeerMetric("nsig_counts_real", _table(real), _DESCRIBED, v1="de_nsig_counts_real"),
        PeerMetric("nsig_counts_pred", _table(pred), _DESCRIBED, v1="de_nsig_counts_pred"),
        PeerMetric("nsig_spearman", _table(s.nsig_spearman), _BOUNDED, True, "de_spearman_sig"),
        PeerMetric("sig_recall", _table(s.sig_recall), _BOUNDED, True, "de_sig_genes_recall"),
        PeerMetric("direction_match", _table(d.direction_match), _BOUNDED, True, "de_direction_match"),
        PeerMetric("model_direction_match", _table(d.model_direction_match), _BOUNDED, True),
        PeerMetric("lfc_spearman", _table(s.lfc_spearman), _BOUNDED, True, "de_spearman_lfc_sig"),
        PeerMetric("lfc_spearman_pos", _table(rise), _BOUNDED, True),
        PeerMetric("lfc_spearman_neg", _table(fall), _BOUNDED, True),
        PeerMetric("lfc_nmae", lambda i: s.lfc_nmae(i.table_pair), Scoring("lower", 0.0, low=-6.0)),
        PeerMetric("pr_auc", _table(s.pr_auc), _BOUNDED, True, "pr_auc"),
        PeerMetric("roc_auc", _table(s.roc_auc), _BOUNDED, True, "roc_auc"),
        PeerMetric("overlap_adjusted", _table(s.overlap_adjusted), _BOUNDED, True),
        PeerMetric("precision_adjusted", _table(s.precision_adjusted), _BOUNDED),
        PeerMetric("sig_recall_adjusted", _table(s.sig_recall_adjusted), _BOUNDED, True),
        PeerMetric("sig_mcc", _table(s.sig_mcc), _BOUNDED, True),
        PeerMetric("direction_precision", _table(d.direction_precision), _BOUNDED, True),
        PeerMetric("direction_sensitivity", _table(near), _BOUNDED, True),
        PeerMetric("direction_sensitivity_universe", _table(far), _OPEN, True),
        PeerMetric("direction_fidelity", _sign(lambda f: f.corrected), _BOUNDED),
        PeerMetric("direction_fidelity_raw", _sign(lambda f: f.raw), _BOUNDED),
        PeerMetric("direction_coverage", _sign(lambda f: f.coverage), _OPEN),
        PeerMetric("direction_yield", _sign(lambda f: f.yield_corrected), _SIGNED),
        PeerMetric("direction_yield_raw", _sign(lambda f: f.yield_raw), _OPEN),
        PeerMetric("direction_fidelity_yield", _sign(lambda f: f.fidelity_yield), _BOUNDED),
        PeerMetric("direction_fidelity_yield_raw", _sign(lambda f: f.fidelity_yield_raw), _UNFLOORED),
    ]
    for name, universe, corrected, scoring in (
        ("direction_reach", False, True, _BOUNDED),
        ("direction_reach_raw", False, False, _UNFLOORED),
        ("direction_reach_unbounded", True, True, _OPEN),
        ("direction_reach_unbounded_raw", True, False, _OPEN),
    ):
        reach = partial(Fidelity.reach, universe=universe, corrected=corrected)
        out.append(PeerMetric(name, _sign(reach), scoring))
    out.append(PeerMetric("sig_jaccard", _table(s.sig_jaccard), _UNFLOORED))
    kept = {
        "model_direction_match": "de_model_direction_match",
        "lfc_spearman_pos": "de_spearman_pos_lfc_sig",
        "lfc_spearman_neg": "de_spearman_neg_lfc_sig",
    }
    return [
        PeerMetric(f"de_wilcoxon_{m.name}", m.compute, m.scoring, m.gated, m.v1 or kept.get(m.name))
        for m in out
    ]


METRICS: dict[str, PeerMetric] = {m.name: m for m in (*_expression_metrics(), *_table_metrics())}

VCC2026 = (
    *("pds_cosine", "expr_mse_unbiased", "expr_mse_unbiased_capped", "expr_distance_unbiased"),
    *("expr_real_mass_ratio", NORM, LFC_NMAE, "de_wilcoxon_direction_fidelity_yield_raw"),
    *("de_wilcoxon_direction_reach_raw", "de_wilcoxon_sig_jaccard"),
)
PROFILES: dict[str, tuple[str, ...]] = {"vcc2026": VCC2026, "full": tuple(METRICS)}
# What decides a ranking: a baseline without a scale for these is refused, others are left out of the mean.
DECISIVE = frozenset(m.name for m in METRICS.values() if m.scored and (m.v1 or m.name in VCC2026))
