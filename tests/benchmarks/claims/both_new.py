"""Coverage where context and perturbation are new at once, by inner folds of that kind and by those of contexts alone.

    python -m tests.benchmarks.claims.both_new --out both_new.json

Simulations of 6 contexts and 40 genes, three folds of `context_perturbation_ood` each. Entries are fitted and calibrated
as runs are; the earlier inner folds are those of the second of `EARLIER_RULES`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.schema import COVERAGE_LEVELS
from perturbfm_core.splits.carving import EARLIER_RULES, RULE
from perturbfm_core.splits.freeze import freeze
from tests.benchmarks.claims import measuring as m
from tests.benchmarks.claims.uncertainty import measure

ENTRIES = {name: {"model": name} for name in ("ridge", "set_kernel_ridge", "perturbfm-v0", "perturbfm-v2")}
INNER = {EARLIER_RULES[-1]: "contexts", RULE: "both at once"}


def main() -> None:
    """Print the table of all simulations, entries and inner folds."""
    parser = m.options(__doc__ or "")
    parser.add_argument("--simulation-seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    m.single_thread()
    rows: list[dict[str, Any]] = []
    for seed in args.simulation_seeds:
        screen = SimulationConfig(
            name="both_new", n_obs=8000, n_genes=120, n_contexts=6, n_perts=40, n_combos=0, seed=seed
        )
        ds, _ = simulate(screen)
        spec = SplitSpec(
            kind="context_perturbation_ood", folds=3, validation="inner_cv", calibration="inner_cv"
        )
        for rule, what in INNER.items():
            cases = [m.case(ds, split) for split in freeze(ds, spec, rule=rule)]
            for name, entry in ENTRIES.items():
                found = measure(cases, name, entry, SideInfo())
                covered = found.after.mean(axis=0)
                rows.append(
                    {
                        "seed": seed,
                        "inner folds": what,
                        "entry": name,
                        **{f"{x:g}": f"{v:.3f}" for x, v in zip(COVERAGE_LEVELS, covered, strict=True)},
                        "RMSE": f"{float(np.mean(found.risk)):.4f}",
                    }
                )
                m.tell(f"seed {seed}, {what}, {name}: {rows[-1]}")
    print(m.table(rows))
    m.save(args.out, {"both_new": rows})


if __name__ == "__main__":
    main()
