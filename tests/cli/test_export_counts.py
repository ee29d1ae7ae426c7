"""`perturbfm export --format vcc2026`: the file, what is refused, and that it scores as the run did."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.cell_eval2.catalog import VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.files import read_cells
from perturbfm_core.evaluation.panels.cell_eval2.scale import SCORED
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.counts_screen import GENES, counts_screen

pytestmark = pytest.mark.slow
HELD = GENES[12:16]
COLUMNS = ("--pert-col", "target", "--context-col", "line", "--control-label", "non-targeting")


def trained(screen, *split, entry="per_perturbation_mean"):
    """Import a screen, freeze a split, run an entry; return (split, run)."""
    screen.write_h5ad("screen.h5ad")
    perturbfm("data", "import", "screen.h5ad", "--out", "D", *COLUMNS, "--space", "counts", warns=True)
    frozen = perturbfm("splits", "create", "--data", "D", "--no-bounds", *split).values["split_hash"]
    return frozen, perturbfm("train", entry, "--data", "D", "--split", frozen).values["run_id"]


def holdout(option, values):
    return [x for v in values for x in (option, v)]


def made_in(path, *args, **options):
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        return path, *trained(*args, **options)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Return a folder with a run on one context."""
    spec = ("--spec", "perturbation_ood", *holdout("--holdout-perturbation", HELD))
    return made_in(tmp_path_factory.mktemp("one"), counts_screen(), *spec)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return a folder with a run on two contexts."""
    spec = ("--spec", "perturbation_ood", *holdout("--holdout-perturbation", HELD))
    return made_in(tmp_path_factory.mktemp("two"), counts_screen(contexts=("A549", "K562")), *spec)


@pytest.fixture
def work(one, tmp_path):
    shutil.copytree(one[0], tmp_path, dirs_exist_ok=True)
    return one[1:]


@pytest.fixture
def work2(two, tmp_path):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    return two[1:]


def metrics_of(folder):
    return json.loads((Path(folder) / "metrics.json").read_text())


def export(run, *options, out="pred.h5ad"):
    return perturbfm("export", run, "--format", "vcc2026", "--out", out, *options, "--json").json


def refused(*argv):
    answer = attempt(*argv)
    assert answer.code == 2, answer.out
    assert answer.err.count("\n") == 1
    return answer.err


def test_the_file_is_what_the_challenge_takes(work):
    _, run = work
    said = export(run)
    assert (said["context"], said["cells"], said["genes"], said["perturbations"]) == ("A549", 230, 80, 4)
    assert said["counts_from"].startswith("multinomial")
    data = anndata.read_h5ad("pred.h5ad")
    screen = anndata.read_h5ad("screen.h5ad")
    assert sp.issparse(data.X)
    assert list(data.var_names) == list(screen.var_names)
    assert (data.X.data == np.rint(data.X.data)).all()
    assert data.X.data.min() > 0
    assert data.X.sum(axis=1).max() <= 1e6
    assert data.obs["target"].value_counts().to_dict() == {**dict.fromkeys(HELD, 30), "non-targeting": 110}
    assert list(data.obs.columns) == ["target", "context"]
    assert set(data.obs["context"]) == {"A549"}
    # Controls are the measured ones.
    measured = screen[screen.obs["target"] == "non-targeting"].X.toarray()
    mine = data[data.obs["target"] == "non-targeting"].X.toarray()
    assert sorted(map(tuple, mine)) == sorted(map(tuple, measured))
    read_cells(Path("pred.h5ad"), "target", "non-targeting")
    # Drawn again, it is the same.
    export(run, out="again.h5ad")
    assert (anndata.read_h5ad("again.h5ad").X != data.X).nnz == 0


def test_other_names_of_column_and_control(work):
    export(work[1], "--pert-col", "perturbation", "--control-label", "NTC")
    obs = anndata.read_h5ad("pred.h5ad").obs
    assert "target" not in obs
    assert set(obs["perturbation"]) == {*HELD, "NTC"}


def check_pair(run, context="A549"):
    """Check that the exported files score on the command line as the run did."""
    export(run, "--real", "real.h5ad", "--baseline", "base.h5ad", "--context", context, "--force")
    files = ("--pred", "pred.h5ad", "--real", "real.h5ad", "--baseline", "base.h5ad")
    perturbfm("metrics", "score-pair", *files, "--out", "pair")
    of = metrics_of(f"runs/{run}")["vcc2026"]
    own = of["per_context"][context]
    means = pd.read_csv("pair/agg_results.csv").set_index("statistic").loc["mean"]
    assert set(means.index) == set(VCC2026)
    for metric in VCC2026:
        assert means[metric] == pytest.approx(own[metric], rel=1e-9), metric
    results = pd.read_csv("pair/results.csv")
    keyed = {k.split("|")[1]: k for k in read_conditions(run) if k.startswith(context)}
    scores = pd.read_parquet(f"runs/{run}/scores.parquet").query(
        "panel == 'vcc2026' and scope == 'condition'"
    )
    values = scores.set_index(["metric", "key"])["value"]
    for row in results.itertuples():
        assert row.value == pytest.approx(values[row.metric, keyed[row.perturbation]], rel=1e-9, nan_ok=True)
    with Path("pair/score.csv").open(newline="") as file:
        found = {r["metric"]: r["from_replicate"] for r in csv.DictReader(file)}
    for metric in SCORED:
        assert float(found[metric]) == pytest.approx(own[f"score_{metric}"], rel=1e-9)
    assert float(found["avg_score"]) == pytest.approx(own["vcc2026_score"], rel=1e-9)


def read_conditions(run):
    return [str(k) for k in np.load(f"runs/{run}/predictions.npz")["condition"]]


def test_a_pair_scores_as_the_run_did(work):
    check_pair(work[1])


def test_the_file_is_scored_as_the_run_was(work):
    split, run = work
    export(run)
    out = perturbfm(
        *("eval", "predictions", "--data", "D", "--split", split, "--preds", "pred.h5ad", "--out", "OUT"),
        "--json",
    ).json
    assert (out["kind"], out["kind_from"], out["cells"]) == ("counts", "recognised", "the prediction's own")
    assert "vcc2026" in out["cell_panels"]
    assert out["control_rows_dropped"] == 110
    assert "control_rows_not_measured" not in out
    # Of perturbations that train lacks this entry has one prediction, which the noise of cells does not hide.
    (warning,) = out["warnings"]
    assert "differ from another perturbation of their context by no more than the sampling noise" in warning
    assert metrics_of("OUT")["vcc2026"]["global"] == pytest.approx(
        metrics_of(f"runs/{run}")["vcc2026"]["global"], rel=1e-12, nan_ok=True
    )
    published = perturbfm(
        "submit", "pred.h5ad", "--data", "D", "--split", split, "--entry", "mine", "--json"
    ).json
    assert published["kind"] == "counts"
    assert metrics_of(published["run_dir"])["vcc2026"] == metrics_of("OUT")["vcc2026"]
    # What it was scored on is the file, which a run does not keep.
    error = refused("export", published["run_id"], "--format", "vcc2026", "--out", "x.h5ad")
    assert "was scored on the counts of pred.h5ad, which a run does not keep" in error
    assert not Path("x.h5ad").exists()


def test_one_file_per_context(work2):
    split, run = work2
    error = refused("export", run, "--format", "vcc2026", "--out", "p.h5ad")
    assert "the split tests 2 contexts (A549, K562), and a file holds one; name it with --context" in error
    error = refused("export", run, "--format", "vcc2026", "--out", "p.h5ad", "--context", "HeLa")
    assert "the split tests no context 'HeLa' with control cells; it tests A549, K562" in error
    assert not Path("p.h5ad").exists()
    for context in ("A549", "K562"):
        check_pair(run, context)
        shutil.move("pred.h5ad", f"{context}.h5ad")
    # Together they are scored as the run was.
    parts = [anndata.read_h5ad(f"{c}.h5ad") for c in ("A549", "K562")]
    whole = anndata.concat(parts, index_unique="-")
    whole.write_h5ad("both.h5ad")
    perturbfm("eval", "predictions", "--data", "D", "--split", split, "--preds", "both.h5ad", "--out", "OUT")
    of = metrics_of("OUT")["vcc2026"], metrics_of(f"runs/{run}")["vcc2026"]
    assert of[0]["global"] == pytest.approx(of[1]["global"], rel=1e-12, nan_ok=True)
    error = refused(
        *("eval", "predictions", "--data", "D", "--split", split, "--preds", "K562.h5ad", "--out", "O2")
    )
    assert "lacks 120 of 240 test rows, in 4 of 8 conditions" in error


def test_options_and_files_that_do_not_fit(work):
    _, run = work
    for argv, message in (
        (("--format", "vcc2026", "--out", "p.csv"), "give --out a name that ends in .h5ad, not 'p.csv'"),
        (("--format", "vcc2026", "--out", "p.h5ad", "--what", "scores"), "is a form of predictions"),
        (
            ("--format", "vcc2026", "--out", "p.h5ad", "--control-label", GENES[12]),
            f"the label '{GENES[12]}' of control cells is that of a perturbation",
        ),
        (("--format", "vcc2026", "--out", "p.h5ad", "--real", "p.h5ad"), "must be different files"),
        (("--format", "vcc2026", "--out", "screen.h5ad"), "already exists"),
        (("--format", "vcc2026", "--out", "p.h5ad", "--real", "screen.h5ad"), "choose another --real"),
        (("--out", "p.h5ad", "--context", "A549"), "--context belongs to --format vcc2026"),
        (("--out", "p.csv", "--control-label", "x"), "--control-label belongs to --format vcc2026"),
    ):
        assert message in refused("export", run, *argv)
    assert not Path("p.h5ad").exists()
    assert not list(Path().glob(".staging*"))


# ---- what the labels of the challenge cannot express -----------------------------------------------------------


def test_combinations_are_refused():
    perts = [*GENES[10:14], *(f"{a}+{b}" for a, b in pairwise(GENES[10:14]))]
    pairs = [p for p in perts if "+" in p]
    _, run = trained(
        counts_screen(perts), "--spec", "combo_ood", *holdout("--holdout-combo", pairs), entry="additive"
    )
    error = refused("export", run, "--format", "vcc2026", "--out", "p.h5ad")
    assert (
        "tests 3 combinations, e.g. GENE010+GENE011, and a label of the challenge is one target gene" in error
    )


def test_doses_of_one_drug_are_refused():
    screen = counts_screen(["JQ1", "SAHA", "VX1"])
    rng = np.random.default_rng(0)
    screen.obs["dose"] = np.where(
        screen.obs["target"] == "non-targeting", "", rng.choice(["1", "10"], screen.n_obs)
    )
    screen.write_h5ad("screen.h5ad")
    perturbfm(
        *("data", "import", "screen.h5ad", "--out", "D", *COLUMNS, "--space", "counts"),
        *("--dose-col", "dose", "--dose-unit", "uM"),
        warns=True,
    )
    frozen = perturbfm("splits", "create", "--data", "D", "--spec", "iid", "--no-bounds").values["split_hash"]
    run = perturbfm("train", "global_mean", "--data", "D", "--split", frozen).values["run_id"]
    error = refused("export", run, "--format", "vcc2026", "--out", "p.h5ad")
    assert "tests 2 conditions of 'JQ1', which differ in doses" in error


@pytest.mark.parametrize("names", [("JQ1", "GENE011", "SAHA"), ("GENE010", "GENE013", "VX1")])
def test_a_drug_by_the_name_of_a_gene_is_refused(names):
    """As a label of the challenge, the name says that the gene is perturbed."""
    screen = counts_screen(names)
    screen.obs["kind"] = np.where(screen.obs["target"] == "non-targeting", "", "compound")
    screen.write_h5ad("screen.h5ad")
    perturbfm(
        *("data", "import", "screen.h5ad", "--out", "D", *COLUMNS, "--space", "counts"),
        *("--modality-col", "kind"),
        warns=True,
    )
    frozen = perturbfm("splits", "create", "--data", "D", "--spec", "iid", "--no-bounds").values["split_hash"]
    run = perturbfm("train", "global_mean", "--data", "D", "--split", frozen).values["run_id"]
    gene = next(n for n in names if n in GENES)
    error = refused("export", run, "--format", "vcc2026", "--out", "p.h5ad")
    assert (
        f"perturbation {gene!r} of context 'A549' has no target gene, which the challenge's label {gene!r} does not say"
        in error
    )
    assert not Path("p.h5ad").exists()


def test_drugs_without_doses_are_written_with_their_names():
    perts = ["JQ1", "SAHA", "VX1", "Y2"]
    _, run = trained(counts_screen(perts), "--spec", "iid")
    export(run, "--real", "real.h5ad")
    assert set(anndata.read_h5ad("pred.h5ad").obs["target"]) == {*perts, "non-targeting"}
    pair = ("metrics", "score-pair", "--pred", "pred.h5ad", "--real", "real.h5ad", "--out", "pair")
    assert "say --no-target-genes" in refused(*pair)
    perturbfm(*pair, "--no-target-genes")
    own = metrics_of(f"runs/{run}")["vcc2026"]["global"]
    means = pd.read_csv("pair/agg_results.csv").set_index("statistic").loc["mean"]
    assert means.to_dict() == pytest.approx({m: own[m] for m in VCC2026}, rel=1e-9, nan_ok=True)


def test_without_counts_there_is_nothing_to_write():
    screen = counts_screen()
    total = np.asarray(screen.X.sum(axis=1)).ravel()
    screen.X = sp.csr_matrix(np.log1p(screen.X.toarray() / total[:, None] * 1e4))
    screen.write_h5ad("screen.h5ad")
    perturbfm("data", "import", "screen.h5ad", "--out", "D", *COLUMNS, warns=True)
    spec = ("--spec", "perturbation_ood", *holdout("--holdout-perturbation", HELD))
    frozen = perturbfm("splits", "create", "--data", "D", "--no-bounds", *spec).values["split_hash"]
    run = perturbfm("train", "global_mean", "--data", "D", "--split", frozen).values["run_id"]
    error = refused("export", run, "--format", "vcc2026", "--out", "p.h5ad")
    assert "the data set keeps no counts" in error


def test_a_file_is_not_left_alone_where_the_baseline_is_refused():
    _, run = trained(counts_screen(), "--spec", "perturbation_ood", "--holdout-perturbation", HELD[0])
    files = ("--out", "p.h5ad", "--real", "r.h5ad", "--baseline", "b.h5ad")
    error = refused("export", run, "--format", "vcc2026", *files)
    assert f"every perturbation targets '{HELD[0]}', so it has no mean response" in error
    assert not list(Path().glob("[prb].h5ad"))
    export(run)
    assert set(anndata.read_h5ad("pred.h5ad").obs["target"]) == {HELD[0], "non-targeting"}


@pytest.mark.parametrize("row", [111, 229])
def test_a_file_is_not_left_alone_where_the_measured_cells_are_refused(row):
    """The predicted cells are of the controls, which are fine."""
    screen = counts_screen(HELD)
    assert screen.obs["target"].iloc[row] in HELD
    screen.X[row, 5] = 2e6
    _, run = trained(
        screen, "--spec", "perturbation_ood", *holdout("--holdout-perturbation", HELD[:1] + HELD[-1:])
    )
    files = ("--out", "p.h5ad", "--real", "r.h5ad", "--baseline", "b.h5ad")
    assert "include a cell with 2.00" in refused("export", run, "--format", "vcc2026", *files)
    assert not list(Path().glob("[prb].h5ad"))
    export(run)
    assert list(anndata.read_h5ad("pred.h5ad").obs.columns) == ["target", "context"]


def test_a_control_of_too_many_counts_is_refused():
    screen = counts_screen()
    screen.X[3, 5] = 2e6
    _, run = trained(screen, "--spec", "perturbation_ood", *holdout("--holdout-perturbation", HELD))
    error = refused("export", run, "--format", "vcc2026", "--out", "p.h5ad")
    assert "include a cell with 2.00" in error
    assert "at most 1e+06 are allowed" in error
    assert not Path("p.h5ad").exists()
