"""What Dagster's instance says of a report's runs: unfinished, failed, partitions delivered."""

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
"""So long the sensor launches no run of a report that the key may not read: three requests a day
find out whether another key may."""

UNFINISHED_STATUSES = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class RunScope:
    """Days that a run is for; `metric_id` None: of any metric."""

    metric_id: str | None
    days: DateRange


UNLIMITED_RUN_SCOPE = RunScope(None, DateRange(date.min, date.max))


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightRuns:
    """Unfinished runs of a report.

    `has_sensor_run` tells whether one of them is the sensor's. `failed_runs_by_metric` counts its
    runs that failed lately, by metric (None: of all its metrics), `success_count` those that did
    not. `has_skipped_run` tells whether the key could not read the report when one was launched
    some hours ago.
    """

    scopes: Collection[RunScope]
    has_sensor_run: bool
    failed_runs_by_metric: Mapping[str | None, int]
    success_count: int
    has_skipped_run: bool

    def failure_count(self, metric_id: str | None) -> int:
        """Return how many runs for a metric failed lately, those for all metrics included."""
        return sum(self.failed_runs_by_metric.get(each, 0) for each in {metric_id, None})

    def is_in_flight(self, metric_id: str, day: date) -> bool:
        """Return whether a run that has not ended is for this partition."""
        return any(day in area.days and area.metric_id in {None, metric_id} for area in self.scopes)


def read_in_flight_runs(
    instance: dg.DagsterInstance,
    stream_name: str,
    key: dg.AssetKey,
    *,
    now: datetime,
    failure_period: timedelta,
) -> InFlightRuns:
    """Return what is in flight, and how many of the sensor's runs failed in `failure_period`."""
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
    """Return whether a run materializes an asset; one that does not say which may."""
    return run.asset_selection is None or key in run.asset_selection


def failed_metric_ids(tags: Mapping[str, str]) -> Sequence[str | None]:
    """Return the metrics that a failed run could not fetch; None alone where it was all."""
    named = tags.get(FAILED_METRICS_TAG)
    return (
        named.split(FAILED_METRICS_SEPARATOR)
        if named is not None
        else [parse_run_scope(tags).metric_id]
    )


def parse_run_scope(tags: Mapping[str, str]) -> RunScope:
    """Return what a run's tags say of its partitions; everything where they say nothing."""
    first = tags.get(PARTITION_RANGE_START_TAG) or tags.get(PARTITION_TAG)
    last = tags.get(PARTITION_RANGE_END_TAG) or first
    if first is None or last is None:
        return UNLIMITED_RUN_SCOPE
    try:
        start, end = parse_partition_key(first), parse_partition_key(last)
        days = DateRange(start.day, end.day)
    except ValueError:
        # Another asset's partitions, or a reversed range, which will be refused.
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
    """Return for each cell when the run that delivered it last got its answer, UTC.

    A run that failed or was killed does not count as having delivered: who launches it again goes
    on with the answers that it paid for. Nor does the run itself, which a retry begins anew.
    """
    records = latest_materializations(instance, key, partitions)
    runs = {record.run_id for record in records.values()} - {run_id}
    found = instance.get_runs(dg.RunsFilter(run_ids=list(runs))) if runs else ()
    well = {run.run_id for run in found if run.status is dg.DagsterRunStatus.SUCCESS}
    delivered: dict[ReportPartition, datetime] = {}
    for cell, record in records.items():
        at = _fetched_at(record)
        if record.run_id in well and at is not None:
            delivered[cell] = at
    return delivered


def latest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Collection[ReportPartition]
) -> Mapping[ReportPartition, dg.EventLogRecord]:
    """Return the last materialization of each cell that has one."""
    if not partitions:
        return {}
    latest = instance.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, {partition_key(cell) for cell in partitions}
    )
    if not latest:
        return {}
    wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(latest.values()))
    records = instance.fetch_materializations(wanted, limit=len(latest)).records
    return {
        parse_partition_key(record.partition_key): record
        for record in records
        if record.partition_key is not None
    }


@dataclass(frozen=True, slots=True)
class BackfillPartitions:
    """Cells of a backfill: all of them, and those that none of its runs has materialized yet."""

    partitions: frozenset[ReportPartition] = frozenset()
    pending: frozenset[ReportPartition] = frozenset()


def read_backfill_partitions(
    instance: dg.DagsterInstance, key: dg.AssetKey, tags: Mapping[str, str]
) -> BackfillPartitions:
    """Return the cells of the backfill that a run belongs to; none where it belongs to none."""
    backfill_id = tags.get(BACKFILL_TAG)
    backfill = instance.get_backfill(backfill_id) if backfill_id is not None else None
    data = backfill.asset_backfill_data if backfill is not None else None
    if data is None or key not in data.target_subset.partitions_subsets_by_asset_key:
        return BackfillPartitions()
    cells, done = (
        frozenset(
            parse_partition_key(each)
            for each in subset.get_partitions_subset(key).get_partition_keys()
        )
        if key in subset.partitions_subsets_by_asset_key
        else frozenset[ReportPartition]()
        for subset in (data.target_subset, data.materialized_subset)
    )
    return BackfillPartitions(cells, cells - done)


def _fetched_at(record: dg.EventLogRecord) -> datetime | None:
    shown = record.asset_materialization
    value = shown.metadata.get(FETCHED_AT_METADATA_KEY) if shown is not None else None
    return (
        parse_instant(value.value) if value is not None and isinstance(value.value, str) else None
    )


def days_of_metric(partitions: Collection[ReportPartition], metric_id: str) -> frozenset[date]:
    """Return the days of one metric among cells."""
    return frozenset(cell.day for cell in partitions if cell.metric_id == metric_id)
