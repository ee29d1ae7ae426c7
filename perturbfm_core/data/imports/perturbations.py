"""Perturbation labels of a file as an import reads them: controls, guides, combinations, aliases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import canonical_pert, label_parts, label_pieces, repeated_name
from perturbfm_core.data.imports.guides import guide_ids, guides_of_genes, guides_of_unmeasured, joined_guides
from perturbfm_core.data.imports.labels import check_controls, merged_spellings, refuse_missing
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.imports.report import ImportReport, examples
from perturbfm_core.data.quantities import canonical_doses, split_doses
from perturbfm_core.data.text import decoded
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray

# What a gene is called: a capital letter, then letters and numbers.
_SYMBOL = re.compile(r"^[A-Z][A-Za-z0-9.-]*$")


class PerturbationReader:
    """Reading of the perturbation labels of one row table.

    Parameters
    ----------
    labels
        Text [N], without spaces around it; index: row names.
    mapping
        Meaning of the columns.
    genes
        Names of the measured genes.
    report
        Report of the import, to which what was decided is added.

    Raises
    ------
    DatasetError
        If a control label does not occur, or text means a missing value.
    """

    def __init__(
        self, labels: pd.Series, mapping: ColumnMapping, genes: set[str], report: ImportReport
    ) -> None:
        self.labels, self.m, self.genes, self.report = labels, mapping, genes, report
        distinct = [str(x) for x in labels.unique()]
        self._distinct = set(distinct)
        parts = {p for label in distinct for p in self._parts(label)}
        kept = {*mapping.keep_labels, *mapping.aliases}
        check_controls(labels, mapping.control_label, kept, mapping.pert_col, parts)
        controls = [label for label in distinct if self._is_control(label)]
        self.untreated: BoolArray = np.asarray(labels.isin(controls), dtype=np.bool_)
        # Ids of guides that a column declares: their names are not parted.
        self._guide_ids: set[str] = set()
        # {guide: gene} of guides that are taken as their gene.
        self._genes_of: dict[str, str] = {}
        refuse_missing(
            labels[~self.untreated], mapping.keep_labels, f"obs column {mapping.pert_col!r} (--pert-col)"
        )

    @cached_property
    def _controls(self) -> set[str]:
        """Return the names of controls, as labels and as parts; "ctrl+ctrl" makes "ctrl" one."""
        out = {*self.m.control_label, *map(self._repeated, self.m.control_label)}
        if schema.CONTROL in self.m.aliases.values() or not out:
            out.add(schema.CONTROL)
        return out

    def _is_control(self, label: str) -> bool:
        """Return whether a label is a control, by itself, its alias, or all its parts ("ctrl+ctrl")."""
        aliases, controls = self.m.aliases, self._controls

        def named(name: str) -> bool:
            return name in controls or all(p.strip() in controls for p in name.split(schema.COMBO_SEPARATOR))

        if label in aliases:
            return named(aliases[label])
        parts = [label] if label in controls or label in self.genes else self._parts(label)
        return all(p in controls or (p in aliases and named(aliases[p])) for p in parts)

    def say_merged(self, column: pd.Series) -> None:
        """Report labels of a column that differ only in the spaces around them."""
        distinct = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column.unique()
        if merged := merged_spellings(decoded(distinct, f"obs column {self.m.pert_col!r}")):
            self.report.facts["labels_merged"] = merged
            shown = examples(label for group in merged for label in group)
            self.report.warnings.append(f"labels that differ only in spaces are one: {shown}")

    def canonical(self, guides: pd.Series | None, doses: pd.Series, *, drugs: bool) -> tuple[Any, Any]:
        """Return (object [N] perturbation ids, object [N] doses).

        Parameters
        ----------
        guides
            Guide of each treated row, None without a column of guides.
        doses
            Dose [N] as written, empty where there is none.
        drugs
            Whether perturbations are drugs, whose names are never guides.

        Raises
        ------
        DatasetError
            If a label cannot be parted, or doses do not fit its parts.
        """
        labels = self._without_guides(guides, drugs)
        self._say_unused(labels)
        return self._canonical(labels, self._doses_of_genes(labels, doses))

    def _say_unused(self, labels: pd.Series) -> None:
        """Report aliases and modalities of an alias table that match nothing; genes may have them for their guides."""
        known = self._distinct | {str(x) for x in labels.unique()}
        parts = {p for label in known for p in self._parts(label)}
        if unused := sorted(set(self.m.aliases) - known - parts):
            self.report.warnings.append(f"aliases of {examples(unused)} match no label and no part of one")
        if unused := sorted(set(self.m.alias_modality) - self._distinct):
            self.report.warnings.append(
                f"modalities of {examples(unused)} match no label and are not used: --aliases gives them to rows by the whole label, "
                "as it is written in the file"
            )

    def _doses_of_genes(self, labels: pd.Series, doses: pd.Series) -> pd.Series:
        """Return doses [N] with one for each gene where guides of one gene, each with its dose, became that gene.

        Raises
        ------
        DatasetError
            If guides of one gene differ in dose.
        """
        if not self._genes_of:
            return doses
        rows = set(zip(self.labels, labels, doses, strict=True))
        changed: dict[tuple[str, str], str] = {}
        for before, after, dose in rows:
            old, new, each = self._parts(before), self._parts(after), split_doses(str(dose))
            if before == after or not len(old) == len(each) > len(new):
                continue
            genes = [self._genes_of.get(p, p) for p in old]
            of_gene = dict(zip(genes, each, strict=True))
            if any(of_gene[gene] != given for gene, given in zip(genes, each, strict=True)):
                msg = (
                    f"{before!r} has guides of one gene at different doses ({dose}); give them one dose, or keep guides apart "
                    "with --guides separate"
                )
                raise DatasetError(msg)
            changed[before, dose] = schema.COMBO_SEPARATOR.join(of_gene[p] for p in new)
        if not changed:
            return doses
        given = [changed.get(pair, pair[1]) for pair in zip(self.labels, doses, strict=True)]
        return pd.Series(given, index=doses.index, dtype=object)

    def _without_guides(self, guides: pd.Series | None, drugs: bool) -> pd.Series:
        """Return the labels with guides replaced by their gene, unless they are kept apart."""
        m, labels, untreated = self.m, self.labels, self.untreated
        treated = labels[~untreated]
        if guides is None and drugs:
            return labels
        if guides is not None:
            rows = list(zip(guides, treated, strict=True))
            pairs = sorted(set(rows))
            if m.guides == "separate":
                ids, genes_of = guide_ids(
                    [pair for pair in pairs if pair[0] not in m.aliases], self._genes_in, self._parts
                )
                pairs = sorted(genes_of.items())
                self._guide_ids = set(ids.values())
                labels = labels.copy()
                labels[~untreated] = [ids.get(row, row[0]) for row in rows]
        else:
            whole = {str(x) for x in treated.unique()} - set(m.aliases)
            genes_of = guides_of_genes(whole, self.genes)
            parts = (
                {p for label in whole - set(genes_of) for p in self._parts(label)} - whole - set(m.aliases)
            )
            genes_of |= guides_of_genes(parts, self.genes)
            pairs = sorted(genes_of.items())
            if m.guides == "merge" and genes_of:
                self._genes_of = genes_of
                labels = pd.Series(
                    [self._gene_of(str(x), genes_of) for x in labels], index=labels.index, dtype=object
                ).where(~untreated, labels)
            if apart := guides_of_unmeasured(whole - set(genes_of), self.genes):
                self.report.warnings.append(
                    f"{examples(apart)} may be guides of one gene and are kept as perturbations of their own; "
                    "join them by --aliases or --guide-col"
                )
        if pairs:
            what = f"{len(pairs)} guides of {len({gene for _, gene in pairs})} genes"
            shown = examples(f"{g} of {gene}" for g, gene in pairs)
            self.report.facts["guides"] = what
            if m.guides == "separate":
                self.report.facts["guides_kept_apart"] = dict(pairs)
            else:
                self.report.facts["guides_merged"] = _unambiguous(pairs)
                self.report.warnings.append(
                    f"{what} are taken as their gene ({shown}); --guides separate keeps them apart"
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

    def _genes_in(self, label: str) -> list[str]:
        """Return the genes of the label of a treated row, without the controls beside them."""
        parts = self._parts(label)
        whole = label in self.genes or (
            self.m.split_known_only and not self._is_combination(parts, self._distinct)
        )
        return [label] if whole else [p for p in parts if p not in self._controls] or [label]

    def _parts(self, label: str) -> list[str]:
        """Return the parts of a label; known names that have a separator themselves stay whole."""
        return label_parts(label, self.m.separators, self._inseparable)

    def _repeated(self, label: str) -> str:
        return repeated_name(label, self.m.separators)

    @cached_property
    def _joined_guides(self) -> set[str]:
        return joined_guides(self._distinct, self.m.separators, self.genes)

    @cached_property
    def _inseparable(self) -> set[str]:
        """Return the genes, controls, guides and names with an alias that have a separator in them, such as HLA-A and neg_ctrl."""
        names = {*self.genes, *map(self._repeated, self.m.control_label), *self.m.aliases}
        names |= self._joined_guides
        return {name for name in names if len(label_pieces(name, self.m.separators)) > 1}

    def _canonical(self, labels: pd.Series, doses: pd.Series) -> tuple[Any, Any]:
        m = self.m
        pairs = list(zip(labels.to_numpy(), doses.to_numpy(), strict=True))
        distinct = set(pairs)
        singles = {str(label) for label, _ in distinct}
        known: dict[Any, tuple[str, str]] = {}
        unread: set[str] = set()
        self._check_separators(singles | self._distinct)
        whole: set[str] = set()
        parted: set[str] = set()
        odd: set[str] = set()
        for name in sorted(set(m.aliases.values())):
            self._check_parting(name, _split(name, (schema.COMBO_SEPARATOR,)), singles)
        for raw, dose in sorted(distinct, key=str):
            label, separators, aliases = str(raw), m.separators, m.aliases
            if label in m.aliases or label in self._guide_ids:
                # The alias of a whole label is a perturbation id already, to which no alias applies once more.
                aliases = {} if label in m.aliases else aliases
                label, separators = m.aliases.get(label, label), (schema.COMBO_SEPARATOR,)
            elif m.split_known_only and len(parts := self._parts(label)) > 1:
                ok = self._is_combination(parts, singles)
                (parted if ok else whole).add(label)
                if ok and not all(self._known(p, singles) for p in parts):
                    odd.add(label)
                separators = separators if ok else ()
            parts = self._parts(label) if separators == m.separators else _split(label, separators)
            self._check_parting(label, parts, singles)
            each = None
            if dose:
                each, read = canonical_doses(str(dose), m.dose_unit)
                unread |= set() if read else {str(dose)}
            known[raw, dose] = canonical_pert(
                label, each, control=self._controls, separators=separators, aliases=aliases, parts=parts
            )
        if parted:
            self.report.facts["labels_parted"] = len(parted)
        if odd:
            self.report.warnings.append(
                f"{len(odd)} combinations have a part that is no measured gene and no perturbation of its own "
                f"({examples(sorted(odd))}); if they are one name each, import with --separator ''"
            )
        if whole:
            self.report.warnings.append(
                f"{len(whole)} labels have {', '.join(map(repr, m.separators))} in them and are kept whole, since not all "
                f"their parts are genes or perturbations ({examples(sorted(whole))}); --separator parts them"
            )
        numbers = sorted(
            str(raw)
            for (raw, _), (pert, _) in known.items()
            if len({p.isdigit() for p in pert.split(schema.COMBO_SEPARATOR)}) > 1
        )
        if numbers:
            self.report.warnings.append(
                f"{len(numbers)} labels have parts that are bare numbers ({examples(numbers)}); if they number guides, "
                "name the perturbation by --aliases or another --separator"
            )
        if unread:
            self.report.facts["doses_not_read"] = sorted(unread)[:20]
            self.report.warnings.append(
                f"{len(unread)} doses have a unit or form that is not known and stay text ({examples(sorted(unread))})"
            )
        pert = np.asarray([known[p][0] for p in pairs], dtype=object)
        return pert, np.asarray([known[p][1] for p in pairs], dtype=object)

    def _is_combination(self, parts: Sequence[str], singles: set[str]) -> bool:
        """Return whether the parts of a label are genes or perturbations, as far as can be known."""
        known = [self._known(p, singles) for p in parts]
        # A gene may be neither measured nor perturbed alone.
        return any(known) and all(k or _SYMBOL.match(p) for k, p in zip(known, parts, strict=True))

    def _known(self, part: str, singles: set[str]) -> bool:
        named = part in self.genes or part in singles or part in self.m.aliases
        return named or part in self._controls or part in self._joined_guides

    def _check_parting(self, label: str, pieces: Sequence[str], singles: set[str]) -> None:
        """Refuse to part a name inside its brackets, and to keep a combination of known perturbations whole."""
        if len(pieces) > 1 and _balanced(label) and not all(map(_balanced, pieces)):
            msg = (
                f"perturbation {label!r} would be parted inside its brackets, into {pieces}; give another --separator, "
                "or '' to keep names whole"
            )
            raise DatasetError(msg)
        joined = label.split(schema.COMBO_SEPARATOR)
        meant = label in self.m.aliases.values() or label in self._controls
        whole = not meant and len(pieces) == 1 and len(joined) > 1
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


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return {guide: gene} of the guides that name one gene only."""
    genes_of: dict[str, set[str]] = {}
    for guide, gene in pairs:
        genes_of.setdefault(str(guide), set()).add(str(gene))
    return {guide: genes.pop() for guide, genes in genes_of.items() if len(genes) == 1}


def _split(text: str, separators: Sequence[str]) -> list[str]:
    return [p.strip() for p in re.split("|".join(map(re.escape, separators)), text)] if separators else [text]


def _balanced(text: str) -> bool:
    """Return whether a text has as many opening as closing brackets of each kind."""
    return all(text.count(a) == text.count(b) for a, b in (("(", ")"), ("[", "]"), ("{", "}")))
