"""One program in a fresh process, and what it cost."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

PACKAGE = "klaviyo_assets_tests.benchmarks"
SANDBOX_KEY = "pk_sandbox_0123456789abcdef"
UNLIMITED_SCALE = "1000000"
"""The scale at which no limit of Klaviyo's is felt."""


class BenchmarkError(Exception):
    """A program that was to be measured failed; its last lines are the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStats:
    """What a page server was asked: requests by path, and the time of the first, since 1970."""

    first: float
    requests: int
    paths: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """What one run cost: seconds of wall and CPU, bytes.

    `net_seconds` is the wall from the first request to the end of the process, its exit included.
    """

    wall_seconds: float
    net_seconds: float
    cpu_seconds: float
    peak_bytes: int
    written_bytes: int
    requests: int
    paths: Mapping[str, int]
    """The requests by path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageServer:
    """A page server that is running."""

    url: str

    def read_stats(self) -> ServerStats:
        """Return what it was asked since this was last called."""
        with urlopen(f"{self.url}/bench") as answer:  # noqa: S310 - our own server on loopback
            known = json.load(answer)
        return ServerStats(**known)


@contextmanager
def run_page_server(*options: str) -> Generator[PageServer]:
    """Serve pages in a process of its own, by the options of `run_page_server.py`."""
    command = [sys.executable, "-m", f"{PACKAGE}.page_server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip() if server.stdout is not None else ""
            yield PageServer(url=url)
        finally:
            server.terminate()


def measure_command(
    command: Sequence[str], server: PageServer, environment: Mapping[str, str]
) -> RunCost:
    """Run a command to its end.

    Raises:
        BenchmarkError: it failed.
    """
    server.read_stats()
    with Path(environment["BENCH_LOG"]).open("wb") as log:
        start = time.time()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        _, status, usage = os.wait4(process.pid, 0)
        end = time.time()
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(Path(environment["BENCH_LOG"]).read_text(encoding="utf-8")[-3000:])
    served = server.read_stats()
    return RunCost(
        wall_seconds=end - start,
        net_seconds=end - (served.first or start),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
        written_bytes=usage.ru_oublock * 512,
        requests=served.requests,
        paths=served.paths,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkHome:
    """A folder for the data, state and log of one run after another.

    `scale` multiplies Klaviyo's limits, `share` is our part of them.
    """

    folder: Path
    scale: str = UNLIMITED_SCALE
    share: str = "1"

    def environment(self, server: PageServer) -> dict[str, str]:
        """Return the variables with which the road runs."""
        return {
            "KLAVIYO_API_KEY": SANDBOX_KEY,
            "KLAVIYO_BASE_URL": server.url,
            "KLAVIYO_DATA_DIR": str(self.folder / "data"),
            "KLAVIYO_STATE_DIR": str(self.folder / "state"),
            "KLAVIYO_RATE_LIMIT_SCALE": self.scale,
            "KLAVIYO_RATE_LIMIT_SHARE": self.share,
            "DAGSTER_HOME": "",
            "BENCH_LOG": str(self.folder / "log"),
            # dlt asks the network for nothing, and tells nobody.
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }

    def sync(self, server: PageServer, stream: str, **config: str) -> RunCost:
        """Materialize one stream as a user would; `config` is its op's."""
        command = dagster_command("asset", "materialize", "--select", f"klaviyo/{stream}")
        if config:
            ops = {"ops": {f"klaviyo__{stream}": {"config": config}}}
            command += ["--config-json", json.dumps(ops)]
        return measure_command(command, server, self.environment(server))

    def run_job(self, server: PageServer, name: str) -> RunCost:
        """Run a job in this process model: all of it in one process."""
        return measure_command(
            dagster_command("job", "execute", "-j", name), server, self.environment(server)
        )

    def run_baseline(self, server: PageServer, name: str, kind: str) -> RunCost:
        """Run a yardstick."""
        module = f"{PACKAGE}.baselines"
        command = [sys.executable, "-m", module, name, kind, server.url, str(self.folder)]
        return measure_command(command, server, self.environment(server))


def dagster_command(*words: str) -> list[str]:
    """Return a command of Dagster's on our definitions."""
    return [sys.executable, "-m", "dagster", *words, "-m", "klaviyo_assets.definitions"]


def run_python(program: str, *words: str) -> str:
    """Run a few lines of Python in a process of their own; return what they print."""
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


OPEN_SCRIPT = """
import sys, time
start = time.perf_counter()
import duckdb
with duckdb.connect(sys.argv[1], read_only=True) as base:
    # It shows on the same output after two seconds.
    base.execute("SET enable_progress_bar = false")
    base.sql("FROM klaviyo.events SELECT count(*), max(datetime)").fetchall()
print(time.perf_counter() - start)
"""
"""Prints the seconds that a process takes to open klaviyo.duckdb and to count all events."""


COUNT_ROWS_SCRIPT = """
import sys, duckdb
base = duckdb.connect(sys.argv[1], read_only=True)
rows = base.sql(f"FROM klaviyo.{sys.argv[2]} SELECT count(*), count(DISTINCT id)")
print(*rows.fetchall()[0])
"""


def count_stored_rows(home: BenchmarkHome, stream: str) -> int:
    """Return the rows of a relation, as a user would query it.

    Raises:
        BenchmarkError: a key is there twice.
    """
    text = run_python(COUNT_ROWS_SCRIPT, str(home.folder / "data" / "klaviyo.duckdb"), stream)
    rows, keys = map(int, text.split())
    if rows != keys:
        raise BenchmarkError(f"{stream}: {rows} rows of {keys} keys")
    return rows
