"""`dagster dev` as a user starts it: the UI, the daemon and the code server, on a free port."""

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

START_TIMEOUT_SECONDS = 240
STOP_TIMEOUT_SECONDS = 30


@contextmanager
def run_dagster_dev(home: Home) -> Generator[str]:
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
            env={**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)},
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own, so that its code server and its runs end with it.
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        yield url
    finally:
        stop_process_group(process)


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Ask until the UI answers; a process that ended fails at once."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        assert process.poll() is None, "dagster dev ended"
        assert time.monotonic() < deadline, "the UI does not answer"
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=10):  # noqa: S310 - loopback
                return
        except (URLError, HTTPException, OSError):
            time.sleep(0.3)


def stop_process_group(process: "subprocess.Popen[bytes]") -> None:
    """End the process, and whatever of its group is left after that.

    By SIGTERM: whoever starts the tests in the background has SIGINT ignored.
    """
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
