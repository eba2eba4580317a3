"""Partitions of reports, and the runs over them: keys, tags, and what Dagster's history says.

A partition is a conversion metric and a day in the account's time zone, or a month, which its first
day names; of a report without conversions, a day or month alone.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg

from klaviyo_assets.account.metrics import read_metrics, select_report_metrics
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import NO_METRIC, DateRange, ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.model.window import parse_instant
from klaviyo_assets.reports.planner import report_endpoint
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
"""The metrics that count as conversions. Keys are added as metrics appear, and never removed."""

EVENT_METRIC_PARTITIONS = dg.DynamicPartitionsDefinition(name="klaviyo_event_metrics")
"""The metrics whose events are counted; KLAVIYO_EVENT_METRIC_IDS chooses them."""


def metric_partitions(report: ReportEndpoint) -> dg.DynamicPartitionsDefinition:
    """Return the definition that holds the metrics of a report's partitions."""
    return EVENT_METRIC_PARTITIONS if report.metric == "event" else METRIC_PARTITIONS


def metrics_to_fetch(
    instance: dg.DagsterInstance,
    lake: Lake,
    settings: Settings,
    *,
    stream: Stream,
    mapped_metric_id: str | None,
) -> list[str]:
    """Return the metrics for which a report is fetched, the revenue metric first.

    For a report without conversions that is `NO_METRIC` alone.

    These are partitions of the report. Metrics that Klaviyo refused for it, or that the setting no
    longer names, are left out.

    Raises:
        LakeError: a table cannot be read.
    """
    report = report_endpoint(stream)
    if not report.has_metric:
        return [NO_METRIC]
    keys = set(instance.get_dynamic_partitions(metric_partitions(report).name or ""))
    wanted = select_report_metrics(report, settings, read_metrics(lake), mapped=mapped_metric_id)
    is_counted = report.metric == "event"
    chosen = settings.event_metric_ids if is_counted else settings.conversion_metric_ids
    others = () if chosen else sorted(keys.difference(wanted))
    refused = lake.read_metric_refusals(stream.name)
    return [each for each in (*wanted, *others) if each in keys and each not in refused]


EARLIEST_TIME_ZONE = "Etc/GMT-14"
"""Fourteen hours ahead of UTC, as far as any zone; the sign is that of POSIX."""


def build_report_partitions(
    report: ReportEndpoint, first_day: date, zone: str | None
) -> dg.PartitionsDefinition[str]:
    """Return the partitions metric x day, from `first_day` to the last complete day.

    A report without conversions has the days alone. A report by month has whole months for days.

    Before the first sync the zone is not known (None). Then the last day is the last one that is
    complete anywhere on earth. The keys are local dates in every zone, so the code location need
    not be reloaded when the zone becomes known: a run refuses a day that is not over in the
    account's zone.
    """
    first = max(first_day, report.first_day or first_day)
    definition = (
        dg.DailyPartitionsDefinition if report.period == "day" else dg.MonthlyPartitionsDefinition
    )
    days = definition(start_date=first.isoformat(), timezone=zone or EARLIEST_TIME_ZONE)
    if not report.has_metric:
        return days
    return dg.MultiPartitionsDefinition(
        {METRIC_DIMENSION: metric_partitions(report), DATE_DIMENSION: days}
    )


def partition_key(partition: ReportPartition) -> str:
    """Return Dagster's key of a partition."""
    if partition.metric_id == NO_METRIC:
        return partition.day.isoformat()
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
    # The date comes first and contains no bar, so the first bar ends it; without one it is all.
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


def partitions_of_run(
    context: dg.AssetExecutionContext, report: ReportEndpoint
) -> list[ReportPartition]:
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
        metrics = context.instance.get_dynamic_partitions(metric_partitions(report).name or "")
        metrics = metrics if "|" in start else [NO_METRIC]
        return partitions_in_range(start, end, metrics, report=report)
    if not context.has_partition_key:
        raise SettingError("A report is fetched for partitions: choose metrics and days.")
    return [parse_partition_key(key) for key in context.partition_keys]


