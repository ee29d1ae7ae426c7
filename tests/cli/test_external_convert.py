"""``external convert``: worker folders, raw files and predicted cells converted, scored and published, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.data.table import condition_table
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.pipeline.submitted_raw import raw_of_file
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.run_record import read_run_record
from tests.support.command import VARIABLES, Work, attempt, perturbfm


class Screen:
    """The test conditions of a split with their input controls, and expression that a model could predict."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = folder
        self.ds = open_dataset(folder / "D")
        self.split = SplitFolder(folder / "splits").load(split)
        table = condition_table(self.ds, self.split.rows(self.ds, "test"))
        self.keys = [str(k) for k in table.conditions.index]
        self.control = table.control["input"].astype(np.float64)
        rng = np.random.default_rng(0)
        self.delta = np.maximum(rng.normal(0, 0.4, self.control.shape), -self.control)

    def write(self, folder: str, *, rows: slice = slice(None), **meta) -> str:
        Path(folder).mkdir()
        mean = (self.control + self.delta).astype(np.float32)[rows]
        np.savez(Path(folder) / "raw.npz", mean=mean, key=self.keys[rows], genes=self.ds.genes)
        said = {"format": 1, "space": "log1p", "kind": "expression", "level": "mean", **meta}
        (Path(folder) / "raw.json").write_text(json.dumps(said))
        return folder


@pytest.fixture(scope="session")
def screen(template) -> Screen:
    return Screen(template.path, template.split)


def line(work: Work, file: object, out: str = "p.npz", *options: object) -> list[object]:
    where = ("--data", "D", "--split", work.split, "--model", "mine", "--out", out)
    return ["external", "convert", file, *where, *options]


def refused(work: Work, file: object, *options: object) -> str:
    answer = attempt(*line(work, file, "p.npz", *options))
    assert answer.code == 2, answer.out
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert not Path("p.npz").exists()
    return answer.err


def test_a_workers_folder_becomes_a_prediction_that_is_scored(work, screen):
    folder = screen.write("out", notes=["one epoch"])
    done = perturbfm(*line(work, folder, "p.npz", "--json")).json
    assert (done["asked"], done["predicted"], done["missing"]) == (len(screen.keys), len(screen.keys), 0)
    assert (done["control"], done["variance"], done["notes"]) == ("real", "none given", ["worker: one epoch"])
    with np.load("p.npz") as made:
        assert made["condition"].tolist() == screen.keys
        np.testing.assert_allclose(made["mean"], screen.delta, atol=1e-5)
        assert (str(made["kind"]), str(made["split_hash"]), str(made["model"])) == (
            "delta",
            work.split,
            "mine",
        )
        assert "var" not in made
    scored = perturbfm(
        "eval",
        "predictions",
        "--preds",
        "p.npz",
        "--data",
        "D",
        "--split",
        work.split,
        "--out",
        "S",
        "--json",
    )
    assert (scored.json["kind"], scored.json["alignment"]) == ("delta", "by_name")
    assert "already exists" in attempt(*line(work, folder)).err
    assert perturbfm(*line(work, "out/raw.npz", "p.npz", "--force")).values["predicted"] == str(
        len(screen.keys)
    )


def test_a_missing_condition_is_refused_or_stands_in_the_table(work, screen):
    folder = screen.write("out", rows=slice(1, None))
    text = refused(work, folder)
    assert f"does not predict 1 of {len(screen.keys)} conditions" in text
    done = perturbfm(
        *line(work, folder, "p.npz", "--missing", "control", "--publish", "--json"), warns=True
    ).json
    assert (done["missing"], done["missing_conditions"]) == (1, screen.keys[:1])
    assert done["entry"] == "mine"
    record = read_run_record(Path(done["run_dir"]))
    assert record.notes["missing_as_control"] == 1
    assert any("1 of" in w and "not predicted" in w for w in record.notes["warnings"])
    assert not any("copied control" in w for w in record.notes["warnings"])
    with np.load(Path(done["run_dir"]) / "predictions.npz") as made:
        assert made["not_predicted"].tolist() == [True] + [False] * (len(screen.keys) - 1)
        assert not made["mean"][0].any()


