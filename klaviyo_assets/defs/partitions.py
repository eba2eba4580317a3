"""Partitions of reports: a conversion metric and a day in the account's time zone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

import dagster as dg

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import DateRange, ReportPartition
from klaviyo_assets.settings import Settings

METRIC_DIMENSION = "metric"
DATE_DIMENSION = "date"
"""The two dimensions; Dagster puts them in the order of their names: `2026-10-01|AbC123`."""

PARTITION_RANGE_START_TAG = "dagster/asset_partition_range_start"
PARTITION_RANGE_END_TAG = "dagster/asset_partition_range_end"

MAX_REQUESTS_TAG = "klaviyo/requests_at_most"
"""The tag of a run that may send at most so many requests, and then ends as a success."""

NARROW_TIMEFRAMES_TAG = "klaviyo/alone"
"""The tag of a run that asks for the shortest time frames that cover its own partitions.

Other runs ask for wider ones, whose responses serve later runs of the same backfill as well.
"""

REPORT_TAG = "klaviyo/report"
"""The tag of runs that a sensor or schedule launches for a report: the report's name."""

PRIORITY_TAG = "dagster/priority"
"""Dagster's tag: of the queued runs the one with the highest value starts first; default 0."""

BACKFILL_SENSOR_TAG = "klaviyo/drain"
"""The tag of the backfill sensor's runs: the name of the report they are for."""

FAILED_METRICS_TAG = "klaviyo/failed_metrics"
"""The tag of a run that stored all partitions except those of some metrics: these metrics."""

FAILED_METRICS_SEPARATOR = "|"
"""Stands between the metrics of that tag; no partition key can contain it."""

SKIPPED_TAG = "klaviyo/skipped"
"""The tag of a run that was skipped because the key may not read the report: `true`."""

BACKFILL_SENSOR_NAME = "klaviyo_reports_drain"
"""The backfill sensor's name in the UI."""

INVALID_PARTITION_KEY_PATTERN = re.compile(r"[|\x00-\x1f]|\.\.\.")
"""What Dagster does not allow in the key of a dimension: its two separators, control characters."""

METRIC_PARTITIONS = dg.DynamicPartitionsDefinition(name="klaviyo_conversion_metrics")
"""The account's metrics. Keys are added as metrics appear, and never removed."""


EARLIEST_TIME_ZONE = "Etc/GMT-14"
"""Fourteen hours ahead of UTC, as far as any zone; the sign is that of POSIX."""


def build_report_partitions(settings: Settings, zone: str | None) -> dg.MultiPartitionsDefinition:
    """Return the partitions metric x day, from the first report day to the last complete day.

    Before the first sync the zone is not known (None). Then the last day is the last one that is
    complete anywhere on earth. The keys are local dates in every zone, so the code location need
    not be reloaded when the zone becomes known: a run refuses a day that is not over in the
    account's zone.
    """
    days = dg.DailyPartitionsDefinition(
        start_date=settings.first_report_day.isoformat(), timezone=zone or EARLIEST_TIME_ZONE
    )
    return dg.MultiPartitionsDefinition({METRIC_DIMENSION: METRIC_PARTITIONS, DATE_DIMENSION: days})


def partition_key(partition: ReportPartition) -> str:
    """Return Dagster's key of a partition."""
    return str(
        dg.MultiPartitionKey(
            {METRIC_DIMENSION: partition.metric_id, DATE_DIMENSION: partition.day.isoformat()}
        )
    )


def parse_partition_key(key: str) -> ReportPartition:
    """Return the partition of a key, as Dagster gives it to a run.

    Raises:
        ValueError: it is not the key of a report's partition.
    """
    if isinstance(key, dg.MultiPartitionKey):
        parts = key.keys_by_dimension
        return ReportPartition(parts[METRIC_DIMENSION], date.fromisoformat(parts[DATE_DIMENSION]))
    # The date comes first and contains no bar, so the first bar ends it.
    day, _, metric_id = key.partition("|")
    return ReportPartition(metric_id, date.fromisoformat(day))


def days_by_metric(partitions: Iterable[ReportPartition]) -> Mapping[str, frozenset[date]]:
    """Return the days by metric, metrics in the order of their first partition."""
    days: dict[str, set[date]] = {}
    for partition in partitions:
        days.setdefault(partition.metric_id, set()).add(partition.day)
    return {metric_id: frozenset(each) for metric_id, each in days.items()}


def partition_range_tags(metric_ids: Sequence[str], days: DateRange) -> Mapping[str, str]:
    """Return the tags of a run over days of metrics that are neighbours in Dagster's order."""
    return {
        PARTITION_RANGE_START_TAG: partition_key(ReportPartition(metric_ids[0], days.first)),
        PARTITION_RANGE_END_TAG: partition_key(ReportPartition(metric_ids[-1], days.last)),
    }


def report_run_tags(stream_name: str, *, priority: int) -> Mapping[str, str]:
    """Return the tags by which runs of a report do not delay other runs.

    All runs of a report share two requests a minute, so `deploy/dagster.yaml` lets one of them run
    at a time. Runs with a higher priority leave the queue before them.
    """
    return {REPORT_TAG: stream_name, NARROW_TIMEFRAMES_TAG: "true", PRIORITY_TAG: str(priority)}


def partitions_of_run(context: dg.AssetExecutionContext) -> list[ReportPartition]:
    """Return the partitions that a run is for: one, or any rectangle of metrics and days.

    Raises:
        SettingError: the run has no partition, or Dagster would silently fetch only one of many.
    """
    tags = context.run.tags
    start, end = tags.get(PARTITION_RANGE_START_TAG), tags.get(PARTITION_RANGE_END_TAG)
    is_from_job = any(tag.startswith("dagster/partition/") for tag in tags)
    if start is not None and start != end and is_from_job:
        # Seen with 1.13.27: Dagster runs one partition of the range, and counts all as done.
        raise SettingError(
            "This backfill was launched from a job's page, and Dagster would fetch one of its "
            "partitions and call it done (dagster#28861). Launch it from the asset's page."
        )
    if start is not None and end is not None:
        return partitions_in_range(
            start, end, context.instance.get_dynamic_partitions(METRIC_PARTITIONS.name or "")
        )
    if not context.has_partition_key:
        raise SettingError("A report is fetched for partitions: choose metrics and days.")
    return [parse_partition_key(key) for key in context.partition_keys]


def partitions_in_range(start: str, end: str, metrics: Sequence[str]) -> list[ReportPartition]:
    """Return the partitions of the rectangle between two keys, day by day, metrics in their order.

    The partitions definition is not asked. The process that launched the run may have loaded an
    older one, from before the account's zone was known, which has one day more. That is no reason
    to fetch nothing.

    Raises:
        SettingError: the rectangle is empty, or a metric is no partition.
    """
    first, last = parse_partition_key(start), parse_partition_key(end)
    positions = {metric_id: position for position, metric_id in enumerate(metrics)}
    unknown = [each for each in (first.metric_id, last.metric_id) if each not in positions]
    if unknown:
        raise SettingError(f"The metric {unknown[0]} of the range is no partition any more.")
    in_range = metrics[positions[first.metric_id] : positions[last.metric_id] + 1]
    offsets = range((last.day - first.day).days + 1)
    partitions = [
        ReportPartition(metric_id, first.day + timedelta(days=offset))
        for offset in offsets
        for metric_id in in_range
    ]
    if not partitions:
        raise SettingError(
            f"The range from {start} to {end} holds no partition: are its ends, or its metrics, "
            "the wrong way round? Metrics stand in the order in which they were added."
        )
    return partitions
