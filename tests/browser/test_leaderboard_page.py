"""The leaderboard page in a browser: chosen, sorted, filtered, opened, by mouse and by keyboard, from disk and served."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.pipeline.leaderboard_page import write_page
from perturbfm_core.pipeline.serving import PageServer
from perturbfm_core.pipeline.site import build_site
from perturbfm_core.store.artifacts import ArtifactStore
from tests.browser.boards import COSTS, HOSTILE, made_store
from tests.support.browser import eventually
from tests.support.factories import run_config, score_rows, split_table, write_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

Visit = Callable[..., Any]
WHOLE, PART = "screen.combo_ood.cv-aaaa", "screen.perturbation_ood.cv-cccc"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """Return a store with two boards and its page."""
    return made_store(tmp_path_factory.mktemp("boards"))


@pytest.fixture(scope="module")
def served(store: ArtifactStore) -> Iterator[str]:
    """Serve the store; yields the address."""
    with PageServer(store, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


def from_disk(store: ArtifactStore, board: str = WHOLE) -> str:
    """Return the address of the page as a file."""
    return f"{store.leaderboard_page.resolve().as_uri()}#board={board}"


def standings(store: ArtifactStore, board: str, metric: str = "delta.pearson_centered") -> pd.DataFrame:
    """Return what SQL says of a metric on a board, the best first."""
    panel, _, name = metric.partition(".")
    return database.query(
        store,
        f"SELECT * FROM leaderboard WHERE board = '{board}' AND panel = '{panel}' AND metric = '{name}' "
        "ORDER BY rank NULLS LAST, n_undefined, value DESC",
    )


def column(page: Any, at: int) -> list[str]:
    """Return the texts of one column of the table."""
    texts: list[str] = page.locator(f"#standings tbody td:nth-child({at})").all_inner_texts()
    return [t.replace("\u2212", "-").strip() for t in texts]


def entries(page: Any) -> list[str]:
    """Return the entries of the table, in its order."""
    names: list[str] = page.locator("#standings tbody td:nth-child(2) button").all_inner_texts()
    return names


def test_values_ranks_and_marks_are_those_of_sql(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    board = standings(store, WHOLE)
    assert page.locator("#standings thead th").count() == 6
    assert entries(page) == list(board["entry"])
    assert column(page, 1) == [str(r) for r in board["rank"]]
    assert [v.rstrip("*") for v in column(page, 3)] == [f"{v:.4f}" for v in board["value"]]
    first = board.iloc[0]
    said = page.locator("#standings tbody tr").first.locator("svg.iv").get_attribute("aria-label")
    assert f"95 % interval {first['ci_low']:.4f} to {first['ci_high']:.4f}" in said
    assert "floor: no change 0.0500, half of the cells 0.5500, noise-free 0.8000" in said
    # One entry has no value in one condition, and stands behind those that have all.
    assert [e for e, v in zip(entries(page), column(page, 3), strict=True) if v.endswith("*")] == ["lab"]
    assert page.title() == "PerturbFM leaderboard"
    assert HOSTILE in entries(page)


@pytest.mark.parametrize("folds", [2, 3])
def test_an_entry_on_fewer_folds_is_not_called_the_best(visit: Visit, tmp_path: Path, folds: int) -> None:
    """Two folds have run, of which it has one, with the better value."""
    a, b, c = ("a" * 64, "b" * 64, "c" * 64)
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for entry, split, value in (("whole", a, 0.3), ("whole", b, 0.4), ("part", a, 0.9)):
        config = run_config(entry, split=split)
        values = {f"x|G{split[0]}{i}|||": value for i in range(4)}
        folder = write_run(store, config, score_rows(config, values, metric="pearson_centered"))
        (folder / "report.html").write_text("<!doctype html>")
    table = split_table(*(a, b, c)[:folds], board="screen.combo_ood.cv-aaaa")
    table = table.assign(cv_fold=range(len(table)), dataset="screen", kind="combo_ood")
    data = pd.DataFrame({"dataset": ["screen"], "data_sha256": ["d" * 64]})
    database.rebuild(store, lambda: table, lambda runs: data)
    write_page(store)
    page = visit(from_disk(store))
    tile = page.locator("#tiles > div").first.inner_text()
    assert ("best entry" if folds == 2 else "best so far") in tile.lower()
    assert "whole" in tile
    assert "0.3500" in tile
    assert "whole" in page.locator("#board-list").inner_text()
    assert entries(page) == ["whole", "part"]
    assert f"1 of {folds} folds" in page.locator("#standings tbody tr").nth(1).inner_text()


def test_columns_sort_and_say_so(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    board = standings(store, WHOLE)
    head = page.locator("#standings th[data-id=value]")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    best_first = list(board.sort_values("value", ascending=False)["entry"])
    assert entries(page) == best_first
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert entries(page) == best_first[::-1]
    page.locator("#standings th[data-id=entry] button").click()
    assert entries(page) == sorted(best_first, key=str.lower)
    assert head.get_attribute("aria-sort") is None


def test_entries_are_filtered_by_words_and_family(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    page.keyboard.press("/")
    page.keyboard.type("RID")
    assert entries(page) == ["ridge"]
    assert page.locator("#shown").inner_text() == "1 of 5 entries"
    page.keyboard.press("Escape")
    assert len(entries(page)) == 5
    page.get_by_role("button", name="learned", exact=True).click()
    assert sorted(entries(page)) == ["additive", "lab", "ridge"]
    page.locator("#filter").fill("nothing like it")
    assert entries(page) == []


def test_a_metric_is_chosen_and_kept_in_the_address(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    page.select_option("#pick-metric", label="rmse \u2193")
    assert eventually(lambda: "metric=delta.rmse" in page.evaluate("location.hash"))
    board = standings(store, WHOLE, "delta.rmse")
    assert entries(page) == list(board["entry"])
    assert column(page, 3) == [f"{v:.4f}" for v in board["value"]]
    again = visit(page.url)
    assert again.locator("#standings th[data-id=value]").inner_text().split() == ["rmse", "\u2193"]
    page.select_option("#pick-panel", "uncertainty")
    assert eventually(lambda: "metric=uncertainty" in page.evaluate("location.hash"))
    assert "\u25ce" in page.locator("#standings th[data-id=value]").inner_text()


def test_a_board_with_missing_folds_is_not_ranked(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store, PART))
    assert page.locator("#badges").inner_text() == "1 of 2 folds"
    assert set(column(page, 1)) == {"\u2013"}
    assert "not ranked as a whole" in page.locator("#flags").inner_text()
    reason = page.locator("#standings tbody tr").first.locator(".none").first
    assert reason.get_attribute("title") == "1 of 2 folds"
    assert entries(page)[0] == standings(store, PART)["entry"].iloc[0]


@pytest.mark.parametrize("board", [WHOLE, PART, "all"])
def test_every_dash_has_its_reason(visit: Visit, store: ArtifactStore, board: str) -> None:
    page = visit(from_disk(store, board))
    page.wait_for_timeout(150)
    for box in page.locator("#column-list input:not(:checked)").element_handles():
        box.evaluate("box => box.click()")
    bare = page.evaluate(
        """() => { const out = []; const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) { const node = walk.currentNode, at = node.parentElement;
          if (node.data.trim() !== '\u2013' || at.closest('script,[hidden]')) continue;
          const why = at.closest('[title]'); if (!why || !why.title || !why.getAttribute('aria-label')) out.push(at.outerHTML); }
        return out; }"""
    )
    assert bare == []


def test_an_entry_opens_with_its_conditions(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    page.get_by_role("button", name="lab", exact=True).click()
    drawer = page.locator("#drawer")
    drawer.get_by_text("By condition").wait_for()
    rows = drawer.locator("table").nth(1).locator("tbody tr")
    found = database.query(
        store,
        "SELECT key, avg(value) AS value FROM scores JOIN runs USING (run_id, board, entry) WHERE counted AND "
        f"board = '{WHOLE}' AND entry = 'lab' AND scope = 'condition' AND metric = 'pearson_centered' GROUP BY key",
    )
    values = {
        f"{k.split('|')[1]} in {k.split('|')[0]}": v
        for k, v in zip(found["key"], found["value"], strict=True)
    }
    assert rows.count() == len(values) == 16
    for row in rows.all():
        name, value = row.inner_text().replace("\u2212", "-").split("\t")[:2]
        if pd.isna(values[name]):
            assert row.locator("td .none").first.get_attribute("title") == "constant"
        else:
            assert float(value) == pytest.approx(values[name], abs=6e-5)
    page.keyboard.press("Escape")
    assert not drawer.is_visible()
    # The focus is back where it was.
    assert page.evaluate("document.activeElement.textContent") == "lab"


def test_a_perturbation_opens_from_the_heatmap_by_keyboard(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    page.select_option("#heat-order", "name")
    heat = page.locator("#heat svg.chart")
    heat.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.locator(".tip").inner_text().splitlines()[:2] == [entries(page)[1], "G1"]
    page.keyboard.press("Enter")
    drawer = page.locator("#drawer")
    drawer.get_by_text("of every entry on").wait_for()
    assert page.locator("#drawer-title").inner_text() == "G1"
    found = database.query(
        store,
        "SELECT entry, avg(value) AS value FROM scores JOIN runs USING (run_id, board, entry) WHERE counted AND "
        f"board = '{WHOLE}' AND scope = 'condition' AND metric = 'pearson_centered' AND key LIKE '%|G1|%' "
        "GROUP BY entry ORDER BY value DESC",
    )
    shown = [r.split("\t")[:2] for r in drawer.locator("tbody tr").all_inner_texts()]
    assert [s[0] for s in shown] == list(found["entry"])
    assert [float(s[1]) for s in shown] == pytest.approx(list(found["value"]), abs=1e-4)


def test_what_is_shown_is_explained(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    page.locator("#about-metric").click()
    text = page.locator("#drawer").inner_text()
    for said in ("delta.pearson_centered", "higher is better", "-1 to 1", "Defined by", "raises it without"):
        assert said in text
    page.keyboard.press("Escape")
    page.locator("#about-data").click()
    text = page.locator("#drawer").inner_text()
    for said in ("screen", "What is held out", "2 of 2"):
        assert said in text


@pytest.mark.parametrize("way", ["file", "served", "site"])
def test_a_report_is_one_click_away(
    visit: Visit, store: ArtifactStore, served: str, tmp_path: Path, way: str
) -> None:
    address = {"file": from_disk(store), "served": served}.get(way)
    if address is None:
        address = build_site(store, tmp_path / "site").folder.joinpath("index.html").resolve().as_uri()
    page = visit(address)
    page.get_by_role("button", name=re.compile("combo ood.*cv-aaaa")).click()
    page.locator("#standings tbody tr").filter(has_text="network").get_by_role("link", name="report").click()
    page.wait_for_load_state()
    assert page.locator("h1").inner_text() == "report of network"
    page.go_back()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("#one-title").inner_text() == "screen \u00b7 combo ood \u00b7 cv-aaaa"


def test_it_is_used_by_keyboard_alone(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store, "all"))
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText || ''").startswith(
            "screen \u00b7 combo ood \u00b7 cv-cccc"
        ):
            break
    page.keyboard.press("Enter")
    assert eventually(lambda: page.locator("#one-title").inner_text().endswith("cv-cccc"))
    for _ in range(40):
        page.keyboard.press("Tab")
        if (
            page.evaluate(
                "document.activeElement.closest('th') && document.activeElement.closest('th').dataset.id"
            )
            == "value"
        ):
            break
    page.keyboard.press("Enter")
    assert page.locator("#standings th[data-id=value]").get_attribute("aria-sort") == "descending"
    # Sorting leaves the focus on the column.
    page.keyboard.press("Enter")
    assert page.locator("#standings th[data-id=value]").get_attribute("aria-sort") == "ascending"


def test_it_fits_a_telephone_in_the_dark_and_on_paper(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store), width=420, height=900, color_scheme="dark")
    page.wait_for_timeout(150)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 150 < sum(map(int, re.findall(r"\d+", ink)[:3]))
    page.get_by_role("button", name="switch to light colours").click()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", light)[:3])) > 600
    page.emulate_media(media="print")
    assert not page.locator("#choose").is_visible()
    assert page.locator("#standings").is_visible()


def test_rank_stands_against_cost(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    chart = page.locator("#cost svg.chart")
    chart.wait_for()
    board = standings(store, WHOLE).set_index("entry")
    assert page.locator("#cost-of option").all_inner_texts() == ["fit, s", "CPU, s", "memory, MB"]
    assert page.locator("#cost-of").input_value() == "cpu_seconds"
    # Whose cost nobody knows is not drawn, and counted.
    assert chart.locator("circle.act").count() == len(COSTS)
    assert (
        page.locator("#cost-text").inner_text().startswith("1 of 5 entries are not drawn: no cost on record")
    )

    def told() -> dict[str, tuple[float, float]]:
        chart.focus()
        found = {}
        for _ in COSTS:
            page.keyboard.press("ArrowRight")
            name, rank, cost = page.locator(".tip").inner_text().splitlines()
            found[name] = float(rank.split(": ")[1]), float(cost.split(": ")[1])
        return found

    assert told() == {e: (board["rank"][e], fit + predict) for e, (fit, predict, _) in COSTS.items()}
    page.select_option("#cost-of", "peak_memory_mb")
    assert told() == {e: (board["rank"][e], peak / 1e6) for e, (_, _, peak) in COSTS.items()}


def test_calibration_is_a_small_chart_of_each_entry(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    figures = page.locator("#calibration figure")
    figures.first.wait_for()
    # In the order of the table.
    assert page.locator("#calibration figcaption").all_inner_texts() == entries(page)
    found = standings(store, WHOLE, "uncertainty.conformal_coverage_0.9").set_index("entry")["value"]
    for i, name in enumerate(entries(page)):
        said = figures.nth(i).locator("svg").get_attribute("aria-label")
        assert "calibrated: 50 % interval holds \u2013" in said
        assert f"90 % interval holds {100 * found[name]:.1f} %" in said
    page.locator("#about-calibration").click()
    assert "should hold 90 %" in page.locator("#drawer").inner_text()


def test_the_table_is_saved_as_it_is_filtered(visit: Visit, store: ArtifactStore, tmp_path: Path) -> None:
    page = visit(from_disk(store))
    page.locator("#filter").fill("e")
    page.locator("#standings th[data-id=value] button").click()
    shown = entries(page)
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == f"{WHOLE}-delta.pearson_centered.csv"
    download.value.save_as(tmp_path / "saved.csv")
    saved = pd.read_csv(tmp_path / "saved.csv").set_index("entry")
    assert list(saved.index) == shown
    board = standings(store, WHOLE).set_index("entry").loc[shown]
    for column in ("rank", "value", "ci_low", "ci_high", "diff_low", "n_undefined"):
        # The page keeps four decimals.
        assert list(saved[column]) == pytest.approx(list(board[column]), abs=6e-5, nan_ok=True)


def test_every_run_is_a_point_of_the_sparkline(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store))
    runs = database.query(
        store,
        "SELECT r.entry, s.cv_fold AS fold, r.seed, g.value FROM global_scores g JOIN runs r USING (run_id) JOIN splits s "
        f"ON s.split_hash = r.split_hash WHERE r.board = '{WHOLE}' AND g.metric = 'pearson_centered' ORDER BY ALL",
    )
    for i, name in enumerate(entries(page)):
        line = page.locator("#standings tbody tr").nth(i).locator("svg.spark")
        own = runs[runs["entry"] == name]
        assert line.locator("circle").count() == len(own) == 2
        said = line.get_attribute("aria-label")
        assert said.startswith("delta.pearson_centered by run: ")
        for row in own.itertuples(index=False):
            assert f"fold {row.fold}, seed {row.seed}: {row.value:.4f}" in said


def test_data_and_kind_narrow_the_boards(visit: Visit, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = visit(from_disk(made_store(tmp_path_factory.mktemp("other"), other=True), "all"))

    def boards() -> list[str]:
        names: list[str] = page.locator("#board-list .name").all_inner_texts()
        return names[1:]

    data, kind = (page.locator(f"#{name} option").all_inner_texts() for name in ("pick-data", "pick-kind"))
    assert data == ["all data (2)", "other", "screen"]
    assert kind == ["all kinds (2)", "combo ood", "context ood"]
    assert len(boards()) == 3
    page.select_option("#pick-data", "screen")
    assert eventually(lambda: len(boards()) == 2)
    assert page.locator("#boards-count").inner_text() == "(2 of 3)"
    # No board of these data is of that kind: the data give way.
    page.select_option("#pick-kind", "context_ood")
    assert eventually(lambda: [b.startswith("other") for b in boards()] == [True])
    assert page.locator("#pick-data").input_value() == ""
    # A board that is no longer listed is left.
    page.locator("#board-list button").last.click()
    page.select_option("#pick-kind", "combo_ood")
    assert eventually(lambda: page.locator("#one-title").inner_text().startswith("screen"))


def test_all_boards_stand_side_by_side(visit: Visit, store: ArtifactStore) -> None:
    page = visit(from_disk(store, "all"))
    labels = page.locator("#overview-map svg text.act").all_text_contents()
    assert sum("screen" in t for t in labels) == 2
    page.locator("#overview-map svg text.act", has_text="cv-cccc").first.click()
    assert eventually(lambda: page.locator("#one-title").inner_text().endswith("cv-cccc"))
