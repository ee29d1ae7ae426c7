"""Checks of a finished import: sizes, names among the genes, names that look wrong, features that name the label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import distinct_genes, parse_covariates, pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.control_names import control_like, dose_in_label, unassigned_like
from perturbfm_core.data.imports.guides import genes_inside
from perturbfm_core.data.imports.labels import differing_in_case
from perturbfm_core.data.imports.report import ImportReport, examples
from perturbfm_core.data.label_features import label_features
from perturbfm_core.data.modality import adds_substance
from perturbfm_core.data.obs import usual_level
from perturbfm_core.schema import Level

_MOST = 3
_SYMBOL = re.compile(r"^[A-Z][A-Za-z0-9.-]*$")
_ENSEMBL = "Ensembl versions?"


def level_of(obs: pd.DataFrame, differences: bool, report: ImportReport) -> Level:
    """Return the level that rows have where none is declared (see `usual_level`), and report why.

    Parameters
    ----------
    obs
        Row table in canonical form.
    differences
        Whether values are differences to controls, which single cells do not have.
    report
        Report of the reading, which is given the reason.
    """
    level = usual_level(obs, differences)
    if level == "condition" and not differences:
        report.warnings.append(
            f"each of {int((~obs[schema.IS_CONTROL]).sum())} conditions has one row, so rows are taken as means over cells "
            "(--level condition); if they are cells, import with --level cell"
        )
    return level


def complete(report: ImportReport, ds: PerturbDataset, gene_columns: Mapping[str, Any]) -> None:
    """Add what the finished data set shows: sizes, measured perturbations, rows per condition, label features.

    Parameters
    ----------
    report
        Report of the reading, to which facts and warnings are added.
    ds
        The data set.
    gene_columns
        {var column: its values}, columns that could name the genes instead.
    """
    conditions = ds.conditions
    perts = sorted(set(conditions[schema.PERT_ID].astype(str)))
    rows = conditions_rows(ds)
    report.facts |= {
        "rows": ds.n_obs,
        "genes": ds.n_genes,
        "contexts": len(ds.contexts),
        "conditions": len(conditions),
        "perturbations": len(perts),
        "combinations": sum(len(pert_genes(p)) > 1 for p in perts),
        "control_rows": int(ds.is_control.sum()),
        "rows_per_condition": _range(rows),
    }
    _measured(report, ds, gene_columns)
    _names(report, ds, perts)
    _pooled_controls(report, ds)
    if ds.metadata.level == "cell" and len(rows) > 1 and rows.max() == 1:
        report.warnings.append(
            f"each of {len(rows)} conditions has one row; if rows are means over cells, import with --level condition"
        )
    alone = [p for p in perts if len(pert_genes(p)) > 1 and not any(g in perts for g in pert_genes(p))]
    genes = set(map(str, ds.genes))
    # Names that start with a capital letter may be genes that were not measured.
    odd = [p for p in alone if not any(g in genes or _SYMBOL.match(g) for g in pert_genes(p))]
    if odd:
        report.warnings.append(
            f"{len(odd)} combinations have no part that is a gene or a single perturbation ({examples(odd)}); if "
            "they are one name each, import with --separator ''"
        )
    found = label_features(ds)
    report.facts["features_that_name_the_condition"] = len(found.all)
    if found.certain:
        report.warnings.append(
            f"{len(found.all)} of {ds.n_genes} features name the condition ({examples(sorted(found.all))}): a model can "
            "read the label from them, and the audit blocks splits of these data; remove "
            "them, or import with --accept label_naming_features"
        )


def conditions_rows(ds: PerturbDataset) -> Any:
    """Return int [C], the rows of each condition."""
    codes = ds.condition_codes
    return np.bincount(codes[codes >= 0], minlength=len(ds.conditions))


def _range(rows: Any) -> str:
    if not len(rows):
        return "none"
    low, middle, high = int(rows.min()), float(np.median(rows)), int(rows.max())
    return str(low) if low == high else f"{low} to {high} (median {middle:g})"


def _measured(report: ImportReport, ds: PerturbDataset, gene_columns: Mapping[str, Any]) -> None:
    perturbed = distinct_genes(ds.conditions[schema.PERT_ID].astype(str))
    genes = set(map(str, ds.genes))
    known = [g for g in perturbed if g in genes]
    report.facts["perturbed_names_among_genes"] = f"{len(known)} of {len(perturbed)}"
    if not perturbed or len(known) == len(perturbed):
        return
    declared = report.facts.get("guides_kept_apart", {})
    # A guide that is kept apart is known by its gene.
    missing = [g for g in perturbed if declared.get(g, g) not in genes]
    if not missing:
        return
    known += [g for g in perturbed if g in declared and declared[g] in genes]
    hint = _better(missing, genes, gene_columns)
    substances = all(map(adds_substance, set(ds.conditions[schema.MODALITY].astype(str))))
    several, one = ([], []) if substances else genes_inside(set(missing) - set(declared), genes)
    if several:
        pieces = several[0].split(joint := (re.findall(r"[^A-Za-z0-9]+", several[0]) or ["_"])[0])
        # A name with a part twice, as those of two guides of one pair of genes have, cannot be parted.
        once = list(dict.fromkeys(p for p in re.split(r"[^A-Za-z0-9]+", several[0]) if p))
        cure = (
            f"import with --separator {joint!r}"
            if "" not in pieces and len(set(pieces)) == len(pieces)
            else f"name them by --aliases, e.g. {several[0]} as {schema.COMBO_SEPARATOR.join(once)}"
        )
        report.warnings.append(
            f"{examples(several)} have several genes in their names and are one perturbation each; if they are "
            f"combinations, {cure}"
        )
    if one:
        report.warnings.append(
            f"{examples(one)} have a gene in their names and are perturbations of their own; if they are guides or "
            "transcripts of it, name it by --aliases or --guide-col"
        )
        missing = [m for m in missing if m not in set(several) | set(one)] or missing
        hint = hint or "."
    # Drugs are not measured; their names among the genes would be a surprise.
    if hint != "." and (hint or (not known and not substances)):
        what = f"{len(known)} of {len(perturbed)} perturbed names are among the {len(genes)} genes (genes: "
        report.warnings.append(
            f"{what}{examples(sorted(genes))}; perturbed: {examples(missing)}){hint or '; if they are genes, name them by --gene-col, else declare --modality drug'}"
        )


def _better(missing: list[str], genes: set[str], gene_columns: Mapping[str, Any]) -> str:
    """Return what would find the missing names among the genes, empty if nothing would."""
    for column, values in gene_columns.items():
        hits = len(set(missing) & set(map(str, values)))
        if hits:
            return f"; var column {column!r} has {hits} of the missing ones: --gene-col {column}"
    versions = {g.split(".")[0] for g in genes if g.startswith("ENS")}
    if versions & {m.split(".")[0] for m in missing}:
        return f"; {_ENSEMBL} The names differ in what follows the point"
    if versions:
        return f"; {_ENSEMBL} The genes are Ensembl ids: name a var column with symbols by --gene-col"
    folded = {g.casefold() for g in genes}
    hits = sum(m.casefold() in folded for m in missing)
    return f"; {hits} of the missing ones differ in upper and lower case only" if hits else ""


def _names(report: ImportReport, ds: PerturbDataset, perts: list[str]) -> None:
    genes = set(map(str, ds.genes))
    parts = sorted({g for p in perts for g in pert_genes(p)})
    if left := control_like(parts, genes):
        report.warnings.append(
            f"{examples(left)} read like controls and are left as perturbations; add --control-label {left[0]!r} if they are"
        )
    if left := unassigned_like(parts, genes):
        report.warnings.append(
            f"{examples(left)} read like cells without a known perturbation; leave them out with --drop-label {left[0]!r}"
        )
    if left := dose_in_label(parts):
        report.warnings.append(
            f"{examples(left)} hold a dose in their names, so each dose is a perturbation of its own; give --dose-col, and "
            "name the drug by --aliases"
        )
    for group in differing_in_case(parts)[:_MOST]:
        report.warnings.append(
            f"perturbations {', '.join(map(repr, group))} differ in case only; --aliases joins them"
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
