"""Split requests that cannot be met, and edited split files, are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import attempt, perturbfm
from tests.support.refusals import refuse


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
