"""Norman et al. 2019: unseen doubles and unseen singles, on the published folds and on further random ones.

    python -m tests.benchmarks.claims.norman --data FOLDER --out norman.json

Train has all singles and the other doubles (doubles), or all but what touches a held-out gene (singles). Splits are
explicit ones whose inner folds are of the same kind as their test; the best baseline of a fold is the one that its
inner folds chose, by the same metric.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.graphs.features import read_features
from perturbfm_core.graphs.kinds import build_from_table
from perturbfm_core.graphs.membership import membership_features
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.graphs.sources.conversion import MAIN, ONTOLOGY, Options
from perturbfm_core.graphs.sources.known import known_source
from perturbfm_core.graphs.sources.neighbourhood import neighbourhood_features
from perturbfm_core.graphs.summary import genes_of
from perturbfm_core.graphs.tables import read_table
from perturbfm_core.pipeline.gene_families import families_of, listed
from perturbfm_core.splits.freeze import freeze
from tests.benchmarks.claims import measuring as m

FILE = "pb_norman_k562_singles_doubles.h5ad"
MAPPING = ColumnMapping(
    pert_col="condition", context_col="context", modality_col="perturbation_type", space="delta"
)
TABLES = ("families", "string", "reactome", "go")
# The list of transcription factors (`perturbfm knowledge add human-tfs`), if it lies beside the other tables.
FACTORS_FILE = "DatabaseExtract_v_1.01.csv"
FACTORS = ("human-tfs", "human-tfs:listed")
# The groups of the HGNC (`perturbfm knowledge add hgnc`), the same.
GROUPS_FILE, HIERARCHY_FILE = "hgnc_complete_set.txt", "hierarchy_closure.csv"
GROUPS = ("hgnc",)
# Neighbours in three graphs as further tables.
NEIGHBOURS = ("string-neighbours", "dorothea-neighbours", "trrust-neighbours")
GRAPHS = ("string-graph", "go-graph", "reactome-graph")
EMBEDDED = {"gene_features": ("go", "string", "coexpression")}
# Narrow networks with more drop-out and weight decay; usual are width and rank 64, two layers.
SMALLER: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_dim": 16,
        "rank": 16,
        "n_layers": 1,
        "graph_features": 16,
        "dropout": 0.3,
        "weight_decay": 0.1,
    },
    "tiny": {
        "hidden_dim": 8,
        "rank": 4,
        "n_layers": 1,
        "graph_features": 8,
        "dropout": 0.3,
        "weight_decay": 0.1,
        "lr": 1e-3,
    },
}
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "additive": ("additive", {}),
    "scaled_additive": ("scaled_additive", {}),
    "combo_kernel_ridge": ("combo_kernel_ridge", {}),
    "set_kernel_ridge": ("set_kernel_ridge", {}),
    "gene_embedding_ridge": ("gene_embedding_ridge", EMBEDDED),
    **{v: (f"perturbfm-{v}", {"gene_features": TABLES}) for v in ("v0", "v1", "v2", "v3")},
    **{
        f"{v}, three graphs": (f"perturbfm-{v}", {"gene_features": TABLES, "adjacency": GRAPHS})
        for v in ("v1", "v2", "v3")
    },
    **{
        f"v2, three graphs, {name} network": (
            "perturbfm-v2",
            {"gene_features": TABLES, "adjacency": GRAPHS, **size},
        )
        for name, size in SMALLER.items()
    },
    "v2, no tables": ("perturbfm-v2", {}),
    "v2, without families, no network": ("perturbfm-v2", {"gene_features": TABLES[1:], "gate": "off"}),
    "v2, factors": ("perturbfm-v2", {"gene_features": TABLES + FACTORS}),
    "v2, factors, no network": ("perturbfm-v2", {"gene_features": TABLES + FACTORS, "gate": "off"}),
    "v2, groups": ("perturbfm-v2", {"gene_features": TABLES + GROUPS}),
    "v0, groups": ("perturbfm-v0", {"gene_features": TABLES + GROUPS}),
    "v2, groups, no network": ("perturbfm-v2", {"gene_features": TABLES + GROUPS, "gate": "off"}),
    "v2, groups, factors, no network": (
        "perturbfm-v2",
        {"gene_features": TABLES + GROUPS + FACTORS, "gate": "off"},
    ),
    "v2, no network": ("perturbfm-v2", {"gene_features": TABLES, "gate": "off"}),
    "v2, six tables, no network": ("perturbfm-v2", {"gene_features": TABLES + NEIGHBOURS, "gate": "off"}),
}
BASELINES = {
    "doubles": (
        "additive",
        "scaled_additive",
        "combo_kernel_ridge",
        "set_kernel_ridge",
        "gene_embedding_ridge",
    ),
    "singles": ("additive", "set_kernel_ridge", "gene_embedding_ridge"),
}
BEST = "best baseline of inner folds"


@dataclass(frozen=True)
class Fold:
    """Perturbations of one fold: scored, and left out of train without being scored."""

    test: list[str]
    unused: list[str]


def folds(ds: PerturbDataset, published: dict[str, Any], task: str, seed: int | None) -> Iterator[Fold]:
    """Yield five folds: the published ones, or random ones of a seed."""
    names = ds.conditions["pert_id"].astype(str).tolist()
    if seed is None:
        for fold in published[task]:
            yield Fold(fold["test"], fold.get("held_out_unscored", fold.get("unused", [])))
        return
    rng = np.random.default_rng([seed, 0 if task == "doubles" else 1])
    single = {n for n in names if len(pert_genes(n)) == 1}
    pool = [n for n in names if (n in single) == (task == "singles")]
    order = rng.permutation(len(pool))
    for i in range(5):
        held = [pool[j] for j in order[i::5]]
        if task == "doubles":
            test = [n for n in held if set(pert_genes(n)) <= single]
            yield Fold(test, sorted(set(held) - set(test)))
        else:
            genes = set(held)
            yield Fold(held, [n for n in names if n not in genes and genes & set(pert_genes(n))])


def cases(ds: PerturbDataset, published: dict[str, Any], task: str, seed: int | None) -> list[m.Case]:
    """Return the frozen splits of a task."""
    out = []
    for i, fold in enumerate(folds(ds, published, task, seed)):
        spec = SplitSpec(
            kind="explicit",
            params={
                "folds": {"test": fold.test, "unused": fold.unused},
                "cv_group": task if seed is None else f"{task} {seed}",
            },
            folds=5,
            fold=i,
            validation="inner_cv",
            calibration="inner_cv",
        )
        (split,) = freeze(ds, spec)
        out.append(m.case(ds, split))
    return out


def knowledge(ds: PerturbDataset, data: Path) -> SideInfo:
    """Return the tables of features and the graphs, made of the public files by the package."""
    folder = data / "graphs"
    terms = {
        name: m.real_file(folder, file)
        for name, file in (
            ("go", "go_bp_2021_membership.parquet"),
            ("reactome", "reactome_membership.parquet"),
        )
    }
    string = m.real_file(folder, "string_v12_human_ntm700.parquet")
    features = {name: membership_features(read_table(path), name=name) for name, path in terms.items()}
    embedded = m.real_file(folder, "gene_embeddings_string_svd64.npz")
    features["string"] = read_features(embedded, "string")
    for name, (kind, file) in zip(
        NEIGHBOURS,
        (
            ("string", "string_v12_human_ntm700.parquet"),
            ("tf", "dorothea_hs.parquet"),
            ("tf", "trrust_v2_human.parquet"),
        ),
        strict=True,
    ):
        graph = build_from_table(kind, m.real_file(folder, file), name=name)
        features[name] = neighbourhood_features(graph, 64, name=name)
    features["families"] = families_of(ds)
    if (folder / FACTORS_FILE).is_file():
        found = known_source("human-tfs").convert({MAIN: folder / FACTORS_FILE}, Options(), "human-tfs")
        assert found.features is not None
        features |= {"human-tfs": found.features, "human-tfs:listed": listed(found.features, ds)}
    if (folder / GROUPS_FILE).is_file():
        files = {MAIN: folder / GROUPS_FILE, ONTOLOGY: folder / HIERARCHY_FILE}
        groups = known_source("hgnc").convert(files, Options(), "hgnc").features
        assert groups is not None
        features["hgnc"] = groups
    genes = genes_of(ds)
    graphs = {
        name: build_from_table(kind, path, name=name, keep=genes)
        for name, kind, path in (
            ("string-graph", "string", string),
            ("go-graph", "go", terms["go"]),
            ("reactome-graph", "reactome", terms["reactome"]),
        )
    }
    return SideInfo(graphs=graphs, features=features)


def chosen(per_fold: list[dict[str, m.Run]], names: tuple[str, ...], metric: str) -> tuple[m.Run, list[str]]:
    """Return, fold by fold, the run of the baseline that was best on the fold's inner folds, and their names."""
    best = [max(names, key=lambda n, runs=runs: runs[n].inner[metric]) for runs in per_fold]
    return m.pooled([runs[b] for runs, b in zip(per_fold, best, strict=True)]), best


