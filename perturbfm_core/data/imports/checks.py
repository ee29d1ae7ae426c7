"""Checks of a finished import: sizes, names among the genes, names that look wrong, features that name the label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import distinct_genes, pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.cell_checks import check_cells
from perturbfm_core.data.imports.control_names import control_like, dose_in_label, unassigned_like
from perturbfm_core.data.imports.guides import genes_inside, joint_of
from perturbfm_core.data.imports.labels import differing_in_spelling
from perturbfm_core.data.imports.odd_names import date_like, names_context, spike_ins, states_only
from perturbfm_core.data.imports.report import ImportReport, examples
from perturbfm_core.data.label_features import label_features
from perturbfm_core.data.modality import adds_substance
from perturbfm_core.data.obs import usual_level
from perturbfm_core.schema import Level

_MOST = 3
_SYMBOL = re.compile(r"^[A-Z][A-Za-z0-9.-]*$")
_ENSEMBL = "Ensembl versions?"
_SIGN = re.compile(r"[\W_]")


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
    _numbered_genes(report, ds, gene_columns)
    _names(report, ds, perts)
    check_cells(report, ds)
    if ds.metadata.level == "cell" and len(rows) > 1 and rows.max() == 1:
        report.warnings.append(
            f"each of {len(rows)} conditions has one row; if rows are means over cells, import with --level condition"
        )
    alone = [p for p in perts if len(pert_genes(p)) > 1 and not any(g in perts for g in pert_genes(p))]
    genes = {*map(str, ds.genes), *report.facts.get("guides_kept_apart", ())}
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
    hint = _better(missing, genes, gene_columns, _table_of_genes(report))
    substances = all(map(adds_substance, set(ds.conditions[schema.MODALITY].astype(str))))
    several, one = ({}, []) if substances else genes_inside(set(missing) - set(declared), genes)
    if several:
        first = next(iter(several))
        joint = joint_of(first, genes)
        cure = (
            f"import with --separator {joint!r}"
            if joint is not None
            else f"name them by --aliases, e.g. {first} as {schema.COMBO_SEPARATOR.join(several[first])}"
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


def _numbered_genes(report: ImportReport, ds: PerturbDataset, gene_columns: Mapping[str, Any]) -> None:
    """Warn where genes are called by numbers though a column of var names them, as files converted from R have it."""
    if not all(str(g).isdigit() for g in ds.genes):
        return
    for column, values in gene_columns.items():
        hint = f"--gene-col {column}"
        names = {str(v).strip() for v in values}
        if 2 * len(names) > ds.n_genes and not any(v.isdigit() for v in names):
            if not any(hint in text for text in report.warnings):
                report.warnings.append(
                    f"genes are called by numbers ({examples(map(str, ds.genes))}) and {_table_of_genes(report)} column {column!r} has names "
                    f"({examples(sorted(names))}): {hint}"
                )
            return


def _table_of_genes(report: ImportReport) -> str:
    """Return what messages call the table of genes: that of `raw` is another one."""
    return "raw.var" if report.facts.get("matrix") == "raw.X" else "var"


def _better(missing: list[str], genes: set[str], gene_columns: Mapping[str, Any], table: str) -> str:
    """Return what would find the missing names among the genes, empty if nothing would.

    Parameters
    ----------
    missing
        Perturbed names that are no genes.
    genes
        Names of the genes.
    gene_columns
        {column of the table of genes: its values}.
    table
        What messages call that table.
    """
    for column, values in gene_columns.items():
        hits = len(set(missing) & set(map(str, values)))
        if hits:
            return f"; {table} column {column!r} has {hits} of the missing ones: --gene-col {column}"
    versions = {g.split(".")[0] for g in genes if g.startswith("ENS")}
    if 2 * len(versions) < len(genes):
        # A few genes without a symbol do not say how the others are called.
        versions = set()
    if versions & {m.split(".")[0] for m in missing}:
        return f"; {_ENSEMBL} The names differ in what follows the point: cut it off in the file, or name a column by --gene-col"
    if versions:
        return f"; {_ENSEMBL} The genes are Ensembl ids: name a {table} column with symbols by --gene-col"
    folded = {g.casefold() for g in genes}
    hits = sum(m.casefold() in folded for m in missing)
    if hits:
        return f"; {hits} of the missing ones differ in upper and lower case only: write both in one way, or join them by --aliases"
    # HLADQB1 is HLA-DQB1.
    plain = {_SIGN.sub("", g.casefold()): g for g in sorted(genes)}
    signs = {m: plain[bare] for m in missing if (bare := _SIGN.sub("", m.casefold())) in plain}
    shown = next((f"{m} is {g}" for m, g in signs.items()), "")
    return (
        f"; {len(signs)} of the missing ones differ in signs only, {shown}: --aliases joins them"
        if signs
        else ""
    )


def _names(report: ImportReport, ds: PerturbDataset, perts: list[str]) -> None:
    genes = set(map(str, ds.genes))
    parts = sorted({g for p in perts for g in pert_genes(p)})
    if left := control_like(parts, genes):
        more = ", or name them control in the table of --aliases," if len(left) > _MOST else ""
        report.warnings.append(
            f"{examples(left)} read like controls and are left as perturbations; add --control-label {left[0]!r}{more} if they are"
        )
    table = ds.conditions
    rows = zip(table[schema.PERT_ID].astype(str), table[schema.CONTEXT_ID].astype(str), strict=True)
    if 2 * len(left := sorted({pert for pert, context in rows if names_context(pert, context)})) > len(perts):
        report.warnings.append(
            f"{examples(left)} have their context in their names, so that no perturbation is the same in two contexts; "
            "--pert-col takes a column of the perturbation alone, --context-col and --dose-col those of context and dose"
        )
    if left := states_only(parts):
        report.warnings.append(
            f"{examples(left)} says whether cells are treated, not with what; --pert-col takes the column of perturbations"
        )
    for what, dates in (("perturbations", date_like(parts)), ("genes", date_like(genes))):
        if dates:
            report.warnings.append(
                f"{len(dates)} {what} are called like dates ({examples(dates)}), which spreadsheets make of MARCH1, SEPT2 or "
                "DEC1; give them their names back in the file"
            )
    if left := spike_ins(genes):
        report.warnings.append(
            f"{len(left)} genes are spike-ins by their names ({examples(left)}) and count for the depth of cells; leave them "
            "out of the file"
        )
    if left := unassigned_like(parts, genes):
        report.warnings.append(
            f"{examples(left)} read like cells without a known perturbation; leave them out with --drop-label {left[0]!r}"
        )
    # What demultiplexing calls droplets of two donors, or of none that is known.
    if left := unassigned_like(ds.contexts):
        report.warnings.append(
            f"contexts {examples(left)} read like cells of several or of no known ones; leave their rows out of the file"
        )
    if left := dose_in_label(parts, genes):
        report.warnings.append(
            f"{examples(left)} hold a dose in their names, so each dose is a perturbation of its own; give --dose-col, and "
            "name the drug by --aliases"
        )
    for text in differing_in_spelling(parts)[:_MOST]:
        report.warnings.append(f"perturbations {text}; --aliases joins them")
