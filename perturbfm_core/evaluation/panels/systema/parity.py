"""Parity check with Systema, the linear-model paper and Open Problems, on the cells of a cell-eval case.

The numbers are in the sections ``systema`` and ``definitional_not_upstream_code`` of the case.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.panels import openproblems
from perturbfm_core.evaluation.panels.linear_paper import scores as linear
from perturbfm_core.evaluation.panels.perturbench.parity_ties import top_sets
from perturbfm_core.evaluation.panels.systema import baselines, scores
from perturbfm_core.evaluation.panels.virtual_cell.parity_files import read_prediction
from perturbfm_core.evaluation.parity import (
    ILL_CONDITIONED,
    UNKNOWN,
    Record,
    compared,
    known_form,
    not_compared,
)
from perturbfm_core.evaluation.ties import ROUNDING
from perturbfm_core.schema import FloatArray

_RTOL, _ATOL = 1e-12, 1e-13
_NOISE = f"{ILL_CONDITIONED}: a change is constant up to rounding, so that the peer's value is made of rounding errors"
_SETTING = "a setting of the case, taken as input"

Means = Mapping[str, FloatArray]


def systema_records(folder: Path) -> Iterable[Record]:
    """Yield every record under ``systema`` and ``definitional_not_upstream_code`` of a cell-eval case."""
    import anndata

    expected = json.loads((folder / "expected.json").read_text())
    real = anndata.read_h5ad(folder / "real.h5ad")
    control = str(expected["control"])
    observed = _means(real.X, real.obs[expected["pert_col"]].astype(str).to_numpy())
    X, labels, _ = read_prediction(folder, expected["pert_col"])
    predicted = _means(X, labels)
    genes = [str(g) for g in real.var_names]
    given, others = expected.get("systema"), expected.get("definitional_not_upstream_code")
    if given is not None:
        yield from known_form("systema", "systema", _systema(given, observed, predicted, genes, control))
    if others is not None:
        yield from known_form("systema.others", "others", _definitional(others, observed, predicted, control))


def _means(X: Any, labels: Any) -> dict[str, FloatArray]:
    X = np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)
    return {str(q): X[labels == q].mean(axis=0) for q in np.unique(labels)}


def _value(
    metric: str, key: str, expected: object, got: object, bounds: tuple[float, float] | None = None
) -> Record:
    """Return the record of one number; `bounds` are what it can be where the peer's order of ties is arbitrary."""
    name = f"systema.{metric}"

    def made(theirs: float) -> Record:
        possible = bounds is not None and bounds[0] - _ATOL <= theirs <= bounds[1] + _ATOL
        low, high = bounds if bounds is not None and possible else (None, None)
        return Record(name, key, theirs, float(str(got)), atol=_ATOL, rtol=_RTOL, low=low, high=high)

    return compared(name, key, expected, made)


def _unless_noise(record: Record, changes: Iterable[FloatArray], size: float) -> Record:
    """Return the record; where it differs and a change is rounding alone, as one that is not compared.

    Parameters
    ----------
    record
        That of a correlation.
    changes
        The two vectors that it is made of.
    size
        Largest mean expression that the changes are differences of.
    """
    doubt = record.skipped is None and not record.ok
    flat = doubt and any(bool(np.ptp(d) <= ROUNDING * size) for d in changes if d.size)
    return replace(record, skipped=_NOISE) if flat else record


def _names(metric: str, expected: list[Any], got: list[Any]) -> Iterable[Record]:
    """Yield one record for each place of two lists of names or positions: 1 where they agree."""
    for i in range(max(len(expected), len(got))):
        theirs, ours = (x[i] if i < len(x) else None for x in (expected, got))
        yield _value(metric, f"{i}: {theirs}", 1.0, float(theirs == ours))


