"""Kernel between conditions: components fitted on train conditions and evaluated on any conditions.

This module is longer than 400 lines because the components of the kernel share what they describe of a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perturbfm_core import schema
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, EffectTable, components, is_single
from perturbfm_core.models.perturbfm.interventions import Interventions, interventions, log_top_dose
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.view import Query, TrainView

if TYPE_CHECKING:
    import pandas as pd


N_COMPONENTS = 60
N_CONTEXT_COMPONENTS = 10
# Factor on the context similarity of conditions with different covariates.
_OTHER_COVARIATES = 0.5


@dataclass(frozen=True)
class Kernel:
    """Weights of the components of the kernel.

    S [n, labels] is the incidence of perturbed genes (gene and modality, weighted by amount), and e the
    measured effect of a single in the space of the first principal components of the train deltas.

    Attributes
    ----------
    identity
        S S', shared perturbed genes.
    effect
        RBF kernel of the summed single effects.
    pair
        Sum over pairs of genes of an RBF kernel of their single effects.
    linear
        Inner product of the summed single effects.
    features
        Sum over pairs of genes of the similarity of their external features.
    context
        Share of all these components that is multiplied by the similarity of contexts, 0 to 1.
    level
        Weight of the similarity of contexts alone, an effect that all perturbations in a context share.
    by_size
        Whether the mean of the process is that of conditions with as many perturbed genes, or of all
        conditions.
    """

    identity: float = 0.0
    effect: float = 0.0
    pair: float = 0.0
    linear: float = 0.0
    features: float = 0.0
    context: float = 0.0
    level: float = 0.0
    by_size: bool = True


@dataclass(frozen=True, eq=False)
class _Described:
    """Conditions as inputs of the kernel."""

    parts: Interventions
    effects: FloatArray  # [parts, k], measured single effect of each part, zero where unknown
    sums: FloatArray  # [n, k]
    tables: list[tuple[FloatArray, BoolArray]]  # per table: unit-length features [parts, F], whether known
    context: FloatArray | None  # [n, k] principal components of the controls
    names: list[str]  # context ids
    covariates: list[str]


class SimilarityKernel:
    """The fitted components of the kernel.

    Parameters
    ----------
    tables
        Gene-feature tables.
    """

    def __init__(self, tables: Sequence[GeneFeatures] = ()) -> None:
        import numpy as np
        import pandas as pd

        self.tables = tuple(tables)
        self.contexts = 0
        self._top_dose = 1.0
        self._singles = EffectTable(CONTEXT_LEVELS)
        self._axes: FloatArray = np.zeros((0, 0))
        self._context_mean: FloatArray = np.zeros(0)
        self._context_axes: FloatArray = np.zeros((0, 0))
        self._conditions = pd.DataFrame(columns=list(schema.CONDITION_COLUMNS))
        self._context_scores: FloatArray | None = None
        self._width = {"effect": 1.0, "pair": 1.0, "linear": 1.0, "context": 1.0}
        self._train: _Described | None = None

    def fit(self, view: TrainView) -> SimilarityKernel:
        """Learn axes and length scales from train conditions."""
        import numpy as np

        self._conditions = view.conditions[list(schema.CONDITION_COLUMNS)].astype(str)
        self._top_dose = log_top_dose(view.conditions)
        self.contexts = self._conditions[schema.CONTEXT_ID].nunique()
        delta = view.delta.astype(np.float64)
        single = is_single(view.conditions)
        k = min(N_COMPONENTS, *delta.shape)
        self._axes = (
            principal_components(delta, k).axes if len(delta) > 1 else (np.zeros((0, delta.shape[1])))
        )
        self._singles = EffectTable(CONTEXT_LEVELS)
        # Scores are not centred, so that the origin is no effect, which is also the value of an unmeasured
        # gene.
        if single.any() and len(self._axes):
            self._singles.fit(view.conditions[single], (delta[single] @ self._axes.T).astype(np.float32))
        self._context_mean, self._context_axes = np.zeros(0), np.zeros((0, 0))
        if view.control is not None and self.contexts > 1:
            # Distinct profiles only: a context with many conditions should not count more than others.
            states = np.unique(view.control.astype(np.float64), axis=0)
            k = min(N_CONTEXT_COMPONENTS, len(states) - 1)
            if k > 0:
                found = principal_components(states, k)
                self._context_mean, self._context_axes = found.mean, found.axes
        self._context_scores = self._context(view.control)
        self._train = self._describe(view.conditions, self._context_scores)
        t = self._train
        # Squared length scales: the median of the non-zero squared distances in train.
        self._width = {
            "effect": _median(_squared(t.sums, t.sums)),
            "pair": _median(_squared(*(np.unique(t.effects, axis=0),) * 2)) if len(t.effects) else 1.0,
            "linear": float(np.median((t.sums**2).sum(axis=1))) or 1.0,
            "context": 1.0 if t.context is None else _median(_squared(*(np.unique(t.context, axis=0),) * 2)),
        }
        return self

    def can(self, kernel: Kernel) -> bool:
        """Return whether the data support this kernel.

        Effects need measured singles, features need a table.
        """
        effects = kernel.effect or kernel.pair or kernel.linear
        if effects and not any(self._singles.keys):
            return False
        return not (kernel.features and not self.tables)

    @property
    def conditions(self) -> pd.DataFrame:
        """Return the train conditions."""
        return self._conditions

    def blocks(
        self, query: Query | None = None, against: Query | None = None
    ) -> Callable[[Kernel], FloatArray]:
        """Return a function from weights to the kernel between two sets of conditions, float64 [q, n].

        The components are computed once, so that many kernel weights can be tried on them.

        Parameters
        ----------
        query
            Conditions [q] of the rows (default: those of `against`).
        against
            Conditions [n] of the columns (default: train).
        """
        import numpy as np

        t = (
            self._fitted()
            if against is None
            else self._describe(against.conditions, self._context(against.control))
        )
        a = t if query is None else self._describe(query.conditions, self._context(query.control))
        perturbation = {
            "identity": self._identity(a, t),
            "effect": np.exp(-_squared(a.sums, t.sums) / self._width["effect"]),
            "pair": _over_parts(a, t, np.exp(-_squared(a.effects, t.effects) / self._width["pair"])),
            "linear": a.sums @ t.sums.T / self._width["linear"],
            "features": _over_parts(a, t, _feature_similarity(a, t), signed=True),
        }
        context = self._context_similarity(a, t)

        def kernel_of(kernel: Kernel) -> FloatArray:
            K = np.zeros_like(context)
            for name, block in perturbation.items():
                weight = float(getattr(kernel, name))
                if weight:
                    K += weight * block
            # A product of kernels: the share that is specific to the context counts in similar contexts only.
            if kernel.context:
                K *= (1.0 - kernel.context) + kernel.context * context
            if kernel.level:
                K += kernel.level * context
            return K

        return kernel_of

    def diagonal(self, query: Query, kernel: Kernel) -> FloatArray:
        """Return float64 [q], the kernel of each condition with itself.

        The similarity of a context with itself is 1, so that `context` has no effect here and `level` adds
        its weight.
        """
        import numpy as np

        a = self._describe(query.conditions, self._context(query.control))
        out = np.zeros(len(query))
        for i in range(len(query)):
            at = np.flatnonzero(a.parts.owner == i)
            amount = a.parts.amount[at]
            E = a.effects[at]
            out[i] += kernel.identity * float((amount**2).sum()) + kernel.effect
            if kernel.pair:
                out[i] += kernel.pair * float(amount @ np.exp(-_squared(E, E) / self._width["pair"]) @ amount)
            out[i] += kernel.linear * float((a.sums[i] ** 2).sum()) / self._width["linear"]
            if kernel.features:
                one = _only(a, at)
                signed = amount * a.parts.sign[at]
                out[i] += kernel.features * float(signed @ _feature_similarity(one, one) @ signed)
        return out + kernel.level

    # ---- describing ------------------------------------------------------------------------------------

    def _fitted(self) -> _Described:
        if self._train is None:
            self._train = self._describe(self._conditions, self._context_scores)
        return self._train

    def _context(self, control: FloatArray | None) -> FloatArray | None:
        if control is None or not len(self._context_axes):
            return None
        out: FloatArray = (control - self._context_mean) @ self._context_axes.T
        return out

    def _describe(self, conditions: pd.DataFrame, context: FloatArray | None) -> _Described:
        import numpy as np

        parts = interventions(conditions, self._top_dose)
        table, owner = components(conditions)
        k = len(self._axes)
        if any(self._singles.keys):
            effects, _ = self._singles.look_up(table)
        else:
            effects = np.zeros((len(table), k), dtype=np.float32)
        effects = effects.astype(np.float64)
        sums = np.zeros((len(conditions), effects.shape[1]))
        # Effects are those of train singles, zero where a gene was not measured as a single [parts, k].
        np.add.at(sums, owner, effects)
        described = []
        for t in self.tables:
            rows, known = t.rows(parts.genes)
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            described.append((rows / np.maximum(length, 1e-12), known & (length[:, 0] > 0)))
        return _Described(
            parts=parts,
            effects=effects,
            sums=sums,
            tables=described,
            context=context,
            names=conditions[schema.CONTEXT_ID].astype(str).tolist(),
            covariates=conditions[schema.COVARIATES].astype(str).tolist(),
        )

    def _identity(self, a: _Described, b: _Described) -> FloatArray:
        # Parts that occur in `a` only are shared with no condition of `b`.
        names = sorted(set(b.parts.labels))
        out: FloatArray = a.parts.incidence(names) @ b.parts.incidence(names).T
        return out

    def _context_similarity(self, a: _Described, b: _Described) -> FloatArray:
        import numpy as np

        if a.context is not None and b.context is not None:
            out: FloatArray = np.exp(-_squared(a.context, b.context) / self._width["context"])
        else:
            out = (np.asarray(a.names)[:, None] == np.asarray(b.names)[None]).astype(np.float64)
        same = np.asarray(a.covariates)[:, None] == np.asarray(b.covariates)[None]
        return np.asarray(np.where(same, out, _OTHER_COVARIATES * out))

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        import numpy as np

        out = {
            f"{prefix}.context_mean": self._context_mean,
            f"{prefix}.context_axes": self._context_axes,
            f"{prefix}.axes": self._axes.astype(np.float32),
            **self._singles.arrays(f"{prefix}.singles"),
        }
        if self._context_scores is not None:
            out[f"{prefix}.context_scores"] = self._context_scores
        for i, table in enumerate(self.tables):
            out[f"{prefix}.table{i}"] = table.matrix
        return out

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.conditions": self._conditions.to_numpy().tolist(),
            f"{prefix}.keys": self._conditions.index.astype(str).tolist(),
            f"{prefix}.width": self._width,
            f"{prefix}.top_dose": self._top_dose,
            f"{prefix}.contexts": self.contexts,
            f"{prefix}.tables": [{"name": t.name, "genes": t.genes.tolist()} for t in self.tables],
            **self._singles.meta(f"{prefix}.singles"),
        }

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
        import numpy as np
        import pandas as pd

        self._conditions = pd.DataFrame(
            meta[f"{prefix}.conditions"],
            columns=list(schema.CONDITION_COLUMNS),
            index=pd.Index(meta[f"{prefix}.keys"], name=schema.CONDITION),
        )
        self._width = {k: float(v) for k, v in meta[f"{prefix}.width"].items()}
        self._top_dose, self.contexts = float(meta[f"{prefix}.top_dose"]), int(meta[f"{prefix}.contexts"])
        self._context_mean = arrays[f"{prefix}.context_mean"]
        self._context_axes = arrays[f"{prefix}.context_axes"]
        self._axes = arrays[f"{prefix}.axes"]
        self._context_scores = arrays.get(f"{prefix}.context_scores")
        self._singles.restore(f"{prefix}.singles", arrays, meta)
        self.tables = tuple(
            GeneFeatures(
                t["name"],
                np.asarray(t["genes"], dtype=np.str_),
                arrays[f"{prefix}.table{i}"],
            )
            for i, t in enumerate(meta[f"{prefix}.tables"])
        )
        self._train = None


def _squared(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return float64 [a, b], squared Euclidean distances between the rows of A [a, k] and B [b, k]."""
    import numpy as np

    out = (A * A).sum(axis=1)[:, None] + (B * B).sum(axis=1)[None] - 2.0 * A @ B.T
    # Rounding in the expanded square can make small distances negative.
    return np.asarray(np.maximum(out, 0.0))


