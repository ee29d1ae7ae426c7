"""Digests of the code that decides a result, found by following the imports of the files that make it.

What a stage reaches by imports, lazy ones too, decides its numbers; nothing else does. Digests are over syntax trees,
so comments, docstrings and formatting change nothing, and a changed constant in any reached module does. Plug-ins and
the local modules that they import count as they were executed, or as they are while they are not imported yet; the
installed packages that they import, by version.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from perturbfm_core.errors import StoreError
from perturbfm_core.registry.members import defined_in
from perturbfm_core.registry.sources import (
    PLUGIN_PACKAGE,
    executed_source,
    is_local,
    source_of,
    sources_seen,
)

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
        {distribution: "major.minor"} of the numeric libraries that these modules import, and {distribution: version}
        of the other installed packages that modules outside the core import.
    """

    modules: Mapping[str, str]
    libraries: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Return one digest over modules and libraries (64 hex digits)."""
        lines = [*sorted(self.modules.items()), *sorted(self.libraries.items())]
        return hashlib.sha256("\n".join(f"{name} {value}" for name, value in lines).encode()).hexdigest()


def code_of(*modules: str, roots: Mapping[str, Path] | None = None) -> Code:
    """Return the code that some modules reach by imports.

    The search stays within the core and the packages where it starts; from modules outside the core it goes on into
    every module that is neither Python's own nor installed, plug-ins among them.

    Parameters
    ----------
    modules
        Dotted names where the search starts.
    roots
        {top-level package: its directory}, to read a copy instead of the installed package.

    Raises
    ------
    StoreError
        If a module where the search starts has no source file, or a local module was changed since it was imported.
    """
    key = tuple(sorted(set(modules))), tuple(sorted((roots or {}).items())), sources_seen()
    code, files = _code_of(*key)
    if any(_stamp(file) != stamp for file, stamp in files):
        # What is imported later is executed as it is then.
        _code_of.cache_clear()
        code, _ = _code_of(*key)
    return code


@lru_cache(maxsize=256)
def _code_of(
    modules: tuple[str, ...], roots: tuple[tuple[str, Path], ...], _seen: int
) -> tuple[Code, tuple[tuple[Path, int], ...]]:
    """Return the code that some modules reach, with the files outside the core that are not imported yet and their times."""
    files: dict[Path, int] = {}
    followed = {CORE, *(name.partition(".")[0] for name in modules)}
    found: dict[str, str] = {}
    outside: set[str] = set()
    versions: dict[str, str] = {}
    for name in modules:
        if _source_of(name, roots) is None:
            raise StoreError(_without_source(name))
    queue = [*modules]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        source = _source_of(name, roots)
        if source is None:
            continue
        found[name] = source.digest
        own = name.partition(".")[0] != CORE
        if own and name not in sys.modules and (file := _file_of(name, roots)) is not None:
            files[file] = _stamp(file)
        for target in source.imports:
            top = target.partition(".")[0]
            if top in followed or (own and _is_local(top)):
                # Importing a module runs the packages it lies in.
                queue += [target, *_parents(target)]
            elif top in NUMERIC_LIBRARIES:
                outside.add(top)
            elif own:
                versions |= _package_versions(top)
        queue += _parents(name)
    versions |= {
        distribution: version
        for library, distribution in NUMERIC_LIBRARIES.items()
        if library in outside and (version := _version(distribution))
    }
    return Code(dict(sorted(found.items())), versions), tuple(files.items())


def _without_source(module: str) -> str:
    """Return why results made with a module that has no source file are refused, and what to do."""
    why = "so results made with it cannot be distinguished from others"
    members = defined_in(module)
    if not members:
        return f"module {module} has no source file, {why}"
    (what, name), *more = members
    named = f"{what} {name!r}" + (f" (and {len(more)} more)" if more else "")
    lack = "a notebook or script" if module == "__main__" else "which has no source file"
    file = re.sub(r"\W", "_", name.rpartition(".")[2])
    return f"{named} is defined in {module}, {lack}, {why}; move it to .perturbfm/plugins/{file}.py and restart Python"


def _source_of(name: str, roots: tuple[tuple[str, Path], ...]) -> _Source | None:
    """Return a parsed module as it was executed, or as its file is if it is not imported yet; None without a file.

    Raises
    ------
    StoreError
        If it was changed since it was imported, and what was executed is not known.
    """
    top = name.partition(".")[0]
    given = top in dict(roots)
    executed = None if given else source_of(name)
    file = None if executed is not None else _file_of(name, roots)
    if file is not None and not given and top != CORE and name in sys.modules and is_local(file):
        executed = executed_source(name, file)
        if executed is None:
            msg = f"module {name} was changed after this process imported it, so it is not known which version runs; restart Python"
            raise StoreError(msg)
    if executed is not None:
        return _parse(executed.content, _package(executed.file, name))
    return None if file is None else _read(file, name, _stamp(file))


def _stamp(file: Path) -> int:
    """Return when a file was last changed, 0 where it is gone."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=256)
def _is_local(top: str) -> bool:
    """Return whether a top-level module is neither Python's own nor of an installed package."""
    if top in sys.stdlib_module_names or top in NUMERIC_LIBRARIES or not top:
        return False
    if top.startswith(f"{PLUGIN_PACKAGE}_"):
        return True
    folder = _folder_of(top)
    if folder is None or not is_local(folder):
        return False
    # Installed elsewhere than in site-packages, as with `pip install --target`; an editable install lies at its source.
    return not any(
        dist.read_text("RECORD") is not None
        and Path(str(dist.locate_file(folder.name))).absolute() == folder.absolute()
        for dist in _distributions(top)
    )


@lru_cache(maxsize=256)
def _distributions(top: str) -> tuple[metadata.Distribution, ...]:
    """Return the distributions that have a top-level module."""
    try:
        return (metadata.distribution(top),)
    except (metadata.PackageNotFoundError, ValueError):
        return tuple(metadata.distribution(name) for name in sorted(set(_providers().get(top, ()))))


@lru_cache(maxsize=1)
def _providers() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@lru_cache(maxsize=256)
def _package_versions(top: str) -> dict[str, str]:
    """Return {distribution: version} of an installed top-level module; empty for one of Python's own."""
    if not top or top in sys.stdlib_module_names:
        return {}
    return {dist.metadata["Name"]: dist.version for dist in _distributions(top)}


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
    return _parse(file.read_bytes(), _package(file, name))


def _package(file: Path, name: str) -> str:
    """Return the package that a module's relative imports start from."""
    return name if file.name == "__init__.py" else name.rpartition(".")[0]


@lru_cache(maxsize=256)
def _parse(content: bytes, package: str) -> _Source:
    tree = ast.parse(content)
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
            if isinstance(node, ast.Call) and package.partition(".")[0] != CORE:
                yield from _imported_by_call(node)
            yield from _imports(ast.iter_child_nodes(node), package)


def _imported_by_call(call: ast.Call) -> Iterator[str]:
    """Yield the module that ``import_module`` or ``__import__`` is given as text."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    given = call.args[0] if call.args else None
    if (
        name in ("import_module", "__import__")
        and isinstance(given, ast.Constant)
        and isinstance(given.value, str)
    ):
        yield given.value
