"""The runner of workers: output, progress, the one line of a failure, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from perturbfm_core.errors import ExternalError
from perturbfm_core.external import network
from perturbfm_core.external.runner import WorkerCall, run_worker
from tests.support.processes import ends

WRITES = (
    "__import__('zipfile').ZipFile(out + '/raw.npz', 'w').close(); open(out + '/raw.json', 'w').write('{}')\n"
)
# A child of the worker, in its group, that would live on; its number is left in a file.
CHILD = """
import subprocess
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
open(view + '/child', 'w').write(str(child.pid))
"""


def call(tmp_path: Path, code: str, **options) -> WorkerCall:
    """Return a call of a worker made of a few lines, which see `view` and `out`."""
    worker, view = tmp_path / "worker.py", tmp_path / "view"
    worker.write_text("import os, sys, time\nview, out = sys.argv[1:]\n" + textwrap.dedent(code))
    view.mkdir(exist_ok=True)
    given = {"name": "gears", "python": Path(sys.executable), "worker": worker, "view": view}
    return WorkerCall(**{**given, "work": tmp_path / "work", **options})


def refused(made: WorkerCall, tell=lambda _: None) -> str:
    """Return the one line that a call is refused with."""
    with pytest.raises(ExternalError) as caught:
        run_worker(made, tell)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_output_log_and_progress(tmp_path):
    seen = []
    made = call(
        tmp_path, "print('progress: epoch 1 of 2 loss .5')\nprint('noise', file=sys.stderr)\n" + WRITES
    )
    assert run_worker(made, seen.append) == tmp_path / "work/out"
    assert seen == ["epoch 1 of 2 loss .5"]
    assert made.log.read_text().splitlines() == ["progress: epoch 1 of 2 loss .5", "noise"]


def test_a_worker_starts_in_a_fresh_folder_without_network_and_with_few_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    code = """
    assert not os.path.exists(out + '/old')
    assert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '2'
    assert os.environ['HOME'] == os.getcwd() and os.environ['TMPDIR'] != '/tmp'
    assert 'AWS_SECRET_ACCESS_KEY' not in os.environ and 'PYTHONPATH' not in os.environ
    assert os.environ['ADDED'] == 'yes'
    import urllib.request, urllib.error
    try:
        urllib.request.urlopen('http://example.org', timeout=5)
        raise SystemExit('there is a network')
    except urllib.error.URLError as error:
        assert 'refused' in str(error), error
    """
    (tmp_path / "work/out").mkdir(parents=True)
    (tmp_path / "work/out/old").write_text("")
    run_worker(call(tmp_path, code + "    " + WRITES, threads=2, variables={"ADDED": "yes"}))


@pytest.mark.parametrize("cut", [True, False])
def test_no_host_is_reached_where_the_kernel_permits_a_namespace(tmp_path, monkeypatch, cut):
    """Also past the proxies, by a socket; elsewhere proxies and offline settings are what there is."""
    if cut and not network.can_cut():
        pytest.skip("this kernel gives users no network namespace")
    if not cut:
        monkeypatch.setattr(network, "can_cut", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as host:
        code = f"""
        import socket
        try:
            socket.create_connection(("127.0.0.1", {host.getsockname()[1]}), timeout=5).close()
            print("progress: reached")
        except OSError:
            print("progress: not reached")
        # What talks to itself works.
        with socket.create_server(("127.0.0.1", 0)) as own:
            socket.create_connection(own.getsockname(), timeout=5).close()
        """
        said = []
        run_worker(call(tmp_path, textwrap.dedent(code) + WRITES), said.append)
    assert said == ["not reached" if cut else "reached"]
    # Its files belong to whoever started it.
    assert (tmp_path / "work/out/raw.npz").stat().st_uid == os.getuid()


def test_the_line_of_error_json_is_the_error(tmp_path):
    code = (
        'open(out + "/error.json", "w").write(\'{"error": "no gene\\\\nfits"}\'); print("last"); sys.exit(3)'
    )
    assert refused(call(tmp_path, code)).startswith("worker of gears failed: no gene fits; its log: ")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ValueError('bad shape')", "ValueError: bad shape (exit code 1)"),
        ("print('half'); sys.exit(7)", "half (exit code 7)"),
        ("sys.exit(7)", "it ended with exit code 7 and printed nothing"),
        ("os.kill(os.getpid(), 9)", "it ended with signal SIGKILL and printed nothing"),
        ("print('so far', flush=True); os.kill(os.getpid(), 11)", "so far (signal SIGSEGV)"),
        ("print('done')", "it ended with exit code 0 and wrote no raw.npz"),
        (WRITES + "os.remove(out + '/raw.json')", "it ended with exit code 0 and wrote no raw.json"),
        (WRITES + 'open(out + "/error.json", "w").write(\'{"error": "half"}\')', "half; its log"),
        (r"print('\x1b[31mno GPU\x1b[0m\x07'); sys.exit(1)", "no GPU (exit code 1)"),
        (WRITES + "sys.exit(1)", "it ended with exit code 1 and printed nothing"),
        ("open(out + '/error.json', 'w').write('{'); sys.exit(2)", "it ended with exit code 2"),
    ],
)
def test_a_failure_is_the_last_line_with_its_exit_code_or_signal(tmp_path, code, says):
    assert f"worker of gears failed: {says}" in refused(call(tmp_path, code))


def test_half_an_output_is_not_kept(tmp_path):
    code = "open(out + '/raw.npz', 'r+b').truncate(9)"
    assert "raw.npz is damaged or not an npz file" in refused(call(tmp_path, WRITES + code))


def test_an_absent_interpreter_or_worker_is_one_line_that_says_what_to_do(tmp_path):
    text = refused(call(tmp_path, "", python=tmp_path / "bin/python"))
    assert "perturbfm external env create gears" in text
    assert "--env PATH" in text
    made = call(tmp_path, "")
    made.worker.unlink()
    assert "the worker of gears is absent" in refused(made)


def test_the_whole_group_ends_with_a_timeout(tmp_path):
    start = time.monotonic()
    text = refused(call(tmp_path, CHILD + "time.sleep(60)", timeout=1.5))
    assert "took longer than 1.5 s and was ended" in text
    assert time.monotonic() - start < 20
    assert ends(int((tmp_path / "view/child").read_text()))


def test_a_child_that_a_worker_leaves_behind_ends_with_it(tmp_path):
    run_worker(call(tmp_path, CHILD + WRITES))
    assert ends(int((tmp_path / "view/child").read_text()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_whole_group_ends_with_an_interrupt(tmp_path, error):
    def stop(_: str) -> None:
        raise error

    with pytest.raises(error):
        run_worker(call(tmp_path, CHILD + "print('progress: on', flush=True); time.sleep(60)"), stop)
    assert ends(int((tmp_path / "view/child").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_whole_group_ends_with_the_host(tmp_path, number):
    made = call(tmp_path, CHILD + "time.sleep(60)")
    host = (
        "from pathlib import Path\nfrom perturbfm_core.external.runner import *\n"
        f"run_worker(WorkerCall('gears', Path({sys.executable!r}), Path({str(made.worker)!r}),"
        f" Path({str(made.view)!r}), Path({str(made.work)!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", host]) as started:
        child, until = tmp_path / "view/child", time.monotonic() + 60
        while (not child.exists() or not child.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(started.pid, number)
        started.wait()
    assert ends(int(child.read_text()))
