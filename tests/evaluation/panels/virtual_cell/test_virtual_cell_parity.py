"""cell-eval's own numbers, record by record."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.virtual_cell import aggregate, parity, parity_scale
from perturbfm_core.evaluation.panels.virtual_cell.parity import CLUSTERING
from perturbfm_core.evaluation.panels.virtual_cell.profiles import FULL, profile
from perturbfm_core.evaluation.parity import run_case
from tests.support.paths import TESTS

REAL = TESTS.parents[1] / "shared" / "parity" / "cell_eval"
CASES = [TESTS / "parity" / "cell_eval" / "synth_a", REAL / "devel_norman"]
# Counts in double precision, sparse on one side, in which scaled values differ in the last digit only.
COUNTS = TESTS / "parity" / "cell_eval" / "synth_counts"
# Counts in half precision.
HALF = TESTS / "parity" / "cell_eval" / "synth_half"
# Integer counts, whose labels are categories in another order than that of the alphabet.
ORDER = TESTS / "parity" / "cell_eval" / "synth_order"


def test_counts_and_double_precision_give_the_peers_values():
    result = run_case(COUNTS)
    assert result["failed"] == 0, result["failures"]
    assert result["compared"] > 1_500
    for name in ("de.statistic", "de.fdr", "pearson_delta", "pearson_edistance", "score.avg_score"):
        assert result["metrics"][name]["compared"], name
    assert not any("unknown form" in reason for reason in result["reasons"])


def test_the_mean_baseline_of_half_precision_is_in_it_unless_cells_were_converted_before(tmp_path):
    folder = Path(shutil.copytree(HALF, tmp_path / "case"))
    result = run_case(folder)
    assert result["failed"] == 0, result["failures"]
    assert result["compared"] > 900
    assert result["metrics"]["baseline.vector"]["max_abs_diff"] == 0
    assert result["metrics"]["baseline.pearson_delta"]["compared"] == 4
    # As of a script that evaluates first, with which the peer's cells are in single precision.
    case = parity.read_case(folder)
    means = [case.X[case.labels == name].mean(axis=0, dtype=float) for name in np.unique(case.labels)]
    expected = case.expected
    expected["cell_eval_baseline"]["vector"] = np.mean(means, axis=0).astype(np.float32).tolist()
    (folder / "expected.json").write_text(json.dumps(expected))
    assert "baseline.vector" not in failing(folder)


def test_halves_are_drawn_in_the_order_of_categories_as_by_the_peer(tmp_path):
    result = run_case(ORDER)
    assert result["failed"] == 0, result["failures"]
    assert result["metrics"]["ceiling.pearson_delta"]["compared"] == 4
    # AnnData makes categories of text when it writes the file, which the peer may have had as text.
    folder = Path(shutil.copytree(CASES[0], tmp_path / "case"))
    cells = anndata.read_h5ad(folder / "real.h5ad")
    names = cells.obs["perturbation"].astype("category").cat
    cells.obs["perturbation"] = names.reorder_categories(names.categories[::-1])
    cells.write_h5ad(folder / "real.h5ad")
    assert not failing(folder)


@pytest.mark.parametrize(
    ("absent", "fewer"),
    [
        ("cell_eval_baseline", {"baseline", "score.avg_score"}),
        ("cell_eval_baseline/vector", {"baseline.vector"}),
        ("cell_eval_baseline/per_perturbation", {"baseline"}),
        ("cell_eval/per_perturbation", {""}),
        ("cell_eval/per_perturbation/G002", {""}),
        ("cell_eval/aggregate_describe", {"describe", "score.avg_score"}),
        ("cell_eval_score_vcc_profile", {"score"}),
    ],
)
def test_without_one_section_all_others_are_compared(tmp_path, absent, fewer):
    folder = Path(shutil.copytree(HALF, tmp_path / "case"))
    expected = json.loads((folder / "expected.json").read_text())
    part = expected
    *names, last = absent.split("/")
    for name in names:
        part = part[name]
    del part[last]
    (folder / "expected.json").write_text(json.dumps(expected))
    whole, result = run_case(HALF), run_case(folder)
    assert result["failed"] == 0
    assert sum(reason.startswith("the case has no ") for reason in result["reasons"]) >= 1
    assert not any("unknown form" in reason for reason in result["reasons"])
    for name, entry in whole["metrics"].items():
        left = result["metrics"].get(name, {"compared": 0})["compared"]
        section = name.rpartition(".")[0].removesuffix(".counts")
        assert left == entry["compared"] or {name, section} & fewer, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, of: (x[of != "control"], of[of != "control"]),
            "the prediction has no cells labelled 'control'",
        ),
        (lambda x, of: (x, np.where(of == "G045", "G4", of)), "real.h5ad has no cells labelled 'G4'"),
        (lambda x, of: (x, of[:-3]), r"predicted cells of shape \(545, 80\) with 542 labels and 80 genes"),
        (lambda x, of: (x.ravel(), of), r"predicted cells of shape \(43600,\)"),
    ],
)
def test_predictions_that_the_peer_refuses_are_refused(copy, change, message):
    with np.load(copy / "pred.npz") as given:
        arrays = dict(given)
    arrays["X"], arrays["perturbation"] = change(arrays["X"], arrays["perturbation"])
    np.savez(copy / "pred.npz", **arrays)
    with pytest.raises(MetricError, match=message):
        run_case(copy)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_every_record_is_the_peers(folder):
    if not folder.is_dir():
        pytest.skip(f"no real-data case: {folder} is absent")
    result = run_case(folder)
    assert result["kind"] == "cell_eval"
    assert result["failed"] == 0, result["failures"]
    assert result["compared"] > 8_000
    for name, entry in result["metrics"].items():
        if name.rpartition(".")[2] in (*FULL, CLUSTERING):
            # All cells of the mean baseline are equal, and so are its E-distances.
            noise = name in ("baseline.pearson_edistance", "score.pearson_edistance")
            assert (entry["compared"] == 0) == (CLUSTERING in name or noise)
            assert any("ill_conditioned" in reason for reason in entry["reasons"]) == noise
            assert sum(entry["reasons"].values()) == entry["skipped"]


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(CASES[0], tmp_path / "case"))


def failing(folder):
    return {name for name, entry in run_case(folder)["metrics"].items() if entry["failed"]}


def test_a_changed_expectation_is_caught(copy):
    path = copy / "expected.json"
    expected = json.loads(path.read_text())
    expected["cell_eval"]["per_perturbation"]["G046"]["overlap_at_N"] += 1e-9
    expected["cell_eval_score_vcc_profile"]["avg_score"] *= 1.0001
    path.write_text(json.dumps(expected))
    assert failing(copy) == {"overlap_at_N", "score.avg_score"}


def test_single_precision_means_have_a_relative_tolerance(copy):
    with np.load(copy / "de_real.npz") as table:
        arrays = dict(table)
    for name in ("target_mean", "ref_mean"):
        arrays[name] = arrays[name] * (1 + 3e-6)
    np.savez(copy / "de_real.npz", **arrays)
    assert not failing(copy)
    arrays["target_mean"] = arrays["target_mean"] * (1 + 1e-4)
    np.savez(copy / "de_real.npz", **arrays)
    assert failing(copy) == {"de.target_mean"}


def test_e_distances_of_a_constant_prediction_are_not_compared(copy):
    with np.load(copy / "pred.npz") as pred:
        arrays = dict(pred)
    treated = arrays["perturbation"] != "control"
    arrays["X"][treated] = arrays["X"][treated].mean(axis=0)
    np.savez(copy / "pred.npz", **arrays)
    entry = run_case(copy)["metrics"]["pearson_edistance"]
    assert (entry["compared"], entry["failed"]) == (0, 0)
    (reason,) = entry["reasons"]
    assert reason == "ill_conditioned: E-distances of a constant prediction are equal up to rounding"


@pytest.mark.parametrize("value", ["0.5", True, [0.5], {"value": 0.5}])
def test_a_number_of_an_unknown_form_is_counted_as_not_compared(copy, value):
    path = copy / "expected.json"
    before = run_case(copy)
    expected = json.loads(path.read_text())
    expected["cell_eval"]["per_perturbation"]["G046"]["overlap_at_N"] = value
    expected["cell_eval"]["per_perturbation"]["G046"]["a_new_metric"] = 1.0
    path.write_text(json.dumps(expected))
    result = run_case(copy)
    assert result["failed"] == 0
    assert result["compared"] == before["compared"] - 1
    assert result["skipped"] == before["skipped"] + 2
    assert sum("unknown form of record" in reason for reason in result["reasons"]) == 2


def test_a_changed_cell_is_caught(copy):
    with np.load(copy / "pred.npz") as pred:
        arrays = dict(pred)
    arrays["X"][arrays["perturbation"] == "G051", 7] *= 1.5
    np.savez(copy / "pred.npz", **arrays)
    assert {"mse", "mae_delta", "de.log2_fold_change", "pearson_edistance"} <= failing(copy)


def test_swapped_labels_are_caught(copy):
    with np.load(copy / "pred.npz") as pred:
        arrays = dict(pred)
    names = arrays["perturbation"]
    arrays["perturbation"] = np.where(names == "G045", "G046", np.where(names == "G046", "G045", names))
    np.savez(copy / "pred.npz", **arrays)
    assert {"overlap_at_N", "discrimination_score_l1", "pearson_delta", "score.mae"} <= failing(copy)


@pytest.mark.parametrize("form", ["csv.gz", "tsv", "parquet"])
def test_tables_and_cells_are_read_in_other_forms(copy, form):
    for side in ("real", "pred"):
        with np.load(copy / f"de_{side}.npz") as arrays:
            table = pd.DataFrame({name: arrays[name] for name in reversed(arrays.files)})
        (copy / f"de_{side}.npz").unlink()
        path = copy / f"de_{side}.{form}"
        if form == "parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
    with np.load(copy / "pred.npz") as given:
        obs = pd.DataFrame(
            {"perturbation": given["perturbation"]}, index=np.arange(len(given["X"])).astype(str)
        )
        cells = anndata.AnnData(X=given["X"], obs=obs, var=pd.DataFrame(index=given["genes"]))
    (copy / "pred.npz").unlink()
    cells.write_h5ad(copy / "pred.h5ad")
    found, before = run_case(copy), run_case(CASES[0])
    assert found["failed"] == 0
    assert found["metrics"] == before["metrics"]


def test_a_table_in_single_precision_has_its_tolerance_and_a_missing_one_is_said(copy):
    with np.load(copy / "de_real.npz") as arrays:
        table = dict(arrays)
    table["p_value"] = table["p_value"].astype(np.float32)
    np.savez(copy / "de_real.npz", **table)
    (copy / "de_pred.npz").unlink()
    result = run_case(copy)
    assert result["failed"] == 0
    assert any("the case has no table de_pred" in reason for reason in result["reasons"])


def test_a_prediction_with_genes_in_another_order_is_refused(copy):
    with np.load(copy / "pred.npz") as given:
        arrays = dict(given)
    arrays["genes"] = arrays["genes"][::-1]
    np.savez(copy / "pred.npz", **arrays)
    with pytest.raises(
        MetricError, match=r"genes of the prediction are not those of real\.h5ad in their order"
    ):
        run_case(copy)


def test_cells_in_a_sparse_file_are_compared_all_the_same(copy):
    table = anndata.read_h5ad(copy / "real.h5ad")
    table.X = sp.csr_matrix(table.X)
    table.write_h5ad(copy / "real.h5ad")
    found, before = run_case(copy), run_case(CASES[0])
    # Sums over sparse cells differ in the last digit of single precision.
    for name in ("compared", "skipped", "failed", "reasons"):
        assert found[name] == before[name]


def test_other_labels_of_the_case_are_read_by_all_of_its_sections(copy):
    table = anndata.read_h5ad(copy / "real.h5ad")
    table.obs["gene"] = table.obs.pop("perturbation").astype(str).replace("control", "control_cells")
    table.write_h5ad(copy / "real.h5ad")
    for name, column in (("pred.npz", "perturbation"),):
        with np.load(copy / name) as given:
            arrays = dict(given)
        labels = arrays[column].astype(object)
        labels[labels == "control"] = "control_cells"
        np.savez(copy / name, **{**arrays, column: labels.astype(str)})
    path = copy / "expected.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "pert_col": "gene", "control": "control_cells"})
    )
    assert run_case(copy) == run_case(CASES[0]) | {"case": "case"}


@pytest.mark.parametrize(("expected", "ok"), [(1.0, True), (0.25, True), (0.7, True), (0.2, False)])
def test_where_ties_come_in_any_order_all_orders_pass_and_nothing_else(expected, ok):
    got = parity._one("discrimination_score_cosine", "a", expected, 0.625, (0.0, 0.0), (0.25, 1.0))
    assert got.ok is ok
    # Without ties there is one number.
    assert not parity._one("discrimination_score_cosine", "a", 0.7, 0.625, (0.0, 0.0), (0.625, 0.625)).ok


def test_scores_are_compared_where_the_peer_has_no_column_of_a_metric(copy):
    path = copy / "expected.json"
    expected = json.loads(path.read_text())
    name = "pearson_edistance"
    scores = expected["cell_eval_score_vs_mean_baseline"]
    n = len(scores) - 1
    # As for one perturbation, of whose E-distance there is no correlation.
    scores["avg_score"] = (scores["avg_score"] * n - scores[name]) / (n - 1)
    for row in (
        *expected["cell_eval"]["aggregate_describe"].values(),
        *expected["cell_eval"]["per_perturbation"].values(),
        *expected["cell_eval_baseline"]["per_perturbation"].values(),
        expected["cell_eval_baseline"]["mean"],
        scores,
    ):
        del row[name]
    path.write_text(json.dumps(expected))
    result = run_case(copy)
    assert result["failed"] == 0, result["failures"]
    assert result["metrics"]["score.avg_score"]["compared"] == 2
    assert not any("unknown form" in reason for reason in result["reasons"])


def test_the_score_over_a_baseline_that_is_perfect_is_not_compared(copy):
    # The mean baseline of one perturbation has half of its change.
    kept = ("control", "G051")
    cells = anndata.read_h5ad(copy / "real.h5ad")
    cells = cells[cells.obs["perturbation"].isin(kept)].copy()
    cells.write_h5ad(copy / "real.h5ad")
    with np.load(copy / "pred.npz") as given:
        arrays = dict(given)
    rows = np.isin(arrays["perturbation"], kept)
    np.savez(copy / "pred.npz", **{n: a if n == "genes" else a[rows] for n, a in arrays.items()})
    path = copy / "expected.json"
    expected = json.loads(path.read_text())
    means = [cells.X[(cells.obs["perturbation"] == n).to_numpy()].mean(axis=0, dtype=float) for n in kept]
    expected["cell_eval_baseline"]["vector"] = np.mean(means, axis=0).tolist()
    for section in (expected["cell_eval"], expected["cell_eval_baseline"]):
        section["per_perturbation"] = {"G051": section["per_perturbation"]["G051"]}
    for name in ("systema", "definitional_not_upstream_code"):
        del expected[name]
    for name in [name for name in expected["cell_eval"] if name.startswith("ceiling")]:
        del expected["cell_eval"][name]
    path.write_text(json.dumps(expected))
    metrics = run_case(copy)["metrics"]
    (reason,) = metrics["score.pearson_delta"]["reasons"]
    assert reason.startswith("ill_conditioned: the baseline is perfect up to rounding")
    assert metrics["score.mse"]["compared"] == 1
    assert not any(name.startswith(("ceiling", "systema")) for name in metrics)


@pytest.mark.parametrize("halves", [{}, {"ceiling_raw_self_split_mean": {"pearson_delta": 0.0}}])
def test_ceilings_are_of_the_split_that_their_name_says_with_or_without_the_halves(copy, halves):
    case = parity.read_case(copy)
    for seed in (0, 3):
        theirs = {f"ceiling_0_8_2_disjoint_spearman_brown_seed{seed}": {"pearson_delta": 0.0}, **halves}
        found = list(parity._ceilings(replace(case, expected={**case.expected, "cell_eval": theirs})))
        rows = aggregate.disjoint_halves(case.labels, seed)[:2]
        real, other = (case.sample(case.X[r], case.labels[r]) for r in rows)
        mean = profile(real, other, case.names, case.genes, ("pearson_delta",))["pearson_delta"].mean()
        got = {record.key: record.got for record in found}
        assert got.keys() == ({"corrected", "halves"} if halves else {"corrected"})
        assert got["corrected"] == pytest.approx(2 * mean / (1 + mean))


def test_scores_of_a_prediction_without_change_lie_between_those_of_all_orders_of_ties(copy):
    case = parity.read_case(copy)
    control = case.X[case.labels == case.expected["control"]].mean(axis=0)
    flat = replace(case, predicted=np.tile(control, (len(case.pred_labels), 1)))
    found = parity._Outcome.of(
        flat, case.sample(case.X, case.labels), flat.sample(flat.predicted, flat.pred_labels)
    )
    name = "discrimination_score_cosine"
    assert name in found.tied
    n = len(case.names)
    np.testing.assert_allclose(found.least[name], 1 / n)
    np.testing.assert_allclose(found.most[name], 1)
    np.testing.assert_allclose(found.here[name], 1 - (n - 1) / 2 / n)
    assert found.least["mae"] is found.here["mae"]


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_means_of_a_constant_prediction_in_double_precision_are_of_exact_sums(copy, form):
    # Its change is then 0 but for the last digit of a quotient, and its correlation undefined, as by the peer.
    case = parity.read_case(copy)
    cell = np.asarray([0.1, 0.7, 1.3, 0.0])
    X = np.tile(cell, (len(case.labels), 1))
    sizes = [int((case.labels == name).sum()) for name in (*case.names, case.expected["control"])]
    means = np.asarray([[math.fsum([v] * n) / n for v in cell] for n in sizes])
    assert (np.stack([X[:n].sum(axis=0) / n for n in sizes]) != means).any()
    found = case.sample(form(X), case.labels)
    np.testing.assert_array_equal(found.mean, means[:-1])
    np.testing.assert_array_equal(found.delta, means[:-1] - means[-1])


def test_the_last_digits_of_log1p_may_be_those_of_another_processor(monkeypatch):
    # In the last digit, scaled counts are tied or are not.
    def other(values):
        return np.nextafter(np.log1p(values), np.where(np.asarray(values) > 1, np.inf, -np.inf))

    monkeypatch.setattr(parity, "LOG1P", (other, parity_scale.libm_log1p))
    assert run_case(COUNTS)["failed"] == 0
    monkeypatch.setattr(parity, "LOG1P", (parity_scale.libm_log1p, other))
    assert run_case(COUNTS)["failed"] == 0


def test_log1p_of_the_c_library_keeps_form_and_precision():
    values = np.array([[0.0, 1.0], [3.5, 1e-9]], dtype=np.float32)
    got = parity_scale.libm_log1p(values)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.log1p(values), rtol=1e-6)
