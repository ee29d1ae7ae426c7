"""`perturbfm metrics` and `perturbfm parity` as a user types them."""

import json
import shutil
from pathlib import Path

import pytest

from perturbfm_core.cli.main import main
from perturbfm_core.cli.metrics import metrics_page
from tests.support.paths import REPO

CASE = REPO / "tests" / "parity" / "perturbench" / "splits_synth"


def run(capsys, *argv):
    """Return (exit code, standard output, standard error)."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in argv])
    out = capsys.readouterr()
    return stopped.value.code or 0, out.out, out.err


@pytest.fixture
def cell(capsys, tmp_path, monkeypatch):
    """Return (data, split hash, run directory) of one finished cell."""
    monkeypatch.chdir(tmp_path)
    run(capsys, "data", "make-synth", "--out", "s", "--n-obs", 400, "--n-genes", 40, "--n-perts", 5)
    _, out, _ = run(
        capsys,
        "splits",
        "create",
        "--data",
        "s",
        "--spec",
        "context_ood",
        "--holdout-context",
        "C0",
        "--json",
    )
    split = json.loads(out)["split_hash"]
    _, out, _ = run(capsys, "train", "additive", "--data", "s", "--split", split, "--json")
    return Path("s"), split, Path(json.loads(out)["run_dir"])


def test_the_page_of_metrics_is_up_to_date():
    page = (REPO / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_page() + "\n", "run `perturbfm metrics list --markdown > docs/metrics.md`"


def test_list(capsys):
    code, out, _ = run(capsys, "metrics", "list", "--panel", "delta", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [r["metric"] for r in rows if r["headline"]] == ["pearson_centered"]
    assert {r["panel"] for r in rows} == {"delta"}


def test_validate_agrees_with_the_run_and_catches_a_changed_number(capsys, cell):
    data, split, folder = cell
    arguments = [
        "metrics",
        "validate",
        "--data",
        data,
        "--preds",
        folder / "predictions.npz",
        "--split",
        split,
    ]
    code, out, _ = run(capsys, *arguments, "--reference-json", folder / "metrics.json", "--json")
    outcome = json.loads(out)
    assert (code, outcome["failed"], outcome["missing"]) == (0, 0, 0)
    assert outcome["compared"] > 500
    reference = json.loads((folder / "metrics.json").read_text())
    reference["delta"]["global"]["pearson"] += 1e-3
    Path("wrong.json").write_text(json.dumps(reference))
    code, out, err = run(capsys, *arguments, "--reference-json", "wrong.json", "--json")
    assert code == 2
    assert json.loads(out)["differences"][0]["at"] == "delta.global.pearson"
    assert err.startswith("error: 1 of ")


def test_validate_without_a_split_takes_every_predicted_row(capsys, cell):
    data, _, folder = cell
    code, out, _ = run(capsys, "metrics", "validate", "--data", data, "--preds", folder / "predictions.npz")
    ours = json.loads((folder / "metrics.json").read_text())
    found = json.loads(out)
    assert code == 0
    assert found["delta"]["global"]["pearson"] == pytest.approx(ours["delta"]["global"]["pearson"], rel=1e-12)


def test_reference_script_must_lie_in_third_party(capsys, cell):
    data, split, folder = cell
    Path("ref.py").write_text(f"print(open({str(folder / 'metrics.json')!r}).read())")
    arguments = [
        "metrics",
        "validate",
        "--data",
        data,
        "--preds",
        folder / "predictions.npz",
        "--split",
        split,
        "--json",
    ]
    code, _, err = run(capsys, *arguments, "--reference-script", "python ref.py")
    assert code == 2
    assert "third_party" in err
    Path("third_party").mkdir()
    home = Path(json.loads(run(capsys, "doctor", "--json")[1])["home"])
    (home / "third_party").mkdir(exist_ok=True, parents=True)
    shutil.copy("ref.py", home / "third_party" / "ref.py")
    code, out, _ = run(capsys, *arguments, "--reference-script", f"python {home / 'third_party' / 'ref.py'}")
    assert (code, json.loads(out)["failed"]) == (0, 0)


def test_probe_reports_every_attack(capsys, cell):
    data, split, folder = cell
    code, out, _ = run(
        capsys,
        "metrics",
        "probe",
        "--data",
        data,
        "--split",
        split,
        "--preds",
        folder / "predictions.npz",
        "--json",
    )
    rows = json.loads(out)
    assert code == 0
    assert {"added_noise", "double_amplitude", "train_mean_relabelled"} <= {r["attack"] for r in rows}
    doubled = {(r["attack"], r["metric"]): r for r in rows if r["panel"] == "delta"}[
        "double_amplitude", "pearson"
    ]
    assert doubled["change"] == pytest.approx(0.0, abs=1e-9)


def test_parity_of_a_case(capsys):
    code, out, _ = run(capsys, "parity", CASE, "--json")
    outcome = json.loads(out)
    assert (code, outcome["failed"], outcome["kind"]) == (0, 0, "perturbench_splits")
    assert set(outcome) >= {"case", "kind", "compared", "skipped", "failed", "metrics"}
    entry = next(iter(outcome["metrics"].values()))
    assert set(entry) >= {"compared", "skipped", "failed", "max_abs_diff", "max_rel_diff", "reasons"}
    code, out, _ = run(capsys, "parity", CASE)
    assert code == 0
    assert f"compared={outcome['compared']}" in out


def test_parity_catches_a_planted_difference(capsys, tmp_path):
    case = tmp_path / "splits_synth"
    shutil.copytree(CASE, case)
    path = sorted(case.glob("split_*.csv"))[0]
    text = path.read_text()
    path.write_text(text.replace(",train", ",test", 1))
    code, _, err = run(capsys, "parity", case)
    assert code == 2
    assert "differ beyond their tolerance" in err


def test_no_case(capsys, tmp_path):
    code, _, err = run(capsys, "parity", tmp_path)
    assert code == 2
    assert "is no parity case" in err


@pytest.mark.parametrize("form", ["table", "json"])
def test_parity_of_a_case_of_cell_eval2(capsys, form):
    case = REPO / "tests" / "parity" / "cell_eval2" / "synth_edges"
    code, out, err = run(capsys, "parity", case, *(["--json"] if form == "json" else []))
    assert code == 0, err
    if form == "json":
        found = json.loads(out)
        assert (found["kind"], found["failed"], found["skipped"]) == ("cell_eval2", 0, 0)
        assert found["compared"] > 8_000
    else:
        assert "de_wilcoxon_sig_jaccard" in out


def test_parity_of_a_changed_case_of_cell_eval2_fails(capsys, tmp_path):
    case = Path(shutil.copytree(REPO / "tests" / "parity" / "cell_eval2" / "synth_edges", tmp_path / "case"))
    expected = json.loads((case / "expected.json").read_text())
    name = next(iter(expected["runs"]))
    expected["runs"] = {name: expected["runs"][name]}
    expected["runs"][name]["agg_results"]["mean"]["pds_cosine"] += 1e-6
    (case / "expected.json").write_text(json.dumps(expected))
    for path in case.glob("de_*.parquet"):
        path.unlink()
    code, out, err = run(capsys, "parity", case, "--json")
    assert code != 0
    assert err.strip().count("\n") == 0
    assert json.loads(out)["failed"] == 1
