"""Every mistake of a user is one line on standard error and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from tests.support.command import Work, attempt, perturbfm

SIZE = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)
IMPORT = ("--pert-col", "pert", "--context-col", "line", "--control-label", "ctrl", "--out", "NEW")


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


# ---- imports -----------------------------------------------------------------------------------------------------


def screen(X=None, genes=None, rows=None, path="in.h5ad", **obs) -> Path:
    """Write a small h5ad file of log1p values, changed as asked."""
    n = 24
    table = {
        "pert": ["ctrl", "A", "B", "A+B"] * 6,
        "line": ["K562"] * 12 + ["RPE1"] * 12,
        "dose": ["1"] * n,
        "weight": np.ones(n),
        **obs,
    }
    X = np.full((n, 6), 0.5, dtype=np.float32) if X is None else X
    index = [f"c{i}" for i in range(n)] if rows is None else rows
    var = pd.DataFrame(index=[f"g{i}" for i in range(6)] if genes is None else genes)
    with warnings.catch_warnings():
        # anndata says itself that names are not unique.
        warnings.simplefilter("ignore", UserWarning)
        anndata.AnnData(X=X, obs=pd.DataFrame(table, index=index), var=var).write_h5ad(path)
    return Path(path)


def with_value(value: float, row: int = 5, column: int = 2) -> np.ndarray:
    """Return log1p values with one replaced."""
    X = np.full((24, 6), 0.5, dtype=np.float32)
    X[row, column] = value
    return X


def truncated() -> Path:
    path = screen()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text_file() -> Path:
    path = Path("in.h5ad")
    path.write_text("gene,cell\n1,2\n")
    return path


def other_hdf5() -> Path:
    with h5py.File("in.h5ad", "w") as file:
        file["numbers"] = np.arange(3)
    return Path("in.h5ad")


def no_controls_in_rpe1() -> Path:
    return screen(pert=["ctrl", "A", "B", "A+B"] * 3 + ["A", "A", "B", "A+B"] * 3)


def missing_label() -> Path:
    return screen(pert=pd.Categorical(["ctrl", "A", "B", None] * 6))


def option(name: str, value: object) -> tuple[object, ...]:
    """Return the import options with one replaced."""
    given = list(IMPORT)
    if name in given:
        given[given.index(name) + 1] = value
        return tuple(given)
    return (*given, name, value)


IMPORTS: dict[str, tuple[Callable[[], Path], tuple[object, ...], str]] = {
    "no perturbation column": (screen, option("--pert-col", "nope"), r"no obs column 'nope' \(--pert-col\); columns: pert, line"),
    "no context column": (screen, option("--context-col", "nope"), r"no obs column 'nope' \(--context-col\)"),
    "no batch column": (screen, option("--batch-col", "nope"), r"no obs column 'nope' \(--batch-col\)"),
    "no dose column": (screen, option("--dose-col", "nope"), r"no obs column 'nope' \(--dose-col\)"),
    "no covariate column": (screen, option("--covariate-col", "nope"), "no obs column 'nope'"),
    "no gene column": (screen, option("--gene-col", "nope"), "var has no column 'nope'"),
    "no such layer": (screen, option("--layer", "raw"), "no layers/raw; layers: none"),
    "missing labels": (missing_label, IMPORT, "'pert' .* has 6 missing values, first in row 'c3'"),
    "unknown control label": (screen, option("--control-label", "NT"), "control label 'NT' does not occur in 'pert'; found e.g. 'ctrl', 'A'"),
    "no control label": (screen, tuple(x for x in IMPORT if x not in ("--control-label", "ctrl")), "--control-label is needed"),
    "no controls in a context": (no_controls_in_rpe1, IMPORT, "no control rows in context 'RPE1'"),
    "controls only": (lambda: screen(pert=["ctrl"] * 24), IMPORT, "control rows only"),
    "negative": (lambda: screen(with_value(-0.5)), IMPORT, r"negative values \(minimum -0.5\)"),
    "not a number": (lambda: screen(with_value(np.nan)), IMPORT, "non-finite values, first nan at row 'c5', gene 'g2'"),
    "infinite": (lambda: screen(with_value(np.inf)), IMPORT, "non-finite values, first inf at row 'c5', gene 'g2'"),
    "counts called log1p": (lambda: screen(with_value(40.0)), IMPORT, "values up to 40, which no log1p value is"),
    "log1p called counts": (screen, option("--space", "counts"), "has fractions, counts have none"),
    "log1p called differences": (screen, option("--space", "delta"), "has no negative value"),
    "negative counts": (lambda: screen(with_value(-3.0).round()), option("--space", "counts"), "has negative values"),
    "missing counts": (lambda: screen(with_value(np.nan).round()), option("--space", "counts"), "non-finite values"),
    "unknown space": (screen, option("--space", "cpm"), "space: Input should be 'log1p', 'counts'"),
    "duplicate genes": (lambda: screen(genes=["g0", "g1", "g1", "g3", "g4", "g5"]), IMPORT, r"1 duplicate gene ids, e.g. \['g1'\]"),
    "duplicate rows": (lambda: screen(rows=["c0", "c0", *(f"c{i}" for i in range(2, 24))]), IMPORT, r"1 duplicate row ids, e.g. \['c0'\]"),
    "repeated part": (lambda: screen(pert=["ctrl", "A", "B", "A+A"] * 6), IMPORT, r"'A\+A' has an empty or repeated part"),
    "wrong number of doses": (lambda: screen(dose=["1+2"] * 24), option("--dose-col", "dose"), "1 parts but 2 doses"),
    "weight of zero": (lambda: screen(weight=np.zeros(24)), option("--weight-col", "weight"), "weights that are not positive"),
    "weight in words": (lambda: screen(weight=["many"] * 24), option("--weight-col", "weight"), "weights that are not positive"),
    "truncated": (truncated, IMPORT, "in.h5ad cannot be read as h5ad, it is truncated or not HDF5"),
    "not HDF5": (text_file, IMPORT, "in.h5ad cannot be read as h5ad, it is text such as CSV, not HDF5"),
    "HDF5 but no h5ad": (other_hdf5, IMPORT, r"HDF5 but no h5ad file \(obs, var not found\)"),
    "no such file": (lambda: Path("gone.h5ad"), IMPORT, "gone.h5ad does not exist"),
    "unknown storage": (screen, option("--storage", "csv"), "unknown storage 'csv'; known: npz, zarr"),
    "no such option": (screen, option("--perturbation", "x"), "No such option"),
    "existing out": (screen, option("--out", "D"), "D already exists; choose another --out, or give --force"),
    "registered under no key": (screen, (*IMPORT, "--register", "--name", "My Screen"), "data set name 'My Screen' cannot be a key"),
    "registered under a taken name": (screen, (*IMPORT, "--register", "--name", "demo"), "the catalog already has a data set 'demo'"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(IMPORTS))
def test_bad_imports(work, case):
    make, options, message = IMPORTS[case]
    path = make()
    refuse(["data", "import", path, *options], message, work.path)


def test_the_good_file_of_the_bad_imports_is_good(work):
    assert perturbfm("data", "import", screen(), *IMPORT, warns=True).values["n_obs"] == "24"


# ---- data sets on disk -----------------------------------------------------------------------------------------


def pickled_data(work: Work) -> None:
    arrays = dict(np.load("D/data.npz"))
    np.savez("D/data.npz", **arrays, extra=np.asarray([{}], dtype=object))


def half_a_file(work: Work) -> None:
    content = Path("D/data.npz").read_bytes()
    Path("D/data.npz").write_bytes(content[: len(content) // 2])


def without_pert_id(work: Work) -> None:
    meta = json.loads(Path("D/meta.json").read_text())
    del meta["obs"]["pert_id"]
    Path("D/meta.json").write_text(json.dumps(meta))


def broken_meta(work: Work) -> None:
    Path("D/meta.json").write_text("{")


def newer_meta(work: Work) -> None:
    meta = json.loads(Path("D/meta.json").read_text())
    Path("D/meta.json").write_text(json.dumps({**meta, "schema_version": 99}))


def without_matrix(work: Work) -> None:
    Path("D/data.npz").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled_data, "holds pickled objects, which are never loaded"),
        (half_a_file, "is damaged or not an npz file"),
        (without_pert_id, r"lacks the columns \['pert_id'\]"),
        (broken_meta, "meta.json is not valid JSON"),
        (newer_meta, "schema version 99, this program reads 1"),
        (without_matrix, "neither data.npz nor data.zarr"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_damaged_data_sets(work, damage, message):
    damage(work)
    for argv in (
        ["data", "info", "D"],
        ["splits", "create", "--data", "D", "--spec", "iid"],
        ["train", "global_mean", "--data", "D", "--split", work.split],
    ):
        refuse(argv, message, work.path)


def test_content_that_changed_on_disk(work):
    perturbfm("data", "make-synth", *SIZE, "--out", "Z", "--name", "d", "--storage", "zarr")
    values = zarr.open_group("Z/data.zarr", mode="r+")["X/data"]
    values[0] = int(values[0]) + 1
    refuse(
        ["data", "info", "Z", "--verify"], "content of data set 'd' changed: recorded [0-9a-f]{12}", work.path
    )
    refuse(
        ["train", "linear", "--data", "Z", "--split", work.split], "leaks: changed_data: content", work.path
    )
    before = snapshot(work.path)
    answer = attempt("splits", "verify", work.split, "--data", "Z")
    assert answer.code == 2
    assert "FAILED (file and data)" in answer.out
    assert answer.err.startswith("error: content of data set 'd' changed")
    assert snapshot(work.path) == before


# ---- splits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--spec nope", "unknown split kind 'nope'; known: .*context_ood"),
        ("--spec context_ood --holdout-context C9", "unknown context 'C9'; known: C0, C1, C2"),
        ("--spec context_ood", "needs --holdout-context or --folds; contexts: C0, C1, C2"),
        ("--spec context_ood --holdout-context C0 --holdout-context C1 --holdout-context C2", "leaves no context to train on"),
        ("--spec context_ood --holdout-context C0 --folds 3", "not both"),
        ("--spec context_ood --holdout-perturbation G00", "--holdout-perturbation belongs to --spec .*perturbation_ood.*, not context_ood"),
        ("--spec perturbation_ood --holdout-perturbation NOPE", "unknown perturbation 'NOPE'; known: G"),
        ("--spec perturbation_ood --folds 3 --fold 3", "fold 3 of 3 does not exist"),
        ("--spec perturbation_ood --folds 1", "folds: Input should be greater than or equal to 2"),
        ("--spec perturbation_ood --folds 99", "99 folds need at least 99 perturbed genes, found 5"),
        ("--spec combo_ood --holdout-combo A+B", r"unknown combination 'A\+B'; known: G"),
        ("--spec leave_one_context_out --fold 3", "fold 3 does not exist: there are 3 contexts"),
        ("--spec covariate_transfer --covariate-name age", "unknown covariate 'age'; known: context, dose, modality"),
        ("--spec iid --test-frac 1.5", "test_frac must lie between 0 and 1"),
        ("--spec iid --test-frac much", "test_frac: Input should be a valid number"),
        ("--spec iid --val-frac 2", "val_frac: Input should be less than 1"),
        ("--spec iid --seed -1", "seed: Input should be greater than or equal to 0"),
        ("--spec iid --validation sometimes", "validation: Input should be 'auto'"),
        ("--spec explicit", "names no test condition"),
        ("--spec explicit --conditions gone.json", "gone.json does not exist"),
        ("--spec explicit --conditions broken.json", "broken.json is not valid JSON"),
        ("--spec explicit --conditions list.json", r"must hold \{fold: \[conditions\]\}"),
        ("--spec explicit --conditions fold.json", "unknown fold 'holdout' .* known: train, val, calib, test, unused"),
        ("--spec explicit --conditions condition.json", "condition 'NOPE' of fold 'test' is not in the data set"),
        ("--spec explicit --conditions twice.json", "is listed in folds 'test' and 'val'"),
        ("--spec explicit --conditions table.csv", "CSV with the columns condition and fold"),
        ("--holdout-context C0", "Missing option '--spec'"),
    ],
)  # fmt: skip
def test_bad_requests_for_splits(work, options, message):
    pert = next(p for p in json.loads(Path("D/meta.json").read_text())["obs"]["pert_id"] if p != "control")
    texts = {
        "broken.json": '{"test": [',
        "list.json": '["a", "b"]',
        "fold.json": json.dumps({"holdout": [pert]}),
        "condition.json": '{"test": ["NOPE"]}',
        "twice.json": json.dumps({"test": [pert], "val": [pert]}),
        "table.csv": "name,split\nA,test\n",
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    refuse(["splits", "create", "--data", "D", *options.split()], message, work.path)


def other_digit(text: str) -> str:
    """Change one digit of the seed."""
    return text.replace('"seed": 0', '"seed": 1', 1)


def one_space(text: str) -> str:
    """Add one space that JSON would not mind."""
    return text.replace('"seed": 0', '"seed":  0', 1)


def last_line_end(text: str) -> str:
    """Drop the last byte."""
    return text[:-1]


def other_condition(text: str) -> str:
    """Change one letter of a context."""
    return text.replace('"C1|', '"C2|', 1)


@pytest.mark.parametrize("edit", [other_digit, one_space, last_line_end, other_condition])
def test_split_file_edited_by_one_byte(work, edit):
    path = Path(f"splits/{work.split}.json")
    text = path.read_text()
    changed = edit(text)
    assert changed != text
    assert abs(len(changed) - len(text)) <= 1
    path.write_text(changed)
    for argv in (
        ["splits", "show", work.split],
        ["train", "global_mean", "--data", "D", "--split", work.split],
        ["run", "--data", "D", "--split", work.split, "--entry", "ridge"],
        ["splits", "create", "--data", "D", "--spec", "context_ood", "--holdout-context", "C0"],
    ):
        refuse(argv, f"{work.split}.json (was edited|is not a)", work.path)
    answer = attempt("splits", "verify", "--all", "--json")
    assert answer.code == 2
    assert answer.json["ok"] is False
    assert answer.err.count("\n") == 1


def test_split_file_gone(work):
    Path(f"splits/{work.split}.json").unlink()
    refuse(["train", "linear", "--data", "D", "--split", work.split], "no split in splits match", work.path)
    answer = attempt("splits", "verify", "--all")
    assert answer.code == 2
    assert "is in index.json but its file is gone" in answer.err


def test_split_of_another_data_set(work):
    perturbfm(
        "data", "make-synth", "--out", "E", "--n-obs", 200, "--n-genes", 50, "--n-perts", 5, "--seed", 1
    )
    preds = f"runs/{work.run}/predictions.npz"
    for argv in (
        ["train", "global_mean", "--data", "E", "--split", work.split],
        ["run", "--data", "E", "--split", work.split, "--entry", "ridge"],
        ["eval", "predictions", "--data", "E", "--split", work.split, "--preds", preds, "--out", "OUT"],
    ):
        refuse(argv, "belongs to data set 'd' with content [0-9a-f]{12}, this is 'e'", work.path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("splits show abc", "'abc' is too short a prefix; give at least 7 characters"),
        ("splits show 0000000", "no split in splits match '0000000'"),
        ("splits show d.context_ood.000000000000", "no split has the key"),
        ("splits verify", "name one split, or give --all"),
        ("splits migrate SPLIT --data D", "already belongs to this data"),
        ("train nope --data D --split SPLIT", "unknown model 'nope'; known: .*global_mean"),
        ("train baseline --data D --split SPLIT", "takes --baseline NAME; baselines: .*global_mean"),
        ("train baseline --data D --split SPLIT --baseline nope", "unknown baseline 'nope'; known: .*global_mean"),
        ("train ridge --data D --split SPLIT --baseline ridge", "'train baseline' takes --baseline NAME"),
        ("train ridge --data gone --split SPLIT", "no data set 'gone': it is no directory of a data set"),
        ("train ridge --data D", "Missing option '--split'"),
        ("train ridge --split SPLIT", "is not at hand; give --data DIR"),
        ("train --data D --split SPLIT", "Missing argument"),
        ("train ridge --data D --split SPLIT --param alphas", "--param takes NAME=VALUE, found 'alphas'"),
        ("train ridge --data D --split SPLIT --param =3", "--param takes NAME=VALUE, found '=3'"),
        ("train ridge --data D --split SPLIT --param beta=3", "beta: Extra inputs are not permitted"),
        ("train linear --data D --split SPLIT --param components=many", "components: Input should be a valid integer"),
        ("train linear --data D --split SPLIT --param components=0", "components: Input should be greater than or equal to 1"),
        ("train ridge --data D --split SPLIT --param alphas=[1", "--param 'alphas=.1': the value is not valid YAML"),
        ("train ridge --data D --split SPLIT --seed -1", "seeds must be one or more different numbers of at least 0"),
        ("train ridge --data D --split SPLIT --entry ../mine", "name of a model entry '../mine' cannot be a key"),
        ("train ridge --data D --split SPLIT --entry Mine", "name of a model entry 'Mine' cannot be a key"),
        ("run --data D --split SPLIT --entry nope", "unknown entry 'nope'; known: additive"),
        ("run --split SPLIT --entry ridge", r"data set 'd' \([0-9a-f]{12}\) of split .* is not at hand; give --data DIR"),
        ("demo --suite nope", "unknown suite 'nope'; known: demo, external, perturbench_style, perturbfm, real_small, "),
        ("export nope --out x.csv", "no run in runs match 'nope'"),
        ("export RUN --out D/meta.json", "D/meta.json already exists; choose another --out, or give --force"),
        ("export RUN --out x.txt", r"unknown format '.txt'; the name must end in .h5ad, .parquet, .csv"),
        ("export RUN --out x", r"unknown format '\(none\)'"),
        ("export RUN --out x.csv --what model", "cannot export 'model'; known: predictions, scores"),
        ("export RUN --out x.h5ad --what scores", "scores are a table: export them as .parquet or .csv"),
        ("leaderboard show --metric nope", "unknown metric 'nope'; known: .*delta.pearson"),
        ("data info gone", "no data set 'gone': it is no directory of a data set"),
        ("data make-synth --out D", "D already exists; choose another --out, or give --force"),
        ("data make-synth --out NEW --n-obs 3", "use n_obs of at least"),
        ("data make-synth --out NEW --n-obs many", "Invalid value for '--n-obs'"),
        ("data make-synth --out NEW --n-perts 500", r"n_perts \(500\) must not exceed n_genes"),
        ("data make-synth --out NEW --config nope", "unknown data set 'nope'; known: demo"),
        ("data make-synth --out NEW --storage csv", "unknown storage 'csv'"),
        ("data import-perturbench --dataset D/meta.json --out NEW", "text such as CSV, not HDF5"),
        ("data import-scperturb --dataset gone.h5ad --out NEW", "gone.h5ad does not exist"),
        ("nonsense", "No such command 'nonsense'"),
        ("splits nonsense", "No such command 'nonsense'"),
        ("doctor --nonsense", "No such option"),
    ],
)  # fmt: skip
def test_bad_command_lines(work, argv, message):
    words = [{"SPLIT": work.split, "RUN": work.run}.get(word, word) for word in argv.split()]
    refuse(words, message, work.path)


# ---- predictions -------------------------------------------------------------------------------------------------


def first(arrays, key, value):
    """Return a copy of an array with its first value replaced."""
    out = arrays[key].copy()
    out.reshape(-1)[0] = value
    return out


NO_INTERVALS = dict.fromkeys(("interval_levels", "interval_factor", "gene_bin"))
PREDICTIONS = {
    "wrong genes": (lambda a: {"genes": np.char.add(a["genes"], "x")}, "prediction lacks 50 of 50 genes, e.g. .'G00'"),
    "one gene less": (lambda a: {"genes": a["genes"][1:], "mean": a["mean"][:, 1:], "var": a["var"][:, 1:], **NO_INTERVALS}, "lacks 1 of 50 genes"),
    "unnamed genes": (lambda a: {"genes": None, "mean": a["mean"][:, 1:], "var": a["var"][:, 1:], **NO_INTERVALS}, "49 unnamed genes, the data set 50"),
    "missing rows": (lambda a: {k: a[k][3:] for k in ("idx", "row", "row_id")}, "prediction lacks 3 of \\d+ test rows"),
    "not a number": (lambda a: {"mean": first(a, "mean", np.nan)}, "NaN or infinite in 1 conditions"),
    "infinite variance": (lambda a: {"var": first(a, "var", np.inf)}, "NaN or infinite in 1 conditions"),
    "negative variance": (lambda a: {"var": first(a, "var", -1)}, "negative variance in 1 conditions"),
    "row twice": (lambda a: {"idx": first(a, "idx", a["idx"][1])}, "idx repeats 1 rows"),
    "row number too large": (lambda a: {"idx": first(a, "idx", 10**6), "row_id": None}, "idx outside the data set's rows"),
    "unknown row name": (lambda a: {"row_id": first(a, "row_id", "nobody")}, "names 1 rows that 'd' does not have, e.g. 'nobody'"),
    "row outside mean": (lambda a: {"row": first(a, "row", 99)}, "row points outside mean"),
    "one mean for all": (lambda a: {"row": None}, "give `row` or one mean per idx"),
    "flat mean": (lambda a: {"mean": a["mean"][0]}, "mean must be float32 .rows, genes."),
    "words for a mean": (lambda a: {"mean": a["mean"].astype(str)}, "mean must be float32 .rows, genes."),
    "var of another shape": (lambda a: {"var": a["var"][1:]}, "must be equal .rows, genes."),
    "no mean": (lambda a: {"mean": None}, "lacks mean; a prediction has"),
    "no idx": (lambda a: {"idx": None}, "lacks idx; a prediction has"),
    "pickled objects": (lambda a: {"mean": np.asarray([{}], dtype=object)}, "holds pickled objects, which are never loaded"),
    "another split": (lambda a: {"split_hash": np.asarray("0" * 64)}, "made for split 000000000000"),
    "another data set": (lambda a: {"data_content_sha256": np.asarray("0" * 64)}, "made for data 000000000000"),
    "another space": (lambda a: {"space": np.asarray("zscore")}, "in space 'zscore', the data set is scored in 'log1p'"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(PREDICTIONS))
def test_bad_predictions(work, case):
    change, message = PREDICTIONS[case]
    arrays = dict(np.load(f"runs/{work.run}/predictions.npz"))
    arrays = {k: v for k, v in {**arrays, **change(arrays)}.items() if v is not None}
    np.savez("bad.npz", **arrays)
    argv = ["eval", "predictions", "--data", "D", "--split", work.split, "--preds", "bad.npz", "--out", "OUT"]
    refuse(argv, message, work.path)


def test_prediction_that_is_no_npz(work):
    argv = ["eval", "predictions", "--data", "D", "--split", work.split, "--out", "OUT", "--preds"]
    whole = Path(f"runs/{work.run}/predictions.npz").read_bytes()
    Path("half.npz").write_bytes(whole[: len(whole) // 2])
    refuse([*argv, "half.npz"], "half.npz is damaged or not an npz file", work.path)
    refuse([*argv, "gone.npz"], "gone.npz does not exist", work.path)
    refuse([*argv, "D"], "D is a folder, not a file", work.path)


def test_evaluation_never_writes_into_a_run(work):
    preds = f"runs/{work.run}/predictions.npz"
    argv = ["eval", "predictions", "--data", "D", "--split", work.split, "--preds", preds, "--out"]
    refuse([*argv, f"runs/{work.run}"], "is a published run; choose another --out", work.path)
    refuse([*argv, "D/meta.json"], "D/meta.json", work.path)


# ---- store and leaderboard -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("selec 1", "SQL failed: Parser Error"),
        ("select * from nowhere", "SQL failed: .*nowhere.* tables: scores, runs, splits, datasets"),
        ("select nothing from runs", 'SQL failed: .*"nothing" not found'),
        ("drop table scores", "SQL failed: .*read-only"),
        ("delete from runs", "SQL failed: .*read-only"),
        ("create table mine as select 1", "SQL failed: .*read-only"),
        ("copy (select 1) to 'stolen.csv'", "SQL failed: .*disabled"),
        ("select * from read_csv('D/meta.json')", "SQL failed: .*disabled"),
        ("attach 'other.duckdb'", "SQL failed: .*disabled"),
        ("set enable_external_access = true", "SQL failed"),
        ("select 1 / 'a'", "SQL failed"),
    ],
)
def test_bad_sql(work, statement, message):
    refuse(["leaderboard", "sql", statement], message, work.path)


def test_no_leaderboard_yet(tmp_path):
    for argv in (["leaderboard", "show"], ["leaderboard", "sql", "select 1"]):
        refuse(
            argv,
            "there is no leaderboard at runs/leaderboard.duckdb; run `perturbfm leaderboard refresh`",
            tmp_path,
        )


@pytest.mark.parametrize("value", ["zero", "0", "-1", "1.5", "²"])
def test_bad_number_of_training_slots(work, monkeypatch, value):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", value)
    argv = ["train", "linear", "--data", "D", "--split", work.split]
    refuse(argv, "PERTURBFM_MAX_TRAIN is '.*'; set it to a whole number of at least 1", work.path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "mine.yaml is not valid YAML"),
        ("name: mine\nname: mine\n", "mine.yaml is not valid YAML: 'name' occurs twice in one table"),
        (
            "a: &a [1]\nb: [*a, *a]\n",
            r"mine.yaml is not valid YAML: anchors and aliases are not read \(line 1\)",
        ),
        ("name: mine\ndescription: x\nmodel: ridge\nseeds: [" + "9" * 5000 + "]\n", "is beyond 64 bits"),
        ("name: mine\ndescription: x\nmodel: ridge\nparams: {alphas: [.nan]}\n", "nan is not finite"),
        ("name: mine\ndescription: x\nmodel: !!str ridge\n", "tags such as"),
        ("- a\n- b\n", "mine.yaml is not a valid ModelEntry"),
        ("", "mine.yaml is not a valid ModelEntry"),
        ("[" * 20_000, "mine.yaml is not valid YAML"),
        (
            "name: other\ndescription: x\nmodel: ridge\n",
            "names itself 'other'; file name and name must agree",
        ),
        ("name: mine\ndescription: x\n", "is not a valid ModelEntry: model: Field required"),
        ("name: mine\ndescription: x\nmodel: ridge\ncolour: red\n", "colour: Extra inputs are not permitted"),
        ("name: mine\ndescription: x\nmodel: ridge\nseeds: [1, 1]\n", "seeds must be one or more different"),
    ],
    ids=[
        "yaml",
        "twice",
        "aliases",
        "digits",
        "nan",
        "tag",
        "list",
        "empty",
        "deep",
        "stem",
        "field",
        "extra",
        "seeds",
    ],
)
def test_bad_catalog_files(work, text, message):
    path = work.path / ".perturbfm/catalog/models/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    refuse(["models", "list"], message, work.path)
    refuse(["run", "--data", "D", "--split", work.split, "--entry", "mine"], message, work.path)


def test_catalog_name_taken_by_the_packaged_one(work):
    path = work.path / ".perturbfm/catalog/models/ridge.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("name: ridge\ndescription: x\nmodel: ridge\n")
    refuse(["models", "list"], "repeats the name 'ridge', which the catalog already has", work.path)


def test_entry_that_cannot_run_on_the_split(work, monkeypatch):
    from perturbfm_core.models.base import MODELS, Requires

    monkeypatch.setattr(MODELS.get("ridge"), "requires", Requires(min_contexts=3))
    argv = ["run", "--data", "D", "--split", work.split, "--entry", "ridge"]
    refuse(
        argv,
        "entry 'ridge' is not applicable to split d.context_ood.* needs 3 train contexts, there are 2",
        work.path,
    )


def test_damaged_run_is_left_out_of_the_leaderboard(work):
    path = Path(f"runs/{work.run}/scores.parquet")
    path.unlink()
    path.write_bytes(b"PAR1 and nothing else")
    answer = attempt("leaderboard", "refresh")
    assert answer.code == 0
    assert "Traceback" not in answer.err
    assert answer.err.count("\n") == 1
    assert re.search("scores.parquet .*cannot be read", answer.err)
    assert perturbfm("leaderboard", "sql", "select count(*) as n from runs", "--json").json == [{"n": 0}]


def test_place_that_cannot_be_written(work):
    Path("file").write_text("")
    refuse(["data", "make-synth", "--out", "file/D", "--n-obs", 200, "--n-perts", 4], "file", work.path)
    refuse(["export", work.run, "--out", "file/x.csv"], "file", work.path)


@pytest.mark.parametrize("entry", ["ridge", "kernel_ridge", "set_kernel_ridge", "combo_kernel_ridge"])
@pytest.mark.parametrize("value", ["[1, -1]", "[0]"])
def test_penalties_that_are_not_positive(work, entry, value):
    argv = ["train", entry, "--data", "D", "--split", work.split, "--param", f"alphas={value}"]
    refuse(argv, r"alphas\.\d: Input should be greater than 0", work.path)


def test_a_suite_with_an_unknown_entry_or_data_set_leaves_nothing(work):
    path = work.path / ".perturbfm/catalog/suites/mine.yaml"
    path.parent.mkdir(parents=True)
    grid = "grid: [{dataset: demo, splits: [{kind: iid}]}]"
    path.write_text(f"name: mine\ndescription: x\nmodels: [ridge, ridgy]\n{grid}\n")
    refuse(["demo", "--suite", "mine"], "unknown entry 'ridgy'; known: additive", work.path)


def test_conditions_that_are_no_table(work):
    Path("huge.csv").touch()
    os.truncate("huge.csv", 3 << 30)
    Path("nul.csv").write_bytes(b"perturbation\0,context\nA,B\n")
    os.mkfifo("pipe.csv")
    for name, message in (
        ("huge.csv", "is no table"),
        ("nul.csv", "is no table"),
        ("pipe.csv", "does not exist|is a pipe"),
    ):
        argv = [
            "predict",
            "--run",
            work.run,
            "--split",
            work.split,
            "--batch",
            name,
            "--out",
            "p.parquet",
            "--data",
            "D",
        ]
        answer = attempt(*argv)
        assert answer.code == 2
        assert re.search(message, answer.err), answer.err
        assert not Path("p.parquet").exists()
