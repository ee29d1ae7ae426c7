"""Set process with the conditions of other screens beside those of train: joint covariance of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import keys_of
from perturbfm_core.graphs.direction import direction_of
from perturbfm_core.graphs.donor import DonorEffects
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.perturbfm.core.direct_effect import Direct
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.other_screens import OTHER_SCREEN
from perturbfm_core.models.scale import USUAL, Scale, some_rows
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.view import Query, TrainView

# Share of the genes of the donor with most of them that must stay when another donor joins it.
_KEPT_GENES = 0.9


class DonorProcess:
    """A `SetProcess` that sees the donors' conditions as further train conditions, each donor in a context of its own.

    The covariance of a train and a donor's condition is that of the same perturbations within train, times 1 - c with
    c the share of the kernel that is specific to the context; inner folds, which hold out conditions of train alone,
    choose c. Unless borrowing lowers their error by more than its standard error c is 1: then nothing is borrowed, and
    this process predicts nothing. Every donor's condition has a noise level of its own,
    estimated as that of train conditions is, and a donor's effects on its targets themselves are its own.

    Parameters
    ----------
    tables
        Gene-feature tables.
    direct
        How effects on the targets themselves may be modelled apart.
    donors
        {name: effects of another data set}.
    scale
        Sizes beyond which the process approximates; as many donor conditions are used as are exact.
    """

    def __init__(
        self,
        tables: Sequence[GeneFeatures] = (),
        direct: Direct = "none",
        donors: Mapping[str, DonorEffects] | None = None,
        scale: Scale = USUAL,
    ) -> None:
        self.donors = dict(donors or {})
        # Donors that the process does without, since they measure few of the genes that others do.
        self.left_out: tuple[str, ...] = ()
        self.measured: BoolArray = np.zeros(0, dtype=np.bool_)
        self.fitted = False
        self.process = SetProcess(tables, direct, scale=scale)

    def summary(self) -> dict[str, Any]:
        """Return the options, how many genes the process predicts and the donors it does without, for ``training.json``."""
        return {
            **self.process.choice,
            "genes": int(self.measured.sum()),
            **({"donors_left_out": list(self.left_out)} if self.left_out else {}),
        }

    @property
    def _borrows(self) -> bool:
        return self.process.kernel.context < 1.0

    def choose(self, view: TrainView) -> DonorProcess:
        """Choose the options of the process on the inner folds of the view."""
        joined = self._joined(view)
        if joined is not None:
            self.process.choose(joined)
        return self

    def fit(self, view: TrainView) -> DonorProcess:
        """Fit on a view and the donors with the chosen options."""
        joined = self._joined(view) if self._borrows else None
        if joined is not None:
            self.process.fit(joined)
            self.fitted = True
        return self

    def for_fold(self, view: TrainView, fold: int) -> DonorProcess:
        """Return the process fitted without the held-out conditions of inner fold `fold`."""
        other = DonorProcess((), "none", self.donors, self.process.scale)
        joined = other._joined(view) if self._borrows else None
        if joined is not None:
            other.process = self.process.for_fold(joined, fold)
            other.fitted = True
        return other

    def predict(self, query: Query) -> FloatArray:
        """Return float32 [q, G], the mean in log1p units; NaN for genes that no donor measures, or if nothing is borrowed."""
        out = np.full((len(query), len(query.genes)), np.nan, dtype=np.float32)
        if self.fitted:
            out[:, self.measured] = self.process.predict(self._columns(query))[0]
        return out

    def _columns(self, query: Query) -> Query:
        control = query.control
        return Query(
            query.conditions,
            query.genes[self.measured],
            None if control is None else control[:, self.measured],
        )

    def _joined(self, view: TrainView) -> TrainView | None:
        """Return train and donors as one view of the genes that they measure, None where there is nothing to add.

        A donor that would leave out more than a tenth of the genes is left out itself.
        """
        self.measured = np.zeros(len(view.genes), dtype=np.bool_)
        lent = [(name, donor, _rows(donor, view, self.process.scale)) for name, donor in self.donors.items()]
        lent = [x for x in lent if len(x[2])]
        genes, kept = _measured_by_most(lent, len(view.genes))
        self.left_out = tuple(name for name, _, _ in lent if name not in kept)
        lent = [x for x in lent if x[0] in kept]
        if not genes.any():
            return None
        self.measured = genes
        own = self._columns(view.query())
        deltas, conditions = (
            [view.delta[:, genes]],
            [view.conditions[list(schema.CONDITION_COLUMNS)].astype(str)],
        )
        for name, donor, table in lent:
            deltas.append(donor.effects[table["row"]][:, genes])
            conditions.append(table[list(schema.CONDITION_COLUMNS)].assign(context_id=OTHER_SCREEN + name))
        every = pd.concat(conditions)
        every.index = pd.Index(
            [*conditions[0].index, *keys_of(every.iloc[len(view) :])], name=schema.CONDITION
        )
        more = len(every) - len(view)
        delta = np.concatenate(deltas).astype(np.float32)
        control = own.control
        if control is not None:
            middle = np.repeat(control.mean(axis=0, keepdims=True), more, axis=0)
            control = np.concatenate([control, middle.astype(np.float32)])
        extra = np.zeros(more, dtype=np.bool_)
        return TrainView(
            conditions=every,
            genes=own.genes,
            delta=delta,
            s2=np.zeros_like(delta),
            n_cells=np.ones(len(every), dtype=np.int64),
            control=control,
            inner=[(np.r_[fit, ~extra], np.r_[held, extra]) for fit, held in view.inner],
            unit=view.unit,
        )

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        found: dict[str, FloatArray] = {f"{prefix}.measured": self.measured.astype(np.float32)}
        return {**found, **self.process.arrays(prefix)} if self.fitted else found

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return self.process.meta(prefix) if self.fitted else {}

    def restore(
        self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any], genes: list[str]
    ) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        genes
            Gene ids [G] in the order of fitting.
        """
        self.measured = np.asarray(arrays[f"{prefix}.measured"], dtype=np.bool_)
        self.fitted = f"{prefix}.lambdas" in arrays
        if self.fitted:
            kept = [g for g, m in zip(genes, self.measured, strict=True) if m]
            self.process.restore(prefix, arrays, meta, kept)


