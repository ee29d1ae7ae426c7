"""Base class of baselines on gene embeddings, taken from feature tables or from co-expression in train."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.data.condition import distinct_genes, name_of_part
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import BORROWED, Needs, SideInfo
from perturbfm_core.models.baselines.borrowing import Borrowing
from perturbfm_core.models.baselines.dose_response import DoseResponse, labels_of
from perturbfm_core.models.baselines.effects import EffectTable, components, n_parts, sum_parts
from perturbfm_core.models.baselines.tuned import Solution, TunedBaseline
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.scale import USUAL, Scale
from perturbfm_core.models.search import Choice, IntRange, SearchDimension, SearchSpace
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

if TYPE_CHECKING:
    import pandas as pd


COEXPRESSION = "coexpression"
"""Name of the table that is computed from train deltas; the default table."""

_PARTS = "n_parts"
_CENTERS: tuple[tuple[str, ...], ...] = (
    (schema.CONTEXT_ID, schema.MODALITY, _PARTS),
    (schema.MODALITY, _PARTS),
    (schema.MODALITY,),
)


class GeneEmbedding:
    """Features of conditions: the sum of the features of their genes, scaled by dose.

    Each table is centred on the perturbed genes of train and divided by one scale, so that all tables have
    the same weight. A gene that a table lacks counts as the mean perturbed gene of train.
    """

    def __init__(self) -> None:
        self.tables: list[GeneFeatures] = []
        self.offsets: list[FloatArray] = []
        self.scales: list[float] = []
        self.response = DoseResponse()
        self.known_genes: dict[str, list[int]] = {}

    def fit(
        self,
        view: TrainView,
        side_info: SideInfo,
        names: tuple[str, ...],
        k: int,
        scale: Scale = USUAL,
    ) -> GeneEmbedding:
        """Take the named tables, with centre and scale of the perturbed genes of train.

        Parameters
        ----------
        view
            Train conditions.
        side_info
            Feature tables by name.
        names
            Names of the tables; none means the co-expression table.
        k
            Number of principal components of the co-expression table.
        scale
            Sizes beyond which the components are approximate.
        """
        genes = distinct_genes(view.conditions[schema.PERT_ID].astype(str))
        self.tables, self.offsets, self.scales, self.known_genes = [], [], [], {}
        for name in names or (COEXPRESSION,):
            table = coexpression(view, k, scale) if name == COEXPRESSION else side_info.feature_table(name)
            rows, known = table.rows(genes)
            rows = rows[known].astype(np.float64)
            # Root mean squared distance from the centre: one scale per table keeps the geometry of its
            # features.
            spread = float(np.sqrt(rows.var(axis=0).sum())) if len(rows) else 0.0
            self.tables.append(table)
            self.offsets.append(rows.mean(axis=0) if len(rows) else np.zeros(table.matrix.shape[1]))
            self.scales.append(spread if spread > 0 else 1.0)
            self.known_genes[name] = [int(known.sum()), len(genes)]
        self.response = DoseResponse.fit(view)
        return self

    def features(self, conditions: pd.DataFrame) -> tuple[FloatArray, BoolArray]:
        """Return (float64 [C, F] features, bool [C] whether any table has any of the condition's genes)."""
        parts, owner = components(conditions)
        genes = [name_of_part(part) for part in parts[schema.PERT_ID]]
        dose = self.response.amounts(parts[schema.DOSES], labels_of(parts))
        blocks, any_known = [], np.zeros(len(parts), dtype=np.bool_)
        for table, offset, scale in zip(self.tables, self.offsets, self.scales, strict=True):
            rows, known = table.rows(genes)
            # A gene without features contributes zero, which is the centre, i.e. the mean perturbed gene.
            blocks.append(np.where(known, dose, 0.0)[:, None] * (rows - offset) / scale)
            any_known |= known
        known_parts = np.bincount(owner[any_known], minlength=len(conditions)) > 0
        return sum_parts(np.concatenate(blocks, axis=1), owner, len(conditions)), known_parts

    def arrays(self) -> dict[str, FloatArray]:
        """Return the tables with their centres."""
        out = {}
        for i, (table, offset) in enumerate(zip(self.tables, self.offsets, strict=True)):
            out[f"embedding.{i}.matrix"] = table.matrix
            out[f"embedding.{i}.offset"] = offset
        return out

    def meta(self) -> dict[str, Any]:
        """Return names, genes and scales."""
        tables = [
            {"name": t.name, "genes": t.genes.tolist(), "scale": s}
            for t, s in zip(self.tables, self.scales, strict=True)
        ]
        return {"embedding": tables, "response": self.response.meta()}

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned."""
        self.tables, self.offsets, self.scales = [], [], []
        for i, table in enumerate(meta["embedding"]):
            genes = np.asarray(table["genes"], dtype=np.str_)
            self.tables.append(GeneFeatures(table["name"], genes, arrays[f"embedding.{i}.matrix"]))
            self.offsets.append(arrays[f"embedding.{i}.offset"])
            self.scales.append(float(table["scale"]))
        self.response = DoseResponse.restored(meta)


def coexpression(view: TrainView, k: int, scale: Scale = USUAL) -> GeneFeatures:
    """Return principal components of the measured genes over train deltas; co-regulated genes are close.

    Parameters
    ----------
    view
        Train conditions.
    k
        Number of components; fewer if there are fewer genes or conditions.
    scale
        Sizes beyond which the components are approximate.

    Returns
    -------
    GeneFeatures
        float32 [G, k], scores of the genes.
    """
    from sklearn.decomposition import PCA

    if len(view.genes) < 2:
        # A single gene has no variance between genes.
        return GeneFeatures(COEXPRESSION, view.genes, np.zeros((len(view.genes), 1), dtype=np.float32))
    if scale.approximates(len(view)):
        genes = view.delta.T
        found = principal_components(genes, min(k, *genes.shape), scale.exact)
        scores = genes @ found.axes.T.astype(genes.dtype) - (found.axes @ found.mean).astype(genes.dtype)
        return GeneFeatures(COEXPRESSION, view.genes, scores.astype(np.float32))
    Y = view.delta.astype(np.float64).T
    # Of equal genes the explained variance is 0/0; only the scores are used.
    with np.errstate(invalid="ignore", divide="ignore"):
        pca = PCA(n_components=min(k, *Y.shape), svd_solver="covariance_eigh")
        scores = pca.fit_transform(Y)
    return GeneFeatures(COEXPRESSION, view.genes, scores.astype(np.float32))


class Centers:
    """Expected values before the perturbed genes are known: means over groups of train conditions.

    A condition gets the mean of its finest group in train. Groups are (context, modality, number of parts),
    then without the context, then the modality, then all conditions.
    """

    def __init__(self, by: Literal["group", "all"]) -> None:
        self.table = EffectTable(_CENTERS if by == "group" else ())
        self.overall: FloatArray = np.zeros(0, dtype=np.float32)

    def fit(self, conditions: pd.DataFrame, values: FloatArray) -> Centers:
        """Average `values` [n, K] over the groups of train conditions."""
        self.overall = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.table.fit(_with_size(conditions), values)
        return self

    def of(self, conditions: pd.DataFrame) -> FloatArray:
        """Return float32 [C, K], the group mean of each condition."""
        out = np.repeat(self.overall[None], len(conditions), axis=0)
        if self.table.levels:
            values, found = self.table.look_up(_with_size(conditions))
            out[found] = values[found]
        return out

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the means under a prefixed name."""
        return {f"{prefix}.overall": self.overall, **self.table.arrays(prefix)}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the groups under a prefixed name."""
        return self.table.meta(prefix)

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        """
        self.overall = arrays[f"{prefix}.overall"]
        self.table.restore(prefix, arrays, meta)


def _with_size(conditions: pd.DataFrame) -> pd.DataFrame:
    return conditions.assign(**{_PARTS: n_parts(conditions)})


class EmbeddingBaseline(TunedBaseline):
    """A regression from the embedding of the perturbed genes to the deviation from the group's mean.

    Modalities share nothing but that mean, since the effect of activating a gene does not predict that of
    repressing it. A condition none of whose genes is in any table gets the mean alone.
    """

    search_space: ClassVar[SearchSpace] = {
        "components": IntRange(2, 100, log=True),
        "center": Choice(("group", "all")),
    }

    class Params(Borrowing):
        """Parameters of models on gene embeddings.

        Attributes
        ----------
        gene_features
            Names of gene-feature tables; ``coexpression`` is computed from train deltas, and is the default; ``auto``
            stands for the registered public sources that know the perturbed genes.
        components
            Number of co-expression components.
        borrow
            Other data sets (``DATASET`` or ``DATASET:CONTEXT``) whose effects of the same genes are further features.
        center
            Mean from which the embedding explains the deviation: that of the condition's ``group`` (context,
            modality, number of parts), or of ``all`` train conditions.
        """

        gene_features: tuple[str, ...] = ()
        components: int = Field(default=10, ge=1)
        center: Literal["group", "all"] = "group"

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._embedding = GeneEmbedding()
        self._centers = Centers(self.params.center)
        self._modalities: list[str] = []

    def needs(self) -> Needs:
        """Return the feature tables that are not computed from train."""
        own = tuple(n for n in self.params.gene_features if n != COEXPRESSION)
        return Needs(features=own, borrowed=self.params.borrow)

    def searchable(self) -> dict[str, SearchDimension]:
        """Return the search space, without the number of co-expression components if these are not used."""
        names = self.params.gene_features
        unused = {"components"} if names and COEXPRESSION not in names else set()
        return {k: v for k, v in super().searchable().items() if k not in unused}

    def _tables(self) -> tuple[str, ...]:
        """Return the names of the feature tables, those of donors among them."""
        borrowed = tuple(BORROWED + name for name in self.params.borrow)
        return (*(self.params.gene_features or (COEXPRESSION,)), *borrowed)

    @abstractmethod
    def _design(self, conditions: pd.DataFrame, X: FloatArray, code: IntArray) -> FloatArray:
        """Return [C, m], the design matrix of ``coef`` [m, G]; zero where the modality number [C] is -1."""

    def _embed(self, view: TrainView) -> tuple[FloatArray, IntArray, FloatArray]:
        """Fit embedding and centres; return features [n, F], modality numbers [n] and deviations [n, G]."""
        self._fit_embedding(view)
        self._centers.fit(view.conditions, view.delta)
        self._modalities = sorted(set(view.conditions[schema.MODALITY].astype(str)))
        self.training["known_genes"] = self._embedding.known_genes
        X, code = self._inputs(view.conditions)
        return X, code, view.delta - self._centers.of(view.conditions)

    def _fit_embedding(self, view: TrainView) -> None:
        self._embedding.fit(view, self.side_info, self._tables(), self.params.components, self.scale)

    def _inputs(self, conditions: pd.DataFrame) -> tuple[FloatArray, IntArray]:
        """Return features [C, F] and int64 [C], the number of the modality, -1 where nothing is known."""
        X, known = self._embedding.features(conditions)
        number = {m: i for i, m in enumerate(self._modalities)}
        code = np.asarray(
            [number.get(m, -1) for m in conditions[schema.MODALITY].astype(str)], dtype=np.int64
        )
        return X, np.where(known, code, -1)

    def _describe(self, query: Query) -> tuple[FloatArray, FloatArray]:
        X, code = self._inputs(query.conditions)
        return self._centers.of(query.conditions), self._design(query.conditions, X, code)

    def _apply(self, described: tuple[FloatArray, FloatArray], solution: Solution) -> FloatArray:
        center, design = described
        out: FloatArray = center + design @ solution["coef"]
        return out.astype(np.float32)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {**super()._state_arrays(), **self._embedding.arrays(), **self._centers.arrays("centers")}

    def _state_meta(self) -> dict[str, Any]:
        return {"modalities": self._modalities, **self._embedding.meta(), **self._centers.meta("centers")}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._modalities = list(meta["modalities"])
        self._embedding.restore(arrays, meta)
        self._centers.restore("centers", arrays, meta)
