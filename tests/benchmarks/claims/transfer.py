"""What borrowed effects gain: simulated pairs of screens by overlap, shuffled and unrelated donors, and real pairs.

python -m tests.benchmarks.claims.transfer --out transfer.json
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.obs import make_obs
from perturbfm_core.errors import PerturbFMError
from perturbfm_core.graphs.donor_effects import check_directions, check_genes
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.audit.borrowed import borrowed_record
from perturbfm_core.splits.freeze import freeze
from tests.benchmarks.claims import measuring as m
from tests.benchmarks.claims.real_contexts import REAL
from tests.support.command import perturbfm
from tests.support.screen_pairs import gain_of, knowledge, lent, pair, shuffled, unrelated

LENT: dict[str, Any] = {"borrow": ("donor",)}
ENTRIES: list[tuple[str, str, dict[str, Any]]] = [
    ("ridge", "ridge", {}),
    ("group mean", "transfer_mean", {}),
    ("transfer_mean", "transfer_mean", LENT),
    ("transfer_ridge", "transfer_ridge", LENT),
    ("transfer_ridge, start mean", "transfer_ridge", {**LENT, "start": "mean"}),
    ("transfer_process", "transfer_process", LENT),
    ("gene_embedding_ridge", "gene_embedding_ridge", {}),
    ("gene_embedding_ridge, borrowing", "gene_embedding_ridge", LENT),
]
PROCESS: list[tuple[str, str, dict[str, Any]]] = [
    ("process", "perturbfm-v2", {"gate": "off", "core": "process"}),
    ("perturbfm-v2", "perturbfm-v2", {"gate": "off"}),
    ("perturbfm-v2, borrowing", "perturbfm-v2", {"gate": "off", **LENT}),
    ("perturbfm-v0", "perturbfm-v0", {"gate": "off"}),
    ("perturbfm-v0, borrowing", "perturbfm-v0", {"gate": "off", **LENT}),
]
# (one, other): what borrowing adds to each.
PAIRS = [
    ("transfer_mean", "ridge"),
    ("transfer_mean", "group mean"),
    ("transfer_ridge", "ridge"),
    ("transfer_ridge, start mean", "ridge"),
    ("transfer_process", "process"),
    ("gene_embedding_ridge, borrowing", "gene_embedding_ridge"),
    ("perturbfm-v2, borrowing", "perturbfm-v2"),
    ("perturbfm-v0, borrowing", "perturbfm-v0"),
]
SIMULATED = [
    ("100 % of genes", 1.0, "true"),
    ("50 % of genes", 0.5, "true"),
    ("0 % of genes", 0.0, "true"),
    ("shuffled donor", 1.0, "shuffled"),
    ("unrelated donor", 1.0, "unrelated"),
]


def simulated(seed: int, overlap: float, kind: str) -> tuple[PerturbDataset, PerturbDataset]:
    """Return a target and its donor."""
    target, donor = pair(seed, overlap)
    if kind == "shuffled":
        donor = shuffled(donor, seed)
    return target, unrelated(seed) if kind == "unrelated" else donor


def measured(
    target: PerturbDataset,
    donor: PerturbDataset,
    spec: SplitSpec,
    folds: int,
    entries: list[tuple[str, str, dict[str, Any]]],
) -> dict[str, list[m.Run]]:
    """Return the runs of each entry on the first folds."""
    out: dict[str, list[m.Run]] = {}
    known = knowledge(target, donor=donor)
    for split in freeze(target, spec)[:folds]:
        borrowed_record(target, split, donor, None, "donor")
        on = m.case(target, split)
        for name, model, params in entries:
            out.setdefault(name, []).append(m.run(on, model, 0, known, **params))
    return out


def rows_of(what: str, found: dict[str, m.Run]) -> Iterator[dict[str, Any]]:
    """Yield one row per pair of entries: the gain by each metric with its interval of 95 %."""
    for one, other in PAIRS:
        if one not in found or other not in found:
            continue
        row: dict[str, Any] = {"pair": what, "entry": one, "against": other}
        for metric in m.METRICS:
            gain, error = gain_of(found[one], found[other], metric)
            row[metric] = f"{gain:+.3f} ({gain - 1.96 * error:+.3f} to {gain + 1.96 * error:+.3f})"
        yield {
            **row,
            "value": float(np.nan_to_num(found[one].values[m.RAW]).mean()),
            "n": len(found[one].keys),
        }


def real_pairs(data: Path) -> Iterator[tuple[str, PerturbDataset, PerturbDataset]]:
    """Yield (name, target, donor) of the real files: the rows of one context, or of half of the lines, and the others."""
    if not data.is_dir():
        m.tell(f"skipped the real pairs: {data} is absent; give --data FOLDER")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("four", "l1000"):
            file, columns, _ = REAL[name]
            if not (data / file).is_file():
                m.tell(f"skipped {name}: {data / file} is absent")
                continue
            out = Path(folder) / name
            perturbfm("data", "import", data / file, "--out", out, *columns, warns=True)
            ds = open_dataset(out)
            lines = ds.contexts
            if name == "four":
                for line in lines:
                    others = [x for x in lines if x != line]
                    yield f"{line} from the other three", of_contexts(ds, [line]), of_contexts(ds, others)
            else:
                yield (
                    "L1000, lines 1, 3, ... from 2, 4, ...",
                    of_contexts(ds, lines[::2]),
                    of_contexts(ds, lines[1::2]),
                )


def of_contexts(ds: PerturbDataset, contexts: list[str]) -> PerturbDataset:
    """Return the rows of some contexts as a data set of its own."""
    rows = np.flatnonzero(ds.obs[schema.CONTEXT_ID].astype(str).isin(contexts).to_numpy())
    obs = ds.obs.iloc[rows]
    made = make_obs(
        {c: obs[c].astype(str).tolist() if obs[c].dtype == "category" else obs[c].array for c in obs},
        list(obs.index),
    )
    values = Values(**{k: None if X is None else X[rows] for k, X in vars(ds.values).items()})
    metadata = ds.metadata.model_copy(update={"name": "+".join(contexts)[:40], "content_sha256": None})
    return PerturbDataset(made, ds.genes, values, metadata)


def main() -> None:
    """Run everything and print a table."""
    parser = m.options(__doc__ or "")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--no-process", action="store_true", help="leave PerturbFM out, which takes most of the time"
    )
    args = parser.parse_args()
    m.single_thread()
    rows: list[dict[str, Any]] = []
    spec = SplitSpec(kind="perturbation_ood", folds=args.folds, val_frac=0, calib_frac=0)
    entries = ENTRIES if args.no_process else ENTRIES + PROCESS
    for what, overlap, kind in SIMULATED:
        found: dict[str, list[m.Run]] = {}
        for seed in args.seeds:
            for name, runs in measured(*simulated(seed, overlap, kind), spec, args.folds, entries).items():
                found.setdefault(name, []).extend(runs)
        rows += rows_of(what, {name: m.pooled(runs) for name, runs in found.items()})
        m.tell(f"{what}: done")
    for what, target, donor in real_pairs(args.data):
        n = len({g for p in target.conditions[schema.PERT_ID].astype(str) for g in p.split("+")})
        folds = min(args.folds, n)
        try:
            check_genes(target, donor, "donor")
            check_directions(target, lent(target, donor))
            both = measured(target, donor, spec.model_copy(update={"folds": folds}), folds, entries)
        except PerturbFMError as error:
            m.tell(f"skipped {what}: {error}")
            continue
        rows += rows_of(what, {name: m.pooled(runs) for name, runs in both.items()})
        m.tell(f"{what}: done")
    print(m.table(rows))
    m.save(args.out, rows)


if __name__ == "__main__":
    main()
