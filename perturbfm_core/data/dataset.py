"""`PerturbDataset`: a validated, immutable perturbation data set (rows, genes, expression values)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import condition_codes
from perturbfm_core.data.control_pools import control_pool_moments
from perturbfm_core.data.controls import ControlGroups, Role, control_groups
from perturbfm_core.data.frozen_table import frozen
from perturbfm_core.data.hashing import content_sha256, genes_digest, row_rank_hash
from perturbfm_core.data.matrix import Matrix, Values, check_finite, is_stored, normalize_log1p, take_rows
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.pseudobulk import GroupMoments
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray

if TYPE_CHECKING:
    from anndata import AnnData


class PerturbDataset:
    """One perturbation data set.

    Parameters
    ----------
    obs
        Row table as returned by `make_obs`.
    genes
        Gene ids [G], unique.
    values
        The matrices [N, G], or a function that returns them, called (and its result validated) on first use.
    metadata
        Name, level, space, control policy, content hash.
    path
        Directory of the artifact that the data set was read from, None if there is none.

    Raises
    ------
    DatasetError
        If rows, genes or values are invalid.
    """

    def __init__(
        self,
        obs: pd.DataFrame,
        genes: Sequence[str] | StrArray,
        values: Values | Callable[[], Values],
        metadata: DatasetMetadata,
        path: Path | None = None,
    ) -> None:
        self._obs = frozen(obs)
        self.genes: StrArray = np.asarray(genes, dtype=np.str_)
        self.genes.flags.writeable = False
        self._metadata = metadata
        self._path = path
        self._load = values
        self._pools: dict[Role, GroupMoments] = {}
        self._validate_rows()
        if isinstance(values, Values):
            _ = self.streamed

    # ---- shape and identity ------------------------------------------------------------------------

    def __repr__(self) -> str:
        """Return name, shape, conditions, contexts and space, in the style of AnnData."""
        perturbations = self.conditions[schema.PERT_ID].nunique()
        contexts = self.contexts
        shown = ", ".join(contexts[:4]) + (", ..." if len(contexts) > 4 else "")
        return (
            f"PerturbDataset {self.name!r}: {self.n_obs} rows x {self.n_genes} genes ({self.metadata.level} level, "
            f"{self.metadata.space})\n"
            f"    conditions: {len(self.conditions)} ({perturbations} perturbations)\n"
            f"    contexts: {len(contexts)} ({shown})\n"
            f"    control rows: {int(self.is_control.sum())}\n"
            f"    obs: {', '.join(repr(str(c)) for c in self.obs.columns)}\n"
            f"    content: {(self.metadata.content_sha256 or 'not hashed yet')[:14]}"
        )

    @property
    def obs(self) -> pd.DataFrame:
        """Return the read-only row table [N]: index = row ids, columns = `schema.OBS_COLUMNS` or more."""
        return self._obs

    @property
    def metadata(self) -> DatasetMetadata:
        """Return name, level, space, control policy and content hash."""
        return self._metadata

    @property
    def path(self) -> Path | None:
        """Return the directory that the data set was read from, None if it is in memory only."""
        return self._path

    @property
    def name(self) -> str:
        """Return the data set's name."""
        return self.metadata.name

    @property
    def n_obs(self) -> int:
        """Return the number of rows."""
        return len(self.obs)

    @property
    def n_genes(self) -> int:
        """Return the number of genes."""
        return len(self.genes)

    @property
    def row_ids(self) -> StrArray:
        """Return the row ids [N]."""
        return np.asarray(self.obs.index.to_numpy(), dtype=np.str_)

    @property
    def content_sha256(self) -> str:
        """Return the recorded content hash, or compute it if none is recorded."""
        return self.metadata.content_sha256 or self.computed_sha256

    @cached_property
    def computed_sha256(self) -> str:
        """Return the content hash computed from the values in memory."""
        return content_sha256(self.obs, self.genes, self.metadata, self.streamed)

    @cached_property
    def genes_sha256(self) -> str:
        """Return the SHA-256 of the gene ids in their order."""
        return genes_digest(self.genes)

    def verify_content(self) -> None:
        """Check the values against the recorded content hash, if there is one.

        Raises
        ------
        DatasetError
            If the content hash of the values differs from the recorded one.
        """
        if self.metadata.content_sha256 and self.computed_sha256 != self.metadata.content_sha256:
            msg = (
                f"content of data set {self.name!r} changed: recorded {self.metadata.content_sha256[:12]}, "
                f"found {self.computed_sha256[:12]}; import it again"
            )
            raise DatasetError(msg)

    def to_anndata(self) -> AnnData:
        """Return the data set as an AnnData object (see `perturbfm_core.data.exporting.to_anndata`)."""
        from perturbfm_core.data.exporting import to_anndata

        return to_anndata(self)

    # ---- values --------------------------------------------------------------------------------------

    @cached_property
    def _given(self) -> Values:
        return self._load() if callable(self._load) else self._load

    @cached_property
    def _checked_rows(self) -> Values:
        # What stays in a file is checked as it is read.
        self._validate_values(self._given)
        ids = self.obs.index.to_numpy()
        return self._given.with_rows(
            lambda key, X: X.then(lambda part, rows: self._finite(key, part, ids[rows]))
        )

    @property
    def streamed(self) -> Values:
        """Return the matrices to be read in blocks of rows: as they lie in the file if it is large, else in memory."""
        return self._checked_rows if "values" not in self.__dict__ and self._given.stored else self.values

    @cached_property
    def values(self) -> Values:
        """Return the stored matrices, loaded and validated on first use."""
        values = self._given.in_memory()
        self._validate_values(values)
        for X in (values.counts, values.expression, values.delta, values.x_control):
            if X is not None:
                stored: Any = X.data if hasattr(X, "indptr") else X
                stored.flags.writeable = False
        return values

    @cached_property
    def expression(self) -> Matrix:
        """Return log1p expression [N, G] (CSR or dense float32), None for delta and z-score data.

        Raises
        ------
        DatasetError
            If there are counts but no normalisation is declared.
        """
        return self._expression(self.values)

    @property
    def streamed_expression(self) -> Matrix:
        """Return log1p expression [N, G] to be read in blocks of rows; in memory if it is there."""
        in_file = "values" not in self.__dict__ and self._given.stored
        return self._expression(self.streamed) if in_file else self.expression

    def _expression(self, values: Values) -> Matrix:
        if values.expression is not None:
            return values.expression
        if values.counts is not None:
            if self.metadata.normalization is None:
                msg = f"data set {self.name!r} has counts but no normalization; set metadata.normalization"
                raise DatasetError(msg)
            target = self.metadata.normalization.target_sum
            if is_stored(values.counts):
                return values.counts.then(lambda part, _: normalize_log1p(part, target))
            return normalize_log1p(values.counts, target)
        if values.delta is not None and values.x_control is not None:
            return values.delta + values.x_control
        return None

    @property
    def has_controls(self) -> bool:
        """Return whether deltas are computed against control rows of this data set."""
        return self.metadata.control_policy in ("mean", "sampled")

    @cached_property
    def is_control(self) -> BoolArray:
        """Return bool [N]: whether each row is a control."""
        return np.asarray(self.obs[schema.IS_CONTROL].to_numpy(), dtype=np.bool_)

    @cached_property
    def controls(self) -> ControlGroups:
        """Return the roles of the control cells and their matching to rows."""
        return control_groups(self.obs, self.metadata.control_seed)

    def control_pools(self, role: Role) -> GroupMoments:
        """Return mean and variance of the control pools of `role`: (context, batch) groups, then contexts.

        Only control rows of that role are read.
        """
        if role not in self._pools:
            self._pools[role] = control_pool_moments(self, self.controls.has_role(role))
        return self._pools[role]

    @property
    def knows_pools(self) -> bool:
        """Return whether the control pools have been computed."""
        return bool(self._pools)

    def keep_pools(self, pools: Mapping[Role, GroupMoments]) -> None:
        """Keep control pools that were computed along with something else."""
        self._pools.update(pools)

    def x_control(self, rows: IntArray, role: Role = "input", seed: int = 0) -> FloatArray:
        """Return float32 [n, G], the matched control of each row in log1p units.

        It follows the control policy of the data set: the mean of the matching controls, one of them drawn at
        random, or the control given in the file. Zero for delta-only data.

        Parameters
        ----------
        rows
            int [n], row positions.
        role
            Role of the controls: ``input`` (read by models) or ``reference`` (subtracted for scoring).
        seed
            Seed of the draw, for the policy ``sampled``.
        """
        if self.metadata.control_policy == "none":
            return np.zeros((len(rows), self.n_genes), dtype=np.float32)
        if self.metadata.control_policy == "file":
            given = self.given_control(rows)
            return np.zeros((len(rows), self.n_genes), dtype=np.float32) if given is None else given
        groups = self.controls
        pool = groups.match[role][groups.group[rows]]
        if self.metadata.control_policy == "mean":
            return self.control_pools(role).mean[pool].astype(np.float32)
        # The draw is a hash of the row id, so that a row's control does not depend on the other rows or their
        # order.
        ids = self.row_ids
        mine = np.flatnonzero(groups.has_role(role))
        mine = mine[np.argsort(ids[mine])]
        own_pool = {int(p): mine[groups.group[mine] == p] for p in np.unique(pool) if p < groups.n_groups}
        context = groups.context_of_group[groups.group[mine]]
        for p in np.unique(pool):
            if p >= groups.n_groups:
                own_pool[int(p)] = mine[context == p - groups.n_groups]
        draws = [int(h, 16) for h in row_rank_hash(ids[rows], seed).tolist()]
        chosen = np.asarray(
            [own_pool[int(p)][d % len(own_pool[int(p)])] for p, d in zip(pool, draws, strict=True)],
            dtype=np.int64,
        )
        picked = take_rows(self.expression, chosen)
        return np.asarray(picked.toarray() if hasattr(picked, "toarray") else picked, dtype=np.float32)

    def given_control(self, rows: IntArray) -> FloatArray | None:
        """Return float32 [n, G], the control given in the file or implied by it, None if there is none."""
        values = self.values
        if values.x_control is not None:
            return np.asarray(values.x_control[rows], dtype=np.float32)
        if self.has_controls or values.delta is None or self.expression is None:
            return None
        return np.asarray(take_rows(self.expression, rows) - values.delta[rows], dtype=np.float32)

    def delta(self, rows: IntArray, role: Role = "input") -> FloatArray:
        """Return float32 [n, G]: expression of rows minus their matched control of `role`, in log1p units."""
        given = self.values.delta
        if not self.has_controls and given is not None:
            return np.asarray(given[rows], dtype=np.float32)
        picked = take_rows(self.expression, rows)
        dense = picked.toarray() if hasattr(picked, "toarray") else picked
        return np.asarray(dense - self.x_control(rows, role), dtype=np.float32)

    # ---- conditions ----------------------------------------------------------------------------------

    @cached_property
    def _conditions(self) -> tuple[pd.DataFrame, IntArray]:
        table, codes = condition_codes(self.obs)
        codes.flags.writeable = False
        return frozen(table), codes

    @property
    def conditions(self) -> pd.DataFrame:
        """Return the table of conditions: index = key, columns = `schema.CONDITION_COLUMNS`."""
        return self._conditions[0]

    @property
    def condition_codes(self) -> IntArray:
        """Return int64 [N], each row's position in `conditions`, -1 for controls."""
        return self._conditions[1]

    @property
    def contexts(self) -> list[str]:
        """Return the context names, sorted."""
        return [str(c) for c in self.obs[schema.CONTEXT_ID].cat.categories]

    # ---- validation ----------------------------------------------------------------------------------

    def _validate_rows(self) -> None:
        missing = [c for c in schema.OBS_COLUMNS if c not in self.obs]
        if missing:
            msg = f"rows of data set {self.name!r} lack the columns {missing}"
            raise DatasetError(msg)
        if not self.n_obs or not self.n_genes:
            msg = f"data set {self.name!r} is empty ({self.n_obs} rows, {self.n_genes} genes)"
            raise DatasetError(msg)
        for what, ids in (("row ids", self.obs.index), ("gene ids", pd.Index(self.genes))):
            if not ids.is_unique:
                twice = list(dict.fromkeys(str(x) for x in ids[ids.duplicated()]))
                msg = f"data set {self.name!r} has {len(twice)} duplicate {what}, e.g. {twice[:3]}; make them unique"
                raise DatasetError(msg)
        labelled = (self.obs[schema.PERT_ID] == schema.CONTROL).to_numpy()
        if (labelled != self.is_control).any():
            row = self.obs.index[int(np.flatnonzero(labelled != self.is_control)[0])]
            msg = f"row {row!r} has pert_id and is_control in disagreement; control rows are those called 'control'"
            raise DatasetError(msg)
        if self.is_control.all():
            msg = f"data set {self.name!r} has control rows only; nothing is perturbed"
            raise DatasetError(msg)
        if self.has_controls:
            treated = self.obs.loc[~self.is_control, schema.CONTEXT_ID].unique()
            controlled = set(self.obs.loc[self.is_control, schema.CONTEXT_ID].unique())
            bare = sorted(str(c) for c in treated if c not in controlled)
            if bare:
                msg = (
                    f"no control rows in context {bare[0]!r}"
                    + (f" and {len(bare) - 1} more" if len(bare) > 1 else "")
                    + f" of data set {self.name!r}; add controls, drop the context, or import differences (--space delta)"
                )
                raise DatasetError(msg)
        weights = self.obs.get(schema.WEIGHT)
        if weights is not None and not (np.isfinite(weights) & (weights > 0)).all():
            msg = f"data set {self.name!r} has weights that are not positive numbers"
            raise DatasetError(msg)

    def _finite(self, key: str, X: Matrix, row_ids: StrArray) -> Matrix:
        signed = key == "delta" or (key == "x_control" and self.metadata.space in schema.DELTA_SPACES)
        check_finite(X, f"{key} of data set {self.name!r}", row_ids, self.genes, allow_negative=signed)
        return X

    def _validate_values(self, values: Values) -> None:
        present = {k: X for k, X in vars(values).items() if X is not None}
        if not {"counts", "expression", "delta"} & set(present):
            msg = f"data set {self.name!r} has neither expression nor delta"
            raise DatasetError(msg)
        for key, X in present.items():
            if X.shape != (self.n_obs, self.n_genes):
                msg = f"{key} of data set {self.name!r} is {X.shape}, rows and genes say {(self.n_obs, self.n_genes)}"
                raise DatasetError(msg)
            if not is_stored(X):
                self._finite(key, X, self.row_ids)
        if self.metadata.space in schema.DELTA_SPACES and values.delta is None:
            msg = f"data set {self.name!r} declares space {self.metadata.space!r} but has no delta"
            raise DatasetError(msg)
        if self.metadata.space == "counts" and values.counts is None:
            msg = f"data set {self.name!r} declares space 'counts' but has no counts (data.npz needs counts.npz beside it)"
            raise DatasetError(msg)
        if self.has_controls and self.metadata.space in schema.DELTA_SPACES:
            msg = f"data set {self.name!r} has space {self.metadata.space!r}: its control policy must be 'none' or 'file'"
            raise DatasetError(msg)
