"""Runs of report partitions in a home, what they logged per partition, and the sandbox's truth."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, cast

import dagster as dg

from klaviyo_assets.sandbox.facts.reporting import PUBLISHED_STATISTICS
from klaviyo_assets.sandbox.reports.endpoints import eligible_metric_ids
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.materialize import materialize
from klaviyo_assets_tests.e2e.run_log import Metadata, RunResult, metadata_values

FLOW_REPORT, CAMPAIGN_REPORT = "flow_series_reports", "campaign_values_reports"
REPORT_PATHS = {
    FLOW_REPORT: "/api/flow-series-reports",
    CAMPAIGN_REPORT: "/api/campaign-values-reports",
}
REPORT_KINDS = {FLOW_REPORT: "flow-series-report", CAMPAIGN_REPORT: "campaign-values-report"}
METRIC_PARTITIONS = "klaviyo_conversion_metrics"

ReportRows = dict[tuple[str, ...], dict[str, object]]


@dataclass(frozen=True, slots=True)
class ReportRun:
    """A run, and the metadata of each materialization by metric and day, in order."""

    run: RunResult
    materializations: tuple[tuple[str, date, Metadata], ...]

    @property
    def partitions(self) -> Counter[tuple[str, date]]:
        """Return how many materializations each partition got."""
        return Counter((metric, day) for metric, day, _ in self.materializations)


def report_metrics(home: Home) -> list[str]:
    """Return the metrics that the account's reports accept, the main one first."""
    return eligible_metric_ids(home.account.sandbox.store)


def add_metrics(home: Home, metrics: Sequence[str]) -> None:
    """Make partitions of metrics, as the sensor does."""
    with open_instance(home.dagster_home) as instance:
        instance.add_dynamic_partitions(METRIC_PARTITIONS, list(metrics))


def set_metrics(home: Home, metrics: Sequence[str]) -> None:
    """Make these metrics the partitions, in this order: a range goes from one to another."""
    with open_instance(home.dagster_home) as instance:
        for known in instance.get_dynamic_partitions(METRIC_PARTITIONS):
            instance.delete_dynamic_partition(METRIC_PARTITIONS, known)
        instance.add_dynamic_partitions(METRIC_PARTITIONS, list(metrics))


def run_partitions(
    home: Home,
    stream: str,
    partitions: tuple[str, date] | tuple[str, date, str, date],
    *,
    tags: Mapping[str, str] | None = None,
    config: Mapping[str, object] | None = None,
    **more: str,
) -> ReportRun:
    """Run one partition, or the rectangle between two, and return what became of it."""
    defs = home.load_definitions(**more)
    ends = [f"{partitions[1]}|{partitions[0]}", f"{partitions[-1]}|{partitions[-2]}"]
    of_range = dict(
        zip(
            ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"),
            ends,
            strict=True,
        )
    )

    def execute(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        return materialize(
            defs,
            [home.asset_key(stream)],
            instance=instance,
            tags={**of_range, **(tags or {})},
            run_config={"ops": {f"klaviyo__{stream}": {"config": dict(config)}}}
            if config
            else None,
        )

    run = home.execute(execute, **more)
    found = [(each.partition("|"), metadata) for each, metadata in run.partitions]
    return ReportRun(
        run, tuple((key[2], date.fromisoformat(key[0]), metadata) for key, metadata in found)
    )


def read_materializations(home: Home, run_id: str) -> Iterable[tuple[str, date, Metadata]]:
    """Yield a run's materializations: metric, day, metadata."""
    with open_instance(home.dagster_home) as instance:
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            assert entry.dagster_event is not None
            found = entry.dagster_event.step_materialization_data.materialization
            day, _, metric = str(found.partition).partition("|")
            yield metric, date.fromisoformat(day), metadata_values(found.metadata)


def days_between(first: date, last: date) -> list[date]:
    """Return the days, both ends inclusive."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def true_rows(home: Home, stream: str, metric: str, days: Iterable[date]) -> ReportRows:
    """Return what the account says happened, by day, message and channel."""
    service = home.account.sandbox.service
    with service.lock:
        found = service.report_endpoints.list_true_rows(
            REPORT_KINDS[stream], metric, days=list(days), now=service.clock.now()
        )
    rows = cast("list[dict[str, Any]]", found)
    message = "flow_message_id" if stream == FLOW_REPORT else "campaign_message_id"
    return {(row["date"], row[message], row["send_channel"]): row for row in rows}


def stored_rows(home: Home, stream: str, metric: str, days: Iterable[date]) -> ReportRows:
    """Return what the table holds, by day, message and channel."""
    message = "flow_message_id" if stream == FLOW_REPORT else "campaign_message_id"
    wanted = {day.isoformat() for day in days}
    quoted = metric.replace("'", "''")
    sql = f"SELECT * FROM klaviyo.{stream} WHERE conversion_metric_id = '{quoted}'"
    names = [name for (name,) in home.query(f"SELECT column_name FROM (DESCRIBE {sql})")]
    rows = [dict(zip(names, row, strict=True)) for row in home.query(sql)]
    return {
        (str(row["date"]), row[message], row["send_channel"]): row
        for row in rows
        if str(row["date"]) in wanted
    }


def assert_rows_match(home: Home, stream: str, metric: str, days: Sequence[date]) -> int:
    """Assert that the table has the truth for these days, every statistic; return the rows.

    The truth has no row for a message on a day without a send. A series has one, of zeros.
    """
    truth = true_rows(home, stream, metric, days)
    stored = stored_rows(home, stream, metric, days)
    assert stored.keys() >= truth.keys()
    for key in stored.keys() - truth.keys():
        assert stream == FLOW_REPORT
        assert not any(stored[key][name] for name in PUBLISHED_STATISTICS), key
    for key, row in truth.items():
        for name, expected in row.items():
            if isinstance(expected, int | float):
                found = stored[key][name]
                assert isinstance(found, float), (key, name, found, expected)
                assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), (key, name)
    return len(truth)


def request_count(home: Home, stream: str) -> int:
    """Return how many requests a report has had since `forget`."""
    return home.account.request_counts()[REPORT_PATHS[stream]]
