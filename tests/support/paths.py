"""Where the repository, its tests and the real files beside it lie."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TESTS = REPO / "tests"
PARITY = TESTS / "parity"
SHARED = REPO.parent / "shared"
