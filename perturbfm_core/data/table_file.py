"""Condition tables as files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.controls import ROLES
from perturbfm_core.data.npz import publish_npz, read_npz
from perturbfm_core.data.table import ConditionTable
from perturbfm_core.errors import DatasetError

_BY_ROLE = ("delta", "control", "s2_control")


def _arrays(table: ConditionTable) -> dict[str, Any]:
    out: dict[str, Any] = {
        "key": table.conditions.index.to_numpy().astype(np.str_),
        **{f"condition_{c}": table.conditions[c].astype(str).to_numpy(np.str_) for c in table.conditions},
        "n": table.n,
        "s2_pert": table.s2_pert,
        "shared_control": table.shared_control,
        "s2_source": np.asarray([table.s2_source], dtype=np.str_),
        "fallback_rows": np.asarray([table.fallback_rows], dtype=np.int64),
    }
    for name in _BY_ROLE:
        out |= {f"{name}_{role}": X for role, X in getattr(table, name).items()}
    return out


def table_digest(table: ConditionTable) -> str:
    """Return the SHA-256 of all parts of a table, to the last bit."""
    digest = hashlib.sha256()
    for name, array in sorted(_arrays(table).items()):
        content = np.ascontiguousarray(array)
        digest.update(f"{name} {content.dtype.str} {content.shape}\0".encode())
        digest.update(content.view(np.uint8).data if content.size else b"")
    return digest.hexdigest()


def write_table(path: Path, table: ConditionTable, genes: Any, content_sha256: str) -> None:
    """Write a condition table atomically, as npz.

    Parameters
    ----------
    path
        The file.
    table
        The table.
    genes
        Gene ids [G].
    content_sha256
        Content hash of the data that it is of.
    """
    arrays = {
        **_arrays(table),
        "genes": np.asarray(genes, dtype=np.str_),
        "content_sha256": np.asarray([content_sha256], dtype=np.str_),
    }
    publish_npz(path, arrays)


def read_table(path: Path) -> ConditionTable:
    """Read a condition table that `write_table` wrote.

    Raises
    ------
    DatasetError
        If the file is damaged, or holds none.
    """
    arrays = read_npz(path)
    wanted = {"key", "n", "s2_pert", "shared_control", "s2_source", "fallback_rows", "delta_input"}
    if missing := wanted - set(arrays):
        msg = f"{path} holds no condition table ({', '.join(sorted(missing))} not found); make it with `perturbfm data table`"
        raise DatasetError(msg)
    columns = {
        k.removeprefix("condition_"): v.astype(object)
        for k, v in arrays.items()
        if k.startswith("condition_")
    }
    by_role = {
        name: {role: arrays[f"{name}_{role}"] for role in ROLES if f"{name}_{role}" in arrays}
        for name in _BY_ROLE
    }
    return ConditionTable(
        conditions=pd.DataFrame(columns, index=pd.Index(arrays["key"].astype(object))),
        n=arrays["n"],
        delta=by_role["delta"],
        control=by_role["control"],
        s2_pert=arrays["s2_pert"],
        s2_control=by_role["s2_control"],
        s2_source=str(arrays["s2_source"][0]),  # type: ignore[arg-type]
        shared_control=arrays["shared_control"],
        fallback_rows=int(arrays["fallback_rows"][0]),
    )
