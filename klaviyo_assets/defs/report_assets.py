"""Report assets: a run fetches its partitions and materializes each with metadata of its own.

If all partitions of a run are stored, the run returns a result: Dagster logs a materialization of
each partition, and runs the report's checks. If the run ends before that, because the quota is
spent or something failed, it logs the materializations of the stored partitions itself and returns
no result. So exactly the stored partitions count as materialized.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cache, partial
from typing import Any

import dagster as dg

from klaviyo_assets.account.metrics import (
    CONVERSION_METRICS_VARIABLE,
    METRICS_TABLE,
    AccountMetric,
    describe_similar_metrics,
    format_metric,
    read_custom_metrics,
    read_metrics,
)
from klaviyo_assets.api.rate_limiter import read_daily_quota
from klaviyo_assets.defs.assets import (
    ASSET_KINDS,
    ASSET_OWNERS,
    ASSET_RETRY_POLICY,
    report_skipped_stream,
)
from klaviyo_assets.defs.automation import replace_asset_names
from klaviyo_assets.defs.checks import judge_report
from klaviyo_assets.defs.health import build_step_end, raise_as_failures
from klaviyo_assets.defs.metadata import (
    LAKE_METADATA_KEY,
    AssetMetadata,
    asset_description,
    asset_key,
    asset_tags,
    check_same_lake,
    definition_metadata,
    read_last_metadata,
    sync_metadata,
    waiting_numbers,
)
from klaviyo_assets.defs.report_runs import (
    BACKFILL_SENSOR_NAME,
    FAILED_METRICS_SEPARATOR,
    FAILED_METRICS_TAG,
    FETCHED_AT_METADATA_KEY,
    MAX_REQUESTS_TAG,
    NARROW_TIMEFRAMES_TAG,
    SKIPPED_TAG,
    build_report_partitions,
    days_by_metric,
    partition_key,
    partitions_of_run,
    read_backfill_days,
    read_delivery_times,
)
from klaviyo_assets.defs.resources import (
    KlaviyoConnection,
    KlaviyoResource,
    LakeResource,
    ReportWaits,
    WaitLog,
    read_op_config,
    run_config_schema,
    should_retry_refused_metrics,
)
from klaviyo_assets.errors import (
    KeyRedactingFilter,
    KlaviyoAssetsError,
    QuotaError,
    RefusedStreamError,
    ReportFailedError,
    SettingError,
    TransientError,
    UnknownMetricError,
    format_quantity,
)
from klaviyo_assets.lake.delta.state import MetricRefusal
from klaviyo_assets.model.report import NO_METRIC, ReportPartition
from klaviyo_assets.model.selection import asset_group, upstream_streams
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import describe_days_of_other_zones, fetch_calendar
from klaviyo_assets.reports.failed_requests import RefusedMetric, ReportContext
from klaviyo_assets.reports.fetch import (
    FailedReport,
    FetchOutcome,
    ReportFetch,
    RequestBudget,
    StoredDays,
)
from klaviyo_assets.reports.planner import PartitionRequest, report_endpoint
from klaviyo_assets.seams import reach_crash_point, utc_now
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.memory import tune_process
from klaviyo_assets.sync.plan import SyncMode

METRIC_NAME_METADATA_KEY = "klaviyo/metric_name"
REFUSED_METADATA_KEY = "klaviyo/refused"
"""Metadata of a partition that is empty because Klaviyo makes no report with its metric."""

FAILED_METRIC_METADATA_KEY = "klaviyo/failed_metric"
"""Metadata of the observation that a metric's report failed: the metric's id."""

UNKNOWN_REFUSAL_REASON = "Klaviyo's reason was not stored"
"""The reason shown for a refusal of which an older release stored only the day."""

PLOTTED_STATISTICS = {
    "recipients": "klaviyo/recipients",
    "opens": "klaviyo/opens",
    "clicks": "klaviyo/clicks",
    "conversions": "klaviyo/conversions",
    "conversion_value": "klaviyo/revenue",
    "viewed_form": "klaviyo/form_views",
    "submits": "klaviyo/form_submits",
    "members_added": "klaviyo/members_added",
    "members_removed": "klaviyo/members_removed",
}
"""The statistics whose sums over a partition's rows are metadata, so that the UI plots them."""

