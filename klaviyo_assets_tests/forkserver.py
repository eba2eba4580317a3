"""Where the processes come from that tests start and kill: a server that has imported what they do.

A fork of the tests' own process would lack its threads, Arrow's and deltalake's. Python keeps one
server for a process, and of several lists of imports only the last counts: so there is one list.
"""

from multiprocessing import get_context

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
