"""The queries of docs/leaderboard_sql.md, run on a leaderboard that has something to say to each of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.parquet_export import EXPORTED, export_parquet
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, split_table, write_run
from tests.support.paths import REPO

ALONE = "screen.perturbation_ood.alone"
A, B, C, D, E = ("abcde"[i] * 64 for i in range(5))
TEXT = (REPO / "docs" / "leaderboard_sql.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^### (\d+)\..*?```sql\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL))


def add(
    store: ArtifactStore, entry: str, split: str, level: float, *, spoilt: int | None = None, **config: Any
) -> None:
    """Write a run whose condition i has the value `level` + i / 100."""
    known = run_config(entry, split=split, **config)
    values = {f"x|G{i}|||": level + i / 100 for i in range(8)}
    if spoilt is not None:
        values[f"x|G{spoilt}|||"] = float("nan")
    frame = score_rows(known, values, metric="pearson_centered")
    strata = [
        frame.tail(1).assign(scope="stratum", key=k, value=v, n=4)
        for k, v in (("seen=0", level), ("seen=1", level + 0.1))
    ]
    undefined = frame.tail(1).assign(
        scope="stratum", key="rare", value=np.nan, n=1, status="undefined", reason="too few"
    )
    write_run(store, known, pd.concat([frame, *strata, undefined], ignore_index=True))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """Return a store with a whole board, one of which two of three folds were run, and a re-run with other code."""
    folder = tmp_path_factory.mktemp("sql")
    store = ArtifactStore(folder / "home", folder / "splits")
    for seed in range(3):
        add(store, "network", D, 0.5 + seed / 10, seed=seed, family="learned")
    add(store, "ridge", D, 0.3, spoilt=None)
    add(store, "additive", D, 0.1)
    for split in (A, B):
        add(store, "ridge", split, 0.4)
        add(store, "additive", split, 0.2)
    # An earlier run of other parameters and other code says nothing of the code.
    old = run_config("ridge", split=D, created="2023-01-01T00:00:00.000000", params="others")
    other = score_rows(old, {f"x|G{i}|||": 0.9 for i in range(8)}, metric="pearson_centered")
    write_run(store, {**old, "code": {"trained_model": "old"}}, other)
    newer = "2024-03-01T00:00:00.000000"
    config = run_config("additive", split=D, created=newer)
    config["code"] = {"trained_model": "changed"}
    frame = score_rows(config, {f"x|G{i}|||": 0.15 + i / 100 for i in range(8)}, metric="pearson_centered")
    strata = [frame.tail(1).assign(scope="stratum", key=k, value=0.15, n=4) for k in ("seen=0", "seen=1")]
    write_run(store, config, pd.concat([frame, *strata], ignore_index=True))
    splits = pd.concat(
        [
            split_table(A, B, C, board="screen.perturbation_ood.cv", unit="perturbation"),
            split_table(D, board=ALONE, unit="perturbation"),
        ],
        ignore_index=True,
    )
    splits["split_key"] = ["fold a", "fold b", "fold c", "alone"]
    database.rebuild(store, lambda: splits, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    return store


def test_there_are_ten() -> None:
    assert list(QUERIES) == [str(i) for i in range(1, 11)]


def _1(t: pd.DataFrame) -> None:
    whole = t[t["board"] == ALONE]
    assert whole["entry"].tolist() == ["network", "ridge", "additive"]
    assert whole["rank"].tolist() == [1, 2, 3]
    assert whole["value"].tolist() == pytest.approx([0.635, 0.335, 0.185])
    part = t[t["board"] != ALONE]
    assert part["rank"].isna().all()
    assert set(part["reason"]) == {"2 of 3 folds"}
    assert part["folds_done"].tolist() == [2, 2]


def _2(t: pd.DataFrame) -> None:
    (row,) = t.to_dict("records")
    assert (row["board"], row["entry"], row["best_baseline"]) == (ALONE, "network", "ridge")
    assert row["diff_best_baseline"] == pytest.approx(0.3)
    assert row["baseline_value"] == pytest.approx(0.335)


def _3(t: pd.DataFrame) -> None:
    found = t[t["board"] == ALONE]
    assert list(zip(found["entry_a"], found["entry_b"], found["verdict"], strict=True)) == [
        ("additive", "network", "b better"),
        ("additive", "ridge", "b better"),
        ("network", "ridge", "a better"),
    ]
    assert found["p"].tolist() == pytest.approx([2 / 10001] * 3)
    assert found["p_holm"].tolist() == pytest.approx([6 / 10001] * 3)


def _4(t: pd.DataFrame) -> None:
    assert t.to_dict("records") == [
        {
            "board": "screen.perturbation_ood.cv",
            "folds_done": 2,
            "folds_total": 3,
            "reason": "2 of 3 folds",
            "missing_split": "fold c",
        }
    ]


def _5(t: pd.DataFrame) -> None:
    row = t[t["entry"] == "network"].iloc[0]
    assert row["n_runs"] == 3
    assert (row["mean"], row["spread"]) == pytest.approx((0.635, 0.1))


def _6(t: pd.DataFrame) -> None:
    # The ten least of two boards: all of the one, two of the other.
    part, whole = t[t["board"] != ALONE], t[t["board"] == ALONE]
    assert part["perturbation"].tolist() == [f"x|G{i}|||" for i in range(8)]
    assert whole["perturbation"].tolist() == ["x|G0|||", "x|G1|||"]
    assert whole["best"].iloc[0] == pytest.approx(0.7)


def _7(t: pd.DataFrame) -> None:
    rows = t[t["board"] == ALONE].set_index(["stratum", "entry"])
    assert rows.loc[("seen=1", "network"), "value"] == pytest.approx(0.7)
    assert rows.loc[("rare", "ridge"), "reason"] == "too few"
    assert pd.isna(rows.loc[("rare", "ridge"), "value"])


def _8(t: pd.DataFrame) -> None:
    (row,) = t.to_dict("records")
    assert row["entry"] == "additive"
    assert row["change"] == pytest.approx(0.05)


def test_a_change_of_the_configuration_is_named(store: ArtifactStore) -> None:
    sql = "SELECT entry FROM trend WHERE metric = 'pearson_centered' AND config_changed"
    assert database.query(store, sql)["entry"].tolist() == ["ridge"]


def _9(t: pd.DataFrame) -> None:
    assert t["cpu_seconds"].isna().all()
    assert set(t["cpu_seconds_reason"]) == {"not recorded by this run"}
    assert len(t) == 5


def _10(t: pd.DataFrame) -> None:
    assert set(t["source"]) == {"bm2-lab/scPerturBench"}
    assert len(t) == 15
    assert t["mean"].is_monotonic_decreasing


CHECKS = (_1, _2, _3, _4, _5, _6, _7, _8, _9, _10)
COLUMNS = (
    "board rank entry value ci_low ci_high folds_done folds_total reason",
    "board entry value best_baseline baseline_value diff_best_baseline diff_low diff_high",
    "board entry_a entry_b diff p p_holm verdict",
    "board folds_done folds_total reason missing_split",
    "board entry n_runs mean spread",
    "board perturbation best mean",
    "board stratum entry value n_conditions reason",
    "split_key entry seed created previous_value value change",
    "board entry value cpu_seconds cpu_seconds_reason peak_memory_mb n_parameters",
    "method mean conditions source commit",
)


@pytest.mark.parametrize("number", range(1, 11))
def test_a_query_answers_its_question(store: ArtifactStore, number: int) -> None:
    table = database.query(store, QUERIES[str(number)])
    assert list(table.columns) == COLUMNS[number - 1].split()
    CHECKS[number - 1](table)


@pytest.mark.parametrize(
    ("sql", "whys"),
    [
        ("SELECT * FROM leaderboard", {"rank": "reason", "value": "reason", "ci_low": "interval_reason", "diff_low": "diff_reason", "ceiling": "ceiling_reason", "control_mean_floor": "floor_reason"}),
        ("SELECT * FROM best_per_split", {"entry": "reason", "value": "reason", "ci_low": "interval_reason", "diff_low": "diff_reason"}),
        ("SELECT * FROM pairwise", {"diff": "reason", "diff_low": "reason", "p": "reason", "p_holm": "reason"}),
        ("SELECT * FROM trend", {"value": "reason", "previous_value": "reason", "change": "reason"}),
        ("SELECT * FROM strata", {"value": "reason"}),
        ("SELECT * FROM published", {"mean": "reason", "median": "reason"}),
        ("SELECT * FROM cost", {c: f"{c}_reason" for c in ("fit_seconds", "predict_seconds", "cpu_seconds", "peak_memory_mb", "n_parameters")}),
    ],
)  # fmt: skip
def test_a_missing_value_has_a_reason_and_no_other_has(
    store: ArtifactStore, sql: str, whys: dict[str, str]
) -> None:
    table = database.query(store, sql)
    assert len(table)
    for column, why in whys.items():
        missing = table[column].isna()
        assert table[why][missing].notna().all(), column
        assert table[why][missing].str.len().gt(3).all()


def test_the_published_figures_stand_in_no_rank(store: ArtifactStore, shared_dir: Path) -> None:
    figures = pd.read_csv(shared_dir / "published" / "scperturbench_summary.csv")
    table = database.query(store, "SELECT * FROM published")
    names = ["task", "dataset", "method", "top_n", "metric", "n"]
    both = figures.merge(table, on=names, suffixes=("", "_kept"), validate="1:1")
    assert len(both) == len(figures) == len(table)
    for column in ("mean", "median"):
        kept = both[f"{column}_kept"].astype("float64")
        pd.testing.assert_series_equal(kept, both[column], check_names=False)
    methods = set(figures["method"])
    for name in ("leaderboard", "best_per_split", "trend", "cost"):
        assert not methods & set(database.query(store, f"SELECT entry FROM {name}")["entry"].dropna())


def test_the_query_of_an_export_runs(store: ArtifactStore, tmp_path: Path) -> None:
    (query,) = re.findall(r"^## Elsewhere.*?```sql\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)
    export_parquet(store, tmp_path / "out")
    rows = duckdb.sql(query.replace("DIR", str(tmp_path / "out"))).fetchall()
    found = {entry: value for name, entry, value in rows if name == ALONE}
    board = database.query(store, f"SELECT entry, value FROM leaderboard WHERE board = '{ALONE}'")
    assert found == pytest.approx(dict(zip(board["entry"], board["value"], strict=True)))


def test_an_export_has_every_table_and_view(store: ArtifactStore) -> None:
    with database.connect(store) as con:
        there = con.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
        ).fetchall()
    # Scores are exported as the files that they are read from.
    assert {name for (name,) in there} - {"scores"} == set(EXPORTED)
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"\w+", cell)}
    assert documented == {name for (name,) in there}


# ---- elsewhere --------------------------------------------------------------------------------------------


def test_an_export_holds_what_the_leaderboard_holds(store: ArtifactStore, tmp_path: Path) -> None:
    counts = export_parquet(store, tmp_path / "out")
    assert set(counts) == {*EXPORTED, "scores"}
    for name in EXPORTED:
        there = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        assert (
            len(there) == counts[name] == database.query(store, f"SELECT count(*) AS n FROM {name}")["n"][0]
        )
    scores = database.query(
        store, "SELECT run_id, scope, key, value FROM scores WHERE scope <> 'global' ORDER BY ALL"
    )
    files = f"read_parquet('{tmp_path}/out/scores/*/*/*.parquet', hive_partitioning = true)"
    there = duckdb.sql(
        f"SELECT run_id, scope, key, value, board, entry FROM {files} WHERE scope <> 'global'"
    ).df()
    assert set(there["board"]) == {ALONE, "screen.perturbation_ood.cv"}
    assert set(there["entry"]) == {"network", "ridge", "additive"}
    assert counts["scores"] == there["run_id"].nunique()
    there = there[list(scores.columns)].sort_values(list(scores.columns), ignore_index=True)
    pd.testing.assert_frame_equal(there, scores, check_dtype=False)


def test_an_export_replaces_a_folder_only_when_asked(store: ArtifactStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine").write_text("x")
    with pytest.raises(Exception, match="already exists; choose another place"):
        export_parquet(store, folder)
    # What is no part of an export is never removed.
    with pytest.raises(Exception, match="is a file or holds 'mine'; choose another folder"):
        export_parquet(store, folder, overwrite=True)
    assert [p.name for p in folder.iterdir()] == ["mine"]
    (folder / "mine").rename(folder / "leaderboard.parquet")
    export_parquet(store, folder, overwrite=True)
    assert (folder / "leaderboard.parquet").read_bytes() != b"x"


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{}/new.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{}/new.csv'",
        "SELECT 1; COPY (SELECT 1) TO '{}/new.csv'",
        "ATTACH '{}/new.duckdb' AS other",
        "EXPORT DATABASE '{}/new'",
    ],
)
def test_a_statement_writes_nothing_among_the_scores(store: ArtifactStore, sql: str) -> None:
    folder = store.runs / ".scores"
    before = sorted(folder.rglob("*"))
    with pytest.raises(Exception, match="SQL failed"):
        database.query(store, sql.format(folder))
    assert sorted(folder.rglob("*")) == before


def test_a_selection_can_be_explained(store: ArtifactStore) -> None:
    found = database.query(store, "EXPLAIN SELECT count(*) FROM scores WHERE scope = 'condition'")
    assert len(found)
