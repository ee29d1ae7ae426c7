"""Rows per condition, and features that name the condition, as an import reports them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data.label_features import label_features
from tests.support.import_reports import GENES, PERTS, counts, read, warnings


@pytest.mark.parametrize(
    ("level", "remedy"), [(None, "with --level cell"), ("cell", "with --level condition")]
)
def test_one_row_per_condition_is_named(level: str | None, remedy: str) -> None:
    adata = counts(n=1)
    said = warnings(read(adata, level=level))
    assert "each of 4 conditions has one row" in said
    assert remedy in said
    assert "--level" not in warnings(read(adata, level="condition"))
    assert "--level" not in warnings(read(counts(n=2)))


@pytest.mark.parametrize(
    ("adata", "options", "level"),
    [
        pytest.param(counts(n=1), {}, "condition", id="one row each"),
        pytest.param(counts(n=2), {}, "cell", id="two rows each"),
        pytest.param(counts(n=1), {"level": "cell"}, "cell", id="declared as cells"),
        pytest.param(counts(n=2), {"level": "condition"}, "condition", id="declared as means"),
        pytest.param(counts(n=1, perts=["control", "imatinib"]), {}, "cell", id="a single row says nothing"),
    ],
)
def test_the_level_follows_from_the_rows_per_condition(
    adata: Any, options: dict[str, Any], level: str
) -> None:
    assert read(adata, **options).metadata.level == level


def test_replicates_in_other_contexts_or_doses_are_conditions_of_their_own() -> None:
    adata = counts(n=2)
    adata.obs["dose"] = ["1", "2"] * (adata.n_obs // 2)
    assert read(adata, dose_col="dose", dose_unit="uM").metadata.level == "condition"
    adata.obs["dose"] = "1"
    assert read(adata, dose_col="dose", dose_unit="uM").metadata.level == "cell"


# ---- features that name the condition ------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize(
    "name", ["sg{}", "{}_sgRNA", "guide-{}_1", "CRISPR_{}_2", "{}_g1", "lenti-{}-barcode", "sg{}-2"]
)
def test_features_with_a_guides_name(name: str, sparse: bool) -> None:
    adata = counts(genes=[*GENES[:27], *(name.format(g) for g in ("G1", "G2", "G3"))])
    if sparse:
        adata.X = sp.csr_matrix(adata.X)
    ds = read(adata)
    assert set(label_features(ds).by_name) == set(adata.var_names[27:])
    assert "3 of 30 features name the condition" in warnings(ds)


@pytest.mark.parametrize(
    "name", ["G1-AS1", "G1P1", "G100", "HLA-G1", "MT-G2", "G1.2", "G1-DT", "feature_9", "G1-2"]
)
def test_genes_with_similar_names_are_genes(name: str) -> None:
    assert label_features(read(counts(genes=[*GENES[:29], name]))).by_name == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_rare_genes_are_no_labels(rate: float, seed: int) -> None:
    adata = counts(n=20, seed=seed)
    adata.X = np.random.default_rng(seed).binomial(1, rate, adata.shape).astype(np.float32)
    adata.X[:, 0] = 1
    assert label_features(read(adata)).all == {}


@pytest.mark.parametrize("background", [0.0, 0.005])
def test_features_that_are_on_in_one_perturbation(background: float) -> None:
    adata = counts(n=50, genes=[*GENES[:26], "a", "b", "c", "d"])
    rng = np.random.default_rng(0)
    X = adata.X.copy()
    for i, pert in enumerate(PERTS[1:]):
        own = (adata.obs["pert"] == pert).to_numpy()
        X[:, 26 + i] = np.where(own, rng.binomial(1, 0.8, len(X)) * 5, rng.binomial(1, background, len(X)))
    adata.X = X
    found = label_features(read(adata))
    assert found.by_value == dict(zip("abcd", PERTS[1:], strict=True))
    assert found.certain
