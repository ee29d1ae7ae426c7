"""The folders that variables of the environment name."""

from __future__ import annotations

import os

FOLDERS = ("PERTURBFM_HOME", "PERTURBFM_SPLIT_DIR", "PERTURBFM_CATALOG", "PERTURBFM_PLUGINS")
# What lies there is read if it is there: of a folder that is not, nobody would notice.
_READ = ("PERTURBFM_CATALOG", "PERTURBFM_PLUGINS")


def missing_folders() -> list[str]:
    """Return what is wrong with the folders that are only read, each in one line."""
    named = [(name, os.environ.get(name, "")) for name in _READ]
    return [
        f"{name} names {path}, which is not there, so nothing of it counts; make the folder or correct the variable"
        for name, path in named
        if path and not os.path.isdir(path)
    ]
