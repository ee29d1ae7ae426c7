"""Labels of a file: text that means missing, control labels, spellings of one name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.errors import DatasetError

# Text that programs write for a missing value.
MISSING = frozenset([
    "", "nan", "NaN", "NAN", "-nan", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "None", "null", "NULL", "Null", "NaT",
])  # fmt: skip

# Hyphens, dashes and the minus sign.
_DASH = re.compile("[\u2010-\u2015\u2212\ufe63\uff0d]")
# Between two numbers a sign parts them: 1-10 is not 110.
_INSIDE = re.compile(r"(?<=[^\W\d_])[-_ ](?=[^\W_])|(?<=\d)[-_ ](?=[^\W\d_])")


def refuse_missing(texts: pd.Series, keep: Collection[str], what: str) -> None:
    """Refuse a column in which some text means a missing value.

    Parameters
    ----------
    texts
        Text [n], without spaces around it; index: row names.
    keep
        Texts that are labels all the same.
    what
        Name of the column with its option, for the message.

    Raises
    ------
    DatasetError
        If there is such a text; the message names it, and its first row.
    """
    distinct = sorted((set(texts.unique()) & MISSING) - set(keep))
    if not distinct:
        return
    bad = texts.isin(distinct).to_numpy()
    shown = ", ".join(repr(x) for x in distinct)
    cure = f"leave them out with --drop-label {distinct[0]!r}" if "--pert-col" in what else "fill them"
    msg = (
        f"{what} has {int(bad.sum())} rows with text that means a missing value ({shown}), first in row "
        f"{str(texts.index[int(np.argmax(bad))])!r}; {cure}, or, if it is a label, declare it with --keep-label "
        f"{distinct[0]!r}"
    )
    raise DatasetError(msg)


def check_controls(
    labels: pd.Series,
    controls: Sequence[str],
    keep: Collection[str],
    column: str,
    parts: Collection[str] = (),
) -> None:
    """Check that the control labels occur, and in no other case.

    Parameters
    ----------
    labels
        Text [N], without spaces around it.
    controls
        Control labels.
    keep
        Labels that are perturbations although they look like a control label in another case.
    column
        Name of the column, for messages.
    parts
        Parts of combinations, of which a control may be one ("A+NT").

    Raises
    ------
    DatasetError
        If a control label does not occur, or occurs in another case as well, or beside the name of controls.
    """
    counts = labels.value_counts()
    found = {str(label): int(n) for label, n in counts.items()}
    for control in controls:
        if control not in found and control not in parts:
            near = [x for x in found if x.casefold() == control.casefold()]
            some = ", ".join(repr(x) for x in (near or list(found)[:5]))
            hint = "upper and lower case differ; give" if near else "found e.g."
            msg = f"control label {control!r} does not occur in {column!r}; {hint} {some}"
            raise DatasetError(msg)
    # Controls are called so in the data set: without a word the name would be taken for a perturbation's, and refused.
    if schema.CONTROL in found and schema.CONTROL not in {*controls, *keep} and controls:
        msg = (
            f"{column!r} has {found[schema.CONTROL]} rows {schema.CONTROL!r} beside the control label {controls[0]!r}; add "
            f"--control-label {schema.CONTROL!r} if they are controls, else give them another name by --aliases"
        )
        raise DatasetError(msg)
    folded = {c.casefold() for c in controls}
    twins = [x for x in found if x.casefold() in folded and x not in controls and x not in keep]
    if twins:
        msg = (
            f"{column!r} has {found[twins[0]]} rows {twins[0]!r}, which differ from the control label in case only; add "
            f"--control-label {twins[0]!r} if they are controls, --keep-label {twins[0]!r} if not"
        )
        raise DatasetError(msg)


def merged_spellings(raw: Iterable[str]) -> list[list[str]]:
    """Return groups of labels that differ only in the spaces around them, and are one."""
    groups: dict[str, list[str]] = {}
    for label in raw:
        groups.setdefault(label.strip(), []).append(label)
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def differing_in_spelling(names: Iterable[str]) -> list[str]:
    """Return what differs only in case, spaces, dashes or the form of its letters, a text for each group of such names.

    To the eye these are one name: "IFN-g" with a hyphen or a dash, "drug A" with a blank or a non-breaking one, "é" as
    one character or two. MCF-7 and MCF7 are one cell line as well, TNF-alpha and TNF alpha one cytokine.
    """
    groups: dict[str, set[str]] = {}
    for name in names:
        shown = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        plain = _DASH.sub("-", " ".join(shown.split())).casefold()
        groups.setdefault(_INSIDE.sub("", plain), set()).add(name)
    out = []
    for _, group in sorted(groups.items()):
        if len(group) > 1:
            case = len({name.lower() for name in group}) == 1
            # What looks the same is shown by its codes.
            shown = ", ".join(map(repr if case else ascii, sorted(group)))
            out.append(
                f"{shown} differ in {'upper and lower case' if case else 'case, spaces, dashes or forms of letters'} only"
            )
    return out
