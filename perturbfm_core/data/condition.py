"""Experimental conditions and their canonical keys.

A condition is (context, perturbation, modality, doses, covariates). Its key joins the five fields in that
order with ``|``, after percent-escaping ``|`` and ``%``, so that keys are readable in a split file and sort
by context.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import IntArray, StrArray

_PLUS = "%2B"
_PERCENT = re.compile(r"%(?!2B)")


def typed_pert(text: str, perts: Iterable[str]) -> str:
    """Return a perturbation as a person types it with the plus signs of known names escaped.

    Parameters
    ----------
    text
        A perturbation, e.g. "(+)-JQ1" or "(+)-JQ1+A".
    perts
        Perturbation ids of the data, whose names may have plus signs.
    """
    names = {g for p in perts if _PLUS in p for g in pert_genes(p) if schema.COMBO_SEPARATOR in g}
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, part_id(name))
    return text


def escape(field: str) -> str:
    """Return `field` with ``|`` and ``%`` percent-escaped; the escaped plus sign of a name stays as it is."""
    return _PERCENT.sub("%25", field).replace("|", "%7C")


def unescape(field: str) -> str:
    """Return the original field (inverse of `escape`)."""
    return field.replace("%7C", "|").replace("%25", "%")


def condition_key(context: str, pert: str, modality: str = "", doses: str = "", covariates: str = "") -> str:
    """Return the canonical key of one condition.

    Parameters
    ----------
    context
        Cell line, cell type or tissue.
    pert
        Perturbation id in canonical form (see `canonical_pert`).
    modality
        How the perturbation was made, e.g. CRISPRi.
    doses
        Doses of the parts, joined by ``+``.
    covariates
        Further covariates in canonical form (see `canonical_covariates`).
    """
    return "|".join(escape(x) for x in (context, pert, modality, doses, covariates))


def parse_key(key: str) -> dict[str, str]:
    """Return the five fields of a condition key by column name.

    Raises
    ------
    DatasetError
        If `key` does not have five fields.
    """
    fields = [unescape(x) for x in key.split("|")]
    if len(fields) != len(schema.CONDITION_COLUMNS):
        msg = f"{key!r} is not a condition key (context|perturbation|modality|doses|covariates)"
        raise DatasetError(msg)
    return dict(zip(schema.CONDITION_COLUMNS, fields, strict=True))


def pert_parts(pert_id: str) -> list[str]:
    """Return the ids of the parts of a perturbation as singles; none for the control."""
    return [] if pert_id == schema.CONTROL else pert_id.split(schema.COMBO_SEPARATOR)


def pert_genes(pert_id: str) -> list[str]:
    """Return the names of the genes (or drugs) of a perturbation id; none for the control."""
    return [name_of_part(part) for part in pert_parts(pert_id)]


def part_id(name: str) -> str:
    """Return a gene or drug name as a part of a perturbation id: a plus sign in it, as in "(+)-JQ1", is escaped."""
    return name.replace(schema.COMBO_SEPARATOR, _PLUS)


def name_of_part(part: str) -> str:
    """Return the name of a part of a perturbation id (inverse of `part_id`)."""
    return part.replace(_PLUS, schema.COMBO_SEPARATOR)


def label_pieces(label: str, separators: Sequence[str]) -> list[str]:
    """Return a label cut at every separator, with the separators between."""
    joints = [s for s in separators if s]
    return re.split(f"({'|'.join(map(re.escape, joints))})", label) if joints else [label]


def label_parts(label: str, separators: Sequence[str], whole: Collection[str]) -> list[str]:
    """Return the parts of a label; the longest names in it that have a separator themselves stay whole.

    Parameters
    ----------
    label
        A perturbation as a file names it.
    separators
        Characters or texts that separate parts.
    whole
        Names with a separator in them that are one part each, such as HLA-A.
    """
    pieces = label_pieces(label, separators)
    parts = []
    start = 0
    while start < len(pieces):
        # Every second piece is a separator.
        ends = range(len(pieces), start + 1, -2) if whole else ()
        end = next((e for e in ends if "".join(pieces[start:e]).strip() in whole), start + 1)
        parts.append("".join(pieces[start:end]).strip())
        start = end + 1
    return parts


def repeated_name(label: str, separators: Sequence[str]) -> str:
    """Return the name that a label repeats ("ctrl" of "ctrl+ctrl", "neg_ctrl" of "neg_ctrl_neg_ctrl"), else the label."""
    pieces = label_pieces(label, separators)
    n = (len(pieces) + 1) // 2
    for size in range(1, n):
        names = {"".join(pieces[i : i + 2 * size - 1]).strip() for i in range(0, len(pieces), 2 * size)}
        if n % size == 0 and len(names) == 1:
            return names.pop()
    return label


def canonical_pert(
    label: str,
    doses: Sequence[str] | None = None,
    *,
    control: str | Collection[str] | None = schema.CONTROL,
    separators: str | Sequence[str] = schema.COMBO_SEPARATOR,
    aliases: Mapping[str, str] | None = None,
    parts: Sequence[str] | None = None,
) -> tuple[str, str]:
    """Return (pert_id, doses) in canonical form: parts sorted, doses sorted with them, aliases resolved.

    Parameters
    ----------
    label
        Perturbation as named in the file, parts joined by any character of `separators`.
    doses
        One dose per part, one dose for all parts, or None.
    control
        The control label, or several (None: "control"); as a part of a combination ("A+control") it is dropped.
    separators
        Characters that separate parts, or a sequence of texts that do; if empty, the whole label is one part.
    aliases
        {other name of a part: perturbation id to use}; that of a combination has several parts, of the same dose.
    parts
        The parts, where they are known already (default: what `separators` part).

    Raises
    ------
    DatasetError
        If a part is empty, repeated or reserved (``control``), or the number of doses is neither one nor the number of parts.
    """
    label = label.strip()
    controls = (
        {schema.CONTROL} if control is None else {control} if isinstance(control, str) else set(control)
    )
    if label in controls:
        return schema.CONTROL, ""
    joints = [s for s in separators if s]
    if parts is None:
        pieces = re.split("|".join(map(re.escape, joints)), label) if joints else [label]
        parts = [p.strip() for p in pieces]
    shown = joints[0] if len(joints) == 1 else "".join(joints)
    if doses is not None and len(doses) not in (1, len(parts)):
        msg = f"perturbation {label!r} has {len(parts)} parts but {len(doses)} doses {list(doses)}; give one each"
        raise DatasetError(msg)
    each = [""] * len(parts) if doses is None else list(doses) * (len(parts) if len(doses) == 1 else 1)
    # An alias is an id already, in which a plus sign joins parts.
    named = [aliases[part] if aliases and part in aliases else part_id(part) for part in parts]
    kept = sorted(
        (piece.strip(), dose)
        for part, name, dose in zip(parts, named, each, strict=True)
        if part not in controls and name not in controls
        for piece in name.split(schema.COMBO_SEPARATOR)
        if piece.strip() not in controls
    )
    if not kept:
        return schema.CONTROL, ""
    names = [name for name, _ in kept]
    if "" in names or len(set(names)) != len(names):
        msg = f"perturbation {label!r} has an empty or repeated part; check the separator ({shown!r}), or give it an alias"
        raise DatasetError(msg)
    if schema.CONTROL in names:
        msg = (
            f"perturbation {label!r} has a part {schema.CONTROL!r}, the name of control rows; check the "
            f"separator ({shown!r}) and the control label, or rename it by an alias"
        )
        raise DatasetError(msg)
    dose = schema.COMBO_SEPARATOR.join(d for _, d in kept) if any(d for _, d in kept) else ""
    return schema.COMBO_SEPARATOR.join(name for name, _ in kept), dose


def canonical_covariates(covariates: Mapping[str, str]) -> str:
    """Return covariates as one canonical string: JSON with sorted keys, empty if there are none."""
    kept = {str(k): str(v) for k, v in sorted(covariates.items()) if str(v) != ""}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) if kept else ""


def parse_covariates(text: str) -> dict[str, str]:
    """Return the covariates of a canonical string (inverse of `canonical_covariates`)."""
    return dict(json.loads(text)) if text else {}


def condition_codes(obs: pd.DataFrame) -> tuple[pd.DataFrame, IntArray]:
    """Number the conditions of a data set's rows.

    Parameters
    ----------
    obs
        Row table with the columns of `schema.CONDITION_COLUMNS` (categorical) and ``is_control``.

    Returns
    -------
    conditions
        One row per condition, index = key (sorted), columns = `schema.CONDITION_COLUMNS`.
    codes
        int64 [N], the row's condition as a position in `conditions`; -1 for control rows.
    """
    # One integer per combination of the five categories (mixed radix), so that only the distinct combinations
    # have to be turned into text.
    joint = np.zeros(len(obs), dtype=np.int64)
    columns = [obs[c].cat for c in schema.CONDITION_COLUMNS]
    for column in columns:
        joint = joint * max(len(column.categories), 1) + column.codes.to_numpy().astype(np.int64)
    treated = ~obs[schema.IS_CONTROL].to_numpy()
    values, first, inverse = np.unique(joint[treated], return_index=True, return_inverse=True)
    rows = np.flatnonzero(treated)[first]
    table = obs.iloc[rows][list(schema.CONDITION_COLUMNS)].astype(str)
    keys = keys_of(table)
    order = np.argsort(keys, kind="stable")
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values))
    codes = np.full(len(obs), -1, dtype=np.int64)
    codes[treated] = rank[inverse]
    table = table.iloc[order]
    table.index = pd.Index(keys[order], name=schema.CONDITION)
    return table, codes


def keys_of(table: pd.DataFrame) -> StrArray:
    """Return the condition keys of a table that has the condition columns."""
    parts = [table[c].astype(str).to_numpy() for c in schema.CONDITION_COLUMNS]
    return np.asarray([condition_key(*row) for row in zip(*parts, strict=True)], dtype=np.str_)


def distinct_genes(perts: Iterable[str]) -> list[str]:
    """Return the sorted genes that occur in any of the perturbation ids."""
    return sorted({gene for pert in perts for gene in pert_genes(pert)})
