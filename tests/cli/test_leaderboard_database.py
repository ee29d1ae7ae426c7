"""The leaderboard by its verbs: export, refresh from nothing, and a year of unchanged cells."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from perturbfm_core.leaderboard import refresh
from tests.support.command import Work, attempt, perturbfm

# Verbs that give what the published leaderboard holds.
READERS = (
    *("leaderboard show", "leaderboard compare", "leaderboard results", "leaderboard page"),
    *("leaderboard sql SHOW", "leaderboard export --parquet out --force", "site build --out site --force"),
)


def _stored() -> set[Path]:
    """Return all files below ``runs`` but for the leaderboard itself."""
    left_out = ("leaderboard", ".locks", ".scores")
    return {p for p in Path("runs").rglob("*") if p.is_file() and not p.parts[1].startswith(left_out)}


def test_an_unchanged_cell_adds_no_run_and_nothing_to_read(work: Work, monkeypatch) -> None:
    perturbfm("leaderboard", "refresh")
    before, read = _stored(), []
    monkeypatch.setattr(refresh, "read_run_scores", lambda path, known: read.append(path))
    for _ in range(3):
        again = perturbfm("train", "global_mean", "--data", "D", "--split", work.split).values
        assert again["run_id"] == work.run
        assert perturbfm("leaderboard", "refresh").values["runs"] == "1"
    assert _stored() == before
    assert not read
    (row,) = perturbfm(
        "leaderboard", "sql", "select count(*) as n from trend where metric = 'rmse'", "--json"
    ).json
    assert row["n"] == 1


def test_a_refresh_from_nothing_reads_all_runs_again(work: Work, monkeypatch) -> None:
    read = []
    found = refresh.read_run_scores
    monkeypatch.setattr(
        refresh, "read_run_scores", lambda path, known: read.append(path.name) or found(path, known)
    )
    perturbfm("leaderboard", "refresh")
    assert not read
    perturbfm("leaderboard", "refresh", "--from-nothing")
    assert read == [work.run]


def test_a_leaderboard_that_is_older_than_the_runs_says_so(work: Work) -> None:
    perturbfm("leaderboard", "refresh")
    perturbfm("leaderboard", "show")
    shutil.copytree(f"runs/{work.run}", "runs/20240101-000000_aaaaaaa_copy_00000000")
    for made, removed in ((1, 0), (1, 1)):
        for verb in READERS:
            said = perturbfm(*verb.split(), warns=True).err
            assert f"older than the runs ({made} made, {removed} removed since)" in said
        shutil.rmtree(f"runs/{work.run}", ignore_errors=True)
    perturbfm("leaderboard", "refresh", warns=True)
    perturbfm("leaderboard", "show")


def test_a_leaderboard_of_an_earlier_version_is_shown_and_says_so(work: Work) -> None:
    perturbfm("leaderboard", "refresh")
    with duckdb.connect("runs/leaderboard.duckdb") as con:
        con.execute("ALTER TABLE skipped DROP COLUMN kind")
    shown = perturbfm("leaderboard", "show", warns=True)
    assert "made by an earlier version; `perturbfm leaderboard refresh` makes it anew" in shown.err
    assert "delta.pearson_centered, higher is better" in shown.out


@pytest.mark.parametrize(
    "verb",
    [
        ("leaderboard", "compare"),
        ("leaderboard", "results"),
        ("leaderboard", "sql", "SELECT board FROM runs"),
        ("leaderboard", "export", "--parquet", "out"),
        ("leaderboard", "page"),
    ],
    ids=lambda verb: verb[1],
)
def test_a_verb_for_which_a_leaderboard_of_an_earlier_version_lacks_a_column_says_so(
    work: Work, verb
) -> None:
    perturbfm("leaderboard", "refresh")
    with duckdb.connect("runs/leaderboard.duckdb") as con:
        con.execute("UPDATE internal.code SET digest = 'earlier'")
        con.execute("ALTER TABLE runs DROP COLUMN board")
    refused = attempt(*verb)
    assert (refused.code, refused.out) == (2, "")
    assert "`perturbfm leaderboard refresh`" in refused.err
    assert not Path("out").exists()
    perturbfm("leaderboard", "refresh")
    perturbfm(*verb)


def test_an_export_is_read_without_this_program(work: Work) -> None:
    perturbfm("leaderboard", "refresh")
    counts = perturbfm("leaderboard", "export", "--parquet", "out", "--json").json
    board = pd.read_parquet("out/leaderboard.parquet")
    assert counts["leaderboard"] == len(board) > 0
    assert set(board["entry"]) == {"global_mean"}
    (file,) = Path("out/scores").rglob("*.parquet")
    assert file.parent.name == "entry=global_mean"
    refused = attempt("leaderboard", "export", "--parquet", "out")
    assert refused.code == 2
    assert "already exists; choose another place, or give --force to replace it" in refused.err
    perturbfm("leaderboard", "export", "--parquet", "out", "--force")
    Path("out/notes.txt").write_text("mine")
    refused = attempt("leaderboard", "export", "--parquet", "out", "--force")
    assert refused.code == 2
    assert "replaces an earlier export, but out is a file or holds 'notes.txt'" in refused.err
    assert Path("out/notes.txt").read_text() == "mine"


def test_an_export_needs_a_leaderboard(tmp_path: Path) -> None:
    refused = attempt("leaderboard", "export", "--parquet", "out")
    assert refused.code == 2
    assert "run `perturbfm leaderboard refresh` first" in refused.err
    assert not Path("out").exists()
