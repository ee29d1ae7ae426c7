"""`perturbfm metrics score-pair` as a user types it: the peer's numbers, and its input's faults in one line."""

import csv
import json

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.cli.main import main
from tests.support.paths import TESTS

CASES = TESTS / "parity" / "cell_eval2"
CASE = CASES / "synth_a"
EXPECTED = json.loads((CASE / "expected.json").read_text())


@pytest.fixture(params=["copied", "shared"])
def case(request):
    """Return the folder of the case: the copy, and the files that it was copied from."""
    if request.param == "copied":
        return CASE
    return request.getfixturevalue("shared_dir") / "parity" / "cell_eval2" / "synth_a"


def run(capsys, *argv):
    """Return (exit code, standard output, standard error)."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in argv])
    out = capsys.readouterr()
    return stopped.value.code or 0, out.out, out.err


def score(capsys, out, *argv, pred="pred_shift.h5ad", real="real.h5ad", case=CASE):
    return run(
        capsys,
        *("metrics", "score-pair", "--pred", case / pred, "--real", case / real, "--pert-col", "target"),
        *("--control", "non-targeting", "--out", out, *argv),
    )


def check_folder(folder, expected, rtol=1e-9):
    results = pd.read_csv(folder / "results.csv")
    assert list(results.columns) == ["perturbation", "metric", "value"]
    got = {(r.perturbation, r.metric): r.value for r in results.itertuples()}
    wanted = {(t, m): v for t, row in expected["results"].items() for m, v in row.items()}
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert got[key] == pytest.approx(
            np.nan if value is None else value, rel=rtol, abs=1e-15, nan_ok=True
        ), key
    table = pd.read_csv(folder / "agg_results.csv").set_index("statistic")
    statistics = expected["agg_results"]
    assert list(table.index) == ["count", "null_count", "mean", "std", "min", "max", "median"]
    assert list(table.columns) == sorted(statistics["mean"])
    for statistic, row in statistics.items():
        for metric, value in row.items():
            assert table.loc[statistic, metric] == pytest.approx(
                np.nan if value is None else value, rel=rtol, abs=1e-15, nan_ok=True
            ), (statistic, metric)


def test_the_challenge_with_a_baseline(capsys, tmp_path, case):
    out = tmp_path / "new" / "scored"
    code, printed, _ = score(capsys, out, "--baseline", case / "pred_mean.h5ad", "--json", case=case)
    assert code == 0
    expected_of = json.loads((case / "expected.json").read_text())
    check_folder(out, expected_of["runs"]["vcc2026/pred_shift"])
    with (out / "score.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = list(csv.DictReader(expected_of["score"]["csv"].splitlines()))
    assert [r["metric"] for r in rows] == [r["metric"] for r in wanted]
    for row, expected in zip(rows, wanted, strict=True):
        for column in ("from_baseline", "from_replicate"):
            if expected[column]:
                assert float(row[column]) == pytest.approx(float(expected[column]), rel=1e-9)
            else:
                assert row[column] == ""
    assert json.loads(printed)["avg_score"] == pytest.approx(float(wanted[-1]["from_replicate"]), rel=1e-9)


def test_with_other_options_than_the_challenges_both_scales_have_an_average(capsys, tmp_path):
    code, _, error = score(capsys, tmp_path, "--baseline", CASE / "pred_mean.h5ad", "--no-target-genes")
    assert code == 0, error
    with (tmp_path / "score.csv").open(newline="") as file:
        *rows, average = csv.DictReader(file)
    for column in ("from_baseline", "from_replicate"):
        assert float(average[column]) == pytest.approx(np.mean([float(r[column]) for r in rows]))


@pytest.mark.parametrize("name", ["pred_shift", "pred_mean"])
def test_all_metrics_of_counts(capsys, tmp_path, name, case):
    code, _, error = score(capsys, tmp_path, "--profile", "full", pred=f"{name}.h5ad", case=case)
    assert code == 0, error
    check_folder(tmp_path, json.loads((case / "expected.json").read_text())["runs"][f"full_v2/{name}"])
    assert not (tmp_path / "score.csv").exists()


@pytest.mark.parametrize("option", [(), ("--no-target-genes",)])
def test_groups_at_the_edges(capsys, tmp_path, option):
    """Few cells, ties, a label that is no gene: as the peer, with and without target genes."""
    folder = CASES / "synth_edges"
    expected = json.loads((folder / "expected.json").read_text())
    named, profile = ("no_target_genes", "vcc2026") if option else ("full_v2", "full")
    argv = ("--profile", profile, "--control", expected["control"], *option)
    code, _, error = score(capsys, tmp_path, *argv, pred="pred_odd.h5ad", case=folder)
    assert code == 0, error
    check_folder(tmp_path, expected["runs"][f"{named}/pred_odd"])


def log_values(source, path, depth=1e4):
    """Write cells as log1p of counts scaled to a depth, as a user does."""
    data = anndata.read_h5ad(source)
    factor = (depth / np.asarray(data.X.sum(axis=1), dtype=np.float64).ravel()).astype(np.float32)
    data.X.data = np.log1p(data.X.data * np.repeat(factor, np.diff(data.X.indptr)))
    data.write_h5ad(path)


def test_all_metrics_of_log_values(capsys, tmp_path, case):
    for name in ("real", "pred_shift"):
        log_values(case / f"{name}.h5ad", tmp_path / f"{name}.h5ad")
    code, _, error = score(
        capsys,
        tmp_path / "out",
        *("--profile", "full", "--input-type", "lognorm"),
        pred=tmp_path / "pred_shift.h5ad",
        real=tmp_path / "real.h5ad",
    )
    assert code == 0, error
    expected = json.loads((case / "expected.json").read_text())
    check_folder(tmp_path / "out", expected["runs"]["full_lognorm/pred_shift"], rtol=1e-6)


@pytest.mark.parametrize("profile", ["full", "vcc2026"])
def test_predicted_log_values_of_measured_counts(capsys, tmp_path, profile):
    """The peer scores such a pair where it detects what the predicted values are."""
    log_values(CASE / "pred_shift.h5ad", tmp_path / "pred.h5ad")
    options = ("--pred-input-type", "lognorm", "--profile", profile)
    code, _, error = score(capsys, tmp_path / "out", *options, pred=tmp_path / "pred.h5ad")
    assert code == 0, error
    expected = json.loads((CASES.parents[1] / "cli" / "score_pair_mixed.json").read_text())
    means = pd.read_csv(tmp_path / "out" / "agg_results.csv").set_index("statistic").loc["mean"]
    assert set(means.index) <= set(expected["mean"])
    assert len(means) == (len(expected["mean"]) if profile == "full" else 10)
    for metric, value in means.items():
        assert value == pytest.approx(expected["mean"][metric], rel=1e-6, nan_ok=True), metric
    results = pd.read_csv(tmp_path / "out" / "results.csv")
    checked = 0
    for row in results.itertuples():
        if row.perturbation in expected["results"]:
            value = expected["results"][row.perturbation][row.metric]
            wanted = np.nan if value is None else value
            assert row.value == pytest.approx(wanted, rel=1e-6, abs=1e-12, nan_ok=True), row
            checked += 1
    assert checked > 20


def test_pairs_of_two_kinds_that_have_no_scale(capsys, tmp_path):
    log_values(CASE / "pred_shift.h5ad", tmp_path / "pred.h5ad")
    pred = tmp_path / "pred.h5ad"
    for argv, message in (
        (("--input-type", "lognorm", "--pred-input-type", "counts"), "cannot be turned back into counts"),
        (("--pred-input-type", "lognorm", "--baseline", CASE / "pred_mean.h5ad"), "leave out --baseline"),
        ((), "which is no count; give whole numbers, or --input-type lognorm"),
    ):
        code, _, error = score(capsys, tmp_path / "out", *argv, pred=pred)
        assert code == 2
        assert message in error
        assert error.strip().count("\n") == 0
        assert not (tmp_path / "out").exists()


@pytest.fixture
def changed(tmp_path):
    """Return a function that writes a changed copy of a prediction."""

    def write(change):
        data = anndata.read_h5ad(CASE / "pred_shift.h5ad")
        data = change(data)
        data.write_h5ad(tmp_path / "changed.h5ad")
        return tmp_path / "changed.h5ad"

    return write


def _drop(data):
    return data[data.obs["target"] != "GENE007"].copy()


def _without_controls(data):
    return data[data.obs["target"] != "non-targeting"].copy()


def _half(data):
    data.X = data.X * 0.5
    return data


def _unlabelled(data):
    data.obs["target"] = data.obs["target"].where(np.arange(data.n_obs) > 1)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:, 1:].copy(), "the prediction has 239 genes, the truth 240"),
        (lambda data: data[:, ::-1].copy(), "in another order: gene 1 is 'GENE239', in the truth 'GENE000'"),
        (_drop, "the prediction lacks 1 labels of the other file (GENE007)"),
        (_without_controls, "have no control 'non-targeting'"),
        (_half, "which is no count; give whole numbers, or --input-type lognorm"),
        (_unlabelled, "2 cells have no label in obs column 'target'"),
    ],
)
def test_faults_of_a_prediction_are_one_line(capsys, tmp_path, changed, change, message):
    code, printed, error = score(capsys, tmp_path / "out", pred=changed(change))
    assert code != 0
    assert message in error
    assert error.strip().count("\n") == 0, error
    assert printed == ""
    assert not (tmp_path / "out").exists()


def _negative(data):
    data.X.data[0] = -1.0
    return data


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:, 1:].copy(), "the baseline has 239 genes, the truth 240"),
        (_drop, "the baseline lacks 1 labels of the other file (GENE007)"),
        (_without_controls, "have no control 'non-targeting'"),
        (_unlabelled, "2 cells have no label in obs column 'target'"),
        (_negative, "hold negative values"),
    ],
)
def test_a_bad_baseline_leaves_the_folder_as_it_was(capsys, tmp_path, changed, change, message, earlier):
    out = tmp_path / "out"
    if earlier:
        out.mkdir()
        for name in ("results.csv", "agg_results.csv", "score.csv"):
            (out / name).write_text("earlier\n")
    code, printed, error = score(capsys, out, "--baseline", changed(change))
    assert code != 0
    assert message in error
    assert error.strip().count("\n") == 0, error
    assert printed == ""
    assert {p.read_text() for p in out.glob("*")} == ({"earlier\n"} if earlier else set())


def test_a_baseline_that_gives_no_scale_leaves_nothing(capsys, tmp_path):
    """The truth is no worse than replicates of it."""
    code, _, error = score(capsys, tmp_path / "out", "--baseline", CASE / "real.h5ad")
    assert code != 0
    assert "has no scale: the baseline's value" in error
    assert not (tmp_path / "out").exists()


def test_faults_of_options_are_one_line(capsys, tmp_path):
    for argv, message in (
        (("--input-type", "lognorm"), "hold whole numbers only"),
        (("--control", "nothing"), "no control 'nothing'; labels are GENE007,"),
        (("--pert-col", "nothing"), "no obs column 'nothing'; its columns are target"),
        (("--baseline", tmp_path / "absent.h5ad"), "absent.h5ad does not exist"),
    ):
        code, _, error = score(capsys, tmp_path / "out", *argv)
        assert code != 0
        assert message in error
        assert error.strip().count("\n") == 0, error
        assert not (tmp_path / "out").exists()


def test_labels_that_are_no_genes_must_be_declared(capsys, tmp_path):
    for name in ("real", "pred_shift"):
        data = anndata.read_h5ad(CASE / f"{name}.h5ad")
        labels = data.obs["target"].astype(str)
        data.obs["target"] = labels.where(labels == "non-targeting", "drug, 1 uM " + labels)
        data.write_h5ad(tmp_path / f"{name}.h5ad")
    files = {"pred": tmp_path / "pred_shift.h5ad", "real": tmp_path / "real.h5ad"}
    code, _, error = score(capsys, tmp_path / "out", **files)
    assert code != 0
    assert "say --no-target-genes" in error
    code, _, error = score(capsys, tmp_path / "out", "--no-target-genes", **files)
    assert code == 0, error
    assert pd.read_csv(tmp_path / "out" / "results.csv")["perturbation"].str.startswith("drug, 1 uM ").all()
