"""Content hash of a data set, independent of the order of rows and of the storage format.

It is the SHA-256 of the space, the gene ids and the *sorted* digests of all rows. A row's digest covers its
id, its obs fields and its values in canonical form: ascending gene indices and values of the non-zero
entries, little-endian, as integer counts where the data have them, else as float32 as stored in the source
file.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import canonical_json
from perturbfm_core.data.matrix import Matrix, Values, as_csr, matrix_blocks
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import usual_level
from perturbfm_core.schema import StrArray

_VERSION = b"perturbfm-content-1"


def genes_digest(genes: StrArray) -> str:
    """Return the SHA-256 of the gene ids in their order."""
    return hashlib.sha256(canonical_json([str(g) for g in genes])).hexdigest()


def rows_digest(row_ids: StrArray) -> str:
    """Return the SHA-256 of row ids in their order."""
    return hashlib.sha256("\x00".join(row_ids.tolist()).encode()).hexdigest()


def content_sha256(obs: pd.DataFrame, genes: StrArray, metadata: DatasetMetadata, values: Values) -> str:
    """Return the content hash of a data set (64 hex digits).

    Parameters
    ----------
    obs
        Row table, index = row id, columns of `schema.OBS_COLUMNS` and optionally ``weight``.
    genes
        Gene ids [G].
    metadata
        Scale of the source values, and how expression, controls and conditions follow from them: the latter counts where
        it is not as usual (`DatasetMetadata.unusual`).
    values
        The matrices [N, G]. Where there are counts, expression and delta are not hashed.
    """
    matrices: list[Matrix] = [
        X
        for X in ((values.counts,) if values.counts is not None else (values.expression, values.delta))
        if X is not None
    ]
    if values.x_control is not None:
        matrices.append(values.x_control)
    # Explicit little-endian types, so that the hash does not depend on the machine.
    dtype = "<i4" if values.counts is not None else "<f4"
    fields = _field_digests(obs)
    row_ids = [str(r) for r in obs.index]
    digests: list[bytes] = []
    for block, main in matrix_blocks(matrices[0]):
        parts = [_canonical(part, dtype) for part in (main, *(X[block] for X in matrices[1:]))]
        for i in range(block.stop - block.start):
            row = block.start + i
            digest = hashlib.sha256(row_ids[row].encode() + b"\0" + fields[row])
            for indices, data, indptr in parts:
                lo, hi = indptr[i], indptr[i + 1]
                # The number of entries comes first, so that entries of two matrices cannot be confused.
                digest.update(int(hi - lo).to_bytes(8, "little"))
                digest.update(indices[lo:hi].data)
                digest.update(data[lo:hi].data)
            digests.append(digest.digest())
    # Sorted digests make the hash independent of the order of rows.
    digests.sort()
    total = hashlib.sha256(_VERSION + b"\0" + metadata.space.encode() + b"\0" + genes_digest(genes).encode())
    total.update(b"".join(digests))
    derived = metadata.unusual(usual_level(obs, metadata.space in schema.DELTA_SPACES))
    if derived:
        total.update(b"\0" + derived.encode())
    return total.hexdigest()


def _canonical(block: Matrix, dtype: str) -> tuple[Any, Any, Any]:
    # Canonical CSR has no explicit zeros: dense and sparse storage of equal values give equal bytes.
    csr = as_csr(block)
    return csr.indices.astype("<i4", copy=False), csr.data.astype(dtype, copy=False), csr.indptr


def _field_digests(obs: pd.DataFrame) -> list[bytes]:
    """Return the digest of each row's obs fields, computed once per distinct combination of values."""
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
    """Return a seeded hash of each row id (hex text), for random choices that do not depend on row order."""
    key = seed.to_bytes(8, "little")
    return np.asarray(
        [hashlib.blake2b(str(r).encode(), key=key, digest_size=8).hexdigest() for r in row_ids], dtype=np.str_
    )
