"""Where the processes come from that tests start and kill: a server that has imported what they do.

A fork of the tests' own process would lack its threads, Arrow's and deltalake's. Python keeps one
server for a process, and of several lists of imports only the last counts: so there is one list.
"""

from collections.abc import Mapping
from multiprocessing import forkserver, get_context
from typing import Any

FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "klaviyo_assets_tests.e2e.forking_launcher",
        "klaviyo_assets_tests.e2e.processes",
        "klaviyo_assets_tests.e2e.killed_report_run",
        "klaviyo_assets_tests.integration.lake.killed_process",
        "duckdb",
        "pandas",
        "pyarrow.parquet",
        "deltalake",
        "klaviyo_assets_tests.warm_process",
    ]
)

SERVER: Any = getattr(forkserver.ensure_running, "__self__")  # noqa: B009 - no attribute to the types
"""What Python knows of this process's server."""


def describe_server() -> dict[str, object]:
    """Start the server where it does not run, and return what leads a process to it."""
    forkserver.ensure_running()
    # Python 3.14 wants a key as well.
    names = ("_forkserver_address", "_forkserver_authkey")
    return {name: getattr(SERVER, name) for name in names if hasattr(SERVER, name)}


def share_server(server: Mapping[str, object]) -> None:
    """Let processes of this one be forked from the server that it was forked from itself.

    It would start another one, which takes seconds to import the same; they have the environment
    of the tests.
    """
    vars(SERVER).update(server, ensure_running=lambda: None)
