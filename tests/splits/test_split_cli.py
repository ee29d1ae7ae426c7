"""Imports, audits and the new kinds on the command line; every kind is a line of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.splits.draft import KINDS
from tests.support.command import attempt, perturbfm
from tests.support.paths import REPO

DOCS = REPO / "docs"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return an h5ad file with doses, times and batches, and its data set, both only to be read."""
    tmp_path = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    perts = ["control", "A", "B", "C", "D", "A+B", "C+D"]
    rows = [(p, c, b) for c in ("x", "y", "z") for p in perts for b in ("b0", "b1") for _ in range(4)]
    obs = pd.DataFrame(rows, columns=["condition", "cell_type", "plate"])
    obs["dose"] = np.where(obs["condition"] == "control", "0", np.where(np.arange(len(obs)) % 2, "1", "5"))
    obs["hours"] = np.where(np.arange(len(obs)) % 4 < 2, "6 h", "24 h")
    obs["saved_split_seed1"] = np.where(
        obs["condition"] == "A", "test", np.where(obs["condition"] == "B", "val", "train")
    )
    obs.index = [f"cell{i}" for i in range(len(obs))]
    path = tmp_path / "file.h5ad"
    X = rng.random((len(obs), 12)).astype(np.float32)
    anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(12)])).write_h5ad(path)
    out = tmp_path / "data"
    columns = ["--pert-col", "condition", "--context-col", "cell_type", "--control-label", "control"]
    more = ["--batch-col", "plate", "--dose-col", "dose", "--dose-unit", "uM", "--time-col", "hours"]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "SPLIT_DIR", "CATALOG"):
            patch.setenv(f"PERTURBFM_{name}", str(tmp_path / name.lower()))
        perturbfm("data", "import", path, "--out", out, *columns, *more, warns=True)
    return path, out


@pytest.mark.parametrize(
    ("options", "ood"),
    [
        (["--spec", "context_ood", "--holdout-context", "x", "--few-shot-frac", "0.2"], ["context"]),
        (["--spec", "leave_one_context_out", "--few-shot-frac", "0.2", "--fold", "1"], ["context"]),
        (["--spec", "dose_ood"], ["dose"]),
        (["--spec", "dose_ood", "--mode", "extrapolation", "--holdout-perturbation", "A"], ["dose"]),
        (["--spec", "time_ood", "--folds", "2", "--fold", "0"], ["time"]),
        (["--spec", "batch_ood", "--holdout-batch", "b1"], ["batch"]),
        (
            ["--spec", "context_perturbation_ood", "--holdout-context", "x", "--test-frac", "0.3"],
            ["context", "perturbation"],
        ),
    ],
)
def test_a_kind_is_created_and_audited(made: tuple[Path, Path], options: list[str], ood: list[str]) -> None:
    _, data = made
    first = perturbfm("splits", "create", "--data", data, *options, "--no-bounds").values
    again = perturbfm("splits", "create", "--data", data, *options, "--no-bounds").values
    assert (first["split_hash"], first["new"], again["new"]) == (again["split_hash"], "true", "false")
    shown = perturbfm("splits", "show", first["split_hash"], "--json").json
    assert shown["ood_axes"] == ood
    audited = perturbfm("splits", "audit", first["split_hash"], "--data", data, "--json").json
    assert audited["ok"]
    found = {
        c["check"]: c["status"] for c in audited["checks"] if c["status"] not in ("clean", "not_applicable")
    }
    # Where the dose of A alone is held out, combinations of train have it.
    assert found == ({"held_out_unit_in_train": "warning"} if "A" in options else {})
    verified = perturbfm("splits", "verify", first["split_hash"], "--data", data, "--json").json
    assert verified["ok"]


def test_an_option_of_another_kind_is_refused(made: tuple[Path, Path]) -> None:
    _, data = made
    for option in (["--holdout-batch", "b0"], ["--few-shot-frac", "0.1"], ["--mode", "interpolation"]):
        answer = attempt("splits", "create", "--data", data, "--spec", "iid", *option)
        assert answer.code == 2
        assert f"{option[0]} belongs to --spec " in answer.err


