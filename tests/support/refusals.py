"""A refused command: one line on standard error, exit code 2, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from tests.support.command import attempt


def snapshot(root: Path) -> dict[str, str]:
    """Return every file, link and folder below `root` with what it holds."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def refuse(argv: list[object], message: str, root: Path) -> None:
    """Run a command that must fail as documented, with `message` (a regular expression) in its one line."""
    before = snapshot(root)
    answer = attempt(*argv)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.endswith("\n")
    assert "Traceback" not in answer.err
    assert re.search(message, answer.err), answer.err
    after = snapshot(root)
    assert {k: v for k, v in after.items() if before.get(k) != v} == {}
    assert set(before) - set(after) == set()