def _median(D: FloatArray) -> float:
    """Return the median of the entries above rounding error, 1 if there are none."""
    import numpy as np

    found = D[1e-9 * max(float(D.max(initial=0.0)), 1e-300) < D]
    return float(np.median(found)) if found.size else 1.0


def _over_parts(a: _Described, b: _Described, L: FloatArray, *, signed: bool = False) -> FloatArray:
    """Return float64 [a, b], a similarity L of parts [parts of a, parts of b] summed over pairs of parts.

    Each pair is weighted by the product of the two amounts, with their signs if `signed`.
    """
    import numpy as np

    def spread(x: _Described) -> FloatArray:
        value = x.parts.amount * x.parts.sign if signed else x.parts.amount
        out = np.zeros((x.parts.n, len(x.parts.owner)))
        out[x.parts.owner, np.arange(len(x.parts.owner))] = value
        return out

    out: FloatArray = spread(a) @ L @ spread(b).T
    return out


def _feature_similarity(a: _Described, b: _Described) -> FloatArray:
    """Return float64 [parts of a, parts of b]: mean of the tables' squared cosines, plus their product.

    Negative cosines count as zero, and so does any cosine with a gene that a table lacks. The product is
    large only where all tables agree.
    """
    import numpy as np

    if not a.tables:
        return np.zeros((len(a.parts.owner), len(b.parts.owner)))
    # Rows have unit length, so inner products are cosines; genes that a table lacks are set to zero.
    cosines = [
        np.maximum(x @ y.T, 0.0) * np.outer(p, q) for (x, p), (y, q) in zip(a.tables, b.tables, strict=True)
    ]
    mean = sum(c**2 for c in cosines) / len(cosines)
    both = np.prod(cosines, axis=0)
    return np.asarray(mean + both, dtype=np.float64)


def _only(a: _Described, at: Any) -> _Described:
    return _Described(
        a.parts,
        a.effects[at],
        a.sums,
        [(x[at], p[at]) for x, p in a.tables],
        a.context,
        a.names,
        a.covariates,
    )