def test_the_variant_against_the_models_own_control_lies_beside(work, screen):
    folder = screen.write("out")
    own = screen.control * 0.9 + 0.1
    np.save("out/model_control.npy", own.astype(np.float32))
    done = perturbfm(*line(work, folder, "p.npz", "--json")).json
    assert done["variants"] == ["p.model_control.npz"]
    with np.load("p.model_control.npz") as made:
        np.testing.assert_allclose(made["mean"], screen.control + screen.delta - own, atol=1e-5)
        assert str(made["subtracted_control"]) == "model"
    done = perturbfm(*line(work, folder, "q.npz", "--control", "model", "--json")).json
    assert (done["control"], done["variants"]) == ("model", ["q.real_control.npz"])


def test_both_controls_are_published(work, screen):
    folder = screen.write("out")
    own = screen.control * 0.9 + 0.1
    np.save("out/model_control.npy", own.astype(np.float32))
    done = perturbfm(*line(work, folder, "p.npz", "--publish", "--json"), warns=True).json
    assert (done["entry"], done["own_control_entry"]) == ("mine", "mine-own-control")
    for run, delta in (
        (done["run_dir"], screen.delta),
        (done["own_control_run_dir"], screen.control + screen.delta - own),
    ):
        with np.load(Path(run) / "predictions.npz") as made:
            np.testing.assert_allclose(made["mean"], delta, atol=1e-5)
    with np.load("p.model_control.npz") as made:
        assert str(made["model"]) == "mine-own-control"
    # Neither where the file has no control of its own, nor where that one was asked for.
    Path("out/model_control.npy").unlink()
    done = perturbfm(*line(work, folder, "q.npz", "--publish", "--json"), warns=True).json
    assert "own_control_run_id" not in done


def test_an_own_control_that_is_the_prediction_is_not_scored(work, screen):
    folder = screen.write("out")
    np.save("out/model_control.npy", (screen.control + screen.delta).astype(np.float32))
    done = attempt(*line(work, folder, "p.npz", "--publish", "--json"))
    # One output, two readings: what is refused of either is refused of both.
    assert done.code == 2
    assert "predictions are the control" in done.err


def test_without_a_name_the_file_is_called_after_model_and_split(work, screen):
    folder = screen.write("out")
    where = ("--data", "D", "--split", work.split, "--model", "mine")
    done = perturbfm("external", "convert", folder, *where, "--json").json
    assert done["out"] == f"mine-{work.split[:12]}.npz"
    assert Path(done["out"]).is_file()
    assert "already exists" in attempt("external", "convert", folder, *where).err
    assert "must be an .npz file" in attempt(*line(work, folder, "p.csv")).err


def test_a_failed_worker_says_why(work):
    Path("out").mkdir()
    Path("out/error.json").write_text('{"error": "no gene is in the graph"}')
    assert refused(work, "out") == "error: the worker failed: no gene is in the graph\n"


def cells_of(screen: Screen, n: int = 4) -> anndata.AnnData:
    """Return predicted cells of every test condition, whose mean is known."""
    noise = np.tile(np.linspace(-0.05, 0.05, n), len(screen.keys))[:, None]
    mean = np.repeat(screen.control + screen.delta, n, axis=0)
    X = np.maximum(mean + noise * (mean > 0.1), 0).astype(np.float32)
    pert, context = zip(*[(k.split("|")[1], k.split("|")[0]) for k in screen.keys], strict=True)
    obs = pd.DataFrame(
        {"perturbation": np.repeat(pert, n), "context": np.repeat(context, n)},
        index=[f"cell{i}" for i in range(len(X))],
    )
    return anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(index=[str(g) for g in screen.ds.genes]))


