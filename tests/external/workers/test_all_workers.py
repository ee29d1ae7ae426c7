"""What all workers of external models share: requests, rows drawn, output, failures in one line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.external.raw import read_raw
from tests.support.workers import FILES, REQUEST, WORKERS


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_worker_is_python_3_8_and_imports_no_part_of_this_package(file):
    tree = ast.parse(file.read_text(), feature_version=(3, 8))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not any(n.startswith("perturbfm") for n in names)
    if file.stem == "common":
        top = {n.partition(".")[0] for n in names}
        assert top <= sys.stdlib_module_names | {"numpy", "__future__"}


def test_labels_hold_no_sign_that_a_model_reads(load):
    labels = load("common").Labels(REQUEST)
    assert labels.parts("A") == ["G0"]
    assert labels.parts("B+x+A") == ["G0", "G1"]
    assert labels.parts("C_1") == ["G2"]
    # A perturbation that is no measured gene; the same in either order.
    assert labels.parts("drug one") == ["G3"]
    assert labels.parts("Y+X") == labels.parts("X+Y") == ["G4", "G5"]


def test_parameters_that_a_model_does_not_have_are_refused(load):
    common = load("common")
    assert common.options({"params": {"a": 2}}, a=1, b=3) == {"a": 2, "b": 3}
    assert common.options({}, a=1) == {"a": 1}
    with pytest.raises(common.WorkerError, match="unknown parameter 'epoch'; there are epochs, lr"):
        common.options({"params": {"epoch": 2}}, epochs=1, lr=3)


@pytest.mark.parametrize("limit", [0, 3, 5, 9])
def test_rows_are_drawn_with_a_seed_and_without_repeats(load, limit):
    drawn = load("common").drawn
    rows = np.array([2, 4, 6, 8, 10])
    found = drawn(rows, limit, 7)
    assert len(found) == (min(limit, 5) or 5)
    assert (np.diff(found) > 0).all()
    assert set(found) <= set(rows)
    np.testing.assert_array_equal(found, drawn(rows, limit, 7))


def test_the_output_is_what_the_host_reads(load, tmp_path):
    output = load("common").Output(tmp_path, ["A", "B"])
    output.add("k1", [1.0, 2.0], control=[0.5, 2.0], n_cells=3)
    output.add("k2", [1.5, 2.5], control=[0.5, 2.0], n_cells=4)
    output.skipped.append({"condition": "k3", "why": "reason"})
    output.write(level="cell", packages=("numpy", "not-there"))
    raw = read_raw(tmp_path)
    np.testing.assert_allclose(raw.mean, [[1, 2], [1.5, 2.5]])
    np.testing.assert_allclose(raw.control, [[0.5, 2], [0.5, 2]])
    assert (list(raw.key), list(raw.genes), list(raw.n_cells)) == (["k1", "k2"], ["A", "B"], [3, 4])
    assert {k: raw.meta[k] for k in ("kind", "space", "level", "control")} == {
        "kind": "expression",
        "space": "log1p",
        "level": "cell",
        "control": "own",
    }
    assert raw.meta["versions"]["numpy"] == np.__version__
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw.json", "raw.npz"]


def test_an_output_without_the_models_control_says_so(load, tmp_path):
    output = load("common").Output(tmp_path, ["A"])
    output.add("k1", [1.0])
    output.write(level="mean", packages=())
    raw = read_raw(tmp_path)
    assert (raw.control, raw.n_cells, raw.meta["control"]) == (None, None, "real")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(load, tmp_path, bad):
    output = load("common").Output(tmp_path, ["A", "B"])
    output.add("k1", [1.0, 2.0])
    output.add("k2", [1.0, bad])
    with pytest.raises(load("common").WorkerError, match="not finite for 1 conditions, such as k2"):
        output.write(level="mean", packages=())
    assert list(tmp_path.iterdir()) == []


def test_an_output_without_a_condition_says_why(load, tmp_path):
    output = load("common").Output(tmp_path, ["A"])
    output.skipped += [{"condition": "k", "why": "reason one"}, {"condition": "l", "why": "reason two"}]
    with pytest.raises(
        load("common").WorkerError, match="no condition can be predicted: reason one; reason two"
    ):
        output.write(level="mean", packages=())


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise WorkerError('one\\n line')", "one line"),
        ("{}['x']", "KeyError: 'x'"),
        ("raise MemoryError", "MemoryError:"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_failure_leaves_one_line(tmp_path, body, line):
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"import sys; sys.path.insert(0, {str(WORKERS)!r})\nfrom common import WorkerError, run\n"
        f"def work(view, out, request):\n    {body}\nrun(work)\n"
    )
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    done = subprocess.run(
        [sys.executable, worker, tmp_path, tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert json.loads((tmp_path / "out/error.json").read_text()) == {"error": line}


def test_a_request_of_another_format_is_refused(tmp_path):
    (tmp_path / "request.json").write_text(json.dumps({**REQUEST, "format": 2}))
    code = f"import sys; sys.path.insert(0, {str(WORKERS)!r}); from common import run; run(print)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path, tmp_path / "out"], capture_output=True)
    assert done.returncode == 1
    assert "format 2; this worker reads 1" in (tmp_path / "out/error.json").read_text()


def test_the_folder_of_a_models_files_is_removed(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = load("common").work_folder(tmp_path)
    place = folder.__enter__()
    assert Path.cwd() == place
    (place / "file").write_text("x")
    # An error of the model passes through.
    assert not folder.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert Path.cwd() == tmp_path
    assert list(tmp_path.iterdir()) == []
