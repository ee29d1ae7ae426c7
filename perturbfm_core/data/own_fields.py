"""Statements of `PerturbDataset.to_anndata`, by which its objects and files are read back as the same data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from perturbfm_core.config import Frozen, parse
from perturbfm_core.data.anndata_object import STATED, dense_layer
from perturbfm_core.data.h5ad import open_h5ad, read_matrix
from perturbfm_core.data.imports.guides import MERGED_GUIDES
from perturbfm_core.data.metadata import GeneSelection
from perturbfm_core.errors import DatasetError
from perturbfm_core.parsing import parse_json

# Key of `uns` under which `PerturbDataset.to_anndata` says which columns are which.
OWN_MAPPING = "perturbfm"
# Note of guides that are kept apart, {guide: gene}, and all notes on guides.
GUIDES = "guides"
GUIDE_NOTES = (GUIDES, MERGED_GUIDES)
# Column of obs in which the depth of cells is stated; scanpy and others call it so.
DEPTH = "total_counts"


class OwnFields(Frozen):
    """What stands beside the mapping: where data are from, how controls are taken, and which names are guides.

    Attributes
    ----------
    source, licence, gene_selection
        Those of the data set.
    control_policy, control_seed
        Those of the data set; with ``file`` the layers ``delta`` and ``X_control`` are taken as they are.
    guide_notes
        Notes of the import on guides, as JSON text, since the name of a guide may have a slash.
    depth_col
        obs column with the counts of each cell in the data set, to which its cells are normalised; empty without counts.
    """

    source: str = ""
    licence: str = "unknown"
    gene_selection: GeneSelection = GeneSelection()
    control_policy: Literal["mean", "sampled", "file"] = "mean"
    control_seed: int = 0
    guide_notes: str = ""
    depth_col: str = ""

    @property
    def notes(self) -> dict[str, Any]:
        """Return the notes on guides."""
        what = f"guide_notes in uns[{OWN_MAPPING!r}]"
        found = parse_json(self.guide_notes, what, DatasetError) if self.guide_notes else {}
        if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
            msg = f"{what} must be tables of guides and their genes; remove the field"
            raise DatasetError(msg)
        return {k: v for k, v in found.items() if k in GUIDE_NOTES}


def read_own(own: dict[str, Any]) -> tuple[OwnFields, dict[str, Any]]:
    """Return (what stands beside the mapping, the mapping) of what `PerturbDataset.to_anndata` wrote."""
    stated = {k: own[k] for k in OwnFields.model_fields if k in own}
    # A file holds numbers and texts as those of numpy.
    plain = {k: v.item() if hasattr(v, "item") else v for k, v in stated.items()}
    rest = {k: v for k, v in own.items() if k not in stated}
    return parse(OwnFields, plain, f"uns[{OWN_MAPPING!r}]"), rest


def own_of_file(path: Path) -> dict[str, Any] | None:
    """Return what `PerturbDataset.to_anndata` wrote into a file, None if the file is of others."""
    from anndata.io import read_elem

    with open_h5ad(path) as file:
        uns = file.get("uns")
        found = uns.get(OWN_MAPPING) if hasattr(uns, "keys") else None
        own = read_elem(found) if found is not None else None
    return own if isinstance(own, dict) else None


def stated_of_file(path: Path) -> dict[str, Any]:
    """Return the layers with deltas and controls of a file, as `anndata_object.stated_layers` does of an object."""
    with open_h5ad(path) as file:
        names = [name for name in STATED if name in file.get("layers", {})]
    return {STATED[name]: dense_layer(read_matrix(path, name)[2]) for name in names}


def check_own_depth(fields: OwnFields, obs: pd.DataFrame, X: Any, target_sum: float) -> None:
    """Refuse cells with other counts than they were normalised by, as of fewer genes; a `DatasetError` is raised.

    Parameters
    ----------
    fields
        What stands beside the mapping.
    obs, X
        Row table [N], and counts [N, G] in memory.
    target_sum
        Depth that cells are normalised to, for the message.
    """
    if fields.depth_col not in obs:
        return
    stated = pd.to_numeric(obs[fields.depth_col], errors="coerce").to_numpy(dtype=np.float64)
    held = np.asarray(X.sum(axis=1, dtype=np.float64)).reshape(-1)
    other = held != stated
    if not other.any():
        return
    known = stated > 0
    share = float(np.median(held[known] / stated[known])) if known.any() else 0.0
    msg = (
        f"{int(other.sum())} of {len(obs)} cells hold other counts than obs column {fields.depth_col!r} states ({share:.0%} of "
        "these, median), as after a selection of genes: they would be normalised to another depth than in the data set that to_anndata "
        f"wrote; select genes after sc.pp.normalize_total(adata, target_sum={target_sum:g}) and sc.pp.log1p(adata), and name "
        "columns and space='log1p'; or, to take what is left as the whole of the cells, remove that column"
    )
    raise DatasetError(msg)