MAX_METRIC_NAME_CHARACTERS = 200
"""A longer metric name is cut to so many characters."""

MAX_TAGGED_NAMES = 3
"""How many metrics the tag of a run names; of the others it has the number."""

RemainingDays = Mapping[str, Collection[date]]
"""Days by metric that are not stored."""


class ReportRunRecorder:
    """Collects the outcomes of a run's fetch, and logs or returns them as Dagster events."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        report_context: ReportContext,
        *,
        is_sensor_run: bool,
    ) -> None:
        """Read where the lake is, and the names of metrics."""
        self._context = context
        self._is_sensor_run = is_sensor_run
        self._report_context = report_context
        self._lake = str(report_context.lake.read_location())
        self._metrics = self._load_metrics()
        self._metadata_by_partition: dict[str, AssetMetadata] = {}
        self._errors_by_metric: dict[str, KlaviyoAssetsError] = {}
        self.stored_partitions = 0

    def tag_run(self, metric_ids: Sequence[str]) -> None:
        """Tag the run with the names of its metrics, since its partitions have their ids alone."""
        known = [self._metrics[each].name for each in metric_ids if each in self._metrics]
        names = [name for name in known if name]
        if names:
            more = f" and {len(names) - MAX_TAGGED_NAMES} more" if names[MAX_TAGGED_NAMES:] else ""
            text = ", ".join(names[:MAX_TAGGED_NAMES])[:MAX_METRIC_NAME_CHARACTERS]
            tags = {METRIC_NAME_METADATA_KEY: f"{text}{more}"}
            self._context.instance.add_run_tags(self._context.run.run_id, tags)

    def record(self, outcome: FetchOutcome) -> None:
        """Log what became of partitions, and hold it for the events at the end of the run."""
        match outcome:
            case StoredDays():
                self._record_stored(outcome)
            case RefusedMetric(refusal=MetricRefusal(is_known=True)):
                self._record_refused(outcome)
            case RefusedMetric():
                error = self._build_unknown_metric_error(outcome.metric_id, outcome.refusal)
                self._record_error(outcome.metric_id, len(outcome.row_counts), error)
            case FailedReport():
                self._record_failed(outcome)

    def build_result(self) -> dg.MaterializeResult[Any]:
        """Return the result from which Dagster makes a materialization of each partition.

        It has no value, because the rows are stored already: a run that the quota ends must have
        stored its partitions, and has no output. So there is nothing for the IO manager to write.

        Dagster takes 2 s for the metadata of 360 partitions (1.13: every call of
        `add_asset_metadata` lists the run's partitions again), which bounds the partitions of a
        run.
        """
        for partition in self._context.partition_keys:
            metadata = self._metadata_by_partition[partition]
            self._context.add_asset_metadata(metadata, partition_key=partition)
        return dg.MaterializeResult()

    def log_materializations(self) -> None:
        """Log a materialization of each stored partition, in a run that returns no result."""
        for partition, metadata in self._metadata_by_partition.items():
            self._context.log_event(
                dg.AssetMaterialization(
                    self._context.asset_key, partition=partition, metadata=metadata
                )
            )

    def _record_stored(self, outcome: StoredDays) -> None:
        for day in outcome.row_counts:
            sums = outcome.sums.get(day, {})
            details: AssetMetadata = {
                **{
                    key: round(sums[name], 2)
                    for name, key in PLOTTED_STATISTICS.items()
                    if name in sums
                },
                "klaviyo/is_final": day in outcome.final_days,
                FETCHED_AT_METADATA_KEY: outcome.fetched_at.isoformat(),
            }
            self._record_partition(outcome, day, details)
        self.stored_partitions += len(outcome.row_counts)
        self._context.log.info(
            "%s: %s%s stored, %s; %s by this run",
            self._report_context.stream.name,
            format_quantity(len(outcome.row_counts), "day"),
            f" of metric {self._metric_label(outcome.metric_id)}" if outcome.metric_id else "",
            format_quantity(sum(outcome.row_counts.values()), "row"),
            format_quantity(self._report_context.client.stats.requests, "request"),
        )

    def _record_partition(
        self, outcome: StoredDays | RefusedMetric, day: date, details: AssetMetadata
    ) -> None:
        client, rows = self._report_context.client, outcome.row_counts[day]
        written = rows if isinstance(outcome, StoredDays) else 0
        sync = sync_metadata(
            self._report_context.stream,
            mode=SyncMode.INCREMENTAL_DEDUPED.value,
            cursor=None,
            numbers={
                "records_read": written,
                "rows_written": written,
                "requests": outcome.requests,
                "requests_shared_by": outcome.sharing_days,
                "retries": client.stats.retries,
                "throttled_seconds": round(client.stats.throttled_seconds, 3),
                **waiting_numbers(client.stats.throttled_seconds),
                **client.clock_skew.skew_metadata(),
                **self._quota_number(),
            },
            row_count=outcome.rows_total,
        )
        key = partition_key(ReportPartition(outcome.metric_id, day))
        self._metadata_by_partition[key] = {
            # The name comes first: the UI shows metadata in this order.
            **self._name_metadata(outcome.metric_id),
            **details,
            "dagster/partition_row_count": rows,
            "klaviyo/account_timezone": self._report_context.calendar.zone.key,
            **sync,
            LAKE_METADATA_KEY: self._lake,
        }

    def _quota_number(self) -> dict[str, int]:
        """Return how many requests the report's daily quota still has; nothing without a quota."""
        quota = read_daily_quota(
            self._report_context.stream, self._report_context.client.rate_limiter
        )
        return {} if quota is None else {"quota_left": quota.remaining}

    def _load_metrics(self) -> Mapping[str, AccountMetric]:
        lake = self._report_context.lake
        try:
            return {each.id: each for each in (*read_custom_metrics(lake), *read_metrics(lake))}
        except KlaviyoAssetsError as error:
            self._context.log.warning("metrics are shown without their names: %s", error)
            return {}

    def _name_metadata(self, metric_id: str) -> AssetMetadata:
        metric = self._metrics.get(metric_id)
        if metric is None or not metric.name:
            return {}
        return {METRIC_NAME_METADATA_KEY: metric.name[:MAX_METRIC_NAME_CHARACTERS]}

    def _record_refused(self, outcome: RefusedMetric) -> None:
        """Record each partition of a refused metric as materialized.

        It is empty, unless rows were stored before the refusal.
        """
        refusal = outcome.refusal
        reason = refusal.reason or UNKNOWN_REFUSAL_REASON
        details: AssetMetadata = {
            REFUSED_METADATA_KEY: True,
            "klaviyo/refused_reason": reason,
            "klaviyo/refused_on": refusal.refused_on.isoformat(),
        }
        for day in outcome.row_counts:
            self._record_partition(outcome, day, details)
        self._context.log.warning(
            "Klaviyo makes no %s with metric %s: %s (said on %s). %s done, as empty; it is not "
            "requested again unless the run config says ask_refused: true.",
            self._report_context.stream.name,
            self._metric_label(outcome.metric_id),
            reason,
            refusal.refused_on,
            format_quantity(len(outcome.row_counts), "partition"),
        )

    def _build_unknown_metric_error(
        self, metric_id: str, refusal: MetricRefusal
    ) -> UnknownMetricError:
        """Return the error for a refused metric whose id is not in the account's table."""
        problem = "the account has no metric of this id"
        if self._report_context.lake.read_table_state(METRICS_TABLE) is None:
            problem = "the table metrics was never read, so whether there is one is not known"
        similar = describe_similar_metrics(metric_id, list(self._metrics.values()))
        return UnknownMetricError(
            f"{problem}; Klaviyo said on {refusal.refused_on}: "
            f"{refusal.reason or UNKNOWN_REFUSAL_REASON}.{similar} "
            f"Was it mistyped in {CONVERSION_METRICS_VARIABLE}? It is not requested again unless "
            "the run config says ask_refused: true"
        )

    def _record_failed(self, outcome: FailedReport) -> None:
        """Record a metric whose report failed, with an observation on the asset's page."""
        metric_id, error, failed = outcome.metric_id, outcome.error, outcome.failed_metric
        if failed is not None and not isinstance(error, ReportFailedError):
            error.message = f"{error.message.rstrip('.')}. {failed.describe()}"
            if not failed.tries_left and isinstance(error, TransientError):
                error = ReportFailedError(error.message, stream=error.stream)
        self._record_error(metric_id, len(outcome.days), error)
        metadata: AssetMetadata = {
            FAILED_METRIC_METADATA_KEY: metric_id,
            **self._name_metadata(metric_id),
            "klaviyo/partitions_not_stored": len(outcome.days),
            "klaviyo/failed_reason": failed.reason if failed is not None else error.message,
        }
        if failed is not None:
            metadata |= {
                "klaviyo/failed_requests": failed.failure_count,
                "klaviyo/asked_again_at": failed.retry_at.isoformat(),
            }
        # Klaviyo's text and ids are metadata, because a description is shown as Markdown.
        partitions = format_quantity(len(outcome.days), "partition")
        self._context.log_event(
            dg.AssetObservation(
                self._context.asset_key,
                description=f"A metric's report failed: {partitions} not stored.",
                metadata=metadata,
            )
        )

    def _record_error(self, metric_id: str, partitions: int, error: KlaviyoAssetsError) -> None:
        """Log the error of one metric, and hold it for the end of the run."""
        subject = f"metric {self._metric_label(metric_id)}: " if metric_id != NO_METRIC else ""
        error.message = (
            f"{subject}{error.message.rstrip('.')}. "
            f"{format_quantity(partitions, 'partition')} of it not stored"
        )
        error.stream = error.stream or self._report_context.stream.name
        self._context.log.error("%s. The other metrics go on.", error)
        self._errors_by_metric[metric_id] = error

    def _metric_label(self, metric_id: str) -> str:
        metric = self._metrics.get(metric_id)
        return format_metric(metric) if metric is not None else ascii(metric_id)

    def raise_failed_metrics(self) -> None:
        """Fail the run if a metric failed. Its other partitions are stored.

        Dagster may retry the run only if that can help every failed metric, and if the run is not
        the sensor's: the sensor launches another one an hour later.

        Raises:
            KlaviyoAssetsError: the error of the first metric, with all metrics in its text.
        """
        if not self._errors_by_metric:
            return
        tags = {FAILED_METRICS_TAG: FAILED_METRICS_SEPARATOR.join(self._errors_by_metric)}
        self._context.instance.add_run_tags(self._context.run.run_id, tags)
        errors = list(self._errors_by_metric.values())
        stored = f"{format_quantity(self.stored_partitions, 'partition')} of other metrics stored."
        text = "\n".join([*(each.message for each in errors), stored])
        permanent = [each for each in errors if not isinstance(each, TransientError)]
        first = (permanent or errors)[0]
        if self._is_sensor_run and not permanent:
            raise ReportFailedError(text, stream=first.stream) from first
        first.message = text
        raise first

    def build_quota_error(self, error: QuotaError, remaining: RemainingDays) -> QuotaError:
        """Return the error with what is stored, what remains, and who fetches that when."""
        count = sum(len(days) for days in remaining.values())
        metrics = sum(bool(days) for days in remaining.values())
        next_step = "The sensor launches the rest by itself."
        if not self._is_sensor_run:
            next_step = (
                f"Launch the rest then; the sensor {BACKFILL_SENSOR_NAME}, switched on, does it "
                "itself."
            )
        return QuotaError(
            f"{format_quantity(self.stored_partitions, 'partition')} stored, "
            f"{format_quantity(count, 'partition')} of "
            f"{format_quantity(metrics, 'metric')} left. {error.message.rstrip('.')}. {next_step}",
            stream=self._report_context.stream.name,
            retry_after_seconds=error.retry_after_seconds,
        )

    def raise_unfinished_days(self, remaining: RemainingDays) -> None:
        """Fail the run if days could not be stored because they are not over.

        Raises:
            SettingError: there are such days. The text names the first and the last.
        """
        days = sorted({day for each in remaining.values() for day in each})
        if days:
            zone, now = self._report_context.calendar.zone, self._report_context.calendar.now
            raise SettingError(
                f"{self._report_context.report.period}s from {days[0]} to {days[-1]} are not "
                f"stored: in {zone.key} they are not over at "
                f"{now.astimezone(zone):%Y-%m-%d %H:%M}, Klaviyo's time"
            )


MAX_PARTITIONS_PER_RUN = 360
"""How many partitions a run of a backfill has, for both reports.

That is six whole time frames of a series report, or nearly a year of a report of totals. It is one
number for both: of two, Dagster would give the backfill sensor the smaller one, and warn of it at
every load. Cutting a backfill into runs costs no request: a request may cover more days than the
run has, and the stored response serves the next run. A larger run would delay others: Dagster
records each partition when it launches a run, and launches no other run meanwhile.
"""


@cache
def build_report_asset(name: str, first_day: date, zone: str | None) -> dg.AssetsDefinition:
    """Return the asset of a report; `zone` is the account's time zone, None if not known yet.

    Of all settings it depends on `first_day` alone, the first day of reports. So several
    `build_defs` in one process share the asset.

    Raises:
        TypeError: the stream is not a report.
    """
    stream = STREAMS[name]
    report = report_endpoint(stream)

    @dg.asset(
        key=asset_key(stream.name),
        description=asset_description(stream),
        group_name=asset_group(stream),
        kinds=ASSET_KINDS,
        owners=ASSET_OWNERS,
        tags=asset_tags(stream),
        metadata=definition_metadata(stream),
        deps=[asset_key(parent) for parent in upstream_streams(stream)],
        partitions_def=build_report_partitions(report, first_day, zone),
        backfill_policy=dg.BackfillPolicy.multi_run(MAX_PARTITIONS_PER_RUN),
        retry_policy=ASSET_RETRY_POLICY,
        output_required=False,
        config_schema=run_config_schema(stream),
    )
    def fetch_report(
        context: dg.AssetExecutionContext,
        klaviyo: KlaviyoResource,
        lake: LakeResource,
    ) -> Iterator[dg.MaterializeResult[Any]]:
        context.log.addFilter(KeyRedactingFilter())
        with build_step_end(context, stream, lake).recording_failures():
            recorder = _fetch_run(context, stream, klaviyo=klaviyo, lake=lake)
        if recorder is not None:
            yield recorder.build_result()

    return fetch_report


def _fetch_run(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    klaviyo: KlaviyoResource,
    lake: LakeResource,
) -> ReportRunRecorder | None:
    """Fetch the run's partitions; return None if they are not all stored and that is no failure."""
    try:
        with raise_as_failures(
            stream.name, may_skip=True, rewrite_message=partial(replace_asset_names, context)
        ):
            # The option holds for one attempt: a retry uses the refusals that the first one stored.
            is_retry = context.op_execution_context.retry_number > 0
            retry_refused = (
                should_retry_refused_metrics(stream, read_op_config(context)) and not is_retry
            )
            partitions = partitions_of_run(context, report_endpoint(stream))
            with klaviyo.connect(warn=context.log.warning, lake=lake.lake()) as connection:
                recorder = _fetch_partitions(
                    context,
                    partitions,
                    retry_refused=retry_refused,
                    report_context=_build_report_context(
                        context, stream, connection=connection, lake=lake
                    ),
                    lake=lake,
                )
            settings = klaviyo.settings
            outcome = judge_report(context.instance, stream, lake.lake(), settings)
            build_step_end(context, stream, lake).record(
                replace(outcome, run_id=context.run.run_id)
            )
            return recorder
    except RefusedStreamError as error:
        report_skipped_stream(context, stream, error, lake=lake)
        context.instance.add_run_tags(context.run.run_id, {SKIPPED_TAG: "true"})
        return None


def _build_report_context(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    connection: KlaviyoConnection,
    lake: LakeResource,
) -> ReportContext:
    warn, settings = context.log.warning, connection.settings
    store, key = lake.lake(), context.asset_key
    last = read_last_metadata(context.instance, key)
    check_same_lake(key, stream, last_lake=last.lake, lake=store)
    store.prepare_for_sync(connection.account)
    if settings.tune_process:
        tune_process()
    return ReportContext(
        stream=stream,
        report=report_endpoint(stream),
        client=connection.client,
        lake=store,
        account=connection.account,
        calendar=fetch_calendar(connection.account_connection, settings, warn=warn).starting_at(
            report_endpoint(stream).first_day
        ),
        clock=utc_now,
        warn=warn,
    )


def _fetch_partitions(
    context: dg.AssetExecutionContext,
    partitions: Sequence[ReportPartition],
    *,
    retry_refused: bool,
    report_context: ReportContext,
    lake: LakeResource,
) -> ReportRunRecorder | None:
    """Fetch partitions; return None if the sensor's run has spent its requests before the end.

    Raises:
        QuotaError: the quota was spent in a run that a person launched.
        SettingError: a day is not over; the others are stored.
        KlaviyoAssetsError: a metric failed, the others are stored; or as `ReportFetch.run` says.
    """
    max_requests = context.run.tags.get(MAX_REQUESTS_TAG)
    budget = RequestBudget(int(max_requests) if max_requests is not None else None)
    is_sensor_run = max_requests is not None
    calendar, name = report_context.calendar, report_context.stream.name
    warning = describe_days_of_other_zones(report_context.lake, name, calendar)
    if warning is not None:
        report_context.warn(warning)
    recorder = ReportRunRecorder(context, report_context, is_sensor_run=is_sensor_run)
    requests = _build_partition_requests(context, partitions)
    recorder.tag_run([each.metric_id for each in requests])
    fetch = ReportFetch(requests, context=report_context, budget=budget)
    waits = ReportWaits(report_context, fetch, requests, budget)
    report_context.client.on_wait = WaitLog(context.log.info, waits.describe)
    try:
        if calendar.bounds is not None:
            outcomes = fetch.run(calendar.bounds, should_retry=retry_refused)
            _store_outcomes(outcomes, recorder, report_context=report_context, lake=lake)
        recorder.raise_failed_metrics()
        recorder.raise_unfinished_days(fetch.remaining_days)
    except QuotaError as error:
        recorder.log_materializations()
        quota_error = recorder.build_quota_error(error, fetch.remaining_days)
        if not is_sensor_run:
            raise quota_error from error
        context.log.warning("%s", quota_error)
        recorder.raise_failed_metrics()
        return None
    except BaseException:
        recorder.log_materializations()
        raise
    return recorder


def _store_outcomes(
    outcomes: Iterator[FetchOutcome],
    recorder: ReportRunRecorder,
    *,
    report_context: ReportContext,
    lake: LakeResource,
) -> None:
    """Run a fetch by recording its outcomes; publish what is stored, however the fetch ends."""
    try:
        for outcome in outcomes:
            recorder.record(outcome)
            reach_crash_point("after recording partitions")
    finally:
        if recorder.stored_partitions:
            lake.publish(report_context.lake, warn=report_context.warn)
            report_context.lake.vacuum(report_context.stream.name)


def _build_partition_requests(
    context: dg.AssetExecutionContext, partitions: Sequence[ReportPartition]
) -> list[PartitionRequest]:
    """Return one request per metric, with what is known of its days' last delivery and backfill."""
    delivered = read_delivery_times(
        context.instance, context.asset_key, partitions, run_id=context.run.run_id
    )
    sibling_days, pending_days = read_backfill_days(
        context.instance, context.asset_key, context.run.tags
    )
    return [
        PartitionRequest(
            metric_id=metric_id,
            days=days,
            sibling_days=sibling_days.get(metric_id, frozenset()),
            pending_days=pending_days.get(metric_id, frozenset()),
            delivered={
                partition.day: fetched_at
                for partition, fetched_at in delivered.items()
                if partition.metric_id == metric_id
            },
            should_widen=NARROW_TIMEFRAMES_TAG not in context.run.tags,
        )
        for metric_id, days in days_by_metric(partitions).items()
    ]
