"""Metadata of a data set: name, source, scale of the values, control policy, gene selection."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from perturbfm_core.config import Frozen
from perturbfm_core.schema import Level, Space


class GeneSelection(Frozen):
    """How the genes of a data set were selected, and on which rows."""

    method: str = "none"
    rows: Literal["all", "train", "unknown"] = "unknown"


class Normalization(Frozen):
    """Normalisation of counts to log1p expression: ``log1p(count / row total * target_sum)``."""

    target_sum: float = Field(default=1e4, gt=0)


class DatasetMetadata(Frozen):
    """Metadata of a data set (``metadata`` in ``meta.json``).

    `space` is the scale of the source values; ``counts`` are provided to models as normalised log1p
    expression. `control_policy` is how a row's matched control is obtained: ``mean`` of the input controls,
    one ``sampled`` control cell, read from the ``file``, or ``none`` (delta-only data). `content_sha256` is
    empty until the hash has been computed.
    """

    name: str
    source: str = "unknown"
    licence: str = "unknown"
    level: Level = "cell"
    space: Space = "log1p"
    normalization: Normalization | None = None
    control_policy: Literal["mean", "sampled", "file", "none"] = "mean"
    control_seed: int = 0
    gene_selection: GeneSelection = GeneSelection()
    content_sha256: str = ""
    notes: dict[str, Any] = Field(default_factory=dict)

    def unusual(self, level: Level) -> str:
        """Return what is derived of the stored values, and how, where that is not as usual, else nothing.

        It is part of the content hash: the same counts at another depth are other data, and so are means that are taken
        for cells. As usual are counts scaled to 10,000 per cell, means of controls with roles of seed 0, and rows of
        `level` (see `usual_level`).
        """
        said = []
        if (
            self.space == "counts"
            and self.normalization is not None
            and self.normalization.target_sum != Normalization().target_sum
        ):
            said.append(f"target_sum={self.normalization.target_sum!r}")
        if self.control_policy == "sampled":
            said.append("control=sampled")
        if self.control_seed:
            said.append(f"control_seed={self.control_seed}")
        if self.level != level:
            said.append(f"level={self.level}")
        return ",".join(said)
