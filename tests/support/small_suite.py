"""A suite of two contexts, three folds and three entries in a user's catalog, for tests of suites."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.command import perturbfm

ENTRIES = ("control_only", "global_mean", "ridge")
DATA = {
    "name": "tiny",
    "description": "very small",
    "source": "synth",
    "synth": {"n_obs": 240, "n_genes": 20, "n_contexts": 2, "n_perts": 6, "n_combos": 5},
}
SUITE = {
    "name": "t",
    "description": "one unseen context, two folds of pairs",
    "grid": [
        {
            "dataset": "tiny",
            "splits": [
                {"kind": "context_ood", "params": {"holdout": ["C1"]}},
                {"kind": "combo_ood", "folds": 2},
            ],
        }
    ],
    "models": list(ENTRIES),
}


def declare(root: Path, **changes: object) -> None:
    """Write the small data set and suite into a catalog."""
    for name, entry in (("datasets/tiny", DATA), ("suites/t", {**SUITE, **changes})):
        path = root / ".perturbfm/catalog" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(entry))


def counts(*words: object) -> dict[str, int]:
    answer = perturbfm("suite", "status", "t", *words, "--json").json
    return {k: answer[k] for k in ("cells", "done", "missing", "failed", "not_applicable")}
