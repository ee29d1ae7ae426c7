"""Panel `virtual_cell`: the metrics of cell-eval 0.8.2 and of the Virtual Cell Challenge.

Each context is evaluated by itself. Observed controls are used on both sides, because a model could improve its
scores by changing its own controls, which cell-eval uses (`virtual_cell.profiles.Sample` can take them). Metrics of
means use the predicted mean directly, with the matched controls of the comparison, so that ``mse`` equals
``mse_delta`` and ``mae`` equals ``mae_delta``. Metrics of differential expression and of E-distances use the true and
the generated cells, against all control cells of the context.

Conventions are those of cell-eval, so that numbers agree: an overlap or a precision without any DE gene is 0, not
undefined, and the correlation of numbers of DE genes is 1 if no condition has any. A metric that is one number for a
context is given for each of its conditions. ``clustering_agreement`` is not part of the panel: it takes the best of
seven Leiden clusterings, which depend on the random seed and on library versions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.cells import Cells
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import MetricDirection, MetricFunction, metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.virtual_cell import means
from perturbfm_core.evaluation.panels.virtual_cell.de_metrics import CUTOFFS
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.panels.virtual_cell.profiles import (
    DE_METRICS,
    DELTA_METRICS,
    DISCRIMINATION,
    EDISTANCE,
    MEAN_METRICS,
    ControlCells,
    DEPair,
    MeanPair,
    Sample,
    pearson_of_edistances,
)
from perturbfm_core.schema import FloatArray, IntArray

PANEL = "virtual_cell"
VERSION = "cell-eval 0.8.2"
_SOURCE = "cell-eval (Arc Institute)"
_NO_CONTROLS = "the context has no control cells"

add_panel(
    PANEL, source=f"{_SOURCE}, Virtual Cell Challenge 2025", headline="discrimination_score_l1", order=40
)

Pair = tuple[IntArray, Sample, Sample]


def _register(
    name: str,
    function: MetricFunction,
    text: str,
    direction: MetricDirection,
    bounds: tuple[float | None, float | None],
    undefined: str,
    *,
    cells: bool,
) -> None:
    metric(
        PANEL,
        name,
        text,
        direction=direction,
        bounds=bounds,
        version=VERSION,
        source=_SOURCE,
        undefined=undefined,
        needs="cells" if cells else "conditions",
    )(function)


def _rows_of_contexts(c: Comparison) -> dict[str, IntArray]:
    return {str(name): np.flatnonzero(c.contexts == name) for name in np.unique(c.contexts)}


def pairs_of(c: Comparison) -> list[Pair]:
    """Return (conditions, observed sample, predicted sample) of each context with controls.

    Raises
    ------
    MetricError
        If the comparison has no cells.
    """
    cells = c.cells
    if cells is None:
        msg = "the comparison has no cells"
        raise MetricError(msg)
    rows = {
        context: rows for context, rows in _rows_of_contexts(c).items() if len(cells.control_rows[context])
    }
    real = c.once_per_observed("virtual_cell.real", lambda: {x: _observed(cells, x, rows[x]) for x in rows})
    return c.once(
        "virtual_cell.pairs", lambda: [(rows[x], real[x], _predicted(cells, rows[x], real[x])) for x in rows]
    )


def _observed(cells: Cells, context: str, rows: IntArray) -> Sample:
    groups = CellGroups.of_rows(cells.X, [cells.truth_rows[i] for i in rows])
    return Sample(groups, ControlCells(cells.X[cells.control_rows[context]]))


def _predicted(cells: Cells, rows: IntArray, real: Sample) -> Sample:
    sizes = np.asarray([cells.n_predicted(int(i)) for i in rows], dtype=np.int64)
    groups = CellGroups(sizes, real.groups.n_genes, lambda i: cells.predicted(int(rows[i])))
    return Sample(groups, real.control)


def _from_de(function: DEPair) -> MetricFunction:
    def value(c: Comparison) -> FloatArray:
        out = np.full(len(c), np.nan)
        for rows, real, pred in pairs_of(c):
            out[rows] = function(real.de, pred.de)
        return out

    return value


def _from_means(function: MeanPair) -> MetricFunction:
    def value(c: Comparison) -> FloatArray:
        return function(c.predicted, c.observed)

    return value


def _discrimination(distance: means.Distance) -> MetricFunction:
    def value(c: Comparison) -> FloatArray:
        out = np.empty(len(c))
        for rows in _rows_of_contexts(c).values():
            out[rows] = means.discrimination(
                c.predicted[rows], c.observed[rows], c.perturbations[rows], c.genes, distance
            )
        return out

    return value


def _edistances(c: Comparison) -> FloatArray:
    out = np.full(len(c), np.nan)
    for rows, real, pred in pairs_of(c):
        out[rows] = pearson_of_edistances(real.edistance, pred.edistance)
    return out


def _register_de() -> None:
    texts: dict[str, tuple[str, str]] = {}
    for k in CUTOFFS:
        name, number = ("N", "as many") if k is None else (str(k), f"up to {k}")
        texts[f"overlap_at_{name}"] = (
            f"Share of the observed DE genes of largest fold change ({number} as there are) found among as many "
            "predicted ones"
            + ("; the differential expression score of the Virtual Cell Challenge." if k is None else "."),
            _NO_CONTROLS,
        )
        texts[f"precision_at_{name}"] = (
            f"Share of the predicted DE genes of largest fold change ({number} as there are) found among as many "
            "observed ones.",
            _NO_CONTROLS,
        )
    none = f"no gene is differentially expressed, or {_NO_CONTROLS}"
    one_class = f"no gene or every gene is differentially expressed, or {_NO_CONTROLS}"
    texts |= {
        "de_spearman_sig": (
            "Spearman correlation over conditions of the numbers of observed and predicted DE genes.",
            f"the numbers are constant, a single condition has DE genes, or {_NO_CONTROLS}",
        ),
        "de_direction_match": (
            "Share of observed DE genes whose predicted fold change has the same sign.",
            none,
        ),
        "de_spearman_lfc_sig": (
            "Spearman correlation of observed and predicted fold changes over the observed DE genes.",
            f"fewer than two genes are differentially expressed, or {_NO_CONTROLS}",
        ),
        "de_sig_genes_recall": ("Share of observed DE genes that are DE genes in the prediction.", none),
        "de_nsig_counts_real": (
            "Number of observed DE genes; it describes, and neither way is better.",
            _NO_CONTROLS,
        ),
        "de_nsig_counts_pred": (
            "Number of predicted DE genes; it describes, and neither way is better.",
            _NO_CONTROLS,
        ),
        "pr_auc": ("Average precision of -log10 predicted FDR for the observed DE genes.", one_class),
        "roc_auc": ("Area under the ROC curve of -log10 predicted FDR for the observed DE genes.", one_class),
    }
    for name, function in DE_METRICS.items():
        text, undefined = texts[name]
        low = -1.0 if "spearman" in name else 0.0
        high = None if "counts" in name else 1.0
        _register(name, _from_de(function), text, "max", (low, high), undefined, cells=True)


def _register_means() -> None:
    texts: dict[str, tuple[str, MetricDirection, tuple[float | None, float | None], str]] = {
        "pearson_delta": (
            "Pearson correlation over all genes of predicted and observed change from the controls.",
            "max",
            (-1.0, 1.0),
            "predicted or observed change is constant over genes",
        ),
        "mse": ("Mean squared error over genes of mean expression.", "min", (0.0, None), "never undefined"),
        "mae": ("Mean absolute error over genes of mean expression.", "min", (0.0, None), "never undefined"),
        "mse_delta": (
            "Mean squared error over genes of the change from the controls.",
            "min",
            (0.0, None),
            "never undefined",
        ),
        "mae_delta": (
            "Mean absolute error over genes of the change from the controls.",
            "min",
            (0.0, None),
            "never undefined",
        ),
    }
    functions: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {**DELTA_METRICS, **MEAN_METRICS}
    for name, (text, direction, bounds, undefined) in texts.items():
        _register(name, _from_means(functions[name]), text, direction, bounds, undefined, cells=False)
    for name, distance in DISCRIMINATION.items():
        _register(
            name,
            _discrimination(distance),
            f"1 - rank / n of the observed condition among the n of its context by {distance} distance to the "
            "prediction, without the perturbed gene; equals count one half.",
            "max",
            (0.0, 1.0),
            "never undefined",
            cells=False,
        )


_register_de()
_register_means()
_register(
    EDISTANCE,
    _edistances,
    "Pearson correlation over the conditions of a context of observed and predicted E-distances from the controls.",
    "max",
    (-1.0, 1.0),
    f"fewer than two conditions, constant E-distances, or {_NO_CONTROLS}",
    cells=True,
)
