"""The leaderboard page as a file: what it holds, what it leaves out, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.page_data import key_metrics
from perturbfm_core.leaderboard.page_data_about import about_metrics
from perturbfm_core.leaderboard.page_data_packing import Part, rounded, within
from perturbfm_core.leaderboard.page_data_tables import read_tables
from perturbfm_core.pipeline.leaderboard_page import folder_address, is_current, write_page
from perturbfm_core.pipeline.site import build_site
from perturbfm_core.reports.html import DASH
from perturbfm_core.reports.pages import leaderboard_page as pages
from perturbfm_core.reports.pages.leaderboard_page import (
    LIMIT,
    attacks_on_metrics,
    fixed_size,
    leaderboard_page,
)
from perturbfm_core.store.artifacts import ArtifactStore
from tests.browser.boards import ENTRIES, HOSTILE, METRICS, PART, WHOLE, made_store
from tests.support.command import attempt, perturbfm
from tests.support.factories import run_config, score_rows, split_table, write_run
from tests.support.page_parts import parts_of, unpacked
from tests.support.pages import Page
from tests.support.paths import REPO

# Columns of the tables of attacks on the challenge's metrics.
CHALLENGE = (
    *("pds_cosine", "expr_mse_unbiased_capped_norm", "de_wilcoxon_lfc_nmae"),
    *("de_wilcoxon_direction_fidelity_yield_raw", "de_wilcoxon_direction_reach_raw"),
    *("de_wilcoxon_sig_jaccard", "vcc2026_score"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """Return a store with two boards and its page."""
    return made_store(tmp_path_factory.mktemp("boards"))


@pytest.fixture(scope="module")
def text(store: ArtifactStore) -> str:
    """Return the page."""
    return store.leaderboard_page.read_text(encoding="utf-8")


# ---- what it needs ----------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(text: str) -> None:
    page = Page(text)
    assert "http://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)
    assert "https://" not in text
    assert not {"iframe", "object", "embed", "base"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert [
        v for t, n, v in page.attributes if n in ("src", "srcset", "action") or (t, n) == ("link", "href")
    ] == ["data:,"]
    assert "url(" not in text.partition("</style>")[0]
    assert "@import" not in text
    (policy,) = [v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "default-src" in v]
    assert policy.startswith(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    )
    assert "unsafe-eval" not in policy
    assert "connect-src" not in policy
    assert len(text.encode()) < LIMIT


def test_every_script_is_one_that_the_policy_lets_run(text: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 6
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy.group(1)


def test_names_are_data_and_never_markup(text: str) -> None:
    assert HOSTILE not in text
    assert "<img" not in text
    names = [e["name"] for e in parts_of(text)["head"]["entries"]]
    assert names == sorted(ENTRIES)


# ---- what it holds ----------------------------------------------------------------------------------------


def test_scores_marks_and_ranks_are_those_of_sql(store: ArtifactStore, text: str) -> None:
    parts = parts_of(text)
    head, cells = parts["head"], parts["head"]["cells"]
    found = database.query(store, "SELECT * FROM leaderboard")
    seen = 0
    for part in (parts["key"], parts["rest"]):
        for j, m in enumerate(part["metrics"]):
            about = head["metrics"][m]
            for c in range(len(cells["board"])):
                board = head["boards"][cells["board"][c]]["board"]
                entry = head["entries"][cells["entry"][c]]["name"]
                row = found[
                    (found["board"] == board)
                    & (found["entry"] == entry)
                    & (found["panel"] == about["panel"])
                    & (found["metric"] == about["name"])
                ].iloc[0]
                assert part["value"][c, j] == pytest.approx(row["value"], abs=5e-5, nan_ok=True)
                assert (part["rank"][c, j] or None) == (None if pd.isna(row["rank"]) else row["rank"] + 1)
                assert part["n_undefined"][c, j] == row["n_undefined"] + 1
                if part is parts["key"]:
                    for name, column in (("ci_low", "ci_low"), ("diff", "diff_best_baseline")):
                        assert part[name][c, j] == pytest.approx(row[column], abs=5e-5, nan_ok=True)
                    assert part["ceiling_noise_free"][cells["board"][c], j] == pytest.approx(
                        row["ceiling_noise_free"], abs=5e-5, nan_ok=True
                    )
                seen += 1
    assert seen == len(found) == len(METRICS) * 2 * len(ENTRIES)


def test_ranks_are_those_of_the_view_with_ties_and_gaps(store: ArtifactStore) -> None:
    with database.connect(store) as con:
        tables = read_tables(con, [], key_metrics())
        view = con.execute(
            "SELECT c.i AS cell, m.i AS metric, s.rank FROM leaderboard s JOIN page_cells c USING (board, entry) "
            "JOIN page_metrics m USING (panel, metric)"
        ).df()
    own = tables.scores["rank"][view["cell"], view["metric"]]
    np.testing.assert_array_equal(own, view["rank"].to_numpy(dtype=float, na_value=np.nan))


def test_conditions_are_means_over_folds_and_seeds_and_gaps_have_reasons(
    store: ArtifactStore, text: str
) -> None:
    parts = parts_of(text)
    for b, board in enumerate(parts["head"]["boards"]):
        part = parts[f"conditions-{b}"]
        found = database.query(
            store,
            "SELECT entry, key, avg(value) FILTER (isfinite(value)) AS value FROM scores JOIN runs USING (run_id, board, entry) "
            f"WHERE counted AND board = '{board['board']}' AND scope = 'condition' AND metric = 'pearson_centered' GROUP BY ALL",
        )
        wide = found.pivot_table(dropna=False, index="entry", columns="key", values="value")
        cells = parts["head"]["cells"]
        names = [parts["head"]["entries"][cells["entry"][c]]["name"] for c in part["cells"]]
        expected = wide.loc[names, part["keys"]].to_numpy(dtype=float)
        np.testing.assert_allclose(part["value"], expected, atol=5e-5)
        gaps = np.isnan(part["value"])
        assert gaps.any()
        assert {part["reasons"][r - 1] for r in part["reason"][gaps]} == {"constant"}
        assert (part["reason"][~gaps] == 0).all()


def test_conditions_of_several_folds_weigh_folds_as_the_board_does(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    # The same conditions in three folds: one of three seeds, one of one seed, one without signal.
    for split, seed, value in (("a", 0, 0.2), ("a", 1, 0.3), ("a", 2, 0.4), ("b", 0, 0.9), ("c", 0, -0.5)):
        config = run_config("ridge", split=split * 64, seed=seed, no_signal=split == "c")
        values = {"x|G0|||": value, "x|G1|||": value - 0.1, "x|G2|||": float("nan")}
        write_run(store, config, score_rows(config, values, metric="pearson_centered"))
    splits = split_table("a" * 64, "b" * 64, "c" * 64, board="board", dataset="screen", kind="combo_ood")
    database.rebuild(store, lambda: splits, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    part = parts_of(write_page(store).read_text(encoding="utf-8"))["conditions-0"]
    np.testing.assert_allclose(part["value"], [[0.6, 0.5, np.nan]])
    (value,) = database.query(store, "SELECT value FROM leaderboard")["value"]
    assert np.nanmean(part["value"]) == pytest.approx(value)


def test_readers_without_scripts_have_the_headline(store: ArtifactStore, text: str) -> None:
    rows = Page(text).cells
    found = database.query(
        store,
        "SELECT board, rank, entry, value FROM leaderboard WHERE panel = 'delta' AND metric = 'pearson_centered'",
    )
    assert len(rows) - 1 == len(found)
    for row in found.itertuples(index=False):
        rank = DASH if pd.isna(row.rank) else str(row.rank)
        assert [row.board, rank, row.entry, f"{row.value:.4f}"] in [r[:4] for r in rows]


def test_boards_say_how_many_folds_there_are(text: str) -> None:
    boards = {b["board"].rpartition("-")[2]: b for b in parts_of(text)["head"]["boards"]}
    whole, part = boards["aaaa"], boards["cccc"]
    assert (whole["done"], whole["total"], whole["complete"]) == (2, 2, True)
    assert (part["done"], part["total"], part["complete"], part["reason"]) == (1, 2, False, "1 of 2 folds")


def test_runs_lead_to_their_reports(store: ArtifactStore, text: str) -> None:
    runs = parts_of(text)["runs"]
    assert len(runs["folder"]) == 3 * len(ENTRIES)
    for folder in runs["folder"]:
        assert (store.runs / folder / "report.html").is_file()
    assert set(runs["fold"]) == {0, 1}
    assert np.isfinite(runs["value"]).any(axis=1).all()
    assert {len(s) for s in (WHOLE, PART)} == {2}


def test_metrics_are_explained_with_what_raises_them(text: str) -> None:
    metrics = {f"{m['panel']}.{m['name']}": m for m in parts_of(text)["head"]["metrics"]}
    headline = metrics["delta.pearson_centered"]
    assert headline["what"].startswith("Pearson correlation over genes")
    assert (headline["direction"], headline["bounds"], headline["source"] != "") == ("max", [-1, 1], True)
    assert metrics["uncertainty.coverage_0.9"]["target"] == 0.9


def test_attacks_on_record_are_those_of_the_documentation() -> None:
    rows = {(r["attack"], r["panel"], r["metric"], r["entry"]): r for r in attacks_on_metrics()}
    page = (REPO / "docs" / "gaming.md").read_text(encoding="utf-8")
    lines = page.split("## The peers' metrics")[1]
    documented = [re.findall(r"[^|`\s]+", line) for line in lines.splitlines() if line.startswith("| `")]
    assert len(documented) > 60
    for attack, panel, metric, cases, before, after in documented:
        row = rows.pop((attack, panel, metric, ""))
        assert (row["cases"], row["of"], row["before"], row["after"]) == (cases, "6", before, after)
    assert rows.pop(("perturbed_mean_as_control", "calibrated", "headline", ""))["of"] == "6"
    # The challenge's, in two or all of three splits.
    for entry in ("additive", "global_mean"):
        table = page.split(f"| `{entry}` | `pds_cosine`")[1].split("\n\n")[0].splitlines()[2:]
        lines_of = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]
        (_, *starts), *attacks = lines_of
        assert len(attacks) == 11
        for attack, *changes in attacks:
            for metric, before, change in zip(CHALLENGE, starts, changes, strict=True):
                number, *bold = change.replace("*", "").split()
                if bold in (["2"], ["3"]):
                    row = rows.pop((attack, "vcc2026", metric, entry))
                    assert (row["cases"], row["of"]) == (bold[0], "3")
                    ends = [f"{float(before):.3f}", f"{float(before) + float(number):.3f}"]
                    # Means over all splits are those over the improved ones where it improved in all.
                    assert [row["before"], row["after"]] == (ends if bold == ["3"] else ["", ""])
    assert not rows


def test_the_page_says_of_each_metric_of_the_challenge_what_raises_it() -> None:
    names = [("vcc2026", m) for m in CHALLENGE]
    table = pd.DataFrame({"panel": [p for p, _ in names], "metric": [m for _, m in names]})
    records = about_metrics(table.assign(direction="max", version="1"), attacks_on_metrics())
    raised = {r["name"]: r["games"] for r in records}
    # Beyond noise in one case at most.
    assert [m for m, games in raised.items() if not games] == ["pds_cosine", "de_wilcoxon_lfc_nmae"]
    score = [(g["cases"], g["of"], g["entry"]) for g in raised["vcc2026_score"]]
    assert score.count(("3", "3", "global_mean")) == 3
    assert score.count(("3", "3", "additive")) == 1


# ---- how numbers are kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (0.61138, 0.6114),
        (-0.61138, -0.6114),
        (0.010004, 0.01),
        (0.0012344, 0.001234),
        (1.23456e-7, 1.235e-7),
        (9.99996, 10.0),
        (12.34567, 12.346),
        (-3581234.0, -3581200.0),
        (1.5e12, 1.5e12),
        (0.0, 0.0),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_numbers_keep_what_is_shown(value: float, kept: float | None) -> None:
    part = unpacked(Part("p", numbers={"x": np.asarray([value, 1.0])}).packed())
    assert part["x"][1] == 1.0
    assert np.isnan(part["x"][0]) if kept is None else part["x"][0] == pytest.approx(kept, rel=1e-12)


def test_rounding_is_that_of_four_decimals() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    mantissa, decimals = rounded(values)
    shown = mantissa / np.power(10.0, decimals)
    large = np.abs(values) >= 0.01
    assert [f"{v:.4f}" for v in shown[large]] == [f"{v:.4f}" for v in values[large]]
    np.testing.assert_allclose(shown[~large], values[~large], rtol=5e-4)


def test_what_has_no_room_is_left_out_and_named() -> None:
    rng = np.random.default_rng(0)
    parts = [
        Part("first", {"a": 1}),
        Part("large", numbers={"x": rng.random(50_000)}, what="the large one"),
        Part("one", numbers={"x": rng.random(200)}, what="a small one"),
        Part("two", numbers={"x": rng.random(20_000)}, what="conditions"),
        Part("three", numbers={"x": rng.random(20_000)}, what="conditions"),
    ]
    taken, missing = within(parts, 4000)
    assert list(taken) == ["first", "one"]
    assert missing == ["the large one", "conditions of 2 boards"]
    assert sum(map(len, taken.values())) <= 4000
    assert within(parts, 10**7)[1] == []


def test_a_page_keeps_to_its_size_and_says_what_it_lacks(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.connect(store) as con:
        whole = leaderboard_page(con, load_catalog())
        sizes = {n: len(t) for n, t in re.findall(r'id="part-([\w.-]+)">([A-Za-z0-9+/=]+)<', whole)}
        # Room for the first two parts, and for no more.
        fixed = len(whole.encode()) - sum(sizes.values())
        monkeypatch.setattr(pages, "plain_rows", lambda con: [])
        monkeypatch.setattr(pages, "_SHELL", fixed - fixed_size())
        limit = fixed + sizes["head"] + sizes["key"]
        small = leaderboard_page(con, load_catalog(), limit=limit)
    assert len(small.encode()) <= limit + 1000
    assert "some data are left out" in small
    assert "some data are left out" not in whole
    assert set(parts_of(small)) == {"head", "key"} < set(parts_of(whole))


# ---- where it lies ----------------------------------------------------------------------------------------


def test_a_page_elsewhere_leads_to_the_same_runs(store: ArtifactStore, tmp_path: Path) -> None:
    file = write_page(store, tmp_path / "a b" / "page.html")
    settings = re.search(r'id="settings">(.*?)</script>', file.read_text(encoding="utf-8"))
    assert settings is not None
    address = json.loads(settings.group(1))["runs"]
    assert (file.parent / address).resolve() == store.runs.resolve()
    assert folder_address(store.runs, store.runs) == ""
    assert folder_address(tmp_path / "a b", tmp_path) == "a%20b/"


def test_the_page_is_current_until_the_database_is_newer(store: ArtifactStore, tmp_path: Path) -> None:
    assert is_current(store)
    assert not is_current(ArtifactStore(tmp_path / "none", tmp_path))


def test_a_store_without_runs_has_a_page_that_says_so(tmp_path: Path) -> None:
    empty = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    empty.runs.mkdir(parents=True)
    with pytest.raises(StoreError, match="leaderboard refresh"):
        write_page(empty)
    splits = pd.DataFrame(columns=["split_hash", "board", "cv_k", "unit", "ceiling", "floor"], dtype=object)
    database.rebuild(
        empty, lambda: splits, lambda runs: pd.DataFrame({"dataset": pd.Series([], dtype="string")})
    )
    assert "No runs yet." in write_page(empty).read_text(encoding="utf-8")


def test_a_database_of_an_earlier_version_is_one_line(tmp_path: Path) -> None:
    earlier = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    earlier.runs.mkdir(parents=True)
    with duckdb.connect(str(earlier.runs / "leaderboard-1.duckdb")) as con:
        con.execute("CREATE TABLE standings (board VARCHAR, entry VARCHAR)")
    earlier.leaderboard.symlink_to("leaderboard-1.duckdb")
    with pytest.raises(StoreError, match=r"cannot be shown .*; run `perturbfm leaderboard refresh`"):
        write_page(earlier)
    assert not earlier.leaderboard_page.exists()


def test_the_verb_writes_the_page(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERTURBFM_HOME", str(store.home))
    answer = perturbfm("leaderboard", "page", "--out", tmp_path / "page.html", "--json")
    assert answer.json["bytes"] == (tmp_path / "page.html").stat().st_size
    (tmp_path / "README.md").write_text("mine")
    refused = attempt("leaderboard", "page", "--out", tmp_path / "README.md")
    assert (refused.code, (tmp_path / "README.md").read_text()) == (2, "mine")
    assert "is no web page; give a name that ends in .html" in refused.err
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "nothing"))
    refused = attempt("leaderboard", "page")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "leaderboard refresh" in refused.err


# ---- the site ---------------------------------------------------------------------------------------------


def test_a_site_holds_the_page_the_reports_and_the_scorecards(store: ArtifactStore, tmp_path: Path) -> None:
    card = store.scorecards / "demo suite"
    card.mkdir(parents=True, exist_ok=True)
    (card / "scorecard.html").write_text("card")
    site = build_site(store, tmp_path / "site")
    assert (site.reports, site.scorecards, site.missing) == (3 * len(ENTRIES), 1, ())
    text = (site.folder / "index.html").read_text(encoding="utf-8")
    for folder in parts_of(text)["runs"]["folder"]:
        assert (site.folder / "runs" / folder / "report.html").is_file()
        assert not (site.folder / "runs" / folder / "predictions.npz").exists()
    links = [v for t, n, v in Page(text).attributes if (t, n) == ("a", "href") and not v.startswith("#")]
    assert links == ["runs/scorecards/demo%20suite/scorecard.html"]
    assert (site.folder / "runs/scorecards/demo suite/scorecard.html").read_text() == "card"


def test_a_home_that_has_moved_keeps_its_reports(store: ArtifactStore, tmp_path: Path) -> None:
    shutil.copytree(store.home, tmp_path / "moved", symlinks=True)
    shutil.copytree(store.split_dir, tmp_path / "splits") if store.split_dir.is_dir() else None
    moved = ArtifactStore(tmp_path / "moved", tmp_path / "splits")
    for file in moved.runs.glob("*/report.html"):
        file.write_text("moved")
    site = build_site(moved, tmp_path / "site")
    assert (site.reports, site.missing) == (3 * len(ENTRIES), ())
    assert {p.read_text() for p in site.folder.glob("runs/*/report.html")} == {"moved"}


def test_a_site_is_replaced_whole_and_nothing_else_is(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERTURBFM_HOME", str(store.home))
    out = tmp_path / "site"
    assert perturbfm("site", "build", "--out", out).values["reports"] == str(3 * len(ENTRIES))
    stale = out / "runs" / "removed" / "report.html"
    stale.parent.mkdir()
    stale.write_text("")
    refused = attempt("site", "build", "--out", out)
    assert (refused.code, stale.exists()) == (2, True)
    perturbfm("site", "build", "--out", out, "--force")
    assert not stale.exists()


@pytest.mark.parametrize(
    ("is_site", "file", "said"),
    [
        (False, "mine.txt", "holds files and no index.html of a leaderboard"),
        (False, "index.html", "holds files and no index.html of a leaderboard"),
        (True, "mine.txt", "holds mine.txt, which is of no site and would be lost"),
        (True, "runs/run 1/notes.md", "holds runs/run 1/notes.md, which is of no site"),
    ],
)
def test_a_folder_that_holds_more_than_a_site_is_not_replaced(
    store: ArtifactStore, tmp_path: Path, is_site: bool, file: str, said: str
) -> None:
    out = build_site(store, tmp_path / "site").folder if is_site else tmp_path / "other"
    mine = out / file
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("<title>My pages</title>")
    with pytest.raises(StoreError, match=re.escape(said)):
        build_site(store, out, overwrite=True)
    assert mine.read_text() == "<title>My pages</title>"


def test_a_file_is_not_replaced_by_a_site(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(StoreError, match="is a file, not a site"):
        build_site(store, tmp_path / "page.html", overwrite=True)
