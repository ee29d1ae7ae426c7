"""Features of the genes that a data set perturbs: families that their symbols tell, and whether a list has them."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.families import family_features, has_families
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.masks import PertMasks
from perturbfm_core.graphs.side_info import LISTED
from perturbfm_core.pipeline.source_use import acted_on


def tells_families(ds: PerturbDataset, masks: PertMasks | None = None) -> bool:
    """Return whether the symbols of the genes that a data set perturbs tell families among them."""
    return has_families(acted_on(ds, masks))


def families_of(ds: PerturbDataset, masks: PertMasks | None = None) -> GeneFeatures:
    """Return the features of the genes that a data set perturbs, and of measured genes of their families.

    Raises
    ------
    GraphError
        If no two perturbed genes are of one family by their symbols.
    """
    genes = acted_on(ds, masks)
    if not has_families(genes):
        msg = f"no two perturbed genes of {ds.name!r} have symbols of one family; leave 'families' out of gene_features"
        raise GraphError(msg)
    return family_features(genes, ds.genes)


def listed(table: GeneFeatures, ds: PerturbDataset, masks: PertMasks | None = None) -> GeneFeatures:
    """Return float32 [N, 2] features of perturbed and measured genes: whether a list of genes has them, or lacks them.

    Parameters
    ----------
    table
        Features of the genes of a list that is complete.
    ds
        The data set.
    masks
        Target genes of the perturbations, None if perturbations are genes.
    """
    genes = np.asarray(sorted({*acted_on(ds, masks), *map(str, ds.genes)}), dtype=np.str_)
    is_in = np.asarray([g in table.position for g in genes.tolist()])
    return GeneFeatures(table.name + LISTED, genes, np.stack([is_in, ~is_in], axis=1).astype(np.float32))
