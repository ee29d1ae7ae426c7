"""Prediction files with values at other genes, of another context, or averaged before the logarithm."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import observed
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
        counts = rng.poisson(mu * rng.gamma(8, 1 / 8, (len(rows), 1))).astype(float)
        self.again = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
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

    def controls(self, of):
        """Return the mean of the controls of one line, or of both, whatever the line of a condition."""
        logs = np.log1p(self.linear)[(self.labels["perturbation"] == "control").to_numpy()]
        lines = self.labels["context"][self.labels["perturbation"] == "control"].to_numpy()
        return logs[np.isin(lines, list(of))].mean(axis=0)

    def read(self, values, kind=None):
        obs = pd.DataFrame(self.keys, columns=["perturbation", "context"], index=[f"p{i}" for i in range(10)])
        anndata.AnnData(values.astype("f4"), obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad("f.h5ad")
        return read_submission(self.ds, self.split, Path("f.h5ad"), kind=kind)


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


def test_values_at_partly_other_genes_are_warned_of(made):
    order = np.arange(G)
    order[:16] = np.roll(order[:16], 1)
    (said,) = made.read(made.logs[:, order]).warnings
    assert said.startswith(
        "the values of the matrix of f.h5ad are those of the control at partly other genes"
    )


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


# ---- deltas: the checks that outputs of external models get --------------------------------------------------


def delta_of(made):
    """Return deltas that a good model predicts: those of another measurement."""
    own = np.stack([made.controls(c) for _, c in made.keys])
    return made.mean(pd.DataFrame(made.again)) - own


def test_honest_deltas_are_not_warned_of(made):
    for kind in (None, "delta"):
        assert made.read(delta_of(made), kind=kind).warnings == []


@pytest.mark.parametrize("kind", [None, "delta"])
def test_z_scores_of_deltas_are_refused_and_centred_ones_warned_of(made, kind):
    centred = delta_of(made) - delta_of(made).mean(axis=0)
    with pytest.raises(
        PredictionError, match="a standard deviation of 1 over its 10 rows in 100% of the genes"
    ):
        made.read(centred / centred.std(axis=0), kind=kind)
    assert any(
        "the deltas are 0 on average over the rows" in w for w in made.read(centred, kind=kind).warnings
    )


@pytest.mark.parametrize("of", ["x", "xy"])
def test_deltas_to_another_control_are_warned_of(made, of):
    (said,) = (
        w
        for w in made.read(made.logs - made.controls(of), kind="delta").warnings
        if "what the deltas of a context have in common" in w
    )
    assert "e.g. " in said
    assert "y (the control of" in said


def test_conditions_that_hardly_differ_are_warned_of(made):
    delta = delta_of(made)
    shrunk = delta.mean(axis=0) + 0.002 * (delta - delta.mean(axis=0))
    assert any("conditions of a context hardly differ" in w for w in made.read(shrunk).warnings)
    same = made.read(np.repeat(shrunk[:1], 10, axis=0)).warnings
    assert same == ["all 10 conditions have the same prediction"]


@pytest.mark.parametrize("kind", ["expression", "delta"])
def test_cells_of_a_control_under_another_name_are_its_noise(made, kind):
    logs = np.log1p(made.linear)
    treated = made.labels["perturbation"].isin(list("ABCDE")).to_numpy()
    values = logs if kind == "expression" else made.deltas
    assert not any("sampling noise of the cells" in w for w in made.read_cells(values, kind=kind).warnings)
    drawn = values.copy()
    for line in "xy":
        mine = (made.labels["context"] == line).to_numpy()
        pool = np.flatnonzero(mine & (made.labels["perturbation"] == "control").to_numpy())
        at = np.flatnonzero(mine & treated & (made.labels["perturbation"] == "A").to_numpy())
        drawn[at] = values[np.random.default_rng(3).choice(pool, len(at))]
    said = [w for w in made.read_cells(drawn, kind=kind).warnings if "sampling noise of the cells" in w]
    assert said
    assert said[0].startswith("2 of 10 predictions differ from the control")


def test_counts_that_a_file_calls_deltas_are_refused(made, tmp_path):
    """A template says delta of whatever is filled in."""
    keys = np.asarray([k for k in made.ds.conditions.index if k.split("|")[1] in "ABCDE"])
    counts = np.random.default_rng(0).poisson(3.0, (10, G)).astype(np.float32)
    for values, said in ((counts, "looks like counts"), (counts * 9 - 40, "differences of counts")):
        file = tmp_path / "f.npz"
        np.savez(file, mean=values, genes=np.asarray(GENES), condition=keys, kind="delta")
        with pytest.raises(PredictionError, match=rf"{said}.*--kind delta"):
            read_submission(made.ds, made.split, file)
        assert read_submission(made.ds, made.split, file, kind="delta").warnings


# ---- files that say two things -------------------------------------------------------------------------------


def keys_of(made):
    return [next(k for k in made.ds.conditions.index if k.split("|")[:2] == [c, p]) for p, c in made.keys]


@pytest.mark.parametrize("name", ["std", "variance", "Sigma"])
def test_a_variance_under_another_name_is_refused(made, tmp_path, name):
    mean, spread = delta_of(made).astype("f4"), np.full((10, G), 0.3, dtype="f4")
    arrays = {"mean": mean, "genes": np.asarray(GENES), "condition": np.asarray(keys_of(made))}
    np.savez(tmp_path / "f.npz", **arrays, **{name: spread})
    adata = anndata.AnnData(mean, obs=pd.DataFrame(index=keys_of(made)), var=pd.DataFrame(index=GENES))
    adata.layers[name] = spread
    adata.write_h5ad(tmp_path / "f.h5ad")
    table = pd.DataFrame(mean, columns=GENES).assign(condition=keys_of(made))
    long = table.melt("condition", var_name="gene", value_name="mean")
    long.assign(**{name: 0.3}).to_csv(tmp_path / "f.csv", index=False)
    for file in ("f.npz", "f.h5ad", "f.csv"):
        with pytest.raises(PredictionError, match=rf"{file}: \w+ '{name}' is not read; give the variance"):
            read_submission(made.ds, made.split, tmp_path / file)
    np.savez(tmp_path / "f.npz", **arrays, var=spread, **{name: spread})
    assert not read_submission(made.ds, made.split, tmp_path / "f.npz").prediction.var_filled


@pytest.mark.parametrize("column", ["perturbation", "context"])
def test_a_key_that_disagrees_with_its_columns_is_refused(made, tmp_path, column):
    table = pd.DataFrame(made.keys, columns=["perturbation", "context"]).assign(condition=keys_of(made))
    values = pd.DataFrame(delta_of(made), columns=GENES)
    file = tmp_path / "f.csv"
    pd.concat([table, values], axis=1).to_csv(file, index=False)
    assert read_submission(made.ds, made.split, file).warnings == []
    table[column] = table[column].to_numpy()[::-1]
    pd.concat([table, values], axis=1).to_csv(file, index=False)
    with pytest.raises(PredictionError, match=f"have another '{column}' than their condition key says"):
        read_submission(made.ds, made.split, file)


def test_rows_that_get_the_mean_of_another_condition_are_refused(made, tmp_path):
    side = observed(made.ds, made.split)
    keys = [str(k) for k in side.conditions.index]
    order = [keys.index(k) for k in keys_of(made)]
    mean = np.empty((10, G), dtype="f4")
    mean[order] = delta_of(made)
    arrays = {"mean": mean, "genes": np.asarray(GENES), "idx": side.rows, "row": side.codes}
    file = tmp_path / "f.npz"
    np.savez(file, **arrays, condition=np.asarray(keys))
    assert read_submission(made.ds, made.split, file).warnings == []
    np.savez(file, **arrays, condition=np.asarray(keys[::-1]))
    with pytest.raises(PredictionError, match="gives 300 rows the mean of another condition than theirs"):
        read_submission(made.ds, made.split, file)
