"""Checks of the cells of a finished import: controls they are compared with, genes that some never measured, zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.report import ImportReport, examples

# Rows that are looked at of each group, the fewest of one, and groups; share of them in which a common gene is on.
_SAMPLE, _FEWEST, _GROUPS, _COMMON = 100, 30, 50, 0.3
# Cell lines lack a few of each other's genes; of a table that was filled up it is many.
_ABSENT, _ABSENT_SHARE = 10, 0.1
# Columns in which programs keep the depth of cells, and share of it below which genes are missing.
_DEPTHS = ("total_counts", "n_counts", "nCount_RNA", "ncounts", "UMI_count", "n_umi", "nUMI")
_SELECTED = 0.6
# Of so many genes a cell lacks some; share of values that are zero.
_MANY_GENES, _ZEROS = 200, 0.01


def check_cells(report: ImportReport, ds: PerturbDataset) -> None:
    """Add warnings of controls that are pooled or of other batches, genes filled up with zeros, and values without any."""
    _pooled_controls(report, ds)
    _batches_without_controls(report, ds)
    _genes_not_measured(report, ds)
    _hardly_any_zero(report, ds)


def check_depth(report: ImportReport, counts: Any, obs: pd.DataFrame) -> None:
    """Warn where cells have had far more counts than a matrix holds, by a column that says how many, as of selected genes.

    Parameters
    ----------
    report
        Report of the import.
    counts
        Counts [N, G], in memory or rows of a file.
    obs
        Row table [N] of the file.
    """
    column = next((c for c in _DEPTHS if c in obs and pd.api.types.is_numeric_dtype(obs[c].dtype)), None)
    if column is None:
        return
    picked = np.unique(np.linspace(0, len(obs) - 1, _SAMPLE).astype(np.int64))
    stated = obs[column].to_numpy(dtype=np.float64, na_value=np.nan)[picked]
    held = np.asarray(counts[picked].sum(axis=1), dtype=np.float64).reshape(-1)
    known = np.isfinite(stated) & (stated > 0)
    share = float(np.median(held[known] / stated[known])) if known.any() else 1.0
    if share < _SELECTED:
        report.warnings.append(
            f"cells have {share:.0%} of the counts that obs column {column!r} states (median), as after a selection of genes: depth, "
            "and with it log1p, is that of the genes that are left; import all genes, or log1p values made before the selection"
        )


def _batches_without_controls(report: ImportReport, ds: PerturbDataset) -> None:
    """Warn where most treated rows are of batches without controls, so that batches are compared with others."""
    if not ds.has_controls or ds.obs[schema.BATCH_ID].nunique() < 2:
        return
    treated = ~ds.is_control
    without = ds.controls.fallback_rows("reference", treated)
    if 2 * without > int(treated.sum()):
        report.warnings.append(
            f"{without} of {int(treated.sum())} perturbed rows are of batches without control rows of their own and are compared "
            "with all controls of their context, so that differences between batches count as effects; name another "
            "--batch-col if that is none"
        )


def _genes_not_measured(report: ImportReport, ds: PerturbDataset) -> None:
    """Warn of contexts and batches in which many genes are never on that others have, as where tables were filled up."""
    values = ds.streamed
    X = values.counts if values.counts is not None else values.expression
    if X is None:
        return
    for what, column in (("context", schema.CONTEXT_ID), ("batch", schema.BATCH_ID)):
        codes = ds.obs[column].cat.codes.to_numpy()
        sizes = np.bincount(codes)
        groups = [int(c) for c in np.argsort(-sizes, kind="stable")[:_GROUPS] if sizes[c] >= _FEWEST]
        if len(groups) < 2:
            continue
        on = np.empty((len(groups), ds.n_genes))
        for i, code in enumerate(groups):
            rows = np.flatnonzero(codes == code)
            picked = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64))]
            on[i] = np.asarray((X[picked] != 0).mean(axis=0)).reshape(-1)
        for i, code in enumerate(groups):
            common = np.delete(on, i, axis=0).max(axis=0) >= _COMMON
            absent = common & (on[i] == 0)
            if absent.sum() >= max(_ABSENT, _ABSENT_SHARE * common.sum()):
                name = str(ds.obs[column].cat.categories[code])
                report.warnings.append(
                    f"{int(absent.sum())} of {int(common.sum())} genes that are common elsewhere are zero in {what} {name!r} "
                    f"({examples(map(str, ds.genes[absent]))}), as where tables of different genes were joined and filled with zeros; "
                    "keep the genes that all of them measured"
                )
                return


def _hardly_any_zero(report: ImportReport, ds: PerturbDataset) -> None:
    """Warn of expression of cells in which hardly any value is zero: means over cells, imputed or corrected values."""
    X = ds.streamed.expression
    if X is None or ds.metadata.level != "cell" or ds.n_genes < _MANY_GENES:
        return
    picked = np.unique(np.linspace(0, ds.n_obs - 1, _SAMPLE).astype(np.int64))
    zeros = 1 - float((X[picked] != 0).mean())
    if zeros < _ZEROS:
        report.warnings.append(
            f"{zeros:.1%} of the values are zero, fewer than counts of cells have: if rows are means over cells, import with "
            "--level condition; if values are imputed or corrected for batches, import those before"
        )


def _pooled_controls(report: ImportReport, ds: PerturbDataset) -> None:
    """Warn where controls of several times or donors are pooled, though treated rows differ in these as well."""
    if not ds.has_controls:
        return
    rows = pd.DataFrame(
        {
            "context": ds.obs[schema.CONTEXT_ID].astype(str).to_numpy(),
            "batch": ds.obs[schema.BATCH_ID].astype(str).to_numpy(),
            "text": ds.obs[schema.COVARIATES].astype(str).to_numpy(),
            "treated": ~ds.is_control,
        }
    ).drop_duplicates()
    own = {(context, batch) for context, batch, _, treated in rows.itertuples(index=False) if not treated}
    used: set[tuple[str, str | None]] = set()
    # {covariate: {pool: values of its controls}}, {covariate: {context: values of treated rows}}
    pools: dict[str, dict[tuple[str, str | None], set[str]]] = {}
    given: dict[str, dict[str, set[str]]] = {}
    for context, batch, text, treated in rows.itertuples(index=False):
        if treated:
            # A batch without controls takes those of its context.
            used.add((context, batch if (context, batch) in own else None))
        for name, value in parse_covariates(text).items():
            if treated:
                given.setdefault(name, {}).setdefault(context, set()).add(value)
                continue
            for pool in ((context, batch), (context, None)):
                pools.setdefault(name, {}).setdefault(pool, set()).add(value)
    for name, found in pools.items():
        # A covariate that only differs between contexts, such as their tissue, pools nothing.
        varied = {context for context, values in given.get(name, {}).items() if len(values) > 1}
        mixed = [v for pool, v in found.items() if pool in used and pool[0] in varied and len(v) > 1]
        if mixed:
            report.warnings.append(
                f"controls with different {name} ({examples(sorted(set().union(*mixed)))}) are pooled within a context; "
                f"--batch-col with that column matches each row to the controls of its {name}"
            )