def test_predicted_cells_of_an_h5ad_file(work, screen):
    cells = cells_of(screen)
    order = np.random.default_rng(0).permutation(cells.n_vars)
    cells[:, order].copy().write_h5ad("cells.h5ad")
    perturbfm(*line(work, "cells.h5ad"))
    with np.load("p.npz") as made:
        np.testing.assert_allclose(
            made["mean"],
            cells.X.reshape(len(screen.keys), -1, cells.n_vars).mean(axis=1) - screen.control,
            atol=1e-5,
        )
    # Cells that were left as they were: the control under the name of a perturbation.
    left = cells.copy()
    left.X[:4] = screen.control[0] + np.asarray([-0.01, 0.01, -0.01, 0.01])[:, None] * 0.1
    left.write_h5ad("left.h5ad")
    Path("p.npz").unlink()
    assert f"1 of {len(screen.keys)} predictions are a control" in refused(work, "left.h5ad")
    unknown = cells.copy()
    unknown.obs["perturbation"] = unknown.obs["perturbation"].astype(str)
    unknown.obs.iloc[:4, 0] = "NOPE"
    unknown.write_h5ad("unknown.h5ad")
    assert "unknown to the data set" in refused(work, "unknown.h5ad", "--missing", "control")


def test_cells_of_a_file_count_as_those_of_a_worker(work, screen):
    """So that what differs from the control by their sampling noise alone is warned of."""
    cells = cells_of(screen)
    for n, rows in ((4, slice(None)), (None, slice(None, None, 4))):
        cells[rows].copy().write_h5ad("cells.h5ad")
        raw, *_ = raw_of_file(screen.ds, screen.split, Path("cells.h5ad"), columns=LabelColumns())
        assert (raw.n_cells is None) if n is None else (raw.n_cells.tolist() == [n] * len(screen.keys))


def test_rows_of_a_file_that_are_left_out_are_counted(work, screen):
    cells = cells_of(screen)
    others = set(screen.ds.conditions.index) - set(screen.keys)
    more = cells[:12].copy()
    context, pert = sorted(others)[0].split("|")[:2]
    more.obs["perturbation"] = ["control"] * 8 + [pert] * 4
    more.obs["context"] = context
    anndata.concat([cells, more], index_unique="-").write_h5ad("cells.h5ad")
    done = perturbfm(*line(work, "cells.h5ad", "p.npz", "--json")).json
    assert (done["control_rows"], done["not_asked"]) == (8, 1)


def test_scaled_cells_are_no_deltas(work, screen):
    cells = cells_of(screen)
    cells.X = (cells.X - cells.X.mean(axis=0)) / cells.X.std(axis=0)
    cells.write_h5ad("scaled.h5ad")
    assert "has a standard deviation of 1 over its" in refused(work, "scaled.h5ad")
    assert "has a standard deviation of 1 over its" in refused(work, "scaled.h5ad", "--kind", "delta")


def test_files_of_counts_are_scaled_as_the_data_are(work, screen):
    counts = np.expm1(screen.control + screen.delta) / 7
    cells = cells_of(screen, 1)
    cells.X = counts.astype(np.float32)
    cells.write_h5ad("counts.h5ad")
    perturbfm(*line(work, "counts.h5ad", "p.npz", "--space", "counts"))
    by_hand = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4) - screen.control
    with np.load("p.npz") as made:
        np.testing.assert_allclose(made["mean"], by_hand, atol=1e-4)
    Path("p.npz").unlink()
    assert "looks like counts" in refused(work, "counts.h5ad")
    cells.X = (screen.control + screen.delta).astype(np.float32)
    cells.write_h5ad("log1p.h5ad")
    assert "looks like log1p expression already" in refused(work, "log1p.h5ad", "--space", "counts")
    cells.X = screen.delta.astype(np.float32)
    cells.write_h5ad("delta.h5ad")
    assert "declared as counts and has" in refused(work, "delta.h5ad", "--space", "counts")
    assert "unknown --space 'log7'" in refused(work, "delta.h5ad", "--space", "log7")


def test_what_is_asked_for_is_checked_first(work, screen):
    folder = screen.write("out")
    assert "unknown space 'log7'" in refused(work, folder, "--space", "log7")
    assert "declared as delta and looks like expression" in refused(work, folder, "--kind", "delta")
    assert ".npz" in attempt(*line(work, folder, "p.h5ad")).err
    assert attempt(*line(work, "absent.h5ad")).code == 2


