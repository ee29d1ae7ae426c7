"""A host on 127.0.0.1 that misbehaves on demand: drops, truncates, ignores ranges, redirects, refuses."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Host:
    """What a host answers with, and what it was asked.

    Attributes
    ----------
    content
        The file.
    drops
        Bytes after which each of the next answers is cut off.
    statuses
        Codes that the next requests get instead of the file.
    retry_after
        Seconds after which these say to come back, "" if they do not say.
    ranges
        Whether a range is answered with a part.
    tag, any_mark
        The file's mark, "" without one; whether a part is sent whatever mark was asked for.
    headers
        Further headers of each answer.
    redirects
        How many times a request is sent on before it is answered.
    requests
        (path, range asked for) of each request.
    """

    content: bytes
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    retry_after: str = "0"
    ranges: bool = True
    shift: int = 0
    tag: str = '"one"'
    any_mark: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    redirects: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(host: Host) -> Iterator[Host]:
    """Serve a host in a thread until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        """Answers as the host says."""

        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """Answer one request."""
            asked = self.headers.get("Range")
            host.requests.append((self.path, asked))
            self.close_connection = True
            if host.redirects:
                host.redirects -= 1
                self._head(
                    302, {"Location": f"/moved{host.redirects}", "Content-Length": "0", **host.headers}
                )
                return
            if host.statuses:
                later = {"Retry-After": host.retry_after} if host.retry_after else {}
                self._head(host.statuses.pop(0), {"Content-Length": "0", **later})
                return
            start = self._start(asked)
            if start is not None and start >= len(host.content):
                self._head(416, {"Content-Range": f"bytes */{len(host.content)}", "Content-Length": "0"})
                return
            body = host.content[start or 0 :]
            headers = {"Content-Length": str(len(body)), **host.headers}
            if host.tag:
                headers["ETag"] = host.tag
            if start is not None:
                first = start + host.shift
                headers["Content-Range"] = f"bytes {first}-{len(host.content) - 1}/{len(host.content)}"
            self._head(200 if start is None else 206, headers)
            if host.drops:
                body = body[: host.drops.pop(0)]
            self.wfile.write(body)

        def _start(self, asked: str | None) -> int | None:
            found = re.fullmatch(r"bytes=(\d+)-", asked or "")
            if found is None or not host.ranges:
                return None
            mark = self.headers.get("If-Range")
            return int(found[1]) if host.any_mark or mark in (None, host.tag) else None

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
