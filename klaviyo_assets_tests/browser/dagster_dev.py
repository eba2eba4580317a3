"""`dagster dev` as a user starts it: the UI, the daemon and the code server, on a free port.

What belongs here: starting it over a home, and ending it with all that it started. What does not:
looking at it (`screen`), judging (the tests).
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from urllib.error import URLError

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home

PATIENCE_SECONDS = 120
END_SECONDS = 30


@contextmanager
def dagster_dev(home: Home) -> Generator[str]:
    """Run `dagster dev` in a home until the block ends; yield the address of its UI."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]
    log = home.root / "dagster-dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=ROOT,
            env={**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster)},
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own, so that its code server and its runs end with it.
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_it_answers(url, process)
        yield url
    finally:
        end(process)


def wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Ask until the UI answers; a process that ended fails at once."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert process.poll() is None, "dagster dev ended"
        assert time.monotonic() < deadline, "the UI does not answer"
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=10):  # noqa: S310 - loopback
                return
        except (URLError, HTTPException, OSError):
            time.sleep(0.3)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the process as Ctrl-C does, and whatever of its group is left after that."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