# ---- files that are wrong in one way each ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def combos(tmp_path_factory) -> Screen:
    """Make the screen that the recorded wrong files belong to, with a split of the same test conditions."""
    path = tmp_path_factory.mktemp("combos")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        size = ("--n-obs", 3000, "--n-genes", 200, "--n-contexts", 3, "--n-perts", 10, "--n-combos", 6)
        perturbfm("data", "make-synth", "--out", "D", *size)
        held = [x for pair in ("G001+G035", "G075+G112", "G107+G141") for x in ("--holdout-combo", pair)]
        split = perturbfm("splits", "create", "--data", "D", "--spec", "combo_ood", *held, "--no-bounds")
    return Screen(path, split.values["split_hash"])


WRONG = {
    "const": "all 9 conditions have the same prediction",
    "zeros": "all 9 predictions are the control (their delta is 0)",
    "drop_gene": "prediction lacks 1 of 200 genes, e.g. ['G000']",
    "drop_condition": "in 1 of 9 conditions",
    "latent": "is in a latent space (latent); decode it",
    "expr": "looks like expression, not like a delta",
    "expr_says_counts": "declared as counts and has",
}


def wrong(combos: Screen, name: str) -> dict[str, np.ndarray]:
    """Return a prediction of the nine conditions that is wrong in the way of its name."""
    ds, rows = combos.ds, combos.split.rows(combos.ds, "test")
    row = pd.Index(combos.keys).get_indexer(ds.conditions.index[ds.condition_codes[rows]])
    expression = combos.control + combos.delta
    mean = {
        "const": np.tile(combos.delta.mean(axis=0), (9, 1)),
        "zeros": np.zeros_like(combos.delta),
        "expr": expression,
        "expr_says_counts": np.expm1(expression) - 0.05,
    }.get(name, combos.delta)
    kept = row > 0 if name == "drop_condition" else np.ones(len(rows), dtype=bool)
    genes = slice(1 if name == "drop_gene" else 0, None)
    return {
        "mean": mean[:, genes].astype(np.float32),
        "idx": rows[kept],
        "row": row[kept],
        "genes": ds.genes[genes],
        "row_id": ds.row_ids[rows[kept]],
        "data_content_sha256": np.asarray(ds.content_sha256),
        "space": np.asarray({"latent": "latent", "expr_says_counts": "counts"}.get(name, "log1p")),
        "control": np.asarray("mean"),
    }


@pytest.fixture
def nine(combos, monkeypatch) -> Work:
    """Go to the folder of that screen."""
    monkeypatch.chdir(combos.folder)
    return Work(combos.folder, combos.split.hash, "")


@pytest.mark.parametrize("origin", ["made", "recorded"])
@pytest.mark.parametrize("name", list(WRONG))
def test_each_wrong_file_gets_its_line(nine, combos, name, origin, request, tmp_path):
    arrays = wrong(combos, name)
    if origin == "recorded":
        place = request.getfixturevalue("shared_dir") / "external" / "bad" / f"{name}.npz"
        with np.load(place) as recorded:
            assert str(recorded["data_content_sha256"]) == combos.ds.content_sha256
            assert set(recorded["idx"]) == set(arrays["idx"])
            arrays = dict(recorded)
    arrays["split_hash"] = np.asarray(nine.split)
    file = tmp_path / f"{name}.npz"
    np.savez(file, **arrays)
    assert WRONG[name] in refused(nine, file)


def test_the_right_one_of_these_files_is_converted(nine, combos, shared_dir, tmp_path):
    with np.load(shared_dir / "external" / "bad" / "ok.npz") as recorded:
        arrays = {**recorded, "split_hash": np.asarray(nine.split)}
    np.savez(tmp_path / "ok.npz", **arrays)
    perturbfm(*line(nine, tmp_path / "ok.npz", str(tmp_path / "p.npz")))
    with np.load(tmp_path / "p.npz") as made:
        np.testing.assert_allclose(made["mean"], arrays["mean"], atol=1e-6)
    # One that is wrong is converted where that is what its author means.
    file = tmp_path / "const.npz"
    np.savez(file, **wrong(combos, "const"))
    done = perturbfm(*line(nine, file, str(tmp_path / "c.npz"), "--degenerate", "flag", "--json")).json
    assert any("the same prediction" in w for w in done["warnings"])
