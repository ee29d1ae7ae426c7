"""A system browser for tests of pages, and what a page did in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a running browser; skip where playwright or a browser of the system is absent."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in the browser, with what it said and asked for.

    Attributes
    ----------
    page
        Of playwright.
    said
        Messages of the console, and errors.
    asked
        Addresses of requests, the file itself left out.
    """

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def width(self) -> tuple[int, int]:
        """Return the width of the content and that of the window."""
        found: list[int] = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        return found[0], found[1]


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    """Return whether something comes to hold; it is looked at from outside, as the page may forbid code made of text.

    Parameters
    ----------
    holds
        Looked at until true.
    seconds
        How long.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def opened(browser: Any, file: Path, width: int = 1280, colours: str = "light") -> Iterator[Opened]:
    """Open a file in a window of its own.

    Parameters
    ----------
    browser
        The browser.
    file
        The page.
    width
        Width of the window in pixels.
    colours
        What the system prefers, ``light`` or ``dark``.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 860}, color_scheme=colours, accept_downloads=True
    )
    shown = Opened(context.new_page())
    shown.page.on("console", lambda message: shown.said.append(message.text))
    shown.page.on("pageerror", lambda error: shown.said.append(str(error)))
    shown.page.on("request", lambda request: shown.asked.append(request.url))
    shown.page.goto(file.resolve().as_uri())
    # The file itself.
    shown.asked.remove(file.resolve().as_uri())
    yield shown
    context.close()
