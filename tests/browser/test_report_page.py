"""The report of a run in a browser: drawn without a request, searched, hovered, in the dark, on a phone, by keyboard, printed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.browser import Opened, chromium, eventually, opened
from tests.support.report_case import ReportCase, report_case

pytestmark = pytest.mark.browser

SCRIPT = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> ReportCase:
    """Return a case whose first gene and first perturbation have names that would do harm."""
    made = report_case(16, 60, tmp_path_factory.mktemp("case"), baselines=2)
    c = made.comparison
    genes = np.asarray([SCRIPT, "=SUM(A1)", *c.genes[2:]], dtype=np.str_)
    return replace(made, comparison=replace(c, genes=genes, shared={}))


@pytest.fixture(scope="module")
def report(case: ReportCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the report."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(case.page(), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a browser."""
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Opened]:
    """Return the report in a window; it must have made no request and no complaint when the test ends."""
    with opened(browser, report) as shown:
        yield shown
        assert shown.said == []
        # The CSV that a test saves is made in the page.
        assert [a for a in shown.asked if not a.startswith("blob:")] == []


def background(page: Any) -> tuple[int, ...]:
    """Return the red, green and blue of the page's ground."""
    text: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(x) for x in text.strip("rgb()").split(", "))


def open_panel(page: Any, name: str) -> Any:
    """Open a panel with the mouse."""
    panel = page.locator(f"details#{name}")
    panel.locator("summary").click()
    return panel


def test_it_opens_on_one_screen_without_a_request(page: Opened) -> None:
    for words in ("Beats the train mean", "16 of 16 test conditions predicted", "Best", "Worst"):
        assert page.page.get_by_text(words, exact=False).first.is_visible()
    assert page.page.locator("#ruler svg text").count() >= 5
    box = page.page.locator("section.cards").bounding_box()
    assert box["y"] + box["height"] < 860
    assert page.page.locator("details.panel[open]").count() == 0


def test_every_panel_draws_when_all_are_opened(page: Opened) -> None:
    page.page.locator("[data-panels=open]").click()
    for chart in ("reliability", "heatmap", "components", "curves"):
        page.page.locator(f"#{chart} svg").first.wait_for()
    assert page.page.locator("details.panel[open]").count() == page.page.locator("details.panel").count()
    assert eventually(lambda: page.page.locator("#curves svg").count() == 2)
    page.page.get_by_text("kept closed: missed by 0.003").wait_for()
    assert eventually(lambda: page.page.locator("#conditions-table tbody tr").count() == 16)
    page.page.locator("[data-panels=close]").click()
    assert page.page.locator("details.panel[open]").count() == 0


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("heatmap", "heat"),
        ("pert3", "condition"),
        ("gene17 volcano", "condition"),
        ("early stopping", "training"),
        ("mae_no_target", None),
    ],
)
def test_search_leaves_the_panels_with_the_words(page: Opened, words: str, shown: str | None) -> None:
    everything = page.page.locator("details.panel").count()
    page.page.keyboard.press("/")
    page.page.keyboard.type(words)
    left = page.page.locator("details.panel:visible").count()
    assert 0 < left < everything
    assert page.page.get_by_text(f"{left} of {everything} sections").is_visible()
    if shown is not None:
        assert page.page.locator(f"details#{shown}").is_visible()
    page.page.keyboard.press("Escape")
    assert page.page.locator("details.panel:visible").count() == everything
    page.page.locator("[data-panel-search]").fill("no such words")
    assert page.page.locator("details.panel:visible, section.group:visible").count() == 0


def test_hovering_shows_the_gene(page: Opened, case: ReportCase) -> None:
    open_panel(page.page, "condition")
    names = set(case.comparison.genes)
    for chart in ("#scatter", "#volcano-observed", "#volcano-predicted"):
        svg = page.page.locator(f"{chart} svg")
        svg.wait_for()
        svg.scroll_into_view_if_needed()
        box = svg.bounding_box()
        found = set()
        for step in range(6, 19):
            page.page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * step / 20)
            tip = page.page.locator(".tip")
            if tip.count() and tip.is_visible():
                found.add(tip.inner_text().split("\n")[0])
        assert found, chart
        assert found <= names