def test_a_list_that_names_some_of_train_warns_of_what_else_trains(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    _, data = made
    (tmp_path / "list.csv").write_text("condition,fold\nA,test\nB,train\nC,train\n")
    base = ["splits", "create", "--data", data, "--spec", "explicit", "--conditions", tmp_path / "list.csv"]
    answer = perturbfm(*base, "--no-bounds", "--json", warns=True)
    assert re.match(
        r"warning: 36 conditions are in no fold of the list, e\.g\. '.*--unlisted unused", answer.err
    )
    out = perturbfm(*base, "--no-bounds", "--unlisted", "unused", "--json").json
    assert (out["n_unused"], out["n_train"]) == (36, answer.json["n_train"] - 36)


def test_perturbench_splits_are_imported_in_every_form(made: tuple[Path, Path], tmp_path: Path) -> None:
    path, data = made
    obs = anndata.read_h5ad(path).obs
    base = ["splits", "import-perturbench", "--dataset", path, "--data", data, "--no-bounds"]
    column = perturbfm(*base).values
    folder = tmp_path / "saved"
    folder.mkdir()
    obs["saved_split_seed1"].to_csv(folder / "with.csv")
    obs["saved_split_seed1"].to_csv(folder / "without.csv", header=False)
    lists = {f: np.flatnonzero(obs["saved_split_seed1"] == f).tolist() for f in ("train", "val", "test")}
    (folder / "lists.json").write_text(json.dumps(lists))
    both = perturbfm(*base, "--split-dir", folder, "--json").json["splits"]
    one = perturbfm(*base, "--csv", folder / "with.csv").values
    assert {s["split_hash"] for s in both} == {column["split_hash"]} == {one["split_hash"]}
    assert (column["new"], one["new"], column["ood"], column["controls_reassigned"]) == (
        "true",
        "false",
        "perturbation",
        "24",
    )
    verified = perturbfm("splits", "verify", column["split_hash"], "--data", data, "--json").json
    assert verified["ok"]
    # One cell in train of a condition that is tested otherwise.
    stray = obs["saved_split_seed1"].astype(str)
    control = anndata.read_h5ad(path).obs["condition"].astype(str).isin(["control", "ctrl"])
    row = stray.index[(stray == "test") & ~control][0]
    stray[row] = "train"
    stray.to_csv(tmp_path / "stray.csv")
    answer = perturbfm(*base, "--csv", tmp_path / "stray.csv", "--json", warns=True)
    assert answer.json["ood"] == "none"
    assert re.match(rf"warning: stray(\.csv)?: 1 of .* test conditions .*e\.g\. '{row}'", answer.err)
    # A data set without two of the file's cells.
    whole = anndata.read_h5ad(path)
    lost = whole.obs_names[~control][:2]
    whole[~whole.obs_names.isin(lost)].write_h5ad(tmp_path / "fewer.h5ad")
    columns = ["--pert-col", "condition", "--context-col", "cell_type", "--control-label", "control"]
    perturbfm("data", "import", tmp_path / "fewer.h5ad", "--out", tmp_path / "fewer", *columns, warns=True)
    answer = perturbfm(*base[:4], "--data", tmp_path / "fewer", "--no-bounds", "--json", warns=True)
    assert answer.json["rows_not_in_data"] == 2
    assert (
        f"2 rows of the saved split are not in data set 'fewer', e.g. '{lost[0]}', and left out" in answer.err
    )


def test_perturbench_splits_are_made(made: tuple[Path, Path]) -> None:
    path, data = made
    base = ["splits", "import-perturbench", "--dataset", path, "--data", data, "--no-bounds"]
    options = ["--task", "transfer", "--covariate-key", "cell_type", "--arg", "seed=3"]
    made_one = perturbfm(*base, *options, "--arg", "max_heldout_fraction_per_covariate=0.5", "--json").json
    assert made_one["source"] == "transfer"
    assert made_one["rows_test"] > 0
    for bad, message in (
        (["--task", "transfer", "--arg", "sead=3"], "no argument 'sead'"),
        (["--arg", "seed=3"], "--arg, --covariate-key and --label belong to --task"),
        (["--task", "transfer", "--csv", path], "give one of --split-dir, --csv and --task"),
        (["--csv", path], "file.h5ad is a .h5ad file; write its table as CSV"),
    ):
        answer = attempt(*base, *bad)
        assert answer.code == 2
        assert message in answer.err
        assert answer.err.count("\n") == 1


def test_a_leak_of_a_run_exits_with_two(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, data = made
    created = perturbfm(
        "splits", "create", "--data", data, "--spec", "batch_ood", "--holdout-batch", "b1", "--no-bounds"
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "audit.json").write_text(json.dumps({"made": [{"what": "pca", "rows": "all"}]}))
    answer = attempt("splits", "audit", created.values["split_hash"], "--data", data, "--run", run)
    assert answer.code == 2
    assert (
        "made_on_other_rows blocking: 1 inputs were not made for this split's fit rows: pca (all rows)"
        in answer.out
    )
    assert "leaks: made_on_other_rows" in answer.err


def test_every_kind_is_a_suite_line_of_the_documentation() -> None:
    text = (DOCS / "splits.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    specs = [SplitSpec.model_validate(line) for line in yaml.safe_load(block)]
    assert {s.kind for s in specs} == set(KINDS.names())
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) >= set(KINDS.names())
