"""Digests of the code that decides a result, found by following the imports of the files that make it.

What a stage reaches by imports, lazy ones too, decides its numbers; nothing else does. Digests are over syntax trees,
so comments, docstrings and formatting change nothing, and a changed constant in any reached module does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from perturbfm_core.errors import StoreError

CORE = "perturbfm_core"
# Import name and distribution of the libraries whose versions can change the last digits of a number.
NUMERIC_LIBRARIES = {"numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn", "torch": "torch"}


@dataclass(frozen=True)
class _Source:
    """One parsed module: digest of its syntax tree and the dotted names that it imports."""

    digest: str
    imports: frozenset[str]


@dataclass(frozen=True)
class Code:
    """The code behind a result.

    Attributes
    ----------
    modules
        {dotted name: digest of its syntax tree} of every module reached.
    libraries
        {distribution: "major.minor"} of the numeric libraries that these modules import.
    """

    modules: Mapping[str, str]
    libraries: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Return one digest over modules and libraries (64 hex digits)."""
        lines = [*sorted(self.modules.items()), *sorted(self.libraries.items())]
        return hashlib.sha256("\n".join(f"{name} {value}" for name, value in lines).encode()).hexdigest()


def code_of(*modules: str, roots: Mapping[str, Path] | None = None) -> Code:
    """Return the code that some modules reach by imports within their own packages and the core.

    Parameters
    ----------
    modules
        Dotted names where the search starts.
    roots
        {top-level package: its directory}, to read a copy instead of the installed package.

    Raises
    ------
    StoreError
        If a module where the search starts has no source file.
    """
    return _code_of(tuple(sorted(set(modules))), tuple(sorted((roots or {}).items())))


@lru_cache(maxsize=256)
def _code_of(modules: tuple[str, ...], roots: tuple[tuple[str, Path], ...]) -> Code:
    followed = {CORE, *(name.partition(".")[0] for name in modules)}
    found: dict[str, str] = {}
    outside: set[str] = set()
    queue = []
    for name in modules:
        if _file_of(name, roots) is None:
            msg = f"module {name} has no source file, so results made with it cannot be distinguished from others"
            raise StoreError(msg)
        queue.append(name)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        file = _file_of(name, roots)
        if file is None:
            continue
        source = _read(file, name, file.stat().st_mtime_ns)
        found[name] = source.digest
        for target in source.imports:
            top = target.partition(".")[0]
            if top in followed:
                # Importing a module runs the packages it lies in.
                queue += [target, *_parents(target)]
            else:
                outside.add(top)
        queue += _parents(name)
    versions = {
        distribution: version
        for library, distribution in NUMERIC_LIBRARIES.items()
        if library in outside and (version := _version(distribution))
    }
    return Code(dict(sorted(found.items())), versions)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


@lru_cache(maxsize=8)
def _version(distribution: str) -> str | None:
    """Return "major.minor" of an installed distribution, None if it is not installed."""
    try:
        return ".".join(metadata.version(distribution).split(".")[:2])
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=8192)
def _file_of(name: str, roots: tuple[tuple[str, Path], ...]) -> Path | None:
    """Return the source file of a module or package, None if there is none of that name."""
    top, *rest = name.split(".")
    folder = dict(roots).get(top) or _folder_of(top)
    if folder is None:
        return None
    if folder.is_file():
        return folder if not rest else None
    place = folder.joinpath(*rest)
    for file in (place / "__init__.py", place.with_suffix(".py") if rest else None):
        if file is not None and file.is_file():
            return file
    return None


@lru_cache(maxsize=64)
def _folder_of(top: str) -> Path | None:
    """Return the directory of a top-level package, or the file of a top-level module, without importing it."""
    loaded = sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None)
    if spec is None:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and Path(spec.origin).suffix == ".py" else None


@lru_cache(maxsize=1024)
def _read(file: Path, name: str, _stamp: int) -> _Source:
    tree = ast.parse(file.read_bytes())
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports = frozenset(_imports(tree.body, package))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return _Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports)


def _is_text(statement: ast.stmt) -> bool:
    """Return whether a statement is a bare string: a docstring, which decides nothing."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Yield what some nodes import at run time; imports for type checkers are left out."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _imports(node.orelse, package)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            # A name may be a module of the package: what is not is simply not found.
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(ast.iter_child_nodes(node), package)