def main() -> None:
    """Run the tasks and print tables."""
    parser = m.options(__doc__ or "")
    parser.add_argument("--tasks", nargs="+", default=["doubles", "singles"])
    parser.add_argument("--entries", nargs="+", default=[], help="PerturbFM entries (default: v0, v2, v3)")
    parser.add_argument("--no-published", action="store_true", help="leave the published folds out")
    parser.set_defaults(seeds=list(range(10)))
    args = parser.parse_args()
    m.single_thread()
    ds = import_h5ad(m.real_file(args.data, FILE), MAPPING, name="norman")
    published = json.loads(m.real_file(args.data, "norman_folds.json").read_text())
    known = knowledge(ds, args.data)
    asked = args.entries or ["v0", "v2", "v3"]
    result: dict[str, Any] = {}
    for task in args.tasks:
        names = [*BASELINES[task], *asked]
        groups: dict[str, dict[str, m.Run]] = {}
        best: dict[str, dict[str, m.Run]] = {}
        details = []
        for seed in [*([] if args.no_published else [None]), *args.seeds]:
            label = "published" if seed is None else str(seed)
            per_fold = []
            for i, on in enumerate(cases(ds, published, task, seed)):
                runs = {}
                for name in names:
                    model, params = ENTRIES[name]
                    runs[name] = m.run(on, model, 0, known, **params)
                    details.append(
                        {
                            "folds": label,
                            "fold": i,
                            "entry": name,
                            "gate": m.gate_of(runs[name].training),
                            "cpu_s": runs[name].seconds,
                            "inner": runs[name].inner,
                            **{k: float(v.mean()) for k, v in runs[name].values.items()},
                        }
                    )
                per_fold.append(runs)
            groups[label] = {n: m.pooled([r[n] for r in per_fold]) for n in names}
            picks = {metric: chosen(per_fold, BASELINES[task], metric) for metric in (m.RAW, m.CENTRED)}
            best[label] = {metric: run for metric, (run, _) in picks.items()}
            for metric, (_, which) in picks.items():
                details.append({"folds": label, "metric": metric, "chosen": which})
            m.tell(
                f"{task} {label}: "
                + ", ".join(
                    f"{n} {r.values[m.RAW].mean():.4f}/{r.values[m.CENTRED].mean():.4f} ({r.seconds:.0f} s)"
                    for n, r in groups[label].items()
                )
            )
            m.save(args.out, {**result, task: {"details": details}})
        tables = [_means(groups, names), *(_gains(groups, best, asked, task, k) for k in (m.RAW, m.CENTRED))]
        titles = (
            "Mean Pearson, raw / centred",
            "Gain over the baseline that inner folds chose, raw",
            "Gain over the baseline that inner folds chose, centred",
        )
        for title, rows in zip(titles, tables, strict=True):
            print(f"\n{task}: {title}\n\n{m.table(rows)}")
        result[task] = {"details": details, "means": tables[0], "gains": tables[1:]}
        m.save(args.out, result)


