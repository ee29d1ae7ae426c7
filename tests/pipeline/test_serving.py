"""The web server of a store: what it gives out, and what it never does."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.pipeline import serving
from perturbfm_core.pipeline.serving import PageServer, readable_file
from perturbfm_core.store.artifacts import ArtifactStore

RUN = "20261127-000000_aaaaaaa_ridge_01234567"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """Return a store with a run, a scorecard, a page that is newer than its database, and what is nobody's business."""
    root = tmp_path_factory.mktemp("served")
    store = ArtifactStore(root / "home", root / "splits")
    for folder in (store.run(RUN), store.scorecards / "demo", store.objects / "ab", store.locks):
        folder.mkdir(parents=True)
    (store.run(RUN) / "report.html").write_text("<p>report of &uuml;</p>")
    (store.run(RUN) / "config.json").write_text("{}")
    (store.run(RUN) / "model.safetensors").write_text("weights")
    (store.scorecards / "demo" / "scorecard.html").write_text("card")
    (store.objects / "ab" / "scores.json").write_text("[1]")
    (store.locks / "lock.json").write_text("{}")
    (root / "secret.html").write_text("secret")
    (store.home / "outside.html").write_text("secret")
    (store.run(RUN) / "inside.json").symlink_to(store.objects / "ab" / "scores.json")
    (store.run(RUN) / "outside.html").symlink_to(root / "secret.html")
    (store.run(RUN) / "loop.html").symlink_to(store.run(RUN) / "loop.html")
    (store.runs / "up").symlink_to(root)
    store.leaderboard.write_text("database")
    os.utime(store.leaderboard, (1, 1))
    store.leaderboard_page.write_text("board")
    return store


@pytest.fixture(scope="module")
def server(store: ArtifactStore) -> Iterator[PageServer]:
    """Return a server that listens on a free port."""
    with PageServer(store, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: PageServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Send one request as it is written, and return status, content and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        (f"/runs/{RUN}/report.html", b"<p>report of &uuml;</p>", "text/html; charset=utf-8"),
        (f"/runs/{RUN}/report.html?x=1", b"<p>report of &uuml;</p>", "text/html; charset=utf-8"),
        (f"/runs/{RUN}/config.json", b"{}", "application/json"),
        (f"/runs/{RUN}/inside.json", b"[1]", "application/json"),
        ("/runs/scorecards/demo/scorecard.html", b"card", "text/html; charset=utf-8"),
        ("/runs/leaderboard.html", b"board", "text/html; charset=utf-8"),
    ],
)
def test_pages_are_given_out(server: PageServer, path: str, content: bytes, kind: str) -> None:
    status, found, headers = ask(server, path)
    assert (status, found) == (200, content)
    assert headers["Content-Type"] == kind
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, found, headers = ask(server, path, "HEAD")
    assert (status, found, headers["Content-Length"]) == (200, b"", str(len(content)))


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../outside.html",
        "/runs/%2e%2e/outside.html",
        "/runs/%2e%2e%2foutside.html",
        f"/runs/{RUN}/..%2f..%2f..%2fsecret.html",
        f"/runs/{RUN}/..\\..\\outside.html",
        "/../secret.html",
        "//etc/passwd",
        "/etc/passwd",
        "/runs//etc/hosts.html",
        f"/runs/{RUN}/outside.html",
        f"/runs/{RUN}/loop.html",
        "/runs/up/secret.html",
        "/runs/.objects/ab/scores.json",
        "/runs/.locks/lock.json",
        f"/runs/{RUN}/model.safetensors",
        f"/runs/{RUN}",
        "/runs/leaderboard.duckdb",
        "/runs/%00.html",
        "/runs/" + "a" * 5000 + ".html",
        "/data/demo/meta.json",
        "/runs/absent/report.html",
    ],
)
def test_nothing_else_is_given_out(server: PageServer, path: str) -> None:
    status, content, _ = ask(server, path)
    assert status == 404
    assert b"secret" not in content


@pytest.mark.parametrize("path", [b"/runs/\xff.html", b"/runs/%ff.html"])
def test_names_that_are_no_text_lead_nowhere(server: PageServer, path: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.connect()
    connection.sock.sendall(b"GET " + path + b" HTTP/1.0\r\nHost: localhost\r\n\r\n")
    head = connection.sock.recv(4096)
    connection.close()
    assert head.split(b" ")[1] in (b"404", b"503")


@pytest.mark.parametrize("path", ["/", "/index.html", "/runs", "/runs/"])
def test_the_beginning_is_the_leaderboard(server: PageServer, path: str) -> None:
    status, _, headers = ask(server, path)
    assert (status, headers["Location"]) == (302, "/runs/leaderboard.html")


def test_a_run_leads_to_its_report_and_never_elsewhere(server: PageServer) -> None:
    status, _, headers = ask(server, f"/runs/{RUN}/")
    assert (status, headers["Location"]) == (302, f"/runs/{RUN}/report.html")
    assert ask(server, "//evil.example/")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_written(server: PageServer, method: str) -> None:
    assert ask(server, "/runs/leaderboard.html", method)[0] == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "[::2]:1", "["]
)
def test_a_page_elsewhere_cannot_have_its_name_lead_here(server: PageServer, host: str) -> None:
    assert ask(server, "/runs/leaderboard.html", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "LOCALHOST", "[::1]:8765"])
def test_this_machine_is_known_by_its_names(server: PageServer, host: str) -> None:
    assert ask(server, "/runs/leaderboard.html", Host=host)[0] == 200


def test_only_this_machine_is_listened_on_and_a_taken_port_is_one_line(
    server: PageServer, store: ArtifactStore
) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_port}/"
    with pytest.raises(StoreError, match=rf"cannot listen on 127.0.0.1 port {server.server_port} \(.*--port"):
        PageServer(store, server.server_port)


def test_the_page_is_made_again_when_the_database_is_newer(
    server: PageServer, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def write(home: ArtifactStore) -> Path:
        home.leaderboard_page.write_text(f"board {len(made)}")
        made.append(home.leaderboard_page)
        return home.leaderboard_page

    monkeypatch.setattr(serving, "write_page", write)
    assert ask(server, "/runs/leaderboard.html")[1] == b"board"
    later = store.leaderboard_page.stat().st_mtime_ns + 10
    os.utime(store.leaderboard, ns=(later, later))
    assert ask(server, "/runs/leaderboard.html")[1] == b"board 0"
    os.utime(store.leaderboard, (1, 1))
    assert ask(server, "/runs/leaderboard.html")[1] == b"board 0"
    assert len(made) == 1


def test_without_a_leaderboard_the_page_says_how_to_make_one(tmp_path: Path) -> None:
    empty = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    with PageServer(empty, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        status, content, _ = ask(server, "/runs/leaderboard.html")
        server.shutdown()
        thread.join()
    assert status == 503
    assert b"perturbfm leaderboard refresh" in content


@pytest.mark.parametrize(
    "path", ["", ".", "..", "a/../b.html", "\u00e4.html", "report.html/", "/report.html"]
)
def test_paths_that_are_no_plain_names_stand_for_nothing(tmp_path: Path, path: str) -> None:
    (tmp_path / "report.html").write_text("")
    assert readable_file(tmp_path, path) is None
    assert readable_file(tmp_path, "report.html") == (tmp_path / "report.html").resolve()
