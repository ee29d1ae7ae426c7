"""The nginx example before a read-only Dagster and a static board: who asks for what, and what is answered."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPO

NAME = "perturbfm.example.org"
CONFIG = REPO / "docs/deploy/nginx/perturbfm.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

QUERY = json.dumps({"query": "{ version }"})
MUTATION = json.dumps(
    {"query": 'mutation { terminateRun(runId: "x") { __typename ... on UnauthorizedError { message } } }'}
)
LAUNCH = json.dumps({"query": "mutation { wipeAssets(assetPartitionRanges: []) { __typename } }"})
JSON = {"Content-Type": "application/json"}
OWN, FOREIGN = {"Origin": f"https://{NAME}"}, {"Origin": "https://evil.example"}
WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


GOOD = basic("ann", "right")
# What is asked, by whom, and the status and a part of the answer.
TABLE = [
    ("no password", "GET", "/", {}, None, 401, ""),
    ("wrong password", "GET", "/", basic("ann", "wrong"), None, 401, ""),
    ("unknown user", "GET", "/", basic("bob", "right"), None, 401, ""),
    ("no password, query", "POST", "/graphql", JSON, QUERY, 401, ""),
    ("no password, board", "GET", "/board/", {}, None, 401, ""),
    ("the page", "GET", "/", GOOD, None, 200, "<!DOCTYPE html>"),
    ("a page of a run", "GET", "/runs/abc?tab=%2Fx", GOOD, None, 200, "<!DOCTYPE html>"),
    ("server_info", "GET", "/server_info", GOOD, None, 200, "dagster_version"),
    ("query", "POST", "/graphql", {**GOOD, **JSON}, QUERY, 200, '"version"'),
    ("query of its own page", "POST", "/graphql", {**GOOD, **JSON, **OWN}, QUERY, 200, '"version"'),
    ("query of another page", "POST", "/graphql", {**GOOD, **JSON, **FOREIGN}, QUERY, 403, ""),
    ("query of a file", "POST", "/graphql", {**GOOD, **JSON, "Origin": "null"}, QUERY, 403, ""),
    ("its name over http", "POST", "/graphql", {**GOOD, **JSON, "Origin": f"http://{NAME}"}, QUERY, 403, ""),
    (
        "its name as a beginning",
        "POST",
        "/graphql",
        {**GOOD, **JSON, "Origin": f"https://{NAME}.evil"},
        QUERY,
        403,
        "",
    ),
    ("query in an address", "GET", "/graphql?query={version}", GOOD, None, 405, ""),
    ("playground", "GET", "/graphql", {**GOOD, "Accept": "text/html"}, None, 405, ""),
    ("HEAD on graphql", "HEAD", "/graphql", GOOD, None, 405, ""),
    ("PUT on graphql", "PUT", "/graphql", {**GOOD, **JSON}, QUERY, 405, ""),
    (
        "other upgrade",
        "GET",
        "/graphql?query={version}",
        {**GOOD, "Upgrade": "h2c", "Connection": "Upgrade"},
        None,
        405,
        "",
    ),
    ("doubled slash", "GET", "//graphql?query={version}", GOOD, None, 400, ""),
    ("doubled slash within", "GET", "/x//graphql?query={version}", GOOD, None, 400, ""),
    ("dotted", "GET", "/x/../graphql?query={version}", GOOD, None, 400, ""),
    ("escaped letter", "GET", "/%67raphql?query={version}", GOOD, None, 405, ""),
    ("mutation", "POST", "/graphql", {**GOOD, **JSON}, MUTATION, 200, "UnauthorizedError"),
    ("wipe", "POST", "/graphql", {**GOOD, **JSON}, LAUNCH, 200, "UnauthorizedError"),
    ("other host", "GET", "/", {**GOOD, "Host": "evil.example"}, None, 421, ""),
    ("address as host", "GET", "/", {**GOOD, "Host": "127.0.0.1"}, None, 421, ""),
    ("host with port", "GET", "/server_info", {**GOOD, "Host": f"{NAME}:8443"}, None, 200, "dagster_version"),
    ("report_asset", "POST", "/report_asset_materialization/x", {**GOOD, **JSON}, "{}", 403, ""),
    ("report_asset by GET", "GET", "/report_asset_materialization/x?metadata={}", GOOD, None, 403, ""),
    ("report_asset, escaped letter", "POST", "/report%5fasset_check/x", {**GOOD, **JSON}, "{}", 403, ""),
    (
        "report_asset, escaped slash",
        "POST",
        "/report_asset_materialization%2fx",
        {**GOOD, **JSON},
        "{}",
        400,
        "",
    ),
    ("download_debug", "GET", "/download_debug/x", GOOD, None, 403, ""),
    ("notebook", "GET", "/notebook?path=/etc/passwd", GOOD, None, 403, ""),
    ("POST on a page", "POST", "/runs", {**GOOD, **JSON}, "{}", 405, ""),
    ("DELETE", "DELETE", "/", GOOD, None, 405, ""),
    ("websocket", "GET", "/graphql", {**GOOD, **WEBSOCKET, **OWN}, None, 101, ""),
    ("websocket, no password", "GET", "/graphql", {**WEBSOCKET, **OWN}, None, 401, ""),
    ("websocket, foreign", "GET", "/graphql", {**GOOD, **WEBSOCKET, **FOREIGN}, None, 403, ""),
    ("board", "GET", "/board/", GOOD, None, 200, "the board"),
    ("board, no slash", "GET", "/board", GOOD, None, 301, ""),
    ("a file of the board", "GET", "/board/runs/a%20b.html", GOOD, None, 200, "a report"),
    ("board, escaped letter", "GET", "/%62oard/index.html", GOOD, None, 200, "the board"),
    ("a folder of the board", "GET", "/board/runs/", GOOD, None, 403, ""),
    ("no file", "GET", "/board/none.html", GOOD, None, 404, ""),
    ("up, escaped slash", "GET", "/board/..%2fsecret", GOOD, None, 400, ""),
    ("up, escaped dots", "GET", "/board/%2e%2e/secret", GOOD, None, 400, ""),
    ("up, half escaped", "GET", "/board/.%2E/secret", GOOD, None, 400, ""),
    ("up", "GET", "/board/../secret", GOOD, None, 400, ""),
    ("up without slash", "GET", "/board../secret", GOOD, None, 200, "<!DOCTYPE html>"),
    ("escaped backslash", "GET", "/board/..%5csecret", GOOD, None, 400, ""),
    ("backslash", "GET", "/board/..\\secret", GOOD, None, 400, ""),
    ("slashes in a query", "GET", "/runs?next=//x/../%2f", GOOD, None, 200, "<!DOCTYPE html>"),
    ("null", "GET", "/board/%00", GOOD, None, 400, ""),
    ("doubly escaped", "GET", "/board/%252e%252e/secret", GOOD, None, 404, ""),
    ("a link out of the board", "GET", "/board/link", GOOD, None, 403, ""),
    ("POST on the board", "POST", "/board/", GOOD, "x", 405, ""),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(port: int, method: str, path: str, headers: dict[str, str], body: str | None) -> tuple[int, str]:
    """Return status and text; the path goes out as it is written."""
    # The certificate is made for this test and is of nobody.
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=20, context=ssl._create_unverified_context()
    )
    try:
        connection.putrequest(method, path, skip_host=True)
        content = None if body is None else body.encode()
        length = {} if content is None else {"Content-Length": str(len(content))}
        for key, value in {"Host": NAME, **headers, **length}.items():
            connection.putheader(key, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, "" if answer.status == 101 else answer.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run Dagster's web server and nginx with the example's own lines, and return nginx's port."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, and the example needs a certificate")
    root = tmp_path_factory.mktemp("nginx")
    root.chmod(0o755)
    board = root / "board"
    (board / "runs").mkdir(parents=True)
    (board / "index.html").write_text("the board")
    (board / "runs/a b.html").write_text("a report")
    (root / "secret").write_text("a secret")
    (board / "link").symlink_to(root / "secret")
    salt = b"salt"
    digest = base64.b64encode(hashlib.sha1(b"right" + salt).digest() + salt).decode()
    (root / "htpasswd").write_text(f"ann:{{SSHA}}{digest}\n")
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    files = ["-keyout", str(root / "key"), "-out", str(root / "crt")]
    subprocess.run([openssl, *request, *files], check=True, capture_output=True)
    port, behind = free_port(), free_port()
    text = CONFIG.read_text()
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:3000": f"127.0.0.1:{behind}",
        "/etc/nginx/perturbfm.crt": str(root / "crt"),
        "/etc/nginx/perturbfm.key": str(root / "key"),
        "/etc/nginx/perturbfm.htpasswd": str(root / "htpasswd"),
        "/srv/perturbfm/board": str(board),
    }.items():
        assert old in text
        text = text.replace(old, new)
    (root / "site.conf").write_text(text)
    places = "".join(
        f"{k}_temp_path {root}/{k}; " for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    (root / "nginx.conf").write_text(
        f"{user} worker_processes 1; daemon off; pid {root}/pid; error_log {root}/error.log warn;\n"
        f"events {{}}\nhttp {{ access_log off; {places} types {{ text/html html; }} include {root}/site.conf; }}\n"
    )
    (root / "empty.py").write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
    (root / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    server = [
        str(Path(sys.executable).parent / "dagster-webserver"),
        "--read-only",
        "-h",
        "127.0.0.1",
        "-p",
        str(behind),
    ]
    with (root / "log").open("wb") as log:
        running = [
            subprocess.Popen(
                [*server, "-f", "empty.py"],
                cwd=root,
                env={**os.environ, "DAGSTER_HOME": str(root)},
                stdout=log,
                stderr=log,
            ),
            subprocess.Popen(
                [NGINX, "-p", str(root), "-c", str(root / "nginx.conf")], stdout=log, stderr=log
            ),
        ]
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                if ask(port, "GET", "/server_info", GOOD, None)[0] == 200:
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline, (root / "log").read_text()[-2000:]
            time.sleep(0.3)
        yield port
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=30)


def test_every_request_of_the_table_gets_its_answer(proxy):
    found = []
    for name, method, path, headers, body, *_ in TABLE:
        status, text = ask(proxy, method, path, headers, body)
        assert "a secret" not in text, name
        found.append((name, status, text))
    wrong = [
        (name, status, expected[5], text[:80])
        for (name, status, text), expected in zip(found, TABLE, strict=True)
        if status != expected[5] or expected[6] not in text
    ]
    assert wrong == []


def test_answers_name_no_version_and_cannot_be_framed(proxy):
    connection = http.client.HTTPSConnection(
        "127.0.0.1", proxy, timeout=20, context=ssl._create_unverified_context()
    )
    connection.request("GET", "/board/", headers={"Host": NAME, **GOOD})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.headers["Server"] == "nginx"
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
