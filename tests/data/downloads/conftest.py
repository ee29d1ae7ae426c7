"""A host of this machine that serves one small public file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.downloaded import CONTENT
from tests.support.http_host import Host, serving


@pytest.fixture
def host() -> Iterator[Host]:
    with serving(Host(CONTENT)) as running:
        yield running
