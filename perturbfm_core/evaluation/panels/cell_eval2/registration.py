"""Registration of the peer's metrics in the panels that show them."""

from __future__ import annotations

from collections.abc import Iterable

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import MetricDirection, MetricFunction, SetFunction, metric
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, NORM, NORM_PARTS, SOURCE, PeerMetric
from perturbfm_core.evaluation.panels.cell_eval2.texts import TEXTS
from perturbfm_core.evaluation.panels.cell_eval2.values import condition_values, effect_error, has_counts
from perturbfm_core.schema import FloatArray

PROJECT = "cell-eval2 (Arc Institute)"
MASS = "expr_real_mass_ratio"
# Errors that the peer shows and does not score.
_SHOWN_ERRORS = frozenset({"expr_mse_unbiased", "expr_mse_unbiased_capped"})

# Names of cell-eval 0.8 that panel `virtual_cell` does not have.
NOT_THERE = frozenset({"de_model_direction_match", "de_spearman_pos_lfc_sig", "de_spearman_neg_lfc_sig"})


def register(panel: str, names: Iterable[str]) -> None:
    """Register metrics by the peer's names.

    Parameters
    ----------
    panel
        The panel that they belong to.
    names
        Names of the metrics, in the order of the panel.
    """
    for name in names:
        peer, text = METRICS[name], TEXTS[name]
        metric(
            panel,
            name,
            text.description + _former_name(peer),
            direction=_direction(peer),
            bounds=text.bounds,
            version=SOURCE,
            source=PROJECT,
            undefined=text.undefined,
            needs="cells",
            aggregate="set" if name == NORM else "mean",
            ratio_of=(NORM_PARTS,) if name == NORM else (),
            applies=has_counts if name == MASS else None,
            inapplicable="the data set keeps no counts; import it with --space counts",
        )(_ratio() if name == NORM else _values(name))


def _values(name: str) -> MetricFunction:
    """Return the function that gives the values of one metric."""

    def values(c: Comparison) -> FloatArray:
        return condition_values(c, name)

    return values


def _ratio() -> SetFunction:
    """Return the function that gives the one number of several perturbations."""
    # Of this module, since a panel reaches what its functions are from and nothing of other panels.
    return lambda c: effect_error(c)


def _direction(peer: PeerMetric) -> MetricDirection:
    if peer.scoring.better is not None:
        return "max" if peer.scoring.better == "higher" else "min"
    return "min" if peer.name in _SHOWN_ERRORS else "target"


def _former_name(peer: PeerMetric) -> str:
    """Return where the same quantity is found under the conventions of cell-eval 0.8."""
    if peer.v1 is None:
        return ""
    known = peer.v1 not in NOT_THERE
    return f" By cell-eval 0.8: `{'virtual_cell.' if known else ''}{peer.v1}`."