def _largest(delta: FloatArray, given: list[Any]) -> list[int]:
    """Return the positions of the genes of largest change [G]; those of the case where ties leave a choice.

    The peer takes so many genes whether they change or not, in the order of a sort that is not stable.
    """
    (sure,), (tied,), _ = top_sets(delta[None], scores.TOP_K)
    theirs = np.zeros_like(sure)
    theirs[[int(i) for i in given]] = True
    possible = theirs.sum() == min(scores.TOP_K, len(delta)) and bool((theirs[sure]).all())
    if possible and not (theirs & ~sure & ~tied).any():
        return [int(i) for i in np.flatnonzero(theirs)]
    return sorted(int(i) for i in np.argsort(-np.abs(delta), kind="stable")[: scores.TOP_K])


def _jaccard(top: list[int], predicted: FloatArray) -> tuple[float, tuple[float, float]]:
    """Return the Jaccard index of some genes with those of largest predicted change [G], and its bounds over tie orders."""
    (sure,), (tied,), (places,) = top_sets(predicted[None], scores.TOP_K)
    mine = np.zeros_like(sure)
    mine[top] = True
    shared, inside, outside = (int(x.sum()) for x in (mine & sure, mine & tied, ~mine & tied))
    k = int(sure.sum() + places)
    first = np.argsort(-np.abs(predicted), kind="stable")[:k]
    common = (int(mine[first].sum()), shared + max(places - outside, 0), shared + min(places, inside))
    here, least, most = (n / (len(top) + k - n) for n in common)
    return here, (least, most)


