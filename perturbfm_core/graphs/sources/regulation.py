"""Regulatory interactions: signed edges of CollecTRI, DoRothEA, TRRUST and OmniPath, in the forms that they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.text_files import leading, opened
from perturbfm_core.graphs.sources.translation import with_ends
from perturbfm_core.graphs.tables import SOURCE_COLUMNS, column_word, read_table

_SYMBOL_COLUMNS = ("source_genesymbol", "target_genesymbol")
_LEVEL = "dorothea_level"
_TRUE = ("1", "true", "yes")
_FALSE = ("0", "false", "no", "")
_MODES = ("activation", "repression", "unknown")


def read_regulation(path: Path) -> pd.DataFrame:
    """Return interactions with the columns that `regulatory_graph` reads: ``source``, ``target``, sign, confidence.

    Parameters
    ----------
    path
        A table of OmniPath's web service, of CollecTRI (``source``, ``target``, ``weight``), of DoRothEA (``tf`` or
        ``source``, ``target``, ``mor``, ``confidence``), or TRRUST's (factor, target, mode, references).

    Raises
    ------
    GraphError
        If it cannot be read or is none of these.
    """
    if path.suffix == ".parquet":
        return _known(read_table(path), path)
    with opened(path) as handle:
        skipped, line = leading(handle, "#")
    sep = "\t" if "\t" in line else ","
    words = [column_word(w) for w in line.split(sep)]
    named = bool(set(words) & {*SOURCE_COLUMNS, *_SYMBOL_COLUMNS})
    is_trrust = not named and len(words) >= 3 and words[2] in _MODES
    if not named and not is_trrust:
        msg = (
            f"{path} has no column of regulators; its first line is {line[:80]!r}; known are the tables of OmniPath, "
            "CollecTRI, DoRothEA and TRRUST"
        )
        raise GraphError(msg)
    with opened(path) as handle:
        table = pd.read_csv(
            handle,
            sep=sep,
            header=None if is_trrust else 0,
            skiprows=skipped,
            dtype=str,
            keep_default_na=False,
            comment=None,
            on_bad_lines="error",
        )
    if is_trrust:
        return table.iloc[:, :3].set_axis(["source", "target", "mode"], axis=1)
    return _known(table, path)


def _known(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    table = table.set_axis([column_word(c) for c in table.columns], axis=1)
    if not set(_SYMBOL_COLUMNS) <= set(table.columns):
        return with_ends(table, path)
    out = pd.DataFrame({"source": table[_SYMBOL_COLUMNS[0]], "target": table[_SYMBOL_COLUMNS[1]]})
    out = out.where(out != "")
    sign = _sign(table, ("consensus_stimulation", "consensus_inhibition"), path)
    # Where the resources have no consensus, what any of them states.
    plain = _sign(table, ("is_stimulation", "is_inhibition"), path)
    if sign is None and plain is None:
        msg = f"{path} states no signs; ask the web service for is_stimulation and is_inhibition (they are there by default)"
        raise GraphError(msg)
    if sign is None or plain is None:
        out["sign"] = plain if sign is None else sign
    else:
        out["sign"] = np.where(sign != 0, sign, plain)
    if _LEVEL in table:
        # An edge that several kinds of evidence support has several levels, as in "A;D".
        level = table[_LEVEL].astype(str)
        out["confidence"] = [min((c for c in x if c.isalpha()), default="") for x in level]
    return out[out["source"].notna() & out["target"].notna()].reset_index(drop=True)


def _sign(table: pd.DataFrame, columns: tuple[str, str], path: Path) -> Any:
    """Return int [E], stimulation less inhibition; None where the table lacks the columns."""
    if not set(columns) <= set(table.columns):
        return None
    parts = []
    for name in columns:
        text = table[name].astype(str).str.strip().str.lower()
        known = text.isin((*_TRUE, *_FALSE))
        if not known.all():
            msg = f"{path}: column {name!r} holds {str(table[name][~known].iloc[0])!r}, which is neither true nor false"
            raise GraphError(msg)
        parts.append(text.isin(_TRUE).to_numpy().astype(np.int64))
    return parts[0] - parts[1]