def partitions_in_range(
    start: str, end: str, metrics: Sequence[str], *, report: ReportEndpoint
) -> list[ReportPartition]:
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
    newest = report.days_of(last.day).last
    days = DateRange(first.day, newest) if first.day <= newest else None
    partitions = [
        ReportPartition(metric_id, day)
        for day in (report.partition_days(days) if days is not None else ())
        for metric_id in in_range
    ]
    if not partitions:
        raise SettingError(
            f"The range from {start} to {end} holds no partition: are its ends, or its metrics, "
            "the wrong way round? Metrics stand in the order in which they were added."
        )
    return partitions


PARTITION_TAG = "dagster/partition"

SKIP_PERIOD = timedelta(hours=8)
"""How long the sensor pauses a report that the key may not read. Three requests a day are enough
to find out whether the key may read it now."""

UNFINISHED_STATUSES = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class RunScope:
    """The days that a run is for, of one metric, or of any if `metric_id` is None."""

    metric_id: str | None
    days: DateRange


UNLIMITED_RUN_SCOPE = RunScope(None, DateRange(date.min, date.max))


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightRuns:
    """The unfinished runs of a report, and how the backfill sensor's last runs of it ended.

    `scopes` are the partitions of the unfinished runs, `has_sensor_run` says whether the sensor
    launched one of them. `failed_runs_by_metric` counts the sensor's runs that failed recently, by
    metric (None: runs that failed as a whole), `success_count` those that succeeded.
    `has_skipped_run` says whether one was skipped recently because the key may not read the report.
    """

    scopes: Collection[RunScope]
    has_sensor_run: bool
    failed_runs_by_metric: Mapping[str | None, int]
    success_count: int
    has_skipped_run: bool

    def failure_count(self, metric_id: str | None) -> int:
        """Return how many runs failed recently for a metric, or as a whole."""
        return sum(self.failed_runs_by_metric.get(each, 0) for each in {metric_id, None})

    def is_in_flight(self, metric_id: str, day: date) -> bool:
        """Return whether an unfinished run is for this partition."""
        return any(
            day in scope.days and scope.metric_id in {None, metric_id} for scope in self.scopes
        )


def read_in_flight_runs(
    instance: dg.DagsterInstance,
    stream_name: str,
    key: dg.AssetKey,
    *,
    now: datetime,
    failure_period: timedelta,
) -> InFlightRuns:
    """Return a report's unfinished runs, and those of the sensor's that ended recently.

    Lately is within `failure_period` for failures and successes, `SKIP_PERIOD` for skipped runs.
    """
    runs = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED_STATUSES))
        if is_run_of_asset(run, key)
    ]
    recent_filter = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS],
        tags={BACKFILL_SENSOR_TAG: stream_name},
        created_after=now - failure_period,
    )
    ended = instance.get_runs(recent_filter)
    failed = [run for run in ended if run.status is dg.DagsterRunStatus.FAILURE]
    skipped = dg.RunsFilter(
        tags={BACKFILL_SENSOR_TAG: stream_name, SKIPPED_TAG: "true"},
        created_after=now - SKIP_PERIOD,
    )
    return InFlightRuns(
        scopes=[parse_run_scope(run.tags) for run in runs],
        has_sensor_run=any(run.tags.get(BACKFILL_SENSOR_TAG) == stream_name for run in runs),
        failed_runs_by_metric=Counter(
            metric_id for run in failed for metric_id in failed_metric_ids(run.tags)
        ),
        success_count=len(ended) - len(failed),
        has_skipped_run=bool(instance.get_runs(skipped, limit=1)),
    )


def is_run_of_asset(run: dg.DagsterRun, key: dg.AssetKey) -> bool:
    """Return whether a run may materialize an asset: it names the asset, or names none at all."""
    return run.asset_selection is None or key in run.asset_selection


