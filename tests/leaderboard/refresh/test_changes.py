"""A refresh after runs were added, removed, rescored or damaged ends where one from nothing does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.cli.boards import board_lines, undefined_reasons
from perturbfm_core.evaluation.metric import METRICS as METRICS_OF
from perturbfm_core.leaderboard import database, refresh
from perturbfm_core.leaderboard.page_data_tables import read_tables
from perturbfm_core.leaderboard.tables import dataset_table
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_tags import TAGS_FILE, tag_run
from tests.support.factories import run_config, score_rows, split_table, write_run
from tests.support.refreshed_store import TABLES, A, B, C, D, add, content, renew, splits


def entries(store: ArtifactStore) -> list[str]:
    """Return the entries with condition scores."""
    sql = "SELECT DISTINCT entry FROM scores WHERE scope = 'condition' ORDER BY entry"
    return list(database.query(store, sql)["entry"])


def test_a_removed_run_disappears(store: ArtifactStore) -> None:
    shutil.rmtree(next(p for p in store.run_dirs() if "ridge" in p.name))
    renew(store)
    assert entries(store) == ["additive"]
    for table in ("runs", "global_scores", "standings"):
        assert set(database.query(store, f"SELECT entry FROM {table}")["entry"]) == {"additive"}
    assert database.query(store, "SELECT * FROM pairwise").empty


def test_a_rescored_run_has_its_new_scores(store: ArtifactStore) -> None:
    file = next(p for p in store.run_dirs() if "ridge" in p.name) / schema.SCORES_FILE
    table = pd.read_parquet(file)
    table.assign(value=0.25).to_parquet(file, index=False)
    renew(store)
    values = database.query(store, "SELECT DISTINCT value FROM scores WHERE entry = 'ridge'")
    assert values["value"].tolist() == [0.25]
    row = database.query(store, "SELECT value FROM leaderboard WHERE entry = 'ridge' AND metric = 'rmse'")
    assert row["value"].tolist() == [0.25]


def test_a_newer_run_takes_the_place_of_an_older_one_and_gives_it_back(store: ArtifactStore) -> None:
    before = content(store)
    newer = add(store, "ridge", created="2024-02-01T00:00:00.000000", rng=np.random.default_rng(99))
    renew(store)
    found = database.query(
        store, "SELECT run_id, is_current, counted FROM runs WHERE entry = 'ridge' ORDER BY created"
    )
    assert found["is_current"].tolist() == found["counted"].tolist() == [False, True]
    ids = database.query(
        store, "SELECT DISTINCT run_id FROM scores WHERE entry = 'ridge' AND scope = 'condition'"
    )
    assert ids["run_id"].tolist() == [newer.name]
    trend = database.query(
        store, "SELECT run_id FROM trend WHERE entry = 'ridge' AND metric = 'rmse' ORDER BY created"
    )
    assert len(trend) == 2
    shutil.rmtree(newer)
    renew(store)
    assert content(store) == before


def test_an_older_run_that_takes_the_place_of_a_damaged_one_is_stored_once(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    add(store, "ridge", created="2026-01-01T00:00:00Z")
    newest = add(store, "ridge", created="2026-01-02T00:00:00Z")
    damaged = (newest / "scores.parquet").read_bytes()[:100]
    (newest / "scores.parquet").chmod(0o644)
    (newest / "scores.parquet").write_bytes(damaged)
    renew(store)
    with database.connect(store) as con:
        count = "SELECT count(*), count(DISTINCT (run_id, panel, metric)) FROM global_scores"
        rows, distinct = con.execute(count).fetchone()
    assert rows == distinct > 0


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"metadata": {}}'])
def test_a_data_set_that_cannot_be_read_is_skipped_and_named(store: ArtifactStore, text: str) -> None:
    (store.data / "stray").mkdir(parents=True)
    (store.data / "stray" / schema.META_FILE).write_text(text)
    database.rebuild(store, splits, lambda runs: dataset_table(store, runs))
    (row,) = database.query(store, "SELECT * FROM skipped").to_dict("records")
    assert (row["run"], row["kind"]) == (str(store.data / "stray"), "data set")
    assert "meta.json" in row["reason"]
    assert database.query(store, "SELECT dataset FROM datasets")["dataset"].tolist() == ["screen"]


def test_pairs_are_compared_on_the_folds_that_both_have_run(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    values = {f"x|G{i}|||": 0.1 * i for i in range(12)}
    for entry, split, less in (("ridge", A, 0.0), ("ridge", B, 0.4), ("net", A, 0.0)):
        known = run_config(entry, split=split)
        shifted = {key: value - less for key, value in values.items()}
        write_run(store, known, score_rows(known, shifted, metric="pearson_centered"))
    renew(store, split_table(A, B, board="cv", unit="perturbation"))
    row = database.query(store, "SELECT * FROM pairwise").iloc[0]
    assert row[["value_a", "value_b", "diff"]].tolist() == pytest.approx([0.55, 0.55, 0.0])
    assert (row["n_conditions"], row["n_undefined"], row["verdict"]) == (12, 0, "not told apart")


@pytest.mark.parametrize("stored", [True, False, None])
def test_signal_is_that_of_the_split_for_all_its_runs(tmp_path: Path, stored: bool | None) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    add(store, "additive", no_signal=False)
    add(store, "ridge", no_signal=True, created="2024-01-02T00:00:00.000000")
    renew(store, split_table(D, board="alone", no_signal=stored))
    # Where it is not stored, what the last run says.
    silent = stored is not False
    found = database.query(store, "SELECT DISTINCT no_signal FROM runs")["no_signal"]
    assert found.tolist() == [silent]
    board = database.query(store, "SELECT entry, rank, no_signal FROM leaderboard WHERE metric = 'rmse'")
    assert sorted(board["entry"]) == ["additive", "ridge"]
    assert board["no_signal"].tolist() == [silent] * 2
    assert board["rank"].isna().tolist() == [silent] * 2


def test_tags_are_those_of_now(store: ArtifactStore) -> None:
    run = store.run_dirs()[0].name
    sql = f"SELECT tags FROM runs WHERE run_id = '{run}'"
    for add_tags, drop, expected in ((("paper", "best"), (), "best paper"), ((), ("best",), "paper")):
        tag_run(store, run, add_tags, drop)
        renew(store)
        assert database.query(store, sql)["tags"].tolist() == [expected]
    (store.runs / TAGS_FILE).write_text("[]")
    renew(store)
    assert database.query(store, sql)["tags"].tolist() == [""]
    skipped = database.query(store, "SELECT * FROM skipped")
    assert skipped[["run", "kind"]].to_numpy().tolist() == [[TAGS_FILE, "file of tags"]]
    assert "restore it" in skipped["reason"][0]


@pytest.mark.parametrize("mended", [False, True])
def test_a_run_that_is_damaged_later_is_named_and_the_others_stay(store: ArtifactStore, mended: bool) -> None:
    before = content(store)
    file = next(p for p in store.run_dirs() if "ridge" in p.name) / schema.SCORES_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    renew(store)
    assert entries(store) == ["additive"]
    (reason,) = database.query(store, "SELECT reason FROM skipped")["reason"]
    assert "scores.parquet cannot be read" in reason
    assert "\n" not in reason
    if mended:
        file.write_bytes(whole)
        renew(store)
        assert content(store) == before


def test_a_split_that_is_found_later_gives_its_runs_a_board(store: ArtifactStore) -> None:
    run = add(store, "ridge", A)
    known = splits()
    renew(store, known[known["split_hash"] != A])
    found = database.query(store, f"SELECT board, counted FROM runs WHERE run_id = '{run.name}'").iloc[0]
    assert (found["board"], found["counted"]) == (None, False)
    scores = database.query(
        store, f"SELECT board FROM scores WHERE run_id = '{run.name}' AND scope = 'condition'"
    )
    assert len(scores) == 30
    assert scores["board"].isna().all()
    renew(store)
    found = database.query(store, f"SELECT DISTINCT board FROM scores WHERE run_id = '{run.name}'")
    assert found["board"].tolist() == ["cv"]


def test_a_changed_ceiling_changes_its_board_alone(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in (A, B, C):
        add(store, "additive", split)
    renew(store)
    ranked: list[str] = []
    fill = refresh.fill_standings
    monkeypatch.setattr(refresh, "fill_standings", lambda b, *a: ranked.append(b.name) or fill(b, *a))  # type: ignore[func-returns-value]
    table = splits()
    table["ceiling"] = [{"pearson_centered": {"half": 0.8}} if h == D else None for h in table["split_hash"]]
    renew(store, table)
    assert ranked == ["alone"]
    row = database.query(
        store,
        "SELECT DISTINCT ceiling FROM leaderboard WHERE board = 'alone' AND metric = 'pearson_centered'",
    )
    assert row["ceiling"].tolist() == [0.8]


def test_what_no_kept_database_reads_is_removed(store: ArtifactStore) -> None:
    def files() -> set[str]:
        return {p.name for p in (store.runs / ".scores").rglob("*.parquet")}

    before = files()
    run = add(store, "linear")
    renew(store)
    (new,) = files() - before
    shutil.rmtree(run)
    renew(store)
    assert new in files()
    for _ in range(3):
        renew(store)
    assert files() == before
    assert len(list((store.runs / ".scores").glob("*.json"))) == 3


def test_a_reader_of_the_last_database_sees_what_it_saw(store: ArtifactStore) -> None:
    sql = "SELECT run_id, metric, key, value FROM scores ORDER BY ALL"
    with database.connect(store) as con:
        before = con.execute(sql).fetchall()
        file = next(p for p in store.run_dirs() if "ridge" in p.name) / schema.SCORES_FILE
        pd.read_parquet(file).assign(value=0.25).to_parquet(file, index=False)
        renew(store)
        shutil.rmtree(file.parent)
        renew(store)
        assert con.execute(sql).fetchall() == before


# ---- the same as from nothing -----------------------------------------------------------------------------


def _add(store: ArtifactStore, rng: np.random.Generator, step: int) -> None:
    entry = str(rng.choice(["additive", "ridge", "linear", "network", "other"]))
    split = str(rng.choice([A, B, C, D]))
    created = f"2024-01-{1 + step // 60:02d}T00:{step % 60:02d}:00.000000"
    family = "baseline" if entry in ("additive", "ridge", "linear") else "learned"
    options = {"seed": int(rng.integers(2)), "created": created, "family": family, "no_signal": split == C}
    add(store, entry, split, start="abcd".index(split[0]) * 3, n=int(rng.integers(5, 9)), rng=rng, **options)


def _remove(store: ArtifactStore, rng: np.random.Generator, step: int) -> None:
    runs = store.run_dirs()
    if runs:
        shutil.rmtree(runs[int(rng.integers(len(runs)))])


def _rescore(store: ArtifactStore, rng: np.random.Generator, step: int) -> None:
    runs = store.run_dirs()
    if runs:
        file = runs[int(rng.integers(len(runs)))] / schema.SCORES_FILE
        table = pd.read_parquet(file)
        table.assign(value=table["value"] + rng.normal(0, 0.1, len(table))).to_parquet(file, index=False)


def _flag(store: ArtifactStore, rng: np.random.Generator, step: int) -> None:
    runs = store.run_dirs()
    if runs:
        file = runs[int(rng.integers(len(runs)))] / schema.CONFIG_FILE
        record = json.loads(file.read_text())
        record["flags"]["shared_control"] = not record["flags"]["shared_control"]
        file.write_text(json.dumps(record))


def _tag(store: ArtifactStore, rng: np.random.Generator, step: int) -> None:
    runs = store.run_dirs()
    if runs:
        tag_run(store, runs[int(rng.integers(len(runs)))].name, [f"t{rng.integers(4)}"])


STEPS: tuple[Callable[[ArtifactStore, np.random.Generator, int], None], ...] = (
    _add, _add, _add, _add, _remove, _rescore, _flag, _tag,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_after_any_changes_the_tables_are_those_of_a_refresh_from_nothing(tmp_path: Path, seed: int) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    rng = np.random.default_rng(seed)
    for step in range(24):
        STEPS[int(rng.integers(len(STEPS)))](store, rng, step)
        if step % 4 == 0:
            renew(store)
    renew(store)
    found = content(store)
    renew(store, from_nothing=True)
    expected = content(store)
    for name in TABLES:
        assert found[name] == expected[name], name
    assert found["standings"]
    assert found["pairwise"]


def test_a_footnote_counts_the_conditions_of_the_board_and_not_of_one_run(store: ArtifactStore) -> None:
    metric = METRICS_OF.get("delta.pearson_centered")
    for at, split in enumerate((A, B, C)):
        config = run_config("flat", split=split)
        values = dict.fromkeys([f"x|G{6 * at + i}|||" for i in range(6)], float("nan"))
        rows = score_rows(config, values, metric="pearson_centered")
        whole = rows["scope"] == "global"
        write_run(
            store, config, rows.assign(reason=np.where(whole, "6 of 6 conditions undefined: flat", "flat"))
        )
    renew(store)
    frame = database.query(
        store, "SELECT * FROM leaderboard WHERE board = 'cv' AND metric = 'pearson_centered'"
    )
    lines = list(board_lines(frame, metric, undefined_reasons(store, metric)))
    assert lines[-1].endswith("] 18 of 18 conditions undefined: flat")
    with database.connect(store) as con:
        tables = read_tables(con, [("delta", "pearson_centered")], [("delta", "pearson_centered")])
    assert tables.details["reason"].tolist() == ["conditions undefined: flat"]
