"""Held-out contexts of simulated screens, without and with some conditions of their own in train.

python -m tests.benchmarks.claims.few_shot --seeds 0 1 2
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.splits.freeze import freeze
from tests.benchmarks.claims import measuring as m

ENTRIES: dict[str, dict[str, Any]] = {
    "per_perturbation_mean": {},
    "context_general": {},
    "ridge": {},
    "perturbfm-v0": {"gate": "off"},
    "perturbfm-v2": {"gate": "off"},
}
SHARES = (0.0, 0.2, 0.5)
CONTEXTS, HELD = 6, 3


def main() -> None:
    """Fit every entry on three held-out contexts of every screen, and print means and gains over `context_general`."""
    parser = m.options(__doc__ or "")
    args = parser.parse_args()
    m.single_thread()
    rows = []
    for share in SHARES:
        runs: dict[str, list[m.Run]] = {name: [] for name in ENTRIES}
        for seed in args.seeds:
            config = SimulationConfig(
                n_obs=12_000,
                n_genes=300,
                n_contexts=CONTEXTS,
                n_perts=40,
                n_combos=0,
                control_fraction=0.2,
                context_shift=1.0,
                seed=seed,
            )
            ds = simulate(config)[0]
            params = {"few_shot_frac": share} if share else {}
            spec = SplitSpec(kind="context_ood", folds=CONTEXTS, params=params, val_frac=0, calib_frac=0)
            for split in freeze(ds, spec)[:HELD]:
                on = m.case(ds, split)
                for name, options in ENTRIES.items():
                    found = m.run(on, name, 0, **options)
                    # Screens of other seeds have conditions of the same names.
                    runs[name].append(m.Run([f"{seed} {k}" for k in found.keys], found.values))
            m.tell(f"share {share}, seed {seed}: done")
        pooled = {name: m.pooled(found) for name, found in runs.items()}
        for name, run in pooled.items():
            gain, error = m.gain(run, pooled["context_general"])
            rows.append(
                {
                    "share in train": share,
                    "entry": name,
                    "conditions": len(run.keys),
                    m.RAW: float(np.nan_to_num(run.values[m.RAW]).mean()),
                    m.CENTRED: float(np.nan_to_num(run.values[m.CENTRED]).mean()),
                    "over context_general": f"{gain:+.4f} ± {error:.4f}",
                }
            )
    print(m.table(rows))
    m.save(args.out, rows)


if __name__ == "__main__":
    main()
