"""A connection that stays open, as that of a BI tool does: a process of its own, of any release."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import duckdb

from klaviyo_assets_tests.duckdb_releases import install_package

HOLD_SCRIPT = """
import json, sys
import duckdb

path, release = sys.argv[1:]
assert duckdb.__version__ == release, duckdb.__version__
connection = duckdb.connect(path, read_only=path != ":memory:", config={"threads": 1})
connection.execute("SET TimeZone = 'UTC'")
# After two seconds, on a busy machine, it would print a bar among the answers.
connection.execute("SET enable_progress_bar = false")
print("open", flush=True)
for line in sys.stdin:
    try:
        answer = connection.execute(json.loads(line)).fetchall()
    except duckdb.Error as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer, default=str), flush=True)
"""

QueryResult = list[list[object]] | str
"""Rows, or the words of DuckDB's error."""


class HeldConnection:
    """One connection to a database, read-only, that nothing closes before its process ends."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Take a process that runs `HOLD_SCRIPT`."""
        self.process = process

    def query(self, sql: str) -> QueryResult:
        """Return what the connection answers now."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(sql) + "\n")
        self.process.stdin.flush()
        line = self.read_line()
        assert line, f"the process ended, {self.process.poll()}"
        return cast("QueryResult", json.loads(line))

    def read_line(self) -> str:
        """Return the next line that the process prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def hold_connection(path: Path | str, release: str) -> Generator[HeldConnection]:
    """Keep a connection of that release of DuckDB open for the block; its process ends after it.

    It is read-only, but for one to `:memory:`.
    """
    is_ours = release == duckdb.__version__
    folder = {} if is_ours else {"PYTHONPATH": str(install_package(f"duckdb=={release}"))}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_SCRIPT, str(path), release],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | folder,
    )
    held = HeldConnection(process)
    with process:
        try:
            assert held.read_line() == "open"
            yield held
        finally:
            process.kill()
