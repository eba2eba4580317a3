"""Where the processes come from that tests start and kill: a server that has imported what they do.

What belongs here: the server and its imports. What does not: what such a process does.

A fork of the tests' own process would lack its threads, Arrow's and deltalake's. Python keeps one
server for a process, and of several lists of imports only the last counts: so there is one list.
"""

from multiprocessing import get_context

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "klaviyo_assets_tests.e2e.launcher",
        "klaviyo_assets_tests.e2e.lives",
        "klaviyo_assets_tests.e2e.report_victim",
        "klaviyo_assets_tests.integration.lake.killed",
        "duckdb",
        "pandas",
        "pyarrow.parquet",
        "deltalake",
    ]
)