@pytest.mark.parametrize(
    ("guides", "drawn", "texts"),
    [
        ([{"y": 3, "label": "p"}], 0, ["p \u2191"]),
        (
            [{"y": -9, "label": "p"}, {"x": -5, "label": "q"}, {"x": 7, "label": "r"}],
            0,
            ["p \u2193", "q \u2190", "r \u2192"],
        ),
        ([{"y": 0.5, "label": "p"}, {"x": 0.9, "label": "q"}, {"x": 40}], 2, ["p", "q"]),
    ],
)
def test_a_guide_beyond_the_axes_is_an_arrow(
    page: Opened, guides: list[dict[str, Any]], drawn: int, texts: list[str]
) -> None:
    host = page.page.evaluate_handle(
        """guides => { const host = PF.el("div", {}); document.querySelector(".page").prepend(host);
        PF.scatter(host, { points: { x: [0, 1], y: [0, 1] }, guides, diagonal: false, height: 240 }); return host; }""",
        guides,
    )
    found = host.evaluate(
        """host => [...host.querySelectorAll(".guide, text.halo")].map(n => { const b = n.getBBox();
        return [n.tagName, n.textContent, b.x, b.y, b.x + b.width, b.y + b.height]; })"""
    )
    assert [f[0] for f in found].count("line") == drawn
    assert [f[1] for f in found if f[0] == "text"] == texts
    wide = host.evaluate("host => host.clientWidth")
    for name, _, left, top, right, bottom in found:
        assert 0 <= left <= right <= wide, name
        assert 0 <= top <= bottom <= 240, name


def test_no_line_of_a_condition_leaves_its_chart(page: Opened) -> None:
    open_panel(page.page, "condition")
    page.page.locator("#volcano-predicted svg").wait_for()
    outside = page.page.evaluate(
        """() => [...document.querySelectorAll("svg.chart line")].filter(n => { const b = n.getBBox(), s = n.ownerSVGElement;
        return b.width + b.height && (b.y < -1 || b.y + b.height > s.clientHeight + 1 || b.x < -1 || b.x + b.width > s.clientWidth + 1); }).length"""
    )
    assert outside == 0


def test_conditions_are_chosen_from_lists_and_tables(page: Opened, case: ReportCase) -> None:
    worst = page.page.locator("[data-condition]").nth(5)
    name = worst.inner_text()
    worst.click()
    facts = page.page.locator("#condition-facts")
    assert facts.inner_text().startswith(f"{name}: delta.pearson_centered")
    assert "rank 16 of 16" in facts.inner_text()
    page.page.locator("[data-pick='1']").click()
    assert "rank 1 of 16" in facts.inner_text()
    page.page.locator("[data-step='-1']").click()
    assert "rank 2 of 16" in facts.inner_text()
    page.page.locator("#condition-select").select_option(index=0)
    assert facts.inner_text().startswith(name)
    top = page.page.locator("#genes tbody tr").first.locator("td")
    gene, observed = top.nth(0).inner_text(), float(top.nth(1).inner_text().replace("\u2212", "-"))
    i = list(case.comparison.conditions.index).index(worst.get_attribute("data-condition"))
    largest = int(np.abs(case.comparison.observed[i]).argmax())
    assert gene == case.comparison.genes[largest]
    assert observed == pytest.approx(case.comparison.observed[i, largest], abs=2e-3)
    open_panel(page.page, "conditions")
    link = page.page.locator("#conditions-table tbody button").nth(3)
    pert, context = (
        page.page.locator("#conditions-table tbody tr").nth(3).locator("td").nth(j).inner_text()
        for j in (0, 1)
    )
    link.click()
    assert facts.inner_text().startswith(f"{pert} in {context}:")