def _measured_by_most(
    lent: Sequence[tuple[str, DonorEffects, pd.DataFrame]], n_genes: int
) -> tuple[BoolArray, frozenset[str]]:
    """Return bool [G], the genes that donors measure together, and which donors these are.

    The donor with the most genes comes first; the others join as long as nine tenths of its genes stay.
    """
    genes: BoolArray = np.ones(n_genes, dtype=np.bool_)
    kept: list[str] = []
    by_genes = sorted(lent, key=lambda x: -int(x[1].measured.sum()))
    for name, donor, _ in by_genes:
        both = genes & donor.measured
        if not kept or both.sum() >= _KEPT_GENES * by_genes[0][1].measured.sum():
            genes, kept = both, [*kept, name]
    return (genes if kept else ~genes), frozenset(kept)


def _rows(donor: DonorEffects, view: TrainView, scale: Scale) -> pd.DataFrame:
    """Return a condition table of the donor's rows in the directions of train, with their positions as `row`.

    A row has the modality that train uses in its direction, so that the same gene has the same label in both.

    Parameters
    ----------
    donor
        Effects of another data set.
    view
        Train conditions.
    scale
        How many rows are treated exactly; of more, as many are drawn at random.
    """
    modality: dict[int, str] = {}
    for m in view.conditions[schema.MODALITY].astype(str).value_counts().index:
        modality.setdefault(direction_of(m), m)
    rows = [i for i, d in enumerate(donor.direction) if int(d) in modality]
    rows = [rows[i] for i in some_rows(len(rows), scale.exact)]
    return pd.DataFrame(
        {
            schema.CONTEXT_ID: "",
            schema.PERT_ID: [donor.perts[i] for i in rows],
            schema.MODALITY: [modality[int(donor.direction[i])] for i in rows],
            schema.DOSES: "",
            schema.COVARIATES: "",
            "row": np.asarray(rows, dtype=np.int64),
        }
    )
