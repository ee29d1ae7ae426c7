"""Workers of external models: what all share, what each refuses, and short trainings in their own environments.

The trainings run where ``perturbfm external env create`` has built the environments, below ``PERTURBFM_ENVS`` or
~/.cache/perturbfm/envs.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import ExternalError
from perturbfm_core.external.environments import BUILDING, building_lock, env_of, state_of
from perturbfm_core.external.export import write_view
from perturbfm_core.external.raw import read_raw
from perturbfm_core.external.request import request_of
from perturbfm_core.external.runner import WorkerCall, run_worker
from perturbfm_core.splits.draft import SplitSpec
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.locks import file_lock
from tests.support.paths import REPO

WORKERS = REPO / "perturbfm_core/external/workers"
FILES = sorted(WORKERS.glob("*.py"))
# Whether the models themselves are trained, in environments of 5 GB that are built where they are absent.
TRAINED = os.environ.get("PERTURBFM_EXTERNAL") == "1"
NOT_TRAINED = "PERTURBFM_EXTERNAL=1 is not set, with which the models themselves are trained"
ENVS = os.environ.get("PERTURBFM_ENVS") or str(Path.home() / ".cache/perturbfm/envs")


@pytest.fixture(scope="module")
def load():
    """Return a function that imports a module of the workers' folder, as a worker does."""
    sys.path.insert(0, str(WORKERS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(WORKERS))
        for file in FILES:
            sys.modules.pop(file.stem, None)


REQUEST = {
    "format": 1,
    "seed": 1,
    "params": {},
    "genes": ["A", "B+x", "C_1"],
    "perturbation_genes": {"A": ["A"], "B+x+A": ["B+x", "A"]},
    "conditions": [{"key": "k", "pert_id": "C_1", "genes": ["C_1"], "context_id": "c"}],
}


# ---- what all share ----------------------------------------------------------------------------------------------


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


# ---- what is each one's own --------------------------------------------------------------------------------------


def test_the_graph_of_gears_is_the_overlap_of_terms(load):
    gears, labels = load("gears_worker"), load("common").Labels(REQUEST)
    terms = {"A": {"t1", "t2"}, "B+x": {"t2", "t3", "t4"}, "C_1": {"t9"}}
    edges = gears._term_edges(["G0", "G1", "G2"], terms, labels)
    found = {(s, t): w for s, t, w in edges.itertuples(index=False)}
    assert found == pytest.approx(
        {("G0", "G0"): 1, ("G1", "G1"): 1, ("G2", "G2"): 1, ("G0", "G1"): 0.25, ("G1", "G0"): 0.25}
    )


def test_the_graph_of_gears_by_correlation_joins_genes_that_go_together(load, rng):
    gears = load("gears_worker")
    base = rng.normal(size=(200, 2))
    C = np.repeat(base, 20, axis=1) + 0.1 * rng.normal(size=(200, 40))
    C[:, 39] = 1.0
    genes = [f"G{i}" for i in range(40)]
    edges = gears._correlated_edges(sp.csr_matrix(C), genes, sorted([*genes, "G99"]))
    group = lambda g: int(g[1:]) // 20 if g not in ("G39", "G99") else g  # noqa: E731
    across = [
        (s, t)
        for s, t in zip(edges.source, edges.target, strict=True)
        if group(s) != group(t) and "G39" not in (s, t)
    ]
    assert across == []
    assert edges[edges.source == "G99"].target.tolist() == ["G99"]
    assert edges.importance.between(0.1, 1, inclusive="right").all()


@pytest.mark.parametrize(
    ("held", "expected"),
    [(["p1"], ["p1"]), ([], 1), (["p1", "p2", "p3", "p4"], 1), (["other"], 1)],
)
def test_gears_always_has_something_to_validate_on(load, held, expected):
    perts = np.array(["p1", "p2", "p3", "p4", "control", "other"])
    folds = np.where(np.isin(perts, held), "val", "train")
    found = load("gears_worker")._validation(
        folds, perts, perts == "control", ["p1", "p2", "p3", "p4"], REQUEST
    )
    assert found == expected if isinstance(expected, list) else len(found) == expected
    assert set(found) <= {"p1", "p2", "p3", "p4"}


def frames(perts, contexts, folds):
    obs = pd.DataFrame({"pert_id": perts, "context_id": contexts, "fold": folds, "batch_id": "b"})
    obs["is_control"] = obs["pert_id"] == "control"
    return anndata.AnnData(X=np.zeros((len(obs), 3)), obs=obs.set_index(obs.index.astype(str)))


ASKED = {
    **REQUEST,
    "conditions": [
        {"key": key, "pert_id": pert, "genes": pert.split("+"), "context_id": context}
        for key, pert, context in (
            ("seen", "A", "c2"),
            ("val only", "V", "c1"),
            ("never", "N", "c1"),
            ("combo of seen", "A+B", "c1"),
            ("three", "A+B+D", "c1"),
            ("new context", "A", "c3"),
            ("no cells", "A", "c4"),
        )
    ],
}


def asked(*conditions):
    return {
        **REQUEST,
        "conditions": [
            {"key": f"{p}|{c}", "pert_id": p, "genes": [p], "context_id": c, "role": role}
            for p, c, role in conditions
        ],
    }


@pytest.mark.parametrize(
    ("conditions", "held"),
    [
        # Nothing of the validation is needed.
        ([("A", "c3", "test")], {("V", "c1"), ("W", "c1"), ("W", "c2")}),
        ([("V", "c3", "validation")], {("V", "c1"), ("W", "c1"), ("W", "c2")}),
        # One context of it is enough.
        ([("W", "c3", "test")], {("V", "c1"), ("W", "c2")}),
        ([("W", "c3", "calibration"), ("V", "c3", "test")], {("W", "c2")}),
        # What nobody can know is no reason to give up validation.
        ([("N", "c3", "test")], {("V", "c1"), ("W", "c1"), ("W", "c2")}),
    ],
)
def test_validation_gives_way_to_what_test_conditions_need(load, conditions, held):
    rows = [
        ("A", "c1", "train"),
        ("V", "c1", "val"),
        ("W", "c1", "val"),
        ("W", "c2", "val"),
        ("control", "c1", "val"),
    ]
    obs = frames(*zip(*rows, strict=True)).obs
    request = asked(*conditions, ("W", "c1", "validation"))
    found = load("common").Held(request, obs, lambda pert, _: {pert})
    assert {(p, c) for (p, c, _), out in zip(rows, found.rows, strict=True) if out} == held
    assert ("W" in found.seen) == (("W", "c1") not in held)
    why = found.why(request["conditions"][-1])
    assert (why is None) == (("W", "c1") in held)
    assert all(found.why(c) is None for c in request["conditions"] if c["role"] != "validation")


def test_a_validation_condition_that_is_trained_on_elsewhere_stays_held(load):
    obs = frames(["A", "A"], ["c1", "c2"], ["train", "val"]).obs
    assert load("common").Held(asked(("A", "c3", "test")), obs, lambda pert, _: {pert}).rows.tolist() == [
        False,
        True,
    ]


def test_state_is_not_asked_what_it_would_take_for_control(load):
    table = frames(["A", "control", "V", "B"], ["c1", "c1", "c1", "c1"], ["train", "train", "val", "train"])
    controls = frames(["control"] * 3, ["c1", "c2", "c3"], ["train"] * 3)
    state, output = load("state_worker"), load("common").Output(Path(), ["A"])
    names = state.Names(ASKED, table, controls)
    held = load("common").Held(ASKED, table.obs, lambda pert, _: {names.pert(pert)})
    todo = state._askable(ASKED, controls, names, held, output)
    assert [c["key"] for c in todo] == ["seen", "val only", "new context"]
    why = {s["condition"]: s["why"] for s in output.skipped}
    assert set(why) == {"never", "combo of seen", "three", "no cells"}
    assert "not seen in training" in why["combo of seen"]
    assert "control cells" in why["no cells"]


def test_cpa_is_asked_combinations_of_seen_genes_in_seen_contexts(load):
    controls = frames(["control"] * 3, ["c1", "c2", "c3"], ["train"] * 3)
    cpa, common = load("cpa_worker"), load("common")
    labels, output = common.Labels(ASKED), common.Output(Path(), ["A"])
    table = frames(["A", "B", "D", "control"], ["c1"] * 4, ["train"] * 4)
    held = common.Held(ASKED, table.obs, lambda pert, _: set(labels.parts(pert)))
    todo = cpa._askable(ASKED, labels, held, {"c1", "c2", "c4"}, 2, controls, output)
    assert [c["key"] for c in todo] == ["seen", "combo of seen"]
    why = {s["condition"]: s["why"] for s in output.skipped}
    assert "context is not seen" in why["new context"]
    assert "so many genes" in why["three"]
    assert "gene of the perturbation is not seen" in why["never"]
    assert "control cells" in why["no cells"]


def test_what_a_program_prints_is_cut_at_every_end_of_line(load):
    code = r"import sys; sys.stdout.buffer.write(b'one\rtwo 1/2 \r\n\n three\xff\nrest'); sys.stdout.flush()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert list(load("state_worker")._pieces(child.stdout)) == ["one", "two 1/2", "three\ufffd", "rest"]


# ---- short trainings ---------------------------------------------------------------------------------------------

SMALL_STATE = {
    "steps": 4,
    "batch_size": 4,
    "cell_set_len": 8,
    "hidden_dim": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_cells": 16,
}
CASES = {
    "gears": ({"kind": "perturbation_ood", "folds": 3}, {"epochs": 1, "hidden_size": 16}),
    "scgen": (
        {"kind": "context_ood", "params": {"holdout": ["C1"]}},
        {"epochs": 2, "n_hidden": 32, "n_latent": 8},
    ),
    "state": ({"kind": "context_ood", "params": {"holdout": ["C1"]}}, SMALL_STATE),
    "cpa": ({"kind": "combo_ood", "folds": 2}, {"epochs": 2, "n_hidden": 32, "n_latent": 8, "max_cells": 50}),
}


@pytest.fixture(scope="module")
def screen():
    return simulate(
        SimulationConfig(n_obs=500, n_genes=40, n_contexts=2, n_perts=6, n_combos=3, n_batches=2)
    )[0]


@pytest.fixture
def interpreter(monkeypatch):
    """Return a function that gives the interpreter of a model, or skips."""
    monkeypatch.setenv("PERTURBFM_ENVS", ENVS)

    def find(name):
        if not TRAINED:
            pytest.skip(NOT_TRAINED)
        store = ArtifactStore()
        if state_of(name, store).state == BUILDING:
            # Another test builds it: whoever has waited for its lock finds it built.
            with file_lock(building_lock(name, store), what=f"the environment of {name}"):
                pass
        try:
            return env_of(name, store)
        except ExternalError as error:
            pytest.skip(f"{error} (PERTURBFM_ENVS={ENVS})")

    return find


# Trains one weight for some steps, validated every 5, as STATE's program keeps its states; prints the step of each.
TRAINING = """
import sys
from pathlib import Path
folder, steps, workers = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, workers)
import lightning.pytorch as pl, state_worker, torch
from lightning.pytorch.callbacks import ModelCheckpoint

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Linear(1, 1)
    def training_step(self, batch, i):
        return self.weight(batch).sum()
    def validation_step(self, batch, i):
        self.log("val_loss", {10: 1.0, 20: 2.0, 30: 0.5}.get(self.global_step, 5.0))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)

state_worker.watch(None, str(folder / "validations.txt"))
states = ModelCheckpoint(
    dirpath=str(folder / "c"), filename="best", save_last=True, monitor="val_loss", save_top_k=1, every_n_train_steps=5
)
cells = torch.utils.data.DataLoader(torch.ones(1000, 1))
trainer = pl.Trainer(
    max_steps=steps, callbacks=[states], logger=False, enable_progress_bar=False, enable_model_summary=False,
    check_val_every_n_epoch=None, val_check_interval=5, limit_val_batches=1, accelerator="cpu",
)
last = folder / "c/last.ckpt"
trainer.fit(Model(), cells, cells, ckpt_path=str(last) if last.exists() else None)
found = {p.stem: torch.load(p, weights_only=True)["global_step"] for p in (folder / "c").iterdir()}
print("states", *(f"{name}:{step}" for name, step in sorted(found.items())))
"""


@pytest.mark.slow
def test_the_best_state_is_known_after_a_move(interpreter, tmp_path):
    """Lightning forgets it, writes others beside it, and STATE would have inferred with the one before the move."""
    python, script = interpreter("state"), tmp_path / "training.py"
    script.write_text(TRAINING)

    def train(folder, steps):
        line = [str(python), str(script), str(tmp_path / folder), str(steps), str(WORKERS)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    (tmp_path / "first").mkdir()
    # The state of the best validation is written five steps later, before the next one.
    assert train("first", 15) == "states best:15 last:15"
    (tmp_path / "first").rename(tmp_path / "moved")
    # 20 is worse than 10; it would have been the best since the move.
    assert train("moved", 25) == "states best:15 last:25"
    assert train("moved", 35) in ("states best:30 last:35", "states best:35 last:35")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_short_training_predicts_what_is_asked(screen, interpreter, tmp_path, name):
    python = interpreter(name)
    spec, params = CASES[name]
    split = freeze(screen, SplitSpec(**spec))[0]
    view = train_view(screen, split)
    asked = request_of(screen, split, view)
    (tmp_path / "view").mkdir()
    write_view(tmp_path / "view", screen, split, view, asked)
    path = tmp_path / "view/request.json"
    request = {**json.loads(path.read_text()), "model": name, "params": params, "seed": 3}
    # One that no model can know.
    request["conditions"].append(
        {**request["conditions"][0], "key": "unknown", "pert_id": "ZZZ", "genes": ["ZZZ"]}
    )
    path.write_text(json.dumps(request))
    lines: list[str] = []
    call = WorkerCall(
        name, python, WORKERS / f"{name}_worker.py", tmp_path / "view", tmp_path / "work", timeout=600
    )
    raw = read_raw(run_worker(call, lines.append))
    keys = {c["key"] for c in request["conditions"]}
    absent = {s["condition"] for s in raw.meta["skipped"]}
    assert "unknown" in absent
    assert set(map(str, raw.key)) == keys - absent
    roles = {c["key"]: c["role"] for c in request["conditions"]}
    assert {roles[key] for key in absent - {"unknown"}} <= {"validation"}
    assert list(raw.genes) == list(map(str, screen.genes))
    assert np.isfinite(raw.mean).all()
    assert raw.control is not None
    assert np.abs(raw.mean - raw.control).max() > 0
    # One answer for all perturbations of a context would be no model.
    of = [
        c["key"] for c in request["conditions"] if c["context_id"] == request["conditions"][0]["context_id"]
    ]
    assert np.ptp(raw.mean[np.isin(raw.key, of)], axis=0).max() > 0
    assert lines
    assert sorted(p.name for p in call.out.iterdir()) == ["raw.json", "raw.npz"]
