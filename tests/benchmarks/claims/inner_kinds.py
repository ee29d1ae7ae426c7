"""Coverage and error by inner folds of the kind of the test fold, and by those of earlier rules.

    python -m tests.benchmarks.claims.inner_kinds --out inner_kinds.json

Where context and perturbation are new at once: simulations of 6 contexts and 40 genes, three folds of
`context_perturbation_ood` each; earlier inner folds hold out contexts alone. Where a dose is new: simulations of four doses,
the highest tested; earlier inner folds hold out perturbations. Entries are fitted and calibrated as runs are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.schema import COVERAGE_LEVELS
from perturbfm_core.splits.carving import RULE
from perturbfm_core.splits.freeze import freeze
from tests.benchmarks.claims import measuring as m
from tests.benchmarks.claims.uncertainty import measure

ENTRIES = {name: {"model": name} for name in ("ridge", "set_kernel_ridge", "perturbfm-v0", "perturbfm-v2")}
INNER_CV: dict[str, Any] = {"validation": "inner_cv", "calibration": "inner_cv"}
BOTH = [{"n_obs": 8000, "n_contexts": 6, "n_perts": 40}]
DOSES = [
    {"n_obs": 8000, "n_contexts": 1, "n_perts": 30},
    {"n_obs": 3000, "n_contexts": 1, "n_perts": 8},
    {"n_obs": 8000, "n_contexts": 4, "n_perts": 8},
]
# {kind: (folds, screens, {rule: what inner folds hold out})}.
KINDS: dict[str, tuple[int | None, list[dict[str, Any]], dict[int, str]]] = {
    "context_perturbation_ood": (3, BOTH, {2: "contexts", RULE: "both at once"}),
    "dose_ood": (
        None,
        [{**screen, "doses": (0.1, 1.0, 10.0, 100.0)} for screen in DOSES],
        {3: "perturbations", RULE: "next dose"},
    ),
}


def main() -> None:
    """Print a table per kind, of all simulations, entries and inner folds."""
    parser = m.options(__doc__ or "")
    parser.add_argument("--simulation-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    m.single_thread()
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in args.kinds:
        folds, screens, rules = KINDS[kind]
        found[kind] = [
            row
            for screen, seed in itertools.product(screens, args.simulation_seeds)
            for row in _rows(SplitSpec(kind=kind, folds=folds, **INNER_CV), screen, seed, rules)
        ]
        print(m.table(found[kind]) + "\n")
    m.save(args.out, found)


def _rows(
    spec: SplitSpec, screen: dict[str, Any], seed: int, rules: dict[int, str]
) -> Iterator[dict[str, Any]]:
    """Yield coverage and error of each entry by the inner folds of each rule, on one simulation."""
    ds, _ = simulate(SimulationConfig(name="inner", n_genes=120, n_combos=0, seed=seed, **screen))
    for rule, what in rules.items():
        cases = [m.case(ds, split) for split in freeze(ds, spec, rule=rule)]
        for name, entry in ENTRIES.items():
            found = measure(cases, name, entry, SideInfo())
            covered = found.after.mean(axis=0)
            row = {
                "perturbations, contexts": f"{screen['n_perts']}, {screen['n_contexts']}",
                "seed": seed,
                "inner folds": what,
                "entry": name,
                **{f"{x:g}": f"{v:.3f}" for x, v in zip(COVERAGE_LEVELS, covered, strict=True)},
                "RMSE": f"{float(np.mean(found.risk)):.4f}",
            }
            m.tell(str(row))
            yield row


if __name__ == "__main__":
    main()
