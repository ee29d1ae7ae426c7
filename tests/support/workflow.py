"""Commands of a whole workflow, and a suite of a user's own, for tests of the command line."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

from perturbfm_core.cli.main import app

SYNTH = [
    "data",
    "make-synth",
    "--out",
    "D",
    "--n-obs",
    "200",
    "--n-genes",
    "50",
    "--n-contexts",
    "3",
    "--n-perts",
    "5",
]
CONTEXT = ["splits", "create", "--data", "D", "--spec", "context_ood", "--holdout-context", "C0"]
IMPORT = [
    "--pert-col",
    "perturbation",
    "--context-col",
    "cell_line",
    "--batch-col",
    "batch",
    "--control-label",
    "ctrl",
    "--separator",
    "_",
    "--space",
    "counts",
    "--modality",
    "CRISPRa",
]


def leaves(command=None, path=()):
    """Return every verb of the command line as (words, click command)."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "list_commands"):
        return [(path, command)]
    names = command.list_commands(None)
    return [leaf for name in names for leaf in leaves(command.get_command(None, name), (*path, name))]


def tiny_suite(root: Path) -> None:
    """Add a data set and a suite to the user's catalog that run in a second."""
    entries = {
        "datasets/tiny.yaml": {
            "name": "tiny",
            "description": "very small",
            "source": "synth",
            "synth": {"n_obs": 160, "n_genes": 20, "n_contexts": 2, "n_perts": 4},
        },
        "suites/tiny.yaml": {
            "name": "tiny",
            "description": "one unseen context",
            "grid": [{"dataset": "tiny", "splits": [{"kind": "context_ood", "params": {"holdout": ["C1"]}}]}],
            "models": ["control_only", "global_mean"],
        },
    }
    for name, entry in entries.items():
        path = root / ".perturbfm/catalog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(entry))
