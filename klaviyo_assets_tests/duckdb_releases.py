"""Releases of DuckDB other than ours, for tests that open our files as users' tools do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import duckdb

from klaviyo_assets_tests.package_releases import install_package

LIBRARY_RELEASES = ("1.4.5", "1.5.6")
"""The libraries that other tools carry. Our own release is read without an installation."""

CLI_RELEASE = "1.5.6"
"""The newest release of `duckdb-cli`, the command-line client that pip gives."""

READ_SCRIPT = """
import json, sys
import duckdb

with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
    path, name, queries = json.load(sys.stdin)
    quoted = path.replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS {name} (READ_ONLY)")
    connection.execute(f"USE {name}; SET TimeZone = 'UTC'")
    rows = [connection.execute(query).fetchall() for query in queries]
    json.dump([duckdb.__version__, rows], sys.stdout, default=str)
"""


def release_environment(release: str) -> dict[str, str]:
    """Return the environment of a process that imports that release of DuckDB."""
    if release == duckdb.__version__:
        return dict(os.environ)
    return os.environ | {"PYTHONPATH": str(install_package(f"duckdb=={release}"))}


def query_with_release(
    release: str, path: Path, *queries: str, name: str = "klaviyo"
) -> list[list[list[object]]]:
    """Return each query's rows, as a process with that release of DuckDB reads the file at `path`.

    The file is attached as `name`; times come as text in UTC.
    """
    done = subprocess.run(
        [sys.executable, "-c", READ_SCRIPT],
        input=json.dumps([str(path), name, queries]),
        capture_output=True,
        text=True,
        env=release_environment(release),
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    version, rows = json.loads(done.stdout)
    assert version == release
    return cast("list[list[list[object]]]", rows)


def run_cli(path: Path, *lines: str) -> str:
    """Return what DuckDB's command-line client prints as CSV for these lines."""
    client = install_package(f"duckdb-cli=={CLI_RELEASE}") / "duckdb_cli" / "duckdb"
    command = [str(client), "-readonly", "-csv", str(path), *lines]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
