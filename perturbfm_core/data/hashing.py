"""The canonical content hash: the same for the same cells, in any row order and either storage.

SHA-256 over the space, the gene ids and the *sorted* digests of all rows. A row's digest covers its id, its
obs fields and its values in canonical form: ascending gene indices and values of the non-zero entries,
little-endian, integer counts where the data have them, else float32 as stored in the source file.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import canonical_json
from perturbfm_core.data.matrix import Matrix, Values, as_csr, row_blocks
from perturbfm_core.schema import StrArray

_VERSION = b"perturbfm-content-1"


def genes_digest(genes: StrArray) -> str:
    """Return the SHA-256 of the gene ids in their order."""
    return hashlib.sha256(canonical_json([str(g) for g in genes])).hexdigest()


def rows_digest(row_ids: StrArray) -> str:
    """Return the SHA-256 of row ids in their order."""
    return hashlib.sha256("\x00".join(row_ids.tolist()).encode()).hexdigest()


def content_sha256(obs: pd.DataFrame, genes: StrArray, space: str, values: Values) -> str:
    """Return the content hash of a data set (64 hex digits).

    Parameters
    ----------
    obs
        Row table, index = row id, columns of `schema.OBS_COLUMNS` and optionally ``weight``.
    genes
        Gene ids [G].
    space
        Space of the source values.
    values
        The matrices; counts alone are hashed where there are any.
    """
    matrices: list[Matrix] = [
        X
        for X in ((values.counts,) if values.counts is not None else (values.expression, values.delta))
        if X is not None
    ]
    if values.x_control is not None:
        matrices.append(values.x_control)
    dtype = "<i4" if values.counts is not None else "<f4"
    fields = _field_digests(obs)
    row_ids = [str(r) for r in obs.index]
    digests: list[bytes] = []
    for block in row_blocks(len(row_ids)):
        parts = [_canonical(X[block], dtype) for X in matrices]
        for i in range(block.stop - block.start):
            row = block.start + i
            digest = hashlib.sha256(row_ids[row].encode() + b"\0" + fields[row])
            for indices, data, indptr in parts:
                lo, hi = indptr[i], indptr[i + 1]
                digest.update(int(hi - lo).to_bytes(8, "little"))
                digest.update(indices[lo:hi].data)
                digest.update(data[lo:hi].data)
            digests.append(digest.digest())
    digests.sort()
    total = hashlib.sha256(_VERSION + b"\0" + space.encode() + b"\0" + genes_digest(genes).encode())
    total.update(b"".join(digests))
    return total.hexdigest()


def _canonical(block: Matrix, dtype: str) -> tuple[Any, Any, Any]:
    csr = as_csr(block)
    return csr.indices.astype("<i4", copy=False), csr.data.astype(dtype, copy=False), csr.indptr


def _field_digests(obs: pd.DataFrame) -> list[bytes]:
    """Return one digest per row of its obs fields, computed once per distinct combination."""
    columns: list[list[Any]] = []
    for name in schema.OBS_COLUMNS:
        if name == schema.IS_CONTROL:
            columns.append([bool(x) for x in obs[name].to_numpy()])
        else:
            columns.append(obs[name].astype(str).tolist())
    if schema.WEIGHT in obs:
        columns.append([float(x) for x in obs[schema.WEIGHT].to_numpy()])
    names = [*schema.OBS_COLUMNS, *([schema.WEIGHT] if schema.WEIGHT in obs else [])]
    known: dict[tuple[Any, ...], bytes] = {}
    out = []
    for row in zip(*columns, strict=True):
        if row not in known:
            known[row] = hashlib.sha256(canonical_json(dict(zip(names, row, strict=True)))).digest()
        out.append(known[row])
    return out


def row_rank_hash(row_ids: StrArray, seed: int) -> StrArray:
    """Return a seeded hash of each row id (hex), by which random but fixed choices are made."""
    key = seed.to_bytes(8, "little")
    return np.asarray(
        [hashlib.blake2b(str(r).encode(), key=key, digest_size=8).hexdigest() for r in row_ids], dtype=np.str_
    )
