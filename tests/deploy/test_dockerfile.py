"""The image's Dockerfile, by the rules that keep an image small, repeatable and without root."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import REPO

FILE = REPO / "docs/deploy/Dockerfile"


def instructions(text: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) in order, continued lines joined."""
    joined = re.sub(r"\\\n", " ", "\n".join(x for x in text.splitlines() if not x.lstrip().startswith("#")))
    return [
        (w[0].upper(), w[1].strip()) for line in joined.splitlines() if len(w := line.split(None, 1)) == 2
    ]


def faults(text: str) -> list[str]:
    """Return what a Dockerfile does that it should not."""
    found = instructions(text)
    out = []
    for name, rest in found:
        if name == "FROM" and not re.search(r":\d+\.\d+\.\d+\S*$|@sha256:[0-9a-f]{64}$", rest.split()[0]):
            out.append(f"base {rest.split()[0]} is not pinned to a version")
        if name == "ADD":
            out.append("ADD fetches and unpacks; use COPY")
        if name == "RUN" and re.search(r"\bsudo\b", rest):
            out.append("sudo")
        if name == "RUN" and re.search(r"(curl|wget)[^|;&]*\|\s*(ba)?sh", rest):
            out.append("a script from the network is executed")
        if name == "RUN" and "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            out.append("package lists stay in the image")
        if name in ("ENV", "ARG") and re.search(r"(?i)(password|secret|token)\w*=\S", rest):
            out.append("a secret in the image")
        if name == "RUN" and "pip install" in rest:
            if "-c requirements.lock" not in rest and "-r requirements.lock" not in rest:
                out.append("pip without the lock")
            names = re.findall(
                r"\s([a-z][\w-]+\d?)(?=\s|$)", rest.partition("&&")[0].partition("pip install")[2]
            )
            out += [f"{n} is not pinned" for n in names if n not in ("requirements",)]
    users = [rest for name, rest in found if name == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        out.append("runs as root")
    elif not users[-1].split(":")[0].isdecimal():
        out.append("a user by name cannot be checked by runAsNonRoot")
    return out


def test_the_image_keeps_the_rules():
    assert faults(FILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("python:3.11.13-slim-bookworm", "python:latest", "base python:latest is not pinned to a version"),
        ("python:3.11.13-slim-bookworm", "python", "base python is not pinned to a version"),
        ("python:3.11.13-slim-bookworm", "python:3.11", "base python:3.11 is not pinned to a version"),
        ("COPY pyproject.toml", "ADD https://example.org/x.tgz", "ADD fetches and unpacks; use COPY"),
        ("USER 10001:10001\n", "", "runs as root"),
        ("USER 10001:10001", "USER 0", "runs as root"),
        ("USER 10001:10001", "USER perturbfm", "a user by name cannot be checked by runAsNonRoot"),
        ("-c requirements.lock", "", "pip without the lock"),
        ("dagster-k8s==0.29.27", "dagster-k8s", "dagster-k8s is not pinned"),
        ("VOLUME /store", "RUN curl https://x | sh", "a script from the network is executed"),
        ("VOLUME /store", "ENV DB_PASSWORD=x", "a secret in the image"),
    ],
)
def test_a_broken_rule_is_found(old, new, fault):
    text = FILE.read_text()
    assert old in text
    assert fault in faults(text.replace(old, new))


def test_all_that_is_copied_exists_and_is_not_ignored():
    ignore = (REPO / "docs/deploy/Dockerfile.dockerignore").read_text().splitlines()
    for name, rest in instructions(FILE.read_text()):
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (REPO / source).exists(), source
                assert f"!{source}" in ignore
    assert ignore[0] == "*"
