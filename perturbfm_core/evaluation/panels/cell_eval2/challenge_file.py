"""Cells of one context as the h5ad file that the 2026 Virtual Cell Challenge takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells, check_values
from perturbfm_core.evaluation.panels.cell_eval2.samples import ContextSample, samples_of
from perturbfm_core.schema import StrArray


def sample_for_file(c: Comparison, context: str | None, control_label: str) -> ContextSample:
    """Return the cells of the context that a file is written of, if the challenge's labels can express them.

    Parameters
    ----------
    c
        The comparison.
    context
        Name of the context; None: the only one.
    control_label
        Label that control cells get in the file.

    Raises
    ------
    MetricError
        If there are no counts, several contexts, or conditions that one label per perturbation cannot tell apart.
    """
    if c.cells is None or c.cells.counts is None:
        msg = (
            "the data set keeps no counts of single cells with controls, and the challenge takes counts; import the counts "
            "(--space counts)"
        )
        raise MetricError(msg)
    samples = {s.context: s for s in samples_of(c)}
    names = ", ".join(samples)
    if context is None and len(samples) > 1:
        msg = (
            f"the split tests {len(samples)} contexts ({names}), and a file holds one; name it with --context"
        )
        raise MetricError(msg)
    if not samples or (context is not None and context not in samples):
        msg = f"the split tests no context {context!r} with control cells; it tests {names or 'none'}"
        raise MetricError(msg)
    sample = next(iter(samples.values())) if context is None else samples[context]
    _check_labels(c, sample, control_label)
    return sample


def _check_labels(c: Comparison, sample: ContextSample, control_label: str) -> None:
    """Refuse conditions that one label per perturbation, the name of its target gene, cannot express."""
    labels = [str(n) for n in sample.truth.cells.perturbations]
    table = c.conditions.iloc[sample.rows]
    perts = [str(p) for p in table[schema.PERT_ID]]
    where = f"context {sample.context!r}"
    pairs = [p for p in perts if schema.COMBO_SEPARATOR in p]
    if pairs:
        msg = (
            f"{where} tests {len(pairs)} combinations, e.g. {pairs[0]}, and a label of the challenge is one target gene; "
            "choose a split that tests single perturbations"
        )
        raise MetricError(msg)
    often = {p: perts.count(p) for p in perts}
    shared = [p for p, n in often.items() if n > 1]
    if shared:
        of = table[(table[schema.PERT_ID].astype(str) == shared[0]).to_numpy()]
        differ = [n for n in (schema.DOSES, schema.MODALITY, schema.COVARIATES) if len(set(of[n])) > 1]
        msg = (
            f"{where} tests {often[shared[0]]} conditions of {shared[0]!r}, which differ in {' and '.join(differ)}, and the "
            "challenge has one label per perturbation; choose a split that tests one of them"
        )
        raise MetricError(msg)
    if control_label in labels or not control_label.strip():
        msg = f"the label {control_label!r} of control cells is that of a perturbation or empty; give another --control-label"
        raise MetricError(msg)
    targets = sample.truth.target_genes or {}
    genes = {str(g) for g in c.genes}
    for label in labels:
        # In the file a label is the target gene: it must not be one where there is none, nor stand for another.
        target = targets.get(label, label)
        if (label in genes and target is None) or (target is not None and target != label):
            shown = "no target gene" if target is None else f"the target gene {target!r}"
            msg = f"perturbation {label!r} of {where} has {shown}, which the challenge's label {label!r} does not say"
            raise MetricError(msg)


def write_challenge_file(
    path: Path,
    cells: LabelledCells,
    *,
    pert_col: str,
    control_label: str,
    context: str,
    whole: bool = True,
    stated: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write cells as an h5ad file, checked to be what the challenge takes; return numbers of cells and genes.

    Categories of the labels, and rows, are in the order in which this project draws halves of cells, so the peer draws
    the same halves of such a file.

    Parameters
    ----------
    path
        The file (in a staging directory; the caller publishes it).
    cells
        The cells.
    pert_col
        obs column of the labels.
    control_label
        Label of control cells.
    context
        Context of all cells, in obs column ``context``.
    whole
        Whether values must be whole numbers, as those of a submission; a baseline's need not.
    stated
        What ``uns`` says of the file.

    Raises
    ------
    MetricError
        If values are no counts, or a cell has too many.
    """
    from anndata import AnnData

    X = sp.csr_array(cells.X)
    check_values(X.data, cells.totals, "counts", f"the cells of context {context!r}", whole=whole)
    names: StrArray = np.asarray(cells.names, dtype=object)
    names[cells.control] = control_label
    obs = pd.DataFrame(
        {
            pert_col: pd.Categorical.from_codes(cells.group, categories=names.tolist()),
            "context": pd.Categorical([context] * len(cells.group)),
        },
        index=pd.Index([f"cell{i}" for i in range(len(cells.group))], dtype=object),
    )
    out = AnnData(
        X=X.astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(cells.genes.tolist(), dtype=object))
    )
    out.uns.update(dict(stated or {}))
    out.write_h5ad(path)
    return {"cells": int(X.shape[0]), "genes": int(X.shape[1]), "perturbations": len(cells.perturbed)}