def test_tables_sort_and_save_what_they_show(page: Opened, tmp_path: Path) -> None:
    open_panel(page.page, "conditions")
    table = page.page.locator("#conditions-table")
    head = table.get_by_role("button", name="pearson_centered", exact=True)
    # A panel is drawn after it opens.
    head.wait_for()
    column = [h.inner_text().strip() for h in table.locator("thead th").all()].index("pearson_centered")

    def values() -> list[float]:
        return [
            float(r.locator("td").nth(column).inner_text().replace("\u2212", "-"))
            for r in table.locator("tbody tr").all()
        ]

    head.click()
    assert values() == sorted(values(), reverse=True)
    head.click()
    assert values() == sorted(values())
    with page.page.expect_download() as download:
        table.get_by_role("button", name="CSV").click()
    download.value.save_as(tmp_path / "conditions.csv")
    lines = (tmp_path / "conditions.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 17
    assert float(lines[1].split(",")[column]) == pytest.approx(values()[0], abs=1e-3)
    open_panel(page.page, "condition")
    with page.page.expect_download() as genes:
        page.page.locator("#genes").get_by_role("button", name="CSV").click()
    genes.value.save_as(tmp_path / "genes.csv")
    text = (tmp_path / "genes.csv").read_text(encoding="utf-8-sig")
    # A name is no formula of a spreadsheet.
    assert "\n'=SUM(A1)," in text.replace("\r", "")
    assert SCRIPT in text


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_colours_follow_the_system_and_the_button(browser: Any, report: Path, colours: str) -> None:
    with opened(browser, report, colours=colours) as shown:
        first = background(shown.page)
        assert (max(first) < 60) == (colours == "dark")
        button = shown.page.locator("[data-theme-toggle]")
        button.click()
        assert (max(background(shown.page)) < 60) != (colours == "dark")
        assert button.inner_text() == ("Dark" if colours == "dark" else "Light")
        button.click()
        assert background(shown.page) == first
        assert (shown.said, shown.asked) == ([], [])


@pytest.mark.parametrize("width", [420, 360, 768])
def test_a_narrow_page_has_no_horizontal_scroll(browser: Any, report: Path, width: int) -> None:
    with opened(browser, report, width=width) as shown:
        assert shown.width[0] <= width
        shown.page.locator("[data-panels=open]").click()
        shown.page.locator("#heatmap svg").wait_for()
        assert shown.width[0] <= width
        assert shown.page.evaluate(
            "[...document.querySelectorAll('svg.chart')].every(s => s.getBoundingClientRect().right <= innerWidth)"
        )


def test_the_keyboard_opens_panels_and_steps_through_points(page: Opened, case: ReportCase) -> None:
    page.page.keyboard.press("/")
    page.page.keyboard.type("volcano")
    page.page.keyboard.press("Enter")
    panel = page.page.locator("details#condition")
    assert panel.get_attribute("open") is not None
    page.page.keyboard.press("Enter")
    assert panel.get_attribute("open") is None
    page.page.keyboard.press("Space")
    assert panel.get_attribute("open") is not None
    page.page.locator("#scatter svg").wait_for()
    page.page.locator("#scatter svg").focus()
    seen = []
    for _ in range(3):
        page.page.keyboard.press("ArrowRight")
        seen.append(page.page.locator(".tip").inner_text().split("\n")[0])
    assert len(set(seen)) == 3
    assert set(seen) <= set(case.comparison.genes)
    page.page.keyboard.press("Tab")
    assert page.page.locator(".tip").is_hidden()


def test_printing_shows_what_is_folded(page: Opened, tmp_path: Path) -> None:
    cell = page.page.locator("#provenance td", has_text="config").first
    assert not cell.is_visible()
    page.page.emulate_media(media="print")
    cell.wait_for(state="visible")
    page.page.locator("#heatmap svg").wait_for()
    assert background(page.page) == (255, 255, 255)
    assert page.page.locator(".tools").is_hidden()
    page.page.emulate_media(media="screen")
    cell.wait_for(state="hidden")
    printed = page.page.pdf(path=str(tmp_path / "report.pdf"))
    assert len(printed) > 50_000


def test_names_are_text_everywhere(page: Opened) -> None:
    page.page.locator("[data-panels=open]").click()
    page.page.locator("#genes tbody tr").first.wait_for()
    page.page.locator("#genes").get_by_role("button", name="show all").click()
    assert page.page.locator("#genes").get_by_text(SCRIPT).count() == 1
    assert page.page.locator("img").count() == 0
