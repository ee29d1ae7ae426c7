"""Columns of a row table as an import reads them: perturbations, doses, contexts, covariates in canonical form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import canonical_covariates, canonical_pert
from perturbfm_core.data.import_report import ImportReport, examples, levels_dropped
from perturbfm_core.data.labels import (
    MISSING,
    control_rows,
    guides_of_genes,
    guides_of_unmeasured,
    merged_spellings,
    refuse_missing,
)
from perturbfm_core.data.mapping import ColumnMapping
from perturbfm_core.data.quantities import canonical_doses, canonical_time
from perturbfm_core.data.text import column_text, decoded
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray, IntArray


def imported_columns(
    obs: pd.DataFrame, mapping: ColumnMapping, origin: str, genes: list[str], report: ImportReport
) -> tuple[dict[str, Any], IntArray | None]:
    """Return ({column: canonical values}, positions of the rows that are kept or None for all).

    Parameters
    ----------
    obs
        Row table of the file; index: row names.
    mapping
        Meaning of its columns.
    origin
        Name of the file, for messages.
    genes
        Names of the measured genes.
    report
        Report of the import, to which what was decided is added.

    Raises
    ------
    DatasetError
        If a column is missing, has missing values, or the control label does not occur.
    """
    obs = _missing_named(obs, mapping)
    labels = _column(obs, mapping.pert_col, "--pert-col", origin)
    kept = _kept(labels, mapping, report)
    if kept is not None:
        obs, labels = obs.iloc[kept], labels.iloc[kept]
    return _Reader(obs, labels, mapping, origin, genes, report).columns(), kept


def _missing_named(obs: pd.DataFrame, m: ColumnMapping) -> pd.DataFrame:
    """Return the table with missing perturbations named by the dropped label that means them, if there is one."""
    name = next((x.strip() for x in m.drop_labels if x.strip() in MISSING), None)
    if name is None or m.pert_col not in obs or not obs[m.pert_col].isna().any():
        return obs
    column = obs[m.pert_col].astype(object)
    return obs.assign(**{m.pert_col: column.where(column.notna(), name)})


def _kept(labels: pd.Series, m: ColumnMapping, report: ImportReport) -> IntArray | None:
    """Return the positions of the rows whose label is not dropped, None if all are kept."""
    if not m.drop_labels:
        return None
    dropped = levels_dropped(labels, [x.strip() for x in m.drop_labels])
    absent = [label for label, n in dropped.items() if not n]
    if absent:
        msg = f"--drop-label {absent[0]!r} does not occur in {m.pert_col!r}; found e.g. {_frequent(labels)}"
        raise DatasetError(msg)
    report.facts["labels_dropped"] = dropped
    kept = np.flatnonzero(~labels.isin(list(dropped)).to_numpy())
    if not len(kept):
        msg = f"--drop-label leaves no row of {len(labels)}; keep some labels"
        raise DatasetError(msg)
    return kept


class _Reader:
    """Reading of the columns of one row table."""

    def __init__(
        self,
        obs: pd.DataFrame,
        labels: pd.Series,
        mapping: ColumnMapping,
        origin: str,
        genes: list[str],
        report: ImportReport,
    ) -> None:
        self.obs, self.labels, self.m, self.origin, self.report = obs, labels, mapping, origin, report
        self.genes = set(genes)

    def columns(self) -> dict[str, Any]:
        """Return {column: canonical values [N]}."""
        m = self.m
        if not m.control_label and not m.is_difference:
            msg = f"--control-label is needed for {m.space} data; {m.pert_col!r} holds e.g. {_frequent(self.labels)}"
            raise DatasetError(msg)
        untreated = control_rows(self.labels, m.control_label, m.keep_labels, m.pert_col)
        refuse_missing(self.labels[~untreated], m.keep_labels, f"obs column {m.pert_col!r} (--pert-col)")
        self._say_merged()
        labels = self._without_guides(untreated)
        doses = self._doses(untreated)
        pert, dose = self._canonical(labels, doses)
        out: dict[str, Any] = {schema.PERT_ID: pert, schema.DOSES: dose}
        for name, column, option in (
            (schema.CONTEXT_ID, m.context_col, "--context-col"),
            (schema.BATCH_ID, m.batch_col, "--batch-col"),
        ):
            if column is not None:
                texts = _column(self.obs, column, option, self.origin)
                refuse_missing(texts, m.keep_labels, f"obs column {column!r} ({option})")
                out[name] = texts.to_numpy()
        control = pert == schema.CONTROL
        out[schema.MODALITY] = self._modality(control, untreated)
        covariates = self._covariates(untreated)
        if covariates is not None:
            out[schema.COVARIATES] = covariates
        if m.weight_col is not None:
            weight = _column(self.obs, m.weight_col, "--weight-col", self.origin)
            out[schema.WEIGHT] = pd.to_numeric(weight, errors="coerce").to_numpy(dtype=np.float64)
        return out

    # ---- perturbations ---------------------------------------------------------------------------------------

    def _say_merged(self) -> None:
        raw = self.obs[self.m.pert_col]
        distinct = raw.cat.categories if isinstance(raw.dtype, pd.CategoricalDtype) else raw.unique()
        if merged := merged_spellings(decoded(distinct, f"obs column {self.m.pert_col!r}")):
            self.report.facts["labels_merged"] = merged
            shown = examples(label for group in merged for label in group)
            self.report.warnings.append(f"labels that differ only in spaces are one: {shown}")

    def _without_guides(self, untreated: BoolArray) -> pd.Series:
        """Return the labels with guides replaced by their gene, unless they are kept apart."""
        m, labels = self.m, self.labels
        treated = labels[~untreated]
        if m.guide_col is not None:
            guides = _column(self.obs[~untreated], m.guide_col, "--guide-col", self.origin)
            refuse_missing(guides, m.keep_labels, f"obs column {m.guide_col!r} (--guide-col)")
            genes_of = dict(zip(guides, treated, strict=True))
            if m.guides == "separate":
                labels = labels.copy()
                labels[~untreated] = guides.to_numpy()
        else:
            whole = {str(x) for x in treated.unique()} - set(m.aliases)
            genes_of = guides_of_genes(whole, self.genes)
            parts = (
                {p for label in whole - set(genes_of) for p in self._parts(label)} - whole - set(m.aliases)
            )
            genes_of |= guides_of_genes(parts, self.genes)
            if m.guides == "merge" and genes_of:
                labels = pd.Series(
                    [self._gene_of(str(x), genes_of) for x in labels], index=labels.index, dtype=object
                ).where(~untreated, labels)
            if apart := guides_of_unmeasured(whole - set(genes_of), self.genes):
                self.report.warnings.append(
                    f"{examples(apart)} may be guides of one gene and are kept as perturbations of their own; "
                    "join them by --aliases or --guide-col"
                )
        if genes_of:
            what = f"{len(genes_of)} guides of {len(set(genes_of.values()))} genes"
            pairs = examples(f"{g} of {gene}" for g, gene in sorted(genes_of.items()))
            self.report.facts["guides"] = what
            if m.guides == "separate":
                self.report.facts["guides_kept_apart"] = dict(sorted(genes_of.items()))
            else:
                self.report.warnings.append(
                    f"{what} are taken as their gene ({pairs}); --guides separate keeps them apart"
                )
        return labels

    def _gene_of(self, label: str, genes_of: Mapping[str, str]) -> str:
        """Return a label with its guides replaced by their genes; two guides of one gene are that gene."""
        if label in genes_of:
            return genes_of[label]
        parts = self._parts(label)
        if len(parts) < 2 or not any(p in genes_of for p in parts):
            return label
        joint = next(s for s in self.m.separators if s and s in label)
        return joint.join(dict.fromkeys(genes_of.get(p, p) for p in parts))

    def _parts(self, label: str) -> list[str]:
        pieces = [label]
        for joint in self.m.separators:
            pieces = [q for p in pieces for q in (p.split(joint) if joint else [p])]
        return [p.strip() for p in pieces]

    def _canonical(self, labels: pd.Series, doses: pd.Series) -> tuple[Any, Any]:
        m = self.m
        pairs = list(zip(labels.to_numpy(), doses.to_numpy(), strict=True))
        distinct = set(pairs)
        singles = {str(label) for label, _ in distinct}
        known: dict[Any, tuple[str, str]] = {}
        unread: set[str] = set()
        self._check_separators(singles)
        whole: set[str] = set()
        parted: set[str] = set()
        for raw, dose in distinct:
            label, separators = str(raw), m.separators
            if label in m.aliases:
                # The alias of a whole label is a perturbation id already.
                label, separators = m.aliases[label], (schema.COMBO_SEPARATOR,)
            elif m.split_known_only and len(parts := self._parts(label)) > 1:
                ok = any(self._known(p, singles) for p in parts)
                (parted if ok else whole).add(label)
                separators = separators if ok else ()
            self._check_parting(label, separators, singles)
            each = None
            if dose:
                each, read = canonical_doses(str(dose), m.dose_unit)
                unread |= set() if read else {str(dose)}
            known[raw, dose] = canonical_pert(
                label, each, control=m.control_label or None, separators=separators, aliases=m.aliases
            )
        if parted:
            self.report.facts["labels_parted"] = len(parted)
        if whole:
            self.report.warnings.append(
                f"{len(whole)} labels have {', '.join(map(repr, m.separators))} in them and are kept whole, since none of "
                f"their parts is a gene or a perturbation ({examples(sorted(whole))}); --separator parts them"
            )
        if unread:
            self.report.facts["doses_not_read"] = sorted(unread)[:20]
            self.report.warnings.append(
                f"{len(unread)} doses have a unit or form that is not known and stay text ({examples(sorted(unread))})"
            )
        pert = np.asarray([known[p][0] for p in pairs], dtype=object)
        return pert, np.asarray([known[p][1] for p in pairs], dtype=object)

    def _known(self, part: str, singles: set[str]) -> bool:
        return part in self.genes or part in singles or part in self.m.aliases or part in self.m.control_label

    def _check_parting(self, label: str, separators: Sequence[str], singles: set[str]) -> None:
        """Refuse to part a name inside its brackets, and to keep a combination of known perturbations whole."""
        pieces = [label]
        for joint in filter(None, separators):
            pieces = [q for p in pieces for q in p.split(joint)]
        if len(pieces) > 1 and _balanced(label) and not all(map(_balanced, pieces)):
            msg = (
                f"perturbation {label!r} would be parted inside its brackets, into {pieces}; give another --separator, "
                "or '' to keep names whole"
            )
            raise DatasetError(msg)
        joined = label.split(schema.COMBO_SEPARATOR)
        whole = label not in self.m.aliases.values() and len(pieces) == 1 and len(joined) > 1
        if whole and all(p.strip() for p in joined) and any(self._known(p.strip(), singles) for p in joined):
            msg = (
                f"perturbation {label!r} would be one name although its parts are genes or perturbations; add "
                f"--separator {schema.COMBO_SEPARATOR}, or name it by --aliases"
            )
            raise DatasetError(msg)

    def _check_separators(self, labels: set[str]) -> None:
        for joint in self.m.separators:
            if len(joint) > 1 and not any(joint in label for label in labels):
                msg = f"separator {joint!r} occurs in no label of {self.m.pert_col!r}; give several single ones by repeating --separator"
                raise DatasetError(msg)

    # ---- what describes a treatment --------------------------------------------------------------------------

    def _doses(self, untreated: BoolArray) -> pd.Series:
        m = self.m
        if m.dose_col is None:
            return pd.Series("", index=self.labels.index)
        doses = pd.Series(self._described(m.dose_col, "--dose-col", untreated), index=self.labels.index)
        if m.dose_unit_col is not None:
            units = self._described(m.dose_unit_col, "--dose-unit-col", untreated)
            doses = pd.Series(
                [
                    f"{d} {u}".strip() if d and not _has_unit(d) else d
                    for d, u in zip(doses, units, strict=True)
                ],
                index=doses.index,
                dtype=object,
            )
        return doses

    def _modality(self, control: BoolArray, untreated: BoolArray) -> Any:
        m = self.m
        modality = (
            self._described(m.modality_col, "--modality-col", untreated)
            if m.modality_col is not None
            else np.full(len(self.labels), m.modality, dtype=object)
        )
        if m.alias_modality:
            own = self.labels.map(m.alias_modality)
            modality = np.where(own.notna(), own, modality)
        # Control cells have no modality, since they are the controls of every modality in their context.
        return np.where(control, "", modality)

    def _covariates(self, untreated: BoolArray) -> list[str] | None:
        m = self.m
        named = {"time": m.time_col, **{c: c for c in m.covariate_cols}}
        columns = {
            k: self._described(c, f"covariate {k}", untreated) for k, c in named.items() if c is not None
        }
        if not columns:
            return None
        if "time" in columns:
            columns["time"] = self._times(columns["time"])
        rows = list(zip(*columns.values(), strict=True))
        known = {row: canonical_covariates(dict(zip(columns, row, strict=True))) for row in set(rows)}
        return [known[row] for row in rows]

    def _times(self, texts: Any) -> Any:
        read = {t: canonical_time(t, self.m.time_unit) for t in set(texts)}
        unread = sorted(t for t, (_, known) in read.items() if t and not known)
        if unread:
            self.report.facts["times_not_read"] = unread[:20]
            self.report.warnings.append(
                f"{len(unread)} times have a unit or form that is not known and stay text ({examples(unread)})"
            )
        units = {bool(found) for t in read if t for found in [_has_unit(t)]}
        if len(units) > 1 and not self.m.time_unit:
            self.report.warnings.append("some times have a unit and some have none; give it by --time-unit")
        return np.asarray([read[t][0] for t in texts], dtype=object)

    def _described(self, name: str, option: str, untreated: BoolArray) -> Any:
        """Return a column that describes the treatment, as text; only control rows may have missing values."""
        obs = self.obs
        column = _column(obs.loc[~untreated] if name in obs else obs, name, option, self.origin)
        refuse_missing(column, self.m.keep_labels, f"obs column {name!r} ({option})")
        out = np.full(len(obs), "", dtype=object)
        out[~untreated] = column.to_numpy()
        given = untreated & obs[name].notna().to_numpy()
        out[given] = column_text(obs.loc[given, name], f"obs column {name!r}").to_numpy()
        return out


def _balanced(text: str) -> bool:
    """Return whether a text has as many opening as closing brackets of each kind."""
    return all(text.count(a) == text.count(b) for a, b in (("(", ")"), ("[", "]"), ("{", "}")))


def _has_unit(text: str) -> bool:
    return any(c.isalpha() or c in "%µμ" for c in text.replace("e+", "").replace("e-", "").replace("E", ""))


def _column(obs: pd.DataFrame, name: str, option: str, origin: str) -> pd.Series:
    if name not in obs:
        msg = f"{origin} has no obs column {name!r} ({option}); columns: {', '.join(map(str, obs.columns))}"
        raise DatasetError(msg)
    column = obs[name]
    if isinstance(column, pd.DataFrame):
        msg = f"{origin} has {column.shape[1]} obs columns {name!r} ({option}); rename all but one"
        raise DatasetError(msg)
    if column.isna().any():
        cure = (
            ", or leave their rows out with --drop-label nan"
            if option == "--pert-col"
            else " or drop their rows"
        )
        row = obs.index[int(np.flatnonzero(column.isna().to_numpy())[0])]
        msg = f"obs column {name!r} ({option}) has {int(column.isna().sum())} missing values, first in row {row!r}; fill them{cure}"
        raise DatasetError(msg)
    return column_text(column, f"obs column {name!r} ({option})")


def _frequent(labels: pd.Series) -> str:
    return ", ".join(repr(str(x)) for x in labels.value_counts().index[:5])
