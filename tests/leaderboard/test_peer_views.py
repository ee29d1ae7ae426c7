import duckdb
import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.evaluation.panels.scperturbench.ranking import SCORES, published_scores
from perturbfm_core.leaderboard.peer_views import SCPERTURBENCH_SCORES

METRICS = ["pearson_distance", "edistance", "mse", "sym_kldiv", "wasserstein", "common_degs"]
ENTRIES = ["a", "b", "c", "d"]
OPS = ["c1|P1|||", "c1|P2|||"]


def _score_row(run, entry, op, metric, value, **changes):
    row = {
        "run_id": run,
        "dataset": "d",
        "split_hash": "h",
        "split_kind": "random",
        "entry": entry,
        "config_hash": "x",
        "seed": 0,
        "panel": "scperturbench",
        "metric": metric,
        "metric_version": "1",
        "scope": "condition",
        "key": op,
        "value": value,
        "n": 1,
        "direction": "min",
        "status": "ok" if np.isfinite(value) else "undefined",
        "reason": None,
    }
    return {**row, **changes}


def _view(rows, current):
    frame = pd.DataFrame(rows, columns=list(schema.SCORE_COLUMNS))
    frame["value"] = frame["value"].astype("Float64")
    runs = pd.DataFrame({"run_id": list(current), "counted": list(current.values())})
    con = duckdb.connect()
    try:
        for name, table in (("scores", frame), ("runs", runs)):
            con.register("incoming", table)
            con.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
            con.unregister("incoming")
        con.execute(SCPERTURBENCH_SCORES)
        return con.execute("SELECT * FROM scperturbench_scores").df()
    finally:
        con.close()


def _raw(rng, top):
    values = {m: rng.random((len(OPS), len(ENTRIES))).round(2) for m in METRICS}
    if top == 5000:
        values["wasserstein"][:] = values["common_degs"][:] = np.nan
    return values


@pytest.fixture
def raw(rng):
    values = {top: _raw(rng, top) for top in (100, 5000)}
    values[100]["pearson_distance"][0, 1] = np.nan
    values[100]["edistance"][0, :2] = 0.5
    values[100]["sym_kldiv"][1, 3] = np.nan
    values[100]["wasserstein"][1, :] = 2.0
    return values


def _rows(raw):
    return [
        _score_row(f"run-{entry}", entry, op, f"{metric}_top{top}", values[i, j])
        for top, by_metric in raw.items()
        for metric, values in by_metric.items()
        for i, op in enumerate(OPS)
        for j, entry in enumerate(ENTRIES)
    ]


def test_the_view_gives_the_scores_and_ranks_of_the_function(raw):
    view = _view(_rows(raw), {f"run-{e}": True for e in ENTRIES})
    wanted = ["split_hash", "op", "entry", "top", *SCORES, "ac_score", *(f"Rank_{s}" for s in SCORES)]
    assert set(view.columns) == {*wanted, "ac_rank", "Rank"}
    assert len(view) == len(ENTRIES) * len(OPS) * 2
    for top, values in raw.items():
        expected = published_scores(values)
        for i, op in enumerate(OPS):
            mine = view[(view["op"] == op) & (view["top"] == top)].set_index("entry").loc[ENTRIES]
            for column, numbers in expected.items():
                np.testing.assert_allclose(
                    mine[column].astype("float64"), numbers[i], atol=1e-12, err_msg=f"{top} {op} {column}"
                )


def test_seeds_enter_with_their_mean_and_older_runs_not_at_all(raw):
    rows = _rows({100: raw[100]})
    current = {f"run-{e}": True for e in ENTRIES}
    reference = _view(rows, current)
    split = [{**r, "run_id": "run-a2", "value": r["value"] + 0.5} for r in rows if r["entry"] == "a"]
    lower = [{**r, "value": r["value"] - 0.5} if r["entry"] == "a" else r for r in rows]
    pd.testing.assert_frame_equal(_view(lower + split, {**current, "run-a2": True}), reference, atol=1e-9)
    pd.testing.assert_frame_equal(_view(rows + split, {**current, "run-a2": False}), reference)


def test_other_panels_scopes_and_inapplicable_values_are_left_out(raw):
    rows = _rows({100: raw[100]})
    current = {f"run-{e}": True for e in ENTRIES}
    noise = [
        _score_row("run-a", "a", OPS[0], "mse_top100", 9.0, panel="delta"),
        _score_row("run-a", "a", "all", "mse_top100", 9.0, scope="global"),
        _score_row("run-a", "a", "c2|P9|||", "mse_top100", np.nan, status="not_applicable"),
    ]
    pd.testing.assert_frame_equal(_view(rows + noise, current), _view(rows, current))


def test_splits_are_scored_apart(raw):
    rows = _rows({100: raw[100]})
    other = [{**r, "split_hash": "other", "value": 3 * r["value"]} for r in rows]
    current = {f"run-{e}": True for e in ENTRIES}
    alone = _view(rows, current)
    both = _view(rows + other, current)
    mine = both[both["split_hash"] == "h"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, alone)
    assert set(both["split_hash"]) == {"h", "other"}
