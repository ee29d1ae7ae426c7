"""A transfer over HTTP that goes on where it was cut off, and never takes a wrong answer for the file."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import urllib3

from perturbfm_core import __version__
from perturbfm_core.errors import DownloadError
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.store.disk import amount, disk_error, free_space, writing

_CHUNK, _FEW = 1 << 20, 1 << 14
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_REFUSED = {401, 403, 451}
_LONGEST_WAIT_S = 60.0
# Hosts that keep their files in a repository name its commit here.
_REVISION = "X-Repo-Commit"
# Compressions that a host may add to a file although none is asked for; others are refused.
_DECODED = ("gzip", "x-gzip", "deflate")
_PAGE, PAGES = (b"<!doctype html", b"<html"), (".html", ".htm")


class _TryAgainError(Exception):
    """The transfer was cut off, or the host asks to come back later."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Transfer:
    """A downloader for pooch: into ``PATH.part``, which a later call goes on with, then to its place.

    Parameters
    ----------
    part
        The unfinished file.
    size
        Bytes that the file must have, None if unknown.
    checked
        Whether its hash is known, so that parts of different files cannot be joined unseen.
    attempts
        How often a cut transfer is tried again without having got any further.
    wait
        Seconds before the second attempt; doubled for each further one.
    unpacked_times
        How many times its own size it becomes when it is unpacked afterwards, 0 if it is not.
    tell
        Called with the progress.
    """

    def __init__(
        self,
        part: Path,
        *,
        size: int | None = None,
        checked: bool = False,
        attempts: int = 6,
        wait: float = 1.0,
        unpacked_times: int = 0,
        tell: Progress = quiet,
    ) -> None:
        self.unpacked_times = unpacked_times
        self.part, self.size, self.checked = part, size, checked
        self.attempts, self.wait, self.tell = attempts, wait, tell
        self.revision = ""
        self.resumed = False

    @property
    def _about(self) -> Path:
        return self.part.with_name(self.part.name + ".json")

    def __call__(self, url: str, output_file: Any, _: Any = None) -> None:
        """Fetch `url` into `output_file`; the part is kept until `finish`.

        Raises
        ------
        DownloadError
            If the host refuses it, or the transfer is cut off again and again.
        """
        failed = 0
        while True:
            before = self._have()
            try:
                self._once(url)
                break
            except _TryAgainError as error:
                failed = 1 if self._have() > before else failed + 1
                if failed >= self.attempts:
                    msg = (
                        f"{url} was cut off {failed} times in a row ({error}); {amount(self._have())} are kept, "
                        "repeat the command to go on"
                    )
                    raise DownloadError(msg) from error
                pause = error.wait if error.wait is not None else self.wait * 2 ** (failed - 1)
                pause = min(pause, _LONGEST_WAIT_S)
                self.tell(f"{self.part.stem}: {error}; again in {pause:.0f} s")
                time.sleep(pause * (1.0 if error.wait is not None else random.uniform(0.8, 1.2)))
        if not self._have():
            self.finish()
            msg = f"{url} sent an empty file; look at the address, or use --file PATH"
            raise DownloadError(msg)
        # A second name: a kill before the hash is checked keeps the part.
        output = Path(output_file)
        output.unlink(missing_ok=True)
        with writing(output):
            try:
                os.link(self.part, output)
            except OSError:
                # A file system without links.
                self.part.replace(output)

    def finish(self) -> None:
        """Remove the part and what is known of it."""
        self.part.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _validator(self, url: str) -> str | None:
        """Return the mark of the file's version that the part belongs to, None without one."""
        with contextlib.suppress(DownloadError, KeyError, TypeError):
            about = read_json(self._about, DownloadError)
            if about["url"] == url:
                return str(about["validator"]) or None
        return None

    def _headers(self, url: str, have: int) -> dict[str, str]:
        headers = {"User-Agent": f"perturbfm/{__version__}", "Accept-Encoding": "identity"}
        if have:
            validator = self._validator(url)
            if validator is None and not self.checked:
                # Nothing says that the rest would be of the same file.
                self.finish()
                return headers
            headers["Range"] = f"bytes={have}-"
            if validator is not None:
                headers["If-Range"] = validator
        return headers

    def _once(self, url: str) -> None:
        have = self._have()
        if have and have == self.size:
            self.resumed = True
            return
        if self.size is not None and have > self.size:
            self.finish()
            have = 0
        headers = self._headers(url, have)
        with _errors_named(), requests.get(url, headers=headers, stream=True, timeout=(15, 60)) as answer:
            start, total = self._accept(url, answer, have)
            if start is None:
                self.resumed = True
                return
            decoded = self._is_decoded(url, answer)
            if decoded and start:
                # The rest is one of the compressed bytes.
                self.finish()
                msg = "the host compresses the file, so that it cannot go on"
                raise _TryAgainError(msg)
            self._check_space(start, total)
            validator = _validator_of(answer)
            with writing(self._about):
                self._about.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._about, {"url": url, "validator": validator})
            first = next((r for r in [*answer.history, answer] if _REVISION in r.headers), None)
            self.revision = first.headers[_REVISION] if first is not None else self.revision
            self.resumed = start > 0
            try:
                self._write(url, answer, start, total, decoded=decoded)
            except BaseException:
                if decoded:
                    self.finish()
                raise
        have = self._have()
        if total is not None and have < total:
            msg = f"the connection ended after {amount(have)} of {amount(total)}"
            raise _TryAgainError(msg)
        if total is not None and have > total:
            self.finish()
            msg = f"{amount(have)} came instead of {amount(total)}"
            raise _TryAgainError(msg)

    def _accept(self, url: str, answer: Any, have: int) -> tuple[int | None, int | None]:
        """Return (position to write from, or None if nothing is left to fetch; bytes of the whole file)."""
        status = answer.status_code
        if status == 416:
            total = _whole(answer)
            if total is not None and total == have:
                return None, total
            self.finish()
            msg = "the host has another file than before"
            raise _TryAgainError(msg)
        if status in _AGAIN:
            msg = f"the host answered {status}"
            raise _TryAgainError(msg, _retry_after(answer))
        if status in _REFUSED:
            msg = (
                f"{url} refuses automated downloads (answer {status}); fetch it with a browser and give it with "
                "--file PATH"
            )
            raise DownloadError(msg)
        if status not in (200, 206):
            msg = (
                f"{url} answered {status} {answer.reason or ''}".rstrip()
                + "; look at the address, or use --file PATH"
            )
            raise DownloadError(msg)
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml") and not self.part.stem.endswith(PAGES):
            raise DownloadError(_is_page(url))
        if status == 206:
            before, now = self._validator(url), _validator_of(answer)
            if before and now and before != now:
                # Asked to send all of a file that is another by now, some hosts send the rest of it all the same.
                self.finish()
                msg = "the host has another file than before"
                raise _TryAgainError(msg)
            found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != have:
                self.finish()
                msg = "the host sent another part than asked for"
                raise _TryAgainError(msg)
            total = None if found[2] == "*" else int(found[2])
            start = have
        else:
            length = answer.headers.get("Content-Length", "")
            known = length.isdigit() and not self._is_decoded(url, answer)
            total, start = (int(length) if known else None), 0
        if self.size is not None and total is not None and total != self.size:
            msg = f"{url} has {total} bytes, the registry says {self.size}; the file has changed or the address is another's"
            raise DownloadError(msg)
        return start, total if total is not None else self.size

    def _check_space(self, start: int, total: int | None) -> None:
        free = free_space(self.part)
        if total is None:
            return
        needed = total * (1 + self.unpacked_times)
        if self.unpacked_times:
            self.tell(
                f"{self.part.stem}: {amount(total)}, with what it becomes unpacked about {amount(needed)}"
            )
        if free is not None and needed - start > free:
            raise disk_error(self.part, "the disk is full", needed, staged=start)

    def _is_decoded(self, url: str, answer: Any) -> bool:
        """Return whether an answer is a compressed form of the file, not the file that is compressed itself.

        Raises
        ------
        DownloadError
            If it is compressed in a way that cannot be undone here.
        """
        coding = answer.headers.get("Content-Encoding", "").strip().lower()
        if coding in ("", "identity") or self.part.stem.endswith((".gz", ".tgz")):
            return False
        if coding not in _DECODED:
            msg = f"{url} sends the file in the encoding {coding!r}, which was not asked for; fetch it with a browser and give it with --file PATH"
            raise DownloadError(msg)
        return True

    def _write(self, url: str, answer: Any, start: int, total: int | None, *, decoded: bool) -> None:
        """Write what comes of an answer to the part.

        Parameters
        ----------
        url, answer
            The address and its answer.
        start, total
            Position in the file, and its bytes if they are known.
        decoded
            Whether the answer is a compressed form of the file.

        Raises
        ------
        DownloadError
            If it is a web page.
        """
        done, shown = start, 0.0
        with writing(self.part, total), self.part.open("r+b" if start else "wb") as handle:
            handle.seek(start)
            handle.truncate()
            # What has come is written at once: a cut must not lose it.
            for chunk in _chunks(answer.raw, decoded=decoded):
                if not done and not self.part.stem.endswith(PAGES) and is_web_page(chunk):
                    self.finish()
                    raise DownloadError(_is_page(url))
                handle.write(chunk)
                done += len(chunk)
                now = time.monotonic()
                if now - shown > 0.5:
                    shown = now
                    of = "" if total is None else f" of {amount(total)}"
                    self.tell(f"{self.part.stem}: {amount(done)}{of}")


