"""Error and coverage at new doses, with the dose-response curve of train and with the logarithm of the dose.

    python -m tests.benchmarks.claims.dose_response --out dose_response.json

Simulations of four doses (Hill curve of coefficient 1, half-maximal at 1) with 1 or 4 contexts and 8 or 30 perturbations;
tested are the highest dose of each perturbation, and a middle one. Entries are fitted and calibrated as runs are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.schema import COVERAGE_LEVELS
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.view import TrainView
from tests.benchmarks.claims import measuring as m
from tests.benchmarks.claims.inner_kinds import DOSES, INNER_CV
from tests.benchmarks.claims.uncertainty import measure

ENTRIES = ("dose_interpolation", "ridge", "perturbfm-v2")
MODES = ("extrapolation", "interpolation")


def main() -> None:
    """Print a table of every simulation, and one of the means."""
    parser = m.options(__doc__ or "")
    parser.add_argument("--simulation-seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    m.single_thread()
    rows = [
        row
        for screen, seed, mode in itertools.product(DOSES, args.simulation_seeds, MODES)
        for row in _rows(screen, seed, mode)
    ]
    print(m.table([{**row, "RMSE": f"{row['RMSE']:.4f}"} for row in rows]) + "\n")
    means = [
        {
            "tested": mode,
            "entry": entry,
            "amounts": amounts,
            "RMSE": f"{np.mean([r['RMSE'] for r in chosen]):.3f}",
            **{f"{x:g}": f"{np.mean([float(r[f'{x:g}']) for r in chosen]):.3f}" for x in COVERAGE_LEVELS},
        }
        for mode, entry, amounts in itertools.product(MODES, ENTRIES, ("logarithm", "curve"))
        if (chosen := [r for r in rows if (r["tested"], r["entry"], r["amounts"]) == (mode, entry, amounts)])
    ]
    print(m.table(means))
    m.save(args.out, {"simulations": rows, "means": means})


def _logarithmic(view: TrainView) -> DoseResponse:
    return DoseResponse.logarithmic(view.conditions)


def _rows(screen: dict[str, Any], seed: int, mode: str) -> Iterator[dict[str, Any]]:
    """Yield coverage and error of each entry on one simulation, by either kind of amounts."""
    ds, _ = simulate(
        SimulationConfig(
            name="doses", n_genes=120, n_combos=0, seed=seed, doses=(0.1, 1.0, 10.0, 100.0), **screen
        )
    )
    splits = freeze(ds, SplitSpec(kind="dose_ood", params={"mode": mode}, **INNER_CV))
    cases = [m.case(ds, split) for split in splits]
    for name, amounts in itertools.product(ENTRIES, ("logarithm", "curve")):
        with patch.object(DoseResponse, "fit", _logarithmic) if amounts == "logarithm" else nullcontext():
            found = measure(cases, name, {"model": name}, SideInfo())
        covered = found.after.mean(axis=0)
        row = {
            "perturbations, contexts": f"{screen['n_perts']}, {screen['n_contexts']}",
            "seed": seed,
            "tested": mode,
            "entry": name,
            "amounts": amounts,
            "RMSE": float(np.mean(found.risk)),
            **{f"{x:g}": f"{v:.3f}" for x, v in zip(COVERAGE_LEVELS, covered, strict=True)},
        }
        m.tell(str(row))
        yield row


if __name__ == "__main__":
    main()