def _means(groups: dict[str, dict[str, m.Run]], names: list[str]) -> list[dict[str, Any]]:
    drawn = [g for g in groups if g != "published"]
    rows = []
    for name in names:
        row: dict[str, Any] = {"entry": name}
        for label in groups:
            if label == "published":
                row["published"] = _pair(groups[label][name])
        if drawn:
            means = np.asarray(
                [[groups[g][name].values[k].mean() for k in (m.RAW, m.CENTRED)] for g in drawn]
            )
            row[f"{len(drawn)} seeds"] = "{:.4f} / {:.4f}".format(*means.mean(axis=0))
            row["range over seeds, centred"] = f"{means[:, 1].min():.4f} to {means[:, 1].max():.4f}"
        rows.append(row)
    return rows


def _gains(
    groups: dict[str, dict[str, m.Run]],
    best: dict[str, dict[str, m.Run]],
    asked: list[str],
    task: str,
    metric: str,
) -> list[dict[str, Any]]:
    """Return a row per set of folds, and one over all seeds: conditions averaged over seeds, then paired."""
    rows = []
    for label in groups:
        row: dict[str, Any] = {"folds": label}
        for name in asked:
            row[name] = "{:+.4f} ± {:.4f}".format(*m.gain(groups[label][name], best[label][metric], metric))
        rows.append(row)
    drawn = [g for g in groups if g != "published"]
    if len(drawn) > 1:
        row = {"folds": f"all {len(drawn)} seeds"}
        reference = m.averaged([best[g][metric] for g in drawn])
        for name in asked:
            mine = m.averaged([groups[g][name] for g in drawn])
            row[name] = "{:+.4f} ± {:.4f}".format(*m.gain(mine, reference, metric))
        rows.append(row)
        strongest = max(
            BASELINES[task], key=lambda n: np.mean([groups[g][n].values[metric].mean() for g in drawn])
        )
        mean_single = {"the mean of singles": "additive"} if task == "singles" else {}
        for title, name in {**mean_single, f"the best on test, {strongest}": strongest}.items():
            row = {"folds": f"all {len(drawn)} seeds, over {title}"}
            reference = m.averaged([groups[g][name] for g in drawn])
            for entry in asked:
                mine = m.averaged([groups[g][entry] for g in drawn])
                row[entry] = "{:+.4f} ± {:.4f}".format(*m.gain(mine, reference, metric))
            rows.append(row)
    return rows


def _pair(run: m.Run) -> str:
    return f"{run.values[m.RAW].mean():.4f} / {run.values[m.CENTRED].mean():.4f}"


if __name__ == "__main__":
    main()
