"""What Dagster's instance knows of a report's runs: unfinished, failed, partitions delivered."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg

from klaviyo_assets.defs.partitions import (
    BACKFILL_SENSOR_TAG,
    FAILED_METRICS_SEPARATOR,
    FAILED_METRICS_TAG,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    SKIPPED_TAG,
    parse_partition_key,
    partition_key,
)
from klaviyo_assets.model.report import DateRange, ReportPartition
from klaviyo_assets.model.window import parse_instant

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
    launched one of them. `failed_runs_by_metric` counts the sensor's runs that failed lately, by
    metric (None: runs that failed as a whole), `success_count` those that succeeded.
    `has_skipped_run` says whether one was skipped lately because the key may not read the report.
    """

    scopes: Collection[RunScope]
    has_sensor_run: bool
    failed_runs_by_metric: Mapping[str | None, int]
    success_count: int
    has_skipped_run: bool

    def failure_count(self, metric_id: str | None) -> int:
        """Return how many runs failed lately for a metric, runs that failed as a whole included."""
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
    """Return a report's unfinished runs, and those of the sensor's that ended lately.

    Lately is within `failure_period` for failures and successes, `SKIP_PERIOD` for skipped runs.
    """
    runs = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED_STATUSES))
        if is_run_of_asset(run, key)
    ]
    lately = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS],
        tags={BACKFILL_SENSOR_TAG: stream_name},
        created_after=now - failure_period,
    )
    ended = instance.get_runs(lately)
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


@dataclass(frozen=True, slots=True)
class BackfillPartitions:
    """All partitions of a backfill, and those that none of its runs has materialized yet."""

    partitions: frozenset[ReportPartition] = frozenset()
    pending: frozenset[ReportPartition] = frozenset()


def read_backfill_partitions(
    instance: dg.DagsterInstance, key: dg.AssetKey, tags: Mapping[str, str]
) -> BackfillPartitions:
    """Return the partitions of the backfill that a run belongs to; none if it belongs to none."""
    backfill_id = tags.get(BACKFILL_TAG)
    backfill = instance.get_backfill(backfill_id) if backfill_id is not None else None
    data = backfill.asset_backfill_data if backfill is not None else None
    if data is None or key not in data.target_subset.partitions_subsets_by_asset_key:
        return BackfillPartitions()
    targeted, materialized = (
        frozenset(
            parse_partition_key(each)
            for each in subset.get_partitions_subset(key).get_partition_keys()
        )
        if key in subset.partitions_subsets_by_asset_key
        else frozenset[ReportPartition]()
        for subset in (data.target_subset, data.materialized_subset)
    )
    return BackfillPartitions(targeted, targeted - materialized)


def _fetched_at(record: dg.EventLogRecord) -> datetime | None:
    event = record.asset_materialization
    value = event.metadata.get(FETCHED_AT_METADATA_KEY) if event is not None else None
    return (
        parse_instant(value.value) if value is not None and isinstance(value.value, str) else None
    )


def days_of_metric(partitions: Collection[ReportPartition], metric_id: str) -> frozenset[date]:
    """Return the days of one metric among partitions."""
    return frozenset(each.day for each in partitions if each.metric_id == metric_id)
