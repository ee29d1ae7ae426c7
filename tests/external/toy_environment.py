"""An environment of one small package, from a folder of wheels."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from perturbfm_core.external.known_environments import KnownEnvironment

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def toy(**changes) -> KnownEnvironment:
    """Return what the environment needs."""
    fields = {
        "name": "toy",
        "package": "toy-model",
        "python": PYTHON,
        "size": 10_000,
        "licence": "MIT",
        "licence_source": "made for a test",
        "non_commercial": False,
        "big": False,
        "modules": ("toy_model",),
    }
    return KnownEnvironment(**{**fields, **changes})


def write_wheel(folder: Path, name: str = "toy_model", version: str = "1.0", requires: str = "") -> Path:
    """Write a wheel of one module that names its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{n},,\n" for n in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def write_program(path: Path, text: str) -> Path:
    """Write a program that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
