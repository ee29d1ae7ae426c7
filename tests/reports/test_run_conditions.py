"""Conditions, genes and gene sets in a run's report."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu

from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.reports.run import conditions, overview
from perturbfm_core.reports.run.enrichment import enrichment, gene_set_files
from perturbfm_core.reports.run.scores import ReportScores
from perturbfm_core.reports.run.values import compact
from tests.support.factories import comparison_of
from tests.support.report_case import simulated


def scores_of(comparison: Any) -> ReportScores:
    return ReportScores(evaluate(comparison, ["delta"]).table())


# ---- conditions and genes ---------------------------------------------------------------------------------------


def unpacked(text: str, kind: str, k: int) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(-1, k)


def test_all_genes_are_packed_while_they_are_few() -> None:
    c = simulated(9, 25)
    data = conditions.condition_data(c, scores_of(c))
    assert (data["k"], data["index"], data["rule"]) == (25, None, "")
    order = [list(c.conditions.index).index(k) for k in data["keys"]]
    assert data["values"] == sorted(data["values"])
    for name, values in (
        ("observed", c.observed),
        ("predicted", c.predicted),
        ("spread", np.sqrt(c.predicted_var)),
    ):
        np.testing.assert_allclose(unpacked(data[name], "<f2", 25), values[order], rtol=2e-3, atol=1e-4)
    json.dumps(data, allow_nan=False)
    assert conditions.condition_data(replace(c, var_filled=True), scores_of(c))["spread"] is None


@pytest.mark.parametrize(("conditions_", "genes", "k"), [(40, 400, 100), (12, 1000, 166), (25, 90, 90)])
def test_of_many_genes_the_largest_changes_and_a_spread_are_kept(
    monkeypatch: pytest.MonkeyPatch, conditions_: int, genes: int, k: int
) -> None:
    monkeypatch.setattr(conditions, "POINTS", 2_000)
    c = simulated(conditions_, genes)
    data = conditions.condition_data(c, scores_of(c))
    assert data["k"] == k
    if k == genes:
        return
    index = unpacked(data["index"], "<u4", k)
    names = np.asarray(data["genes"])[index]
    for row, key in enumerate(data["keys"]):
        i = list(c.conditions.index).index(key)
        assert len(set(names[row])) == k
        size = np.maximum(np.abs(c.observed[i]), np.abs(c.predicted[i]))
        largest = {str(c.genes[g]) for g in np.argsort(-size)[: k // 2]}
        assert largest <= set(names[row])
        shown = unpacked(data["observed"], "<f2", k)[row]
        position = {str(g): j for j, g in enumerate(c.genes)}
        np.testing.assert_allclose(
            shown, c.observed[i, [position[g] for g in names[row]]], rtol=2e-3, atol=1e-4
        )
    assert f"{k} of {genes} genes" in data["rule"]


def test_of_many_conditions_ranks_are_kept_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "MOST_CONDITIONS", 5)
    c = simulated(21, 10)
    data = conditions.condition_data(c, scores_of(c))
    every = np.sort(scores_of(c).goodness.to_numpy())
    np.testing.assert_allclose(data["values"], every[[0, 5, 10, 15, 20]], rtol=1e-3)
    assert "5 of 21 conditions" in data["rule"]


@pytest.mark.parametrize(
    ("rows", "titles"),
    [
        ([("c", "A"), ("c", "B")], ["A", "B"]),
        ([("c", "A"), ("d", "A")], ["A in c", "A in d"]),
        ([("c", "A", "", "1"), ("c", "A", "", "2")], ["A in c, 1", "A in c, 2"]),
    ],
)
def test_titles_tell_conditions_apart(rows: list[tuple[str, ...]], titles: list[str]) -> None:
    c = comparison_of(np.eye(2), np.eye(2), rows=rows)
    assert conditions.titles_of(c) == titles


@pytest.mark.parametrize(("n", "genes"), [(30, 50), (8, 300), (3, 2)])
def test_components_are_those_of_the_singular_value_decomposition(n: int, genes: int) -> None:
    c = simulated(n, genes, seed=n)
    found = overview.components(c)
    assert found is not None
    seen = c.observed - c.observed.mean(axis=0)
    _, sizes, right = np.linalg.svd(seen, full_matrices=False)
    assert found["share"] == [round(100 * s) for s in (sizes**2 / (sizes**2).sum())[:2]]
    wanted = (c.predicted - c.observed.mean(axis=0)) @ right[:2].T
    got = np.asarray(found["predicted"])
    for axis in range(2):
        sign = np.sign(got[axis] @ wanted[:, axis])
        np.testing.assert_allclose(sign * got[axis], wanted[:, axis], rtol=5e-2, atol=5e-2)


def test_components_need_something_that_differs() -> None:
    assert overview.components(simulated(2, 20)) is None
    assert overview.components(comparison_of(np.ones((5, 4)), np.ones((5, 4)))) is None


def test_a_heatmap_has_the_largest_changes_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "HEAT_ROWS", 4)
    monkeypatch.setattr(overview, "HEAT_GENES", 3)
    c = simulated(9, 20)
    data = overview.heatmap(c)
    titles = conditions.titles_of(c)
    rows, columns = [titles.index(t) for t in data["rows"]], [list(c.genes).index(g) for g in data["columns"]]
    np.testing.assert_allclose(data["observed"], c.observed[np.ix_(rows, columns)], rtol=1e-2)
    np.testing.assert_allclose(data["predicted"], c.predicted[np.ix_(rows, columns)], rtol=1e-2)
    assert set(rows) == set(np.argsort(-np.square(c.observed).sum(axis=1))[:4])


def test_compact_numbers() -> None:
    assert compact([1 / 3, -12345.6, 0, np.nan, np.inf, 1e-12]) == [0.3333, -12350.0, 0.0, None, None, 1e-12]
    assert compact([[1.23456], [2]]) == [[1.235], [2.0]]


# ---- gene sets --------------------------------------------------------------------------------------------------


def gmt(path: Path, sets: dict[str, list[str]]) -> Path:
    text = "".join(f"{name}\tdescription\t" + "\t".join(genes) + "\n" for name, genes in sets.items())
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.gmt", "b.gmt.gz"])
def test_sets_are_ranked_by_the_errors_of_their_genes(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(6, 60))
    error = np.r_[np.full(20, 3.0), np.ones(40)] * rng.normal(size=(6, 60))
    c = comparison_of(truth, truth + error)
    genes = [str(g) for g in c.genes]
    sets = {
        "bad": genes[:12],
        "mixed": genes[::5],
        "good": genes[30:45],
        "few": genes[:4],
        "absent": ["X"] * 9,
    }
    found = enrichment(c, [gmt(tmp_path / name, sets)])
    assert found["tested"] == 3
    rows = {r[0]: r for r in found["rows"]}
    size = np.sqrt(np.square(error).mean(axis=0))
    expected = {}
    for key in ("bad", "mixed", "good"):
        inside = np.isin(genes, sets[key])
        test = mannwhitneyu(size[inside], size[~inside], method="asymptotic", use_continuity=False)
        expected[key] = test.pvalue
        assert rows[key][2] == inside.sum()
        assert rows[key][3] == pytest.approx(test.statistic / (inside.sum() * (~inside).sum()), rel=1e-3)
        assert rows[key][4] == pytest.approx(test.pvalue, rel=1e-3)
    adjusted = false_discovery_control(list(expected.values()))
    for key, wanted in zip(expected, adjusted, strict=True):
        assert rows[key][5] == pytest.approx(wanted, rel=1e-3)
    assert found["rows"][0][0] in ("bad", "good")


def test_gene_set_files_are_found_in_the_catalog_and_bad_ones_named(tmp_path: Path) -> None:
    assert gene_set_files() == []
    folder = tmp_path / "catalog" / "gene_sets"
    folder.mkdir(parents=True)
    good = gmt(folder / "go.gmt", {"mine": [f"g{i}" for i in range(6)]})
    (folder / "zz.gmt.gz").write_bytes(b"not packed")
    (folder / "notes.txt").write_text("x")
    assert gene_set_files() == [good, folder / "zz.gmt.gz"]
    found = enrichment(comparison_of(np.eye(12), np.zeros((12, 12))), gene_set_files())
    assert found["files"] == ["go.gmt"]
    assert [p.startswith("zz.gmt.gz cannot be read") for p in found["problems"]] == [True]
    # All errors are equal: nothing can be ranked.
    assert found["rows"][0][3:] == [0.5, 1.0, 1.0]
