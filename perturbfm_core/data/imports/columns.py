"""Columns of a row table as an import reads them: perturbations, doses, contexts, covariates in canonical form."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import canonical_covariates
from perturbfm_core.data.imports.labels import MISSING, differing_in_spelling, refuse_missing
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.imports.perturbations import PerturbationReader
from perturbfm_core.data.imports.report import ImportReport, examples, levels_dropped
from perturbfm_core.data.modality import adds_substance
from perturbfm_core.data.quantities import (
    DOSE_UNITS,
    NUMBER,
    TIME_UNITS,
    Units,
    canonical_time,
    split_doses,
    unit_in_name,
)
from perturbfm_core.data.text import column_text
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray, IntArray

_A_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# The number of a first column.
_FIRST = re.compile(r"(?<!\d)1(?!\d)")
# Signs between the doses of a combination and between several times, in canonical notation.
_PARTS = re.compile(re.escape(schema.COMBO_SEPARATOR) + "| & ")


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
    _check_options(mapping, report)
    obs = _missing_named(obs, mapping)
    labels = _column(obs, mapping.pert_col, "--pert-col", origin)
    kept = _kept(labels, mapping, report)
    if kept is not None:
        obs, labels = obs.iloc[kept], labels.iloc[kept]
    return _Reader(obs, labels, mapping, origin, genes, report).columns(), kept


def _check_options(m: ColumnMapping, report: ImportReport) -> None:
    """Refuse two statements of one thing, and name what is stated of things that are not there."""
    if m.modality and m.modality_col is not None:
        msg = f"--modality {m.modality!r} and --modality-col {m.modality_col!r} both say what the modality is; give one"
        raise DatasetError(msg)
    timed = m.time_col is not None or "time" in m.covariate_cols
    for option, given, used in (
        (f"--dose-unit {m.dose_unit!r}", m.dose_unit, m.dose_col is not None),
        (f"--dose-unit-col {m.dose_unit_col!r}", m.dose_unit_col, m.dose_col is not None),
        (f"--time-unit {m.time_unit!r}", m.time_unit, timed),
    ):
        if given and not used:
            what = option[2:].partition("-")[0]
            report.warnings.append(f"{option} is not used: no column of {what}s is read (--{what}-col)")
    if m.space != "counts" and m.target_sum != ColumnMapping.model_fields["target_sum"].default:
        report.warnings.append(
            f"--target-sum {m.target_sum:g} is not used: {m.space} values keep the depth that they have; it is for --space counts"
        )


def _missing_named(obs: pd.DataFrame, m: ColumnMapping) -> pd.DataFrame:
    """Return the table with missing perturbations named by the dropped or control label that means them, if there is one."""
    name = next((x.strip() for x in (*m.drop_labels, *m.control_label) if x.strip() in MISSING), None)
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
        reader = PerturbationReader(self.labels, m, self.genes, self.report)
        untreated = reader.untreated
        reader.say_merged(self.obs[m.pert_col])
        self._say_further(untreated)
        guides = None
        if m.guide_col is not None:
            guides = _column(self.obs[~untreated], m.guide_col, "--guide-col", self.origin)
            refuse_missing(guides, m.keep_labels, f"obs column {m.guide_col!r} (--guide-col)")
        written = self._doses(untreated)
        pert, dose = reader.canonical(guides, written, drugs=self._all_drugs(untreated))
        self._check_doses(written, dose)
        out: dict[str, Any] = {schema.PERT_ID: pert, schema.DOSES: dose}
        for name, column, option in (
            (schema.CONTEXT_ID, m.context_col, "--context-col"),
            (schema.BATCH_ID, m.batch_col, "--batch-col"),
        ):
            if column is not None:
                texts = _column(self.obs, column, option, self.origin)
                refuse_missing(texts, m.keep_labels, f"obs column {column!r} ({option})")
                self._say_case(texts, f"values of {column!r}")
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

    def _say_further(self, untreated: BoolArray) -> None:
        """Report a column of second perturbations (gene_2 beside gene_1) that is not read: combinations would be singles."""
        used = self.m.model_dump(exclude={"aliases", "alias_modality"}).values()
        read = {x for value in used for x in (value if isinstance(value, tuple) else (value,))}
        for name in _further_names(self.m.pert_col):
            if (
                name in self.obs
                and name not in read
                and len(set(self.obs.loc[~untreated, name].astype(str))) > 1
            ):
                self.report.warnings.append(
                    f"obs column {name!r} varies among perturbed rows and is not read: if it holds further parts of combinations, "
                    f"join it with {self.m.pert_col!r} in one column ('A+B'); if another treatment, add --covariate-col {name}"
                )

    def _say_case(self, texts: Any, what: str) -> None:
        for text in differing_in_spelling({str(t) for t in set(texts)})[:3]:
            self.report.warnings.append(f"{what} {text}, and are kept apart")

    def _all_drugs(self, untreated: BoolArray) -> bool:
        """Return whether every treated row has a modality whose perturbations are no genes."""
        m = self.m
        if m.modality_col is None or m.modality_col not in self.obs:
            return adds_substance(m.modality)
        found = [str(x) for x in self.obs.loc[~untreated, m.modality_col].unique()]
        return bool(found) and all(map(adds_substance, found))

    # ---- what describes a treatment --------------------------------------------------------------------------

    def _doses(self, untreated: BoolArray) -> pd.Series:
        m = self.m
        if m.dose_col is None:
            return pd.Series("", index=self.labels.index)
        doses = pd.Series(self._described(m.dose_col, "--dose-col", untreated), index=self.labels.index)
        written = [t for t in doses[~untreated].unique() if NUMBER.match(t)]
        if len({has for t in written for has in _with_units(t)}) > 1 and not (m.dose_unit or m.dose_unit_col):
            self.report.warnings.append("some doses have a unit and some have none; give it by --dose-unit")
        if not (m.dose_unit or m.dose_unit_col or any(map(_has_unit, written))):
            self._say_unit(m.dose_col, "dose", DOSE_UNITS)
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

    def _say_unit(self, column: str, what: str, known: Units) -> None:
        """Report the unit that stands in the name of a column of plain numbers, which have none in the data set.

        Parameters
        ----------
        column
            Name of the column.
        what
            What it holds, as the option of the unit is called.
        known
            Units of such quantities.
        """
        if unit := unit_in_name(column, known):
            self.report.warnings.append(
                f"{what}s have no unit, and obs column {column!r} is called as if they were in {unit}: give --{what}-unit {unit}"
            )

    def _check_doses(self, written: pd.Series, read: Any) -> None:
        """Refuse negative doses and name doses of zero, of any part that is no control."""
        self._refuse_negative(written, read, f"obs column {self.m.dose_col!r} (--dose-col)", "doses")
        nothing = [t for t in set(read) if 0 in _numbers(t)]
        if nothing:
            alone = all(set(_numbers(t)) == {0} for t in nothing)
            self.report.warnings.append(
                f"{int(np.isin(read, nothing).sum())} perturbed rows have dose 0 and stay conditions of their own; are they "
                f"controls{'' if alone else ', or these parts none of the combination'}?"
            )

    def _refuse_negative(self, written: pd.Series, read: Any, what: str, noun: str) -> None:
        """Refuse a column in which a number is negative, such as the -666 that stands for none.

        Parameters
        ----------
        written
            Its text [n], for the message; index: row names.
        read
            The same in canonical notation, empty in rows that are not looked at.
        what
            Name of the column with its option, for the message.
        noun
            What the numbers are.
        """
        bad = np.isin(read, [t for t in set(read) if any(x < 0 for x in _numbers(t))])
        if bad.any():
            msg = (
                f"{what} has negative {noun} ({examples(sorted(set(written[bad])))}), first in row "
                f"{str(written.index[int(np.argmax(bad))])!r}; leave these rows out, or give the {noun} that were meant"
            )
            raise DatasetError(msg)

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
        self._say_case(modality, "modalities")
        # Control cells have no modality, since they are the controls of every modality in their context.
        return np.where(control, "", modality)

    def _covariates(self, untreated: BoolArray) -> list[str] | None:
        m = self.m
        if "time" in m.covariate_cols and m.time_col not in (None, "time"):
            msg = (
                f"--time-col {m.time_col!r} and --covariate-col 'time' would both be the covariate 'time'; leave one out, or "
                "rename that obs column"
            )
            raise DatasetError(msg)
        named = {"time": m.time_col, **{c: c for c in m.covariate_cols}}
        columns = {
            k: self._described(c, f"covariate {k}", untreated) for k, c in named.items() if c is not None
        }
        if not columns:
            return None
        if "time" in columns:
            written = pd.Series(columns["time"], index=self.labels.index)
            columns["time"] = self._times(columns["time"])
            what = f"obs column {named['time']!r} ({'--time-col' if m.time_col else 'covariate time'})"
            self._refuse_negative(written, np.where(untreated, "", columns["time"]), what, "times")
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
        units = {_has_unit(t) for t in read if t}
        if len(units) > 1 and not self.m.time_unit:
            self.report.warnings.append("some times have a unit and some have none; give it by --time-unit")
        if units == {False} and not self.m.time_unit:
            self._say_unit(self.m.time_col or "time", "time", TIME_UNITS)
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


def _further_names(column: str) -> list[str]:
    """Return what a column of second perturbations is called beside one of the first (gene_1, guide_A, perturbation)."""
    names = {
        f"{column}_2",
        f"{column}2",
        *(column[: m.start()] + "2" + column[m.end() :] for m in _FIRST.finditer(column)),
    }
    if column[-2:] in {"_A", "_a", ".A", ".a", "-A", "-a", " A", " a"}:
        names.add(column[:-1] + chr(ord(column[-1]) + 1))
    return sorted(names)


def _has_unit(text: str) -> bool:
    # The e of an exponent is part of its number.
    return any(c.isalpha() or c in "%µμ" for c in _A_NUMBER.sub("", text))


def _with_units(text: str) -> set[bool]:
    """Return whether parts of a dose have a unit and whether some have none; the unit of the last part is that of all."""
    pieces = split_doses(text)
    return {_has_unit(p) or _has_unit(pieces[-1]) for p in pieces}


def _numbers(text: str) -> list[float]:
    """Return the numbers of canonical doses or times, one for each part that begins with one."""
    read = [found for piece in _PARTS.split(text) if (found := NUMBER.match(piece))]
    # What begins with the part before a decimal comma is none (0,5 uM).
    return [float(found[1]) for found in read if not (found[2] or "").startswith(",")]


def _column(obs: pd.DataFrame, name: str, option: str, origin: str) -> pd.Series:
    if name not in obs:
        rows = (
            f"; its row names are called {name!r}: copy them into a column" if obs.index.name == name else ""
        )
        msg = f"{origin} has no obs column {name!r} ({option}){rows}; columns: {', '.join(map(str, obs.columns)) or 'none'}"
        raise DatasetError(msg)
    column = obs[name]
    if isinstance(column, pd.DataFrame):
        msg = f"{origin} has {column.shape[1]} obs columns {name!r} ({option}); rename all but one"
        raise DatasetError(msg)
    if column.isna().any():
        cure = (
            ", leave their rows out with --drop-label nan, or, if they are the controls, take --control-label nan"
            if option == "--pert-col"
            else ", drop their rows, or use `perturbfm data import` without this column"
        )
        row = obs.index[int(np.flatnonzero(column.isna().to_numpy())[0])]
        msg = f"obs column {name!r} ({option}) has {int(column.isna().sum())} missing values, first in row {row!r}; fill them{cure}"
        raise DatasetError(msg)
    return column_text(column, f"obs column {name!r} ({option})")


def _frequent(labels: pd.Series) -> str:
    return ", ".join(repr(str(x)) for x in labels.value_counts().index[:5])
