"""Chromium, if there is one, and pages in it that must not complain or ask for anything elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the browser of the system, or skip."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens an address and waits until the page is drawn.

    Complaints of the page and requests for anything but the page fail the test.
    """
    opened: list[Any] = []
    complaints: list[str] = []
    requests: list[str] = []

    def go(address: str, *, width: int = 1400, height: int = 1000, **options: Any) -> Any:
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        opened.append(page)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready]", timeout=20_000)
        return page

    yield go
    if folder := os.environ.get("PERTURBFM_SCREENSHOTS"):
        for i, page in enumerate(opened):
            page.screenshot(path=str(Path(folder) / f"leaderboard-{id(page) % 10_000}-{i}.png"))
    for page in opened:
        page.close()
    assert complaints == []
    elsewhere = [r for r in requests if not r.startswith(("file://", "http://127.0.0.1:", "data:", "blob:"))]
    assert elsewhere == []
