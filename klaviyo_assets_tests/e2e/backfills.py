"""Backfills as the asset page launches them: cut into runs by Dagster's own daemon code."""

import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from logging import getLogger
from multiprocessing import active_children
from multiprocessing.connection import wait as wait_for_any
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.assets.graph.remote_asset_graph import RemoteWorkspaceAssetGraph
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.backfill import (
    execute_backfill_iteration,  # pyright: ignore[reportUnknownVariableType]
)

from klaviyo_assets_tests.e2e.daemon_turns import FORKING_LAUNCHER, open_workspace
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.report_runs import read_materializations

TIMEOUT_SECONDS = 300
NO_QUEUE_CONFIG = f"""
run_coordinator: {{module: dagster._core.run_coordinator, class: DefaultRunCoordinator}}
{FORKING_LAUNCHER}
telemetry: {{enabled: false}}
"""
"""Runs start at once, as processes of their own: nobody here would take them out of a queue."""

ENDED_STATUSES = (
    BulkActionStatus.COMPLETED_SUCCESS,
    BulkActionStatus.COMPLETED_FAILED,
    BulkActionStatus.FAILED,
    BulkActionStatus.CANCELED,
)


@dataclass(frozen=True, slots=True)
class BackfillResult:
    """An ended backfill: its status, its runs, and the partitions that they materialized."""

    status: str
    runs: tuple[dg.DagsterRun, ...]
    partitions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssetPage:
    """The asset pages of a home's Dagster, with the code as it was loaded when they were opened."""

    home: Home
    workspace: WorkspaceProcessContext

    def partition_days(self, stream: str) -> list[date]:
        """Return the days that the page of a report offers, in order."""
        node = self.workspace.create_request_context().asset_graph.get(asset_key(stream))
        found = node.partitions_def
        assert isinstance(found, dg.MultiPartitionsDefinition)
        days = found.get_partitions_def_for_dimension("date")
        return [date.fromisoformat(key) for key in days.get_partition_keys()]

    def run_backfill(self, stream: str, partitions: Iterable[str]) -> BackfillResult:
        """Launch partitions of a report, and wait for the end of their runs."""
        instance = self.workspace.instance
        backfill_id = submit_backfill(self.workspace, stream, list(partitions))
        status = wait_for_backfill(self.workspace, backfill_id)
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))
        events = [event for run in runs for event in read_materializations(self.home, run.run_id)]
        return BackfillResult(
            status.value,
            tuple(runs),
            tuple(f"{day}|{metric}" for metric, day, _ in events),
        )


def run_backfill(home: Home, stream: str, partitions: Iterable[str]) -> BackfillResult:
    """Launch partitions of a report as the asset page does, and wait for the end."""
    with open_asset_page(home) as page:
        return page.run_backfill(stream, partitions)


@contextmanager
def open_asset_page(home: Home) -> Generator[AssetPage]:
    """Load the home's code as a process of the UI does."""
    (home.dagster_home / "dagster.yaml").write_text(NO_QUEUE_CONFIG, encoding="utf-8")
    with open_workspace(home) as workspace:
        yield AssetPage(home, workspace)


def wait_for_backfill(workspace: WorkspaceProcessContext, backfill_id: str) -> BulkActionStatus:
    """Let the daemon's loop turn as runs end, until the backfill has ended; return how."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        list(execute_backfill_iteration(workspace, getLogger("backfill")))
        found = workspace.instance.get_backfill(backfill_id)
        if found is not None and found.status in ENDED_STATUSES:
            return found.status
        # A turn takes as much of a core as a small run: there is one when something has ended.
        runs = [each.sentinel for each in active_children()]
        wait_for_any(runs, timeout=TIMEOUT_SECONDS if runs else 0.1)
    raise TimeoutError(f"the backfill has not ended in {TIMEOUT_SECONDS} s")


def submit_backfill(workspace: WorkspaceProcessContext, stream: str, partitions: list[str]) -> str:
    """Store a backfill of some partitions; return its id."""
    graph = workspace.create_request_context().asset_graph
    assert isinstance(graph, RemoteWorkspaceAssetGraph)
    wanted = PartitionBackfill.from_asset_partitions(
        backfill_id=f"backfill-{uuid4().hex}",
        asset_graph=graph,
        partition_names=partitions,
        asset_selection=[asset_key(stream)],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=workspace.instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    workspace.instance.add_backfill(wanted)
    return wanted.backfill_id
