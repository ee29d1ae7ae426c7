"""Transcription factors and the families of their DNA-binding domains, as the Human Transcription Factors list them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.families import group_cosine, signs
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.sources.conversion import (
    MAIN,
    Converted,
    Options,
    checked,
    human_only,
    options_read,
)
from perturbfm_core.graphs.sources.identifiers import ENSEMBL
from perturbfm_core.graphs.sources.named_columns import read_named

# Dimensions of what a factor has of its own.
_OWN = 256
_SYMBOL, _ID, _DOMAIN, _IS_FACTOR = "hgnc_symbol", "ensembl_id", "dbd", "is_tf?"
_UNKNOWN = "Unknown"
_WHAT = "the Human Transcription Factors (HGNC symbol, Ensembl ID, DBD, Is TF?)"


def from_factors(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    """Return float32 [factors, families + 256] features of a list of transcription factors.

    The squared cosine of two factors of one family is 1 / (1 + size / 50): the members of a family of fifty are half as
    alike as a factor is to itself, those of the seven hundred zinc fingers hardly. What a factor has of its own is a
    random vector of signs that depends on its name (feature hashing).

    Parameters
    ----------
    files
        ``main``: the list, with the columns HGNC symbol, Ensembl ID, DBD and Is TF?.
    options
        See `Options`; only organism and kind of names are read.
    name
        Name of the features.

    Raises
    ------
    GraphError
        If the file cannot be read, lacks a column or lists no factor, or another organism is asked for.
    """
    main = files[MAIN]
    read = options_read(options, (), f"{main}, which lists transcription factors")
    human_only(options, f"{main} lists transcription factors")
    table, twice = _families(main, _ID if options.ids == ENSEMBL else _SYMBOL)
    kind = checked(set(table["gene"]), options, files)
    member = pd.crosstab(table["gene"], table["family"]).drop(columns=_UNKNOWN, errors="ignore")
    alike = group_cosine(member.sum().to_numpy())
    # Of a factor with several domains each is a part.
    shared = member.to_numpy() * alike / np.maximum(member.sum(axis=1).to_numpy(), 1)[:, None]
    own = np.sqrt(1.0 - shared.sum(axis=1))[:, None] * np.stack([signs(g, _OWN) for g in member.index])
    matrix = np.hstack([np.sqrt(shared), own]).astype(np.float32)
    features = GeneFeatures(name, member.index.to_numpy(dtype=np.str_), matrix)
    notes = (f"{twice} repeated genes count once",) if twice else ()
    return Converted(kind, None, features, "", notes, read)


def _families(path: Path, id_column: str) -> tuple[pd.DataFrame, int]:
    """Return one row (``gene``, ``family``) per membership of a factor, and how many genes were listed again."""
    table = read_named(path, (_DOMAIN, _IS_FACTOR, id_column), _WHAT)
    factors = table[table[_IS_FACTOR].str.strip().str.lower() == "yes"]
    factors = factors[factors[id_column].str.strip() != ""]
    if factors.empty:
        msg = f"{path} lists no transcription factor: no row has 'Yes' in 'Is TF?'"
        raise GraphError(msg)
    gene = factors[id_column].str.strip()
    family = factors[_DOMAIN].str.split(";").explode().str.strip().replace("", _UNKNOWN)
    rows = pd.DataFrame({"gene": gene.reindex(family.index), "family": family})
    return rows.drop_duplicates(ignore_index=True), int(gene.duplicated().sum())
