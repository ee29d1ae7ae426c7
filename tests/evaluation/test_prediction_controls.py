"""Prediction files with values at other genes, of another context, or averaged before the logarithm."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import PredictionError
from perturbfm_core.pipeline.submission import read_submission
from tests.support.factories import screen, split_one

G = 80
GENES = [f"g{i}" for i in range(G)]
PERTS = "ABCDEFGH"


class Made:
    """A screen of two lines of shallow counts, log1p of them scaled to 10000, whose lines differ as related lines do."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        base = rng.gamma(1.0, 3.0, G)
        lines = {c: base * np.exp(rng.normal(0, 0.5, G)) for c in "xy"}
        effect = {p: np.exp(rng.normal(0, 0.6, G) * (rng.random(G) < 0.3)) for p in PERTS}
        rows = [
            (p, c) for c in "xy" for p in ("control", *PERTS) for _ in range(120 if p == "control" else 30)
        ]
        mu = np.stack([lines[c] * effect.get(p, 1.0) for p, c in rows])
        counts = rng.poisson(mu * rng.gamma(8, 1 / 8, (len(rows), 1))).astype(float)
        self.linear = 1e4 * counts / counts.sum(axis=1, keepdims=True)
        self.labels = pd.DataFrame(rows, columns=["perturbation", "context"])
        self.ds = screen(rows, X=np.log1p(self.linear), genes=GENES)
        self.split = split_one(self.ds, "perturbation_ood", {"holdout": ["A", "B", "C", "D", "E"]})
        self.keys = [(p, c) for c in "xy" for p in "ABCDE"]

    def mean(self, cells):
        means = cells.groupby([self.labels["perturbation"], self.labels["context"]]).mean()
        return means.loc[self.keys].to_numpy()

    @property
    def logs(self):
        return self.mean(pd.DataFrame(np.log1p(self.linear))) + np.random.default_rng(1).normal(
            0, 0.02, (10, G)
        )

    def read_cells(self, values, kind=None):
        """Read the cells of the tested conditions and the controls as a file."""
        keep = self.labels["perturbation"].isin(["control", *"ABCDE"]).to_numpy()
        obs = self.labels[keep].set_index(np.asarray([f"p{i}" for i in range(keep.sum())]))
        adata = anndata.AnnData(values[keep].astype("f4"), obs=obs, var=pd.DataFrame(index=GENES))
        adata.write_h5ad("f.h5ad")
        return read_submission(self.ds, self.split, Path("f.h5ad"), kind=kind)

    @property
    def deltas(self):
        """Return the cells less the mean control of their line."""
        logs = pd.DataFrame(np.log1p(self.linear))
        control = self.labels["perturbation"] == "control"
        means = logs[control].groupby(self.labels["context"][control]).mean()
        return logs.to_numpy() - means.loc[self.labels["context"]].to_numpy()

    def read(self, values):
        obs = pd.DataFrame(self.keys, columns=["perturbation", "context"], index=[f"p{i}" for i in range(10)])
        anndata.AnnData(values.astype("f4"), obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad("f.h5ad")
        return read_submission(self.ds, self.split, Path("f.h5ad"))


@pytest.fixture(scope="module")
def made():
    return Made()


def test_means_of_logs_are_not_warned_of(made):
    out = made.read(made.logs)
    assert (out.notes["kind"], [w for w in out.warnings if "context" in w or "log1p of" in w]) == (
        "expression",
        [],
    )


def test_values_at_other_genes_are_refused(made):
    with pytest.raises(
        PredictionError, match=r"has the values of expression at other genes than the control"
    ):
        made.read(made.logs[:, np.random.default_rng(2).permutation(G)])


def test_contexts_that_are_exchanged_are_warned_of(made):
    out = made.read(np.roll(made.logs, 5, axis=0))
    assert any("much nearer to the control of another context" in w for w in out.warnings)


def test_the_log_of_a_mean_is_warned_of(made):
    out = made.read(np.log1p(made.mean(pd.DataFrame(made.linear))))
    assert any("take log1p of each cell first, then the mean" in w for w in out.warnings)


def test_control_rows_of_deltas_are_0_on_average(made):
    out = made.read_cells(made.deltas)
    assert (out.notes["kind"], [w for w in out.warnings if "control rows" in w]) == ("delta", [])


@pytest.mark.parametrize("scaled", [False, True])
def test_cells_that_were_centred_are_no_deltas(made, scaled):
    logs = np.log1p(made.linear)
    values = (logs - logs.mean(axis=0)) / (logs.std(axis=0) if scaled else 1.0)
    with pytest.raises(
        PredictionError, match=r"its control rows, which would be 0 on average, have \d+% of the size"
    ):
        made.read_cells(values)
    assert any(
        "centred or scaled over all cells" in w for w in made.read_cells(values, kind="delta").warnings
    )
