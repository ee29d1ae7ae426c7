"""Summary of a data set: size, conditions, contexts, controls and metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset


def summary(ds: PerturbDataset, path: Path) -> dict[str, Any]:
    """Return the summary of a data set as {name: value}.

    Parameters
    ----------
    ds
        The data set; its matrix is not read.
    path
        Directory of its artifact.
    """
    control = ds.is_control
    shared = (
        [c for c, s in zip(ds.controls.contexts, ds.controls.shared, strict=True) if s]
        if ds.has_controls
        else []
    )
    return {
        "path": str(path),
        "name": ds.name,
        "content_sha256": ds.content_sha256,
        "level": ds.metadata.level,
        "space": ds.metadata.space,
        "counts": _counts(ds, path),
        "control_policy": ds.metadata.control_policy,
        "n_obs": ds.n_obs,
        "n_genes": ds.n_genes,
        "n_control": int(control.sum()),
        "n_conditions": len(ds.conditions),
        "n_perturbations": int(ds.conditions[schema.PERT_ID].astype(str).nunique()),
        "n_combos": int(
            ds.conditions[schema.PERT_ID].astype(str).str.contains(schema.COMBO_SEPARATOR, regex=False).sum()
        ),
        "contexts": ds.contexts,
        "n_batches": int(ds.obs[schema.BATCH_ID].nunique()),
        "modalities": sorted(x for x in ds.conditions[schema.MODALITY].astype(str).unique() if x),
        "shared_control_contexts": shared,
        "fallback_control_rows": ds.controls.fallback_rows("input", ~control) if ds.has_controls else 0,
        "source": ds.metadata.source,
        "licence": ds.metadata.licence,
        "citation": ds.metadata.notes.get("citation"),
        "gene_selection_rows": ds.metadata.gene_selection.rows,
        **({"import_report": report} if (report := ds.metadata.notes.get("import_report")) else {}),
    }


def _counts(ds: PerturbDataset, path: Path) -> str:
    """Return whether an artifact keeps counts, which metrics of counts need, and where they were read from."""
    kept = ds.metadata.space == "counts" and any(
        (path / name).exists() for name in (schema.COUNTS_FILE, schema.ZARR_FILE)
    )
    report = ds.metadata.notes.get("import_report", {})
    said = report.get("counts") if isinstance(report, dict) else None
    return str(said) if said and str(said).startswith("kept") == kept else "kept" if kept else "not kept"
