"""The form of the code: documented arguments and errors, small modules, one word per thing, nothing listed by hand."""

from __future__ import annotations

import ast
import re
from statistics import median

import pytest

from tests.support.paths import REPO

CORE = REPO / "perturbfm_core"
FILES = sorted(CORE.rglob("*.py")) + sorted((REPO / "perturbfm_assets").rglob("*.py"))
# Words that stand for something else in this field, or for nothing, and what is said instead.
REFUSED = {
    "likeness": "similarity or kernel",
    # The verb is what people call it; what it registers is side information.
    r"(?<!perturbfm )knowledge(?!\.py)": "side information",
    r"told(?! apart)": "reported, recorded",
    "answers": "predictions",
}
ERRORS = re.compile(r"Error$|^NotApplicable$")


def trees():
    for file in FILES:
        yield file.relative_to(REPO), ast.parse(file.read_text())


def public_functions(tree):
    """Yield (name, node) of public functions and of public methods of public classes, without properties."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                decorators = [ast.unparse(d) for d in getattr(inner, "decorator_list", [])]
                public = isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
                if public and not any(d in ("property", "cached_property", "overload") for d in decorators):
                    yield f"{node.name}.{inner.name}", inner


def arguments(node):
    args = node.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs) if a.arg not in ("self", "cls")]
    return names + [a.arg for a in (args.vararg, args.kwarg) if a is not None]


def is_command(node):
    """Return whether a function is a verb: its arguments are described by their options."""
    return any(
        "typer" in ast.unparse(a.annotation) or "Option" in ast.unparse(a.annotation)
        for a in node.args.args
        if a.annotation
    )


def sections(node):
    return ast.get_docstring(node) or ""


def test_every_module_begins_with_a_sentence_that_says_what_it_is():
    for path, tree in trees():
        first = (ast.get_docstring(tree) or "").split("\n")[0]
        assert first, path
        # A noun phrase: no "What a ... says", no "How ... is done".
        assert not re.match(r"(What|How|Where|Which|Who|Why) ", first), (path, first)


def test_three_arguments_or_more_are_documented_each_by_name():
    lacking = []
    for path, tree in trees():
        for name, node in public_functions(tree):
            wanted = arguments(node)
            if len(wanted) < 3 or is_command(node) or "perturbfm_assets" in str(path):
                continue
            text = sections(node)
            described = text.partition("Parameters\n")[2] + (
                "Parameters are those of" if "Parameters are those of" in text else ""
            )
            if "Parameters are those of" in text:
                continue
            missing = [
                a for a in wanted if not re.search(rf"(?m)^(\*\*|\*)?([\w*]+, )*(\*\*|\*)?{a}\b", described)
            ]
            if missing:
                lacking.append(f"{path}:{node.lineno} {name}: {missing}")
    assert lacking == []


def test_errors_that_a_function_raises_are_documented():
    lacking = []
    for path, tree in trees():
        for name, node in public_functions(tree):
            own = [n for n in ast.walk(node) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
            raised = {ast.unparse(n.exc.func).rpartition(".")[2] for n in own}
            if (
                any(ERRORS.search(r) for r in raised)
                and "Raises" not in sections(node)
                and "raise" not in sections(node)
                and not is_command(node)
            ):
                lacking.append(f"{path}:{node.lineno} {name}: {sorted(raised)}")
    assert lacking == []


def test_modules_are_small():
    lines = {f.relative_to(REPO): len(f.read_text().splitlines()) for f in FILES}
    assert median(lines.values()) <= 120
    for path, n in lines.items():
        assert n <= 400 or "longer than 400 lines because" in (REPO / path).read_text(), (path, n)


def test_the_core_has_few_parts():
    parts = {p.stem for p in CORE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()} - {
        "__init__"
    }
    assert len(parts) <= 22, sorted(parts)


def test_faces_of_packages_define_nothing():
    for path, tree in trees():
        if path.name == "__init__.py" and path.parent.name != "perturbfm_core":
            assert all(isinstance(n, ast.Expr) for n in tree.body), path


@pytest.mark.parametrize("word", REFUSED)
def test_one_word_stands_for_one_thing(word):
    found = []
    for file in FILES:
        for i, line in enumerate(file.read_text().splitlines(), 1):
            if re.search(rf"(?i)(?<![a-z\"'.]){word}(?![a-z])", line):
                found.append(f"{file.relative_to(REPO)}:{i}: {line.strip()[:90]}")
    assert found == [], f"say {REFUSED[word]}"
