"""What adds nothing to v2 on unseen singles of Norman et al. 2019, and what more genes would add.

    python -m tests.benchmarks.claims.unseen_singles --data FOLDER

On the published folds, without a network. Gains in centred correlation over the core, ± one standard error over
conditions: of one channel per gene with a coefficient learnt out of fold, and of other models mixed into the core. The
last table has v2 with a share of the train genes, and all their combinations, left out at random.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.importing import import_h5ad
from perturbfm_core.evaluation.rowwise import pearson
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import new_model
from perturbfm_core.models.perturbfm.core.stack import folds_of
from perturbfm_core.models.perturbfm.model import PerturbFM
from perturbfm_core.pipeline.prediction import predict_rows
from perturbfm_core.splits.freeze import freeze
from tests.benchmarks.claims import measuring as m
from tests.benchmarks.claims import norman

V2: dict[str, Any] = {"gene_features": norman.TABLES, "gate": "off"}
MEMBERS: dict[str, dict[str, Any]] = {
    "gene_embedding_ridge": {"gene_features": ("go", "string", "coexpression")},
    "kernel_ridge": {"gene_features": norman.TABLES},
    "knn": {"gene_features": norman.TABLES},
}
SHARES = (0.1, 0.2, 0.3, 0.5)
FEATURES = (4, 8, 16, 32, 64)
TRAIN_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class Fold:
    """The core on one published fold: out-of-fold rows of train singles, and the test singles.

    Attributes
    ----------
    genes, center
        Measured genes [G], and the train mean [G].
    names, mean, truth, fold
        Perturbed gene, out-of-fold prediction [n, G], measured delta [n, G] and inner fold of train singles.
    test_names, test_mean, test_truth
        The same of the test conditions.
    """

    genes: list[str]
    center: Any
    names: list[str]
    mean: Any
    truth: Any
    fold: Any
    test_names: list[str]
    test_mean: Any
    test_truth: Any


def predicted(on: m.Case, model: str, known: SideInfo, **params: Any) -> tuple[Any, Any]:
    """Return a fitted model, and its predictions [C, G] of the test conditions."""
    made = new_model(model, params)
    made.side_info = known
    made.fit(on.view, 0)
    return made, np.asarray(predict_rows(on.ds, on.split, made).mean, dtype=np.float64)


def core_of(on: m.Case, known: SideInfo) -> Fold:
    """Fit v2 without a network."""
    model, test = predicted(on, "perturbfm-v2", known, **V2)
    assert isinstance(model, PerturbFM)
    assert model.core is not None
    condition, fold = folds_of(model.core)
    names = on.view.conditions["pert_id"].astype(str).to_numpy()[condition]
    single = np.asarray(["+" not in name for name in names])
    mean = np.concatenate([f.mean for f in model.core.folds]).astype(np.float64)
    return Fold(
        model.genes,
        on.view.delta.mean(axis=0, dtype=np.float64),
        names[single].tolist(),
        mean[single],
        on.view.delta[condition][single].astype(np.float64),
        fold[single],
        on.truth.conditions["pert_id"].astype(str).tolist(),
        test,
        np.asarray(on.truth.observed, dtype=np.float64),
    )


def channels(data: Path, genes: list[str]) -> dict[str, dict[str, Any]]:
    """Return {source: {gene: vector [G] of its known targets or neighbours among the measured genes}}."""
    at = {g: i for i, g in enumerate(genes)}
    read = {
        name: pd.read_parquet(m.real_file(data / "graphs", file))
        for name, file in (
            ("dorothea", "dorothea_hs.parquet"),
            ("trrust", "trrust_v2_human.parquet"),
            ("string", "string_v12_human_ntm700.parquet"),
        )
    }

    def of(rows: Iterable[tuple[str, str, float]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for source, target, weight in rows:
            if target in at and source != target:
                found.setdefault(source, np.zeros(len(genes)))[at[target]] += weight
        return found

    tf, regulon, links = read["dorothea"], read["trrust"], read["string"]
    sure = tf[tf["confidence"].isin(["A", "B", "C"])]
    both = [
        (a, b, x / 1000)
        for s, t, x in zip(links["source"], links["target"], links["combined_score"], strict=True)
        for a, b in ((s, t), (t, s))
    ]
    return {
        "DoRothEA, A to C": of(zip(sure["source"], sure["target"], sure["mor"], strict=True)),
        "DoRothEA, all levels": of(zip(tf["source"], tf["target"], tf["mor"], strict=True)),
        "TRRUST": of(zip(regulon["source"], regulon["target"], regulon["sign"].replace(0, 1), strict=True)),
        "STRING neighbours": of(both),
    }


def gains_of_channel(folds: list[Fold], channel: dict[str, Any]) -> tuple[Any, Any]:
    """Return the gain of each train single out of fold, and of each test single."""
    inside, outside = [], []
    for f in folds:
        phi, asked = (_vectors(names, channel, len(f.genes)) for names in (f.names, f.test_names))
        residual = f.truth - f.mean
        for held in np.unique(f.fold):
            rest, mine = f.fold != held, f.fold == held
            added = _slope(residual[rest], phi[rest]) * phi[mine]
            inside.append(_gain(f.mean[mine], added, f.truth[mine], f.center))
        outside.append(_gain(f.test_mean, _slope(residual, phi) * asked, f.test_truth, f.center))
    return np.concatenate(inside), np.concatenate(outside)


def _vectors(names: list[str], channel: dict[str, Any], n: int) -> Any:
    rows = np.stack([channel.get(name, np.zeros(n)) for name in names])
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(size, 1e-12)


def _slope(residual: Any, phi: Any) -> float:
    return float((residual * phi).sum() / max((phi**2).sum(), 1e-9))


def _gain(mean: Any, added: Any, truth: Any, center: Any) -> Any:
    """Return the gain in centred correlation [n] by what is added to a mean [n, G]."""
    seen = truth - center
    return pearson(mean + added - center, seen) - pearson(mean - center, seen)


def with_share(on: m.Case, share: float, seed: int) -> m.Case:
    """Return a case whose train has some of its genes only; conditions with another one are left out."""
    rng = np.random.default_rng(seed)
    names = on.view.conditions["pert_id"].astype(str).tolist()
    single = [n for n in names if len(pert_genes(n)) == 1]
    gone = set(rng.permutation(single)[round(share * len(single)) :].tolist())
    test = on.truth.conditions["pert_id"].astype(str).tolist()
    every = on.ds.conditions["pert_id"].astype(str).tolist()
    train = {n for n in names if not gone & set(pert_genes(n))}
    spec = SplitSpec(
        kind="explicit",
        params={"folds": {"test": test, "unused": sorted(set(every) - train - set(test))}},
        validation="inner_cv",
        calibration="inner_cv",
    )
    (split,) = freeze(on.ds, spec)
    return m.case(on.ds, split)


def main() -> None:
    """Print the four tables."""
    args = m.options(__doc__ or "").parse_args()
    m.single_thread()
    ds = import_h5ad(m.real_file(args.data, norman.FILE), norman.MAPPING, name="norman")
    published = json.loads(m.real_file(args.data, "norman_folds.json").read_text())
    known, cases = norman.knowledge(ds, args.data), norman.cases(ds, published, "singles", None)
    folds = [core_of(on, known) for on in cases]
    rows: list[dict[str, Any]] = []
    for name, channel in channels(args.data, folds[0].genes).items():
        inside, outside = gains_of_channel(folds, channel)
        rows.append({"channel": name, "out of fold": _shown(inside), "test": _shown(outside)})
    print(m.table(rows) + "\n")
    rows = []
    for name, params in MEMBERS.items():
        other = [predicted(on, name, known, **params)[1] for on in cases]
        row: dict[str, Any] = {"member": name}
        for share in SHARES:
            gain = [
                _gain(f.test_mean, share * (mine - f.test_mean), f.test_truth, f.center)
                for f, mine in zip(folds, other, strict=True)
            ]
            row[f"weight {share}"] = _shown(np.concatenate(gain))
        rows.append(row)
    print(m.table(rows) + "\n")
    rows = []
    for k in (0, *FEATURES):
        graphs = {"adjacency": norman.GRAPHS, "graph_features": k} if k else {}
        runs = [m.run(on, "perturbfm-v2", 0, known, **V2, **graphs) for on in cases]
        inner = float(np.mean([r.inner[m.CENTRED] for r in runs]))
        test = float(m.pooled(runs).values[m.CENTRED].mean())
        rows.append({"spectral features": k or "none", "inner folds": f"{inner:.4f}", "test": f"{test:.4f}"})
    print(m.table(rows) + "\n")
    rows = []
    for share in TRAIN_SHARES:
        some = [with_share(on, share, seed) for seed in (0, 1) for on in cases]
        got = m.pooled([m.run(on, "perturbfm-v2", 0, known, **V2) for on in some]).values
        genes = np.mean([sum("+" not in p for p in on.view.conditions["pert_id"].astype(str)) for on in some])
        rows.append(
            {"train genes": f"{genes:.0f}", **{k: f"{got[k].mean():.4f}" for k in (m.RAW, m.CENTRED)}}
        )
    print(m.table(rows))


def _shown(gain: Any) -> str:
    return f"{gain.mean():+.4f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.4f}"


if __name__ == "__main__":
    main()
