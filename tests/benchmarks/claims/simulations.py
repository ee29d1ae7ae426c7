"""The claims about PerturbFM v0 to v3 on the frozen simulations, with the true network and with a rewired one.

python -m tests.benchmarks.claims.simulations --out simulations.json
python -m tests.benchmarks.claims.simulations --fold 1   # another fold of the same cross-validation
"""

from __future__ import annotations

from typing import Any

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.graphs.rewire import rewire
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.pipeline.dataset import ensure_dataset, open_dataset
from perturbfm_core.pipeline.gene_graph import truth_graph
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.store.artifacts import ArtifactStore
from tests.benchmarks.claims import measuring as m

TRUE: dict[str, Any] = {"adjacency": ("network",)}
# {split: [(name, model, graph, parameters)]}
ENTRIES: dict[str, list[tuple[str, str, str | None, dict[str, Any]]]] = {
    "sim_network.perturbation_ood": [
        ("v0", "perturbfm-v0", None, {}),
        ("v1, true graph", "perturbfm-v1", "true", TRUE),
        ("v1, rewired graph", "perturbfm-v1", "rewired", TRUE),
        ("v2, no graph", "perturbfm-v2", None, {}),
        ("v2, true graph", "perturbfm-v2", "true", TRUE),
        ("v2, rewired graph", "perturbfm-v2", "rewired", TRUE),
        ("v3, true graph", "perturbfm-v3", "true", TRUE),
    ],
    "sim_state.perturbation_ood": [
        ("v2, true graph", "perturbfm-v2", "true", TRUE),
        ("v3, true graph", "perturbfm-v3", "true", TRUE),
        (
            "v3, true graph, control state permuted",
            "perturbfm-v3",
            "true",
            {**TRUE, "control_state": "permuted"},
        ),
    ],
    "sim_context.context_ood": [
        ("context_general", "context_general", None, {}),
        ("v0", "perturbfm-v0", None, {}),
        ("v2", "perturbfm-v2", None, {}),
        ("v3", "perturbfm-v3", None, {}),
    ],
}
# (split, one, other): the claim is that one is better, or (within) that it is not.
CLAIMS = [
    ("sim_network.perturbation_ood", "v1, true graph", "v0", "at least .10"),
    ("sim_network.perturbation_ood", "v1, rewired graph", "v0", "within .01"),
    ("sim_network.perturbation_ood", "v2, true graph", "v2, no graph", "the graph's own gain"),
    ("sim_network.perturbation_ood", "v2, rewired graph", "v2, no graph", "none"),
    ("sim_network.perturbation_ood", "v3, true graph", "v2, true graph", ""),
    ("sim_state.perturbation_ood", "v3, true graph", "v2, true graph", "better"),
    ("sim_state.perturbation_ood", "v3, true graph", "v3, true graph, control state permuted", "better"),
    (
        "sim_state.perturbation_ood",
        "v3, true graph, control state permuted",
        "v2, true graph",
        "no gain left",
    ),
    ("sim_context.context_ood", "v2", "context_general", "better"),
]


def load(store: ArtifactStore, prefix: str, fold: int) -> tuple[m.Case, dict[str, SideInfo]]:
    """Return a split (fold 0 is the frozen one) and the knowledge of each kind of graph."""
    name, kind = prefix.split(".")
    path = ensure_dataset(store, load_catalog().dataset(name))
    ds = open_dataset(path)
    folder = SplitFolder(store.split_dir)
    (key,) = [e.key for e in folder.index().splits if e.key.startswith(prefix)]
    graph = truth_graph(path, "network")
    graphs = {"true": graph, "rewired": rewire(graph, 0).renamed("network")}
    known = {kind: SideInfo(graphs={"network": g}) for kind, g in graphs.items()}
    split = freeze(ds, SplitSpec(kind=kind, folds=5))[fold] if fold else folder.load(key)
    return m.case(ds, split), known


def main() -> None:
    """Run everything and print two tables."""
    parser = m.options(__doc__ or "")
    parser.add_argument("--fold", type=int, choices=range(5), default=0, help="fold of the cross-validation")
    args = parser.parse_args()
    m.single_thread()
    store = ArtifactStore()
    rows, saved = [], []
    by_name: dict[tuple[str, str], m.Run] = {}
    # A split by context is no fold of a cross-validation.
    wanted = {p: e for p, e in ENTRIES.items() if not args.fold or p.endswith("perturbation_ood")}
    for prefix, entries in wanted.items():
        on, known = load(store, prefix, args.fold)
        for name, model, graph, params in entries:
            runs = []
            for seed in args.seeds:
                runs.append(m.run(on, model, seed, known.get(graph or ""), **params))
                tell = runs[-1]
                m.tell(
                    f"{prefix} {name} seed {seed}: {tell.values[m.CENTRED].mean():.4f}, {tell.seconds:.0f} s"
                )
                saved.append(
                    {
                        "split": on.split.hash,
                        "entry": name,
                        "model": model,
                        "graph": graph,
                        "params": params,
                        "seed": seed,
                        "gate": m.gate_of(tell.training),
                        "cpu_s": tell.seconds,
                        **{k: float(v.mean()) for k, v in tell.values.items()},
                    }
                )
            whole = by_name[prefix, name] = m.averaged(runs)
            rows.append(
                {
                    "split": prefix,
                    "entry": name,
                    "centred": float(whole.values[m.CENTRED].mean()),
                    "without target": float(whole.values[m.NO_TARGET].mean()),
                    "raw": float(whole.values[m.RAW].mean()),
                    "by seed, centred": " ".join(f"{r.values[m.CENTRED].mean():.4f}" for r in runs),
                    "gate": " ".join(m.gate_of(r.training) for r in runs),
                    "conditions": len(whole.keys),
                    "CPU-s per fit": f"{whole.seconds / len(runs):.1f}",
                }
            )
    claims = []
    for prefix, one, other, claim in (c for c in CLAIMS if c[0] in wanted):
        a, b = by_name[prefix, one], by_name[prefix, other]
        row: dict[str, Any] = {"split": prefix, "one": one, "other": other, "claim": claim}
        for label, metric in (("centred", m.CENTRED), ("without target", m.NO_TARGET)):
            mean, error = m.gain(a, b, metric)
            row[label] = f"{mean:+.4f} ± {error:.4f}"
        claims.append(row)
    print(m.table(rows))
    print("\nPaired differences over test conditions, each the mean over seeds (± one standard error):\n")
    print(m.table(claims))
    m.save(args.out, {"runs": saved, "entries": rows, "claims": claims})


if __name__ == "__main__":
    main()
