"""A data set as another program would write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.foreign_artifact import GENES, OBS


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an artifact as another program would: the least that is allowed."""

    def write(
        arrays: dict[str, Any], *, obs: Any = None, metadata: Any = None, genes: Any = None, **changed: Any
    ) -> Path:
        path = tmp_path / "foreign"
        path.mkdir()
        meta = {
            "schema_version": 1,
            "obs": OBS if obs is None else obs,
            "var": GENES if genes is None else genes,
            "metadata": {} if metadata is None else metadata,
            **changed,
        }
        kept = {k: v for k, v in meta.items() if v != "absent"}
        (path / "meta.json").write_text(json.dumps(kept))
        np.savez(path / "data.npz", **arrays)
        return path

    return write
