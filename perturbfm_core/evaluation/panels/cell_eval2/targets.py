"""The gene that each perturbation targets, which is left out of what is scored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.schema import IntArray, StrArray

# Label in a map that stands for every label that the map does not name.
ANY = "*"


def target_columns(
    names: StrArray, genes: StrArray, target_genes: Mapping[str, str | None] | None = None
) -> IntArray:
    """Return int64 [P], the column of each perturbation's target gene, -1 where it has none among the genes.

    Parameters
    ----------
    names
        Labels of the perturbations [P].
    genes
        Names of the genes [G].
    target_genes
        Gene of each label that is not a gene name itself; None: it has no target, ``*``: every other label.

    Raises
    ------
    MetricError
        If no label is a gene and none is declared to have no target.
    """
    column = {str(g): j for j, g in enumerate(genes)}
    entries = dict(target_genes or {})
    out = np.full(len(names), -1)
    declared = 0
    for i, name in enumerate(map(str, names)):
        gene = entries.get(name, entries.get(ANY, name))
        declared += gene is None
        out[i] = -1 if gene is None else column.get(gene, -1)
    if len(names) and not declared and (out < 0).all():
        shown = ", ".join(map(str, names[:3]))
        msg = f"no label is the name of a gene ({shown}, ...), so no target gene can be left out; say --no-target-genes"
        raise MetricError(msg)
    return out
