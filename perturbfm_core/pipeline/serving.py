"""Read-only web server of the pages of a store: the leaderboard, reports of runs, scorecards."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from perturbfm_core import schema
from perturbfm_core.errors import PerturbFMError, StoreError
from perturbfm_core.pipeline.leaderboard_page import is_current, write_page
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore

HOST, PORT = "127.0.0.1", 8765
PAGE = "/runs/leaderboard.html"
# Types of the files that are given out; any other file is not there for a reader.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".parquet": "application/vnd.apache.parquet",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def readable_file(root: Path, path: str) -> Path | None:
    """Return the file that a path of an address stands for, None if there is none that may be read.

    Parts that begin with a dot lead nowhere, and a link is followed to files within `root` only.

    Parameters
    ----------
    root
        Folder of the runs.
    path
        Path below it, quoted as in an address.
    """
    parts = unquote(path, errors="strict").split("/") if path.isascii() else [""]
    if any(not p or p.startswith(".") or "\\" in p or "\0" in p for p in parts):
        return None
    if Path(parts[-1]).suffix.lower() not in TYPES:
        return None
    try:
        file, top = root.joinpath(*parts).resolve(strict=True), root.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None
    return file if file.is_relative_to(top) and file.is_file() else None


class PageServer(ThreadingHTTPServer):
    """Server of the pages of a store.

    Parameters
    ----------
    store
        The store.
    port
        Port, 0 for any that is free.
    host
        Address to listen on.
    tell
        Called with a line per request that is not served.

    Raises
    ------
    StoreError
        If the address cannot be listened on.
    """

    daemon_threads = True

    def __init__(self, store: ArtifactStore, port: int, host: str = HOST, tell: Progress = quiet) -> None:
        self.store, self.tell = store, tell
        self.host = host
        self._building = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            msg = f"cannot listen on {host} port {port} ({reason}); give another with --port, or 0 for any that is free"
            raise StoreError(msg) from error

    @property
    def address(self) -> str:
        """Return the address of the first page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_port}/"

    def knows(self, host: str | None) -> bool:
        """Return whether a request was meant for this server: another page may have a name resolve to it."""
        if self.host not in LOOPBACK:
            return True
        try:
            return urlsplit(f"//{host}").hostname in LOOPBACK
        except ValueError:
            return False

    def refresh_page(self) -> None:
        """Make the leaderboard page again if the database is newer."""
        with self._building:
            if not is_current(self.store):
                write_page(self.store)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version = "perturbfm"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Send a file."""
        self._respond(send=True)

    def do_HEAD(self) -> None:
        """Send what a file is, without its content."""
        self._respond(send=False)

    def _refuse(self) -> None:
        self._reply(HTTPStatus.METHOD_NOT_ALLOWED, b"read only\n")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse  # noqa: N815 - names of the base class

    def _respond(self, *, send: bool) -> None:
        if not self.server.knows(self.headers.get("Host")):
            self._reply(
                HTTPStatus.FORBIDDEN, b"this server is reached as 127.0.0.1 or localhost\n", send=send
            )
            return
        path = urlsplit(self.path).path
        if path in ("/", "/index.html", "/runs", "/runs/"):
            self._reply(HTTPStatus.FOUND, b"", {"Location": PAGE})
            return
        if path == "/favicon.ico":
            # Browsers ask for it of themselves, and complain where there is none.
            self._reply(HTTPStatus.NO_CONTENT, b"")
            return
        if path.startswith("/runs/") and path.endswith("/") and path.count("/") == 3:
            self._reply(HTTPStatus.FOUND, b"", {"Location": f"{path}{schema.REPORT_FILE}".replace("//", "/")})
            return
        try:
            if path == PAGE:
                self.server.refresh_page()
            file = (
                readable_file(self.server.store.runs, path.removeprefix("/runs/"))
                if path.startswith("/runs/")
                else None
            )
            content = file.read_bytes() if file is not None else None
        except (PerturbFMError, OSError, UnicodeError) as error:
            self._reply(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{' '.join(str(error).split())}\n".encode(), send=send
            )
            return
        if file is None or content is None:
            self._reply(HTTPStatus.NOT_FOUND, b"there is no such page; the leaderboard is at /\n", send=send)
            return
        self._reply(HTTPStatus.OK, content, {"Content-Type": TYPES[Path(path).suffix.lower()]}, send=send)

    def _reply(
        self, status: HTTPStatus, content: bytes, headers: dict[str, str] | None = None, *, send: bool = True
    ) -> None:
        given = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            **(headers or {}),
        }
        # A reader that went away is nobody's fault.
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()
            if send:
                self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Report requests that were not served."""
        text = format % args
        if '" 2' not in text and '" 3' not in text:
            self.server.tell(text)


def serve(server: PageServer, started: Callable[[str], None]) -> None:
    """Serve until the process is interrupted.

    Parameters
    ----------
    server
        The server.
    started
        Called with its address once it listens.
    """
    with server:
        started(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)