def _systema(
    expected: Mapping[str, Any], observed: Means, predicted: Means, genes: list[str], label: str
) -> Iterable[Record]:
    """Yield the records of Systema's own code; `label` is that of the control."""
    perts = sorted(q for q in observed if q != label)
    train, test = perts[: len(perts) // 2], perts[len(perts) // 2 :]
    given = [[str(q) for q in expected[name]] for name in ("train_perts", "test_perts")]
    if given != [train, test] and all(given) and {*given[0], *given[1]} <= set(perts):
        train, test = given
        yield not_compared("systema.train_perts", "split", _SETTING)
    else:
        yield from _names("train_perts", given[0], train)
        yield from _names("test_perts", given[1], test)
    control = observed[label]
    if train:
        reference = baselines.perturbed_reference(np.stack([observed[q] for q in train]))
    else:
        reference = np.full(len(genes), np.nan)
    for name, ours in (("perturbed_centroid_reference", reference), ("control_mean", control)):
        for gene, theirs, value in zip(genes, expected[name], ours, strict=True):
            yield _value(name, gene, theirs, value)

    every = np.stack([observed[q] for q in perts])
    Y, Q = (np.stack([side[q] for q in test]) for side in (observed, predicted))
    per_perturbation = expected["per_perturbation"]
    listed = [
        _largest(d, per_perturbation[q].get("top20_idx", [])) for q, d in zip(test, Y - control, strict=True)
    ]
    top = np.zeros(Y.shape, dtype=np.bool_)
    for i, positions in enumerate(listed):
        top[i, positions] = True
    jaccard = [_jaccard(mine, d) for mine, d in zip(listed, Q - control, strict=True)]
    got = {
        "corr_all_allpert": scores.pearson_from(Y, Q, reference),
        "corr_20de_allpert": scores.pearson_from(Y, Q, reference, top),
        "corr_all": scores.pearson_from(Y, Q, control),
        "corr_20de": scores.pearson_from(Y, Q, control, top),
        "mse_all": rowwise.mean_square(Q - Y),
        "mse_20de": rowwise.mean_square(Q - Y, top),
        "jaccard": np.asarray([value for value, _ in jaccard]),
    }
    got |= {"rmse_all": np.sqrt(got["mse_all"]), "rmse_20de": np.sqrt(got["mse_20de"])}
    for i, q in enumerate(test):
        for metric, theirs in per_perturbation[q].items():
            if metric == "top20_idx":
                yield from _names(f"{metric}", sorted(theirs), listed[i])
            elif metric not in got:
                yield not_compared(f"systema.{metric}", q, f"{UNKNOWN}: no metric of this name here")
            elif metric.startswith("corr_"):
                genes_of = top[i] if "20de" in metric else np.ones_like(top[i])
                start = reference if metric.endswith("allpert") else control
                changes = [(side[i] - start)[genes_of] for side in (Y, Q)]
                record = _value(metric, q, theirs, got[metric][i])
                yield _unless_noise(record, changes, float(np.abs(Y[i]).max(initial=0.0)))
            else:
                bounds = jaccard[i][1] if metric == "jaccard" else None
                yield _value(metric, q, theirs, got[metric][i], bounds)
    for name, candidates in (("all", perts), ("test", test)):
        same = np.asarray([[q == o for o in candidates] for q in test])
        ours = scores.centroid_accuracy(Q, Y, np.stack([observed[o] for o in candidates]), same)
        for q, theirs in expected[f"centroid_accuracy_vs_{name}_perts"].items():
            yield _value(f"centroid_accuracy_vs_{name}_perts", q, theirs, ours[test.index(q)])

    mean = every.mean(axis=0)
    for name, start in (("avg_ctl", control), ("avg_pert", mean)):
        # Both take the direction from the control to the mean of all centroids.
        cosines = scores.systematic_variation(every - start, mean - control)
        for q, theirs in expected["systematic_variation_cosine"][name].items():
            yield _value("systematic_variation_cosine", f"{name}|{q}", theirs, cosines[perts.index(q)])
        yield _value(
            "systematic_variation_mean", name, expected["systematic_variation_mean"][name], cosines.mean()
        )
        pairs = scores.pairwise_cosine(every - start)
        mean_of_pairs = pairs.mean() if len(pairs) else np.nan
        yield _value("pairwise_cosine_mean", name, expected["pairwise_cosine_mean"][name], mean_of_pairs)


def _definitional(
    expected: Mapping[str, Any], observed: Means, predicted: Means, label: str
) -> Iterable[Record]:
    """Yield the records of definitions without code of the peer; `label` is that of the control."""
    k, control = expected["topk_used"], observed[label]
    yield replace(_value("linear_paper.topk_used", "topk", k, k), skipped=_SETTING)
    genes = linear.expressed(control, k)
    yield from _names(
        "linear_paper.topk_gene_idx", expected["topk_gene_idx_sorted_by_ctrl_expression"], genes.tolist()
    )
    perts = list(expected["linear_paper"])
    Y, Q = (np.stack([side[q] for q in perts])[:, genes] for side in (observed, predicted))
    got = {
        "l2": linear.l2(Y, Q),
        "r2_is_pearson": linear.pearson(Y, Q),
        "r2_delta_is_pearson_delta": linear.pearson(Y - control[genes], Q - control[genes]),
    }
    for i, q in enumerate(perts):
        for metric, theirs in expected["linear_paper"][q].items():
            yield _value(f"linear_paper.{metric}", q, theirs, got[metric][i])

    given = expected["openproblems_on_delta_matrix"]
    # Each side minus its own controls, as in the case.
    D = np.stack([observed[q] - control for q in given["rows"]])
    P = np.stack([predicted[q] - predicted[label] for q in given["rows"]])
    rows = {
        "rmse": np.sqrt(rowwise.mean_square(P - D)),
        "mae": rowwise.mean_absolute(P - D),
        "pearson": rowwise.pearson(P, D),
        "spearman": openproblems.spearman(P, D),
        "cosine": rowwise.cosine(P, D),
    }
    for metric, values in given["rowwise"].items():
        for q, theirs, ours in zip(given["rows"], values, rows[metric], strict=True):
            yield _value(f"openproblems.{metric}", q, theirs, ours)
        name = f"mean_rowwise_{metric}"
        yield _value(f"openproblems.{name}", "mean", given[name], openproblems.mean_of_rows(rows[metric]))