@contextlib.contextmanager
def _errors_named() -> Iterator[None]:
    """Turn what the network does into a further attempt, and what no attempt changes into an error."""
    try:
        yield
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        requests.exceptions.TooManyRedirects,
        requests.exceptions.SSLError,
    ) as error:
        msg = f"the address cannot be fetched: {str(error)[:200]}"
        raise DownloadError(msg) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        cause = error.args[0] if error.args else error
        reason = getattr(cause, "reason", None) or cause
        raise _TryAgainError(str(reason).partition(": ")[2][:120] or type(error).__name__) from error


def is_web_page(head: bytes) -> bool:
    """Return whether a file that begins so is a web page, such as one to log in, whatever its host calls it."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith(_PAGE)


def _is_page(url: str) -> str:
    return (
        f"{url} answered with a web page, not the file; fetch it with a browser and give it with --file PATH"
    )


def _chunks(raw: Any, *, decoded: bool) -> Iterator[bytes]:
    if decoded:
        yield from raw.stream(_FEW, decode_content=True)
    else:
        while chunk := _read(raw):
            yield chunk


def _read(raw: Any) -> bytes:
    """Return what has come of an answer, b"" at its end."""
    some = getattr(raw, "read1", None)
    # Before 2.0, urllib3 has none: then few bytes at a time, since a cut loses those that are waited for.
    chunk = raw.read(_FEW, decode_content=False) if some is None else some(_CHUNK, decode_content=False)
    return bytes(chunk)


def _validator_of(answer: Any) -> str:
    """Return the mark of a file's version that a later request may name, "" without one."""
    tag = answer.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return str(answer.headers.get("Last-Modified", ""))


def _whole(answer: Any) -> int | None:
    found = re.match(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
    return None if found is None else int(found[1])


def _retry_after(answer: Any) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
