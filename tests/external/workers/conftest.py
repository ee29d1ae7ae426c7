"""A function that loads a worker from its file."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.support.workers import FILES, WORKERS


@pytest.fixture(scope="session")
def load():
    """Return a function that imports a module of the workers' folder, as a worker does."""
    sys.path.insert(0, str(WORKERS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(WORKERS))
        for file in FILES:
            sys.modules.pop(file.stem, None)
