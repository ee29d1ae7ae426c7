"""Reading of npz files: plain arrays only, any damage reported in one line."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.errors import DatasetError


def read_npz(path: Path, error: type[Exception] = DatasetError) -> dict[str, Any]:
    """Read all arrays of an npz file; pickled objects are never loaded.

    Raises
    ------
    error
        With a message of one line, if the file is missing, damaged or holds pickled objects.
    """
    try:
        # Opened here: numpy leaves the file open if it is a damaged zip.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        msg = f"{path} does not exist"
        raise error(msg) from None
    except ValueError as exc:
        if "pickle" in str(exc).lower() and zipfile.is_zipfile(path):
            msg = f"{path} holds pickled objects, which are never loaded; save plain arrays"
        elif not zipfile.is_zipfile(path):
            msg = f"{path} is damaged or not an npz file; make it again"
        else:
            msg = f"{path} is not a readable npz file ({exc}); make it again"
        raise error(msg) from exc
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        OSError,
        EOFError,
        KeyError,
        RuntimeError,  # zipfile's for flags of encryption, and NotImplementedError for unknown compression
        SyntaxError,
    ) as exc:
        msg = f"{path} is damaged or not an npz file ({exc}); make it again"
        raise error(msg) from exc