def failed_metric_ids(tags: Mapping[str, str]) -> Sequence[str | None]:
    """Return the metrics that a failed run could not fetch; [None] if it does not name them.

    A run over a single metric names that one by its partitions.
    """
    named = tags.get(FAILED_METRICS_TAG)
    return (
        named.split(FAILED_METRICS_SEPARATOR)
        if named is not None
        else [parse_run_scope(tags).metric_id]
    )


def parse_run_scope(tags: Mapping[str, str]) -> RunScope:
    """Return the partitions in a run's tags; all partitions if the tags name none."""
    first = tags.get(PARTITION_RANGE_START_TAG) or tags.get(PARTITION_TAG)
    last = tags.get(PARTITION_RANGE_END_TAG) or first
    if first is None or last is None:
        return UNLIMITED_RUN_SCOPE
    try:
        start, end = parse_partition_key(first), parse_partition_key(last)
        days = DateRange(start.day, end.day)
    except ValueError:
        # The partitions are another asset's, or the range is reversed and the run will refuse it.
        return UNLIMITED_RUN_SCOPE
    return RunScope(start.metric_id if start.metric_id == end.metric_id else None, days)


FETCHED_AT_METADATA_KEY = "klaviyo/fetched_at"
BACKFILL_TAG = "dagster/backfill"


def read_delivery_times(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    partitions: Collection[ReportPartition],
    *,
    run_id: str,
) -> Mapping[ReportPartition, datetime]:
    """Return for each delivered partition when Klaviyo's response to it was fetched (UTC).

    A partition is delivered if the run of its last materialization succeeded. A failed or killed
    run delivers nothing: the run that repeats it may use the stored responses, which already cost
    quota. Run `run_id` itself does not count either, because a retry starts it again.
    """
    records = latest_materializations(instance, key, partitions)
    run_ids = {record.run_id for record in records.values()} - {run_id}
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(run_ids))) if run_ids else ()
    succeeded = {run.run_id for run in runs if run.status is dg.DagsterRunStatus.SUCCESS}
    delivered: dict[ReportPartition, datetime] = {}
    for partition, record in records.items():
        fetched_at = _fetched_at(record)
        if record.run_id in succeeded and fetched_at is not None:
            delivered[partition] = fetched_at
    return delivered


def latest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Collection[ReportPartition]
) -> Mapping[ReportPartition, dg.EventLogRecord]:
    """Return the last materialization of each partition that has one."""
    if not partitions:
        return {}
    keys = {partition_key(partition) for partition in partitions}
    storage_ids = instance.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, keys
    )
    if not storage_ids:
        return {}
    records_filter = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(storage_ids.values()))
    records = instance.fetch_materializations(records_filter, limit=len(storage_ids)).records
    return {
        parse_partition_key(record.partition_key): record
        for record in records
        if record.partition_key is not None
    }


def read_backfill_days(
    instance: dg.DagsterInstance, key: dg.AssetKey, tags: Mapping[str, str]
) -> tuple[Mapping[str, frozenset[date]], Mapping[str, frozenset[date]]]:
    """Return a backfill's days by metric: all of them, and those that no run has materialized yet.

    `tags` are those of a run; both are empty if it belongs to no backfill.
    """
    backfill_id = tags.get(BACKFILL_TAG)
    backfill = instance.get_backfill(backfill_id) if backfill_id is not None else None
    data = backfill.asset_backfill_data if backfill is not None else None
    if data is None:
        return {}, {}
    targeted, materialized = (
        {
            parse_partition_key(each)
            for each in subset.get_partitions_subset(key).get_partition_keys()
        }
        if key in subset.partitions_subsets_by_asset_key
        else set[ReportPartition]()
        for subset in (data.target_subset, data.materialized_subset)
    )
    return days_by_metric(targeted), days_by_metric(targeted - materialized)


def _fetched_at(record: dg.EventLogRecord) -> datetime | None:
    event = record.asset_materialization
    value = event.metadata.get(FETCHED_AT_METADATA_KEY) if event is not None else None
    return (
        parse_instant(value.value) if value is not None and isinstance(value.value, str) else None
    )
