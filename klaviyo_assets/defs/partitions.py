"""Partitions of reports: a conversion metric and a day in the account's zone."""

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
"""The tag of a run that may make so many requests, and ends well when they are made."""

NARROW_TIMEFRAMES_TAG = "klaviyo/alone"
"""The tag of a run whose answers serve nobody else: its time frames are as short as they can be."""

REPORT_TAG = "klaviyo/report"
"""The tag of runs that a sensor or schedule launches for a report: its name."""

PRIORITY_TAG = "dagster/priority"
"""Dagster's tag: of the runs in the queue the highest comes first; without it a run has 0."""

BACKFILL_SENSOR_TAG = "klaviyo/drain"
"""The tag of the draining sensor's runs: the report they are for."""

FAILED_METRICS_TAG = "klaviyo/failed_metrics"
FAILED_METRICS_SEPARATOR = "|"
"""The tag of a run that stored its partitions but for those of some metrics, and what stands
between these: what no key of a partition holds."""

SKIPPED_TAG = "klaviyo/skipped"
"""The tag of a report's run that was skipped, as the key may not read it: `true`."""

BACKFILL_SENSOR_NAME = "klaviyo_reports_drain"
"""The draining sensor's name, as the UI shows it."""

INVALID_PARTITION_KEY_PATTERN = re.compile(r"[|\x00-\x1f]|\.\.\.")
"""What Dagster takes in no key of one dimension of two: its two separators, control characters."""

METRIC_PARTITIONS = dg.DynamicPartitionsDefinition(name="klaviyo_conversion_metrics")
"""The account's metrics. Keys are added as they appear, and never taken away."""


EARLIEST_TIME_ZONE = "Etc/GMT-14"
"""Fourteen hours ahead of UTC, as far as any zone; the sign is that of POSIX."""


def build_report_partitions(settings: Settings, zone: str | None) -> dg.MultiPartitionsDefinition:
    """Return metric x day, from the first report day on, up to the last day that is over.

    Without a zone, before the first sync, every day is there that is over anywhere on earth. The
    keys are local dates whatever the zone, so those who launch need not load the code again: a
    run refuses a day that is not over in the account's zone, in words.
    """
    days = dg.DailyPartitionsDefinition(
        start_date=settings.first_report_day.isoformat(), timezone=zone or EARLIEST_TIME_ZONE
    )
    return dg.MultiPartitionsDefinition({METRIC_DIMENSION: METRIC_PARTITIONS, DATE_DIMENSION: days})


def partition_key(partition: ReportPartition) -> str:
    """Return the partition key of a cell."""
    return str(
        dg.MultiPartitionKey(
            {METRIC_DIMENSION: partition.metric_id, DATE_DIMENSION: partition.day.isoformat()}
        )
    )


def parse_partition_key(key: str) -> ReportPartition:
    """Return the cell of a partition key, as Dagster gives it to a run.

    Raises:
        ValueError: it is none of these partitions.
    """
    if isinstance(key, dg.MultiPartitionKey):
        parts = key.keys_by_dimension
        return ReportPartition(parts[METRIC_DIMENSION], date.fromisoformat(parts[DATE_DIMENSION]))
    # The date stands first and holds no bar; a metric may hold anything.
    day, _, metric_id = key.partition("|")
    return ReportPartition(metric_id, date.fromisoformat(day))


def days_by_metric(partitions: Iterable[ReportPartition]) -> Mapping[str, frozenset[date]]:
    """Return the days by metric, metrics in the order of their first cell."""
    days: dict[str, set[date]] = {}
    for cell in partitions:
        days.setdefault(cell.metric_id, set()).add(cell.day)
    return {metric_id: frozenset(each) for metric_id, each in days.items()}


def partition_range_tags(metric_ids: Sequence[str], days: DateRange) -> Mapping[str, str]:
    """Return the tags of a run over days of metrics that stand side by side, in their order."""
    return {
        PARTITION_RANGE_START_TAG: partition_key(ReportPartition(metric_ids[0], days.first)),
        PARTITION_RANGE_END_TAG: partition_key(ReportPartition(metric_ids[-1], days.last)),
    }


def report_run_tags(stream_name: str, *, priority: int) -> Mapping[str, str]:
    """Return the tags that keep runs of a report from holding up others.

    Runs of one report wait for the same two requests a minute: `deploy/dagster.yaml` lets one of
    them run at a time, and what has a higher priority is taken out of the queue before them.
    """
    return {REPORT_TAG: stream_name, NARROW_TIMEFRAMES_TAG: "true", PRIORITY_TAG: str(priority)}


def partitions_of_run(context: dg.AssetExecutionContext) -> list[ReportPartition]:
    """Return the cells that a run is for; any rectangle, in one run.

    Raises:
        SettingError: Dagster would cut the launch down in silence.
    """
    tags = context.run.tags
    start, end = tags.get(PARTITION_RANGE_START_TAG), tags.get(PARTITION_RANGE_END_TAG)
    is_of_a_job = any(tag.startswith("dagster/partition/") for tag in tags)
    if start is not None and start != end and is_of_a_job:
        # Seen with 1.13.27: one of the range's partitions would run, and all would count as done.
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
    """Return the cells of the rectangle between two keys, day by day; metrics in their order.

    Not by the partitions definition: who launched the run may have loaded another one, from before
    the account's zone was known, and a day more in it is no reason to fetch none.

    Raises:
        SettingError: there is none, or a metric is no partition.
    """
    first, last = parse_partition_key(start), parse_partition_key(end)
    places = {metric_id: place for place, metric_id in enumerate(metrics)}
    unknown = [each for each in (first.metric_id, last.metric_id) if each not in places]
    if unknown:
        raise SettingError(f"The metric {unknown[0]} of the range is no partition any more.")
    between = metrics[places[first.metric_id] : places[last.metric_id] + 1]
    days = range((last.day - first.day).days + 1)
    cells = [
        ReportPartition(each, first.day + timedelta(days=day)) for day in days for each in between
    ]
    if not cells:
        raise SettingError(
            f"The range from {start} to {end} holds no partition: are its ends, or its metrics, "
            "the wrong way round? Metrics stand in the order in which they were added."
        )
    return cells
