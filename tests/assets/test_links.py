"""Links of the web UI to the pages of runs, wherever they are served."""

from __future__ import annotations

import pytest

from perturbfm_core.store.artifacts import ArtifactStore


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("", "http://127.0.0.1:8765"),
        (" ", "http://127.0.0.1:8765"),
        ("localhost:9", "http://localhost:9"),
        ("host.example/pfm/", "http://host.example/pfm"),
        ("https://host.example", "https://host.example"),
    ],
)
def test_an_address_without_scheme_is_one_of_http(here, monkeypatch, given, base):
    """To a browser it would be a page of the web UI itself."""
    home = ArtifactStore()
    monkeypatch.setenv("PERTURBFM_SERVE_URL", given)
    page = home.runs / "run" / "report.html"
    assert here.module("links").page_url(home, page) == f"{base}/runs/run/report.html"
