"""Parameters that name graphs and gene features, with the words ``auto`` and ``none``."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from perturbfm_core.config import Frozen

# Parameters of this kind: gene graphs, and tables of gene features; other data sets have no such words.
GRAPHS, FEATURES = "adjacency", "gene_features"
NAMING = (GRAPHS, FEATURES)
_BORROWED = "borrow"
_NONE = "none"


class NamedInputs(Frozen):
    """Parameters of models that read graphs or gene features by name.

    ``auto`` stands for everything of public sources that is registered and knows the perturbed genes of the data set;
    ``none`` for nothing. One name need not be a list, and one that is repeated counts once.
    """

    @model_validator(mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        out = dict(value)
        for name in (n for n in NAMING if n in out and n in cls.model_fields):
            given = [out[name]] if isinstance(out[name], str) else out[name]
            if isinstance(given, list | tuple) and _NONE in given:
                if len(given) > 1:
                    msg = f"{name}: 'none' stands alone, found {', '.join(map(str, given))}"
                    raise ValueError(msg)
                given = []
            out[name] = given
        for name in (*NAMING, _BORROWED):
            if isinstance(out.get(name), list | tuple):
                out[name] = list({str(x): x for x in out[name]}.values())
        return out
