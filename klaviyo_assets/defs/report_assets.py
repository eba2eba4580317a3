"""Report assets: a run's partitions in, one materialization or observation per partition out.

A run whose partitions are all stored returns its result: Dagster logs a materialization for each
and runs the report's checks. A run that ends before that, because the quota does, logs those of the
partitions that are stored and returns none: exactly they count.

A run whose partitions are all done hands their metadata to Dagster, which writes the events; a run
that ends before that writes those of the stored partitions itself.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

import dagster as dg

from klaviyo_assets.account.metrics import (
    CONVERSION_METRICS_VARIABLE,
    METRICS_TABLE,
    AccountMetric,
    describe_similar_metrics,
    format_metric,
    read_metrics,
)
from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.assets import (
    ASSET_KINDS,
    ASSET_OWNERS,
    ASSET_RETRY_POLICY,
    asset_group,
    report_skipped_stream,
)
from klaviyo_assets.defs.automation import replace_asset_names
from klaviyo_assets.defs.config import (
    read_op_config,
    run_config_schema,
    should_retry_refused_metrics,
)
from klaviyo_assets.defs.failures import raise_as_failures
from klaviyo_assets.defs.metadata import (
    LAKE_METADATA_KEY,
    AssetMetadata,
    asset_key,
    asset_tags,
    check_same_lake,
    definition_metadata,
    read_last_lake,
    sync_metadata,
)
from klaviyo_assets.defs.partitions import (
    BACKFILL_SENSOR_NAME,
    FAILED_METRICS_SEPARATOR,
    FAILED_METRICS_TAG,
    MAX_REQUESTS_TAG,
    NARROW_TIMEFRAMES_TAG,
    SKIPPED_TAG,
    build_report_partitions,
    days_by_metric,
    partition_key,
    partitions_of_run,
)
from klaviyo_assets.defs.resources import KlaviyoConnection, KlaviyoResource, LakeResource
from klaviyo_assets.defs.run_history import (
    FETCHED_AT_METADATA_KEY,
    days_of_metric,
    read_backfill_partitions,
    read_delivery_times,
)
from klaviyo_assets.errors import (
    KlaviyoAssetsError,
    QuotaError,
    RefusedStreamError,
    ReportFailedError,
    SettingError,
    TransientError,
    UnknownMetricError,
)
from klaviyo_assets.lake.delta.state import MetricRefusal
from klaviyo_assets.model.report import ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.redaction import KeyRedactingFilter
from klaviyo_assets.reports.calendar import describe_days_of_other_zones, fetch_calendar
from klaviyo_assets.reports.context import ReportContext
from klaviyo_assets.reports.failed_requests import RefusedMetric
from klaviyo_assets.reports.fetch import (
    FailedReport,
    FetchOutcome,
    ReportFetch,
    StoredDays,
)
from klaviyo_assets.reports.planner import PartitionRequest
from klaviyo_assets.reports.source import RequestBudget
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.memory import tune_process
from klaviyo_assets.sync.plan import SyncMode
from klaviyo_assets.wording import format_quantity

METRIC_NAME_METADATA_KEY = "klaviyo/metric_name"
REFUSED_METADATA_KEY = "klaviyo/refused"
"""Metadata of a partition that is done because Klaviyo makes no report with its metric."""

FAILED_METRIC_METADATA_KEY = "klaviyo/failed_metric"
"""Metadata of the observation that a metric's report failed: the metric."""

UNKNOWN_REFUSAL_REASON = "Klaviyo's words were not kept"
"""Said where a refusal was remembered by a release that kept its day alone."""

MAX_METRIC_NAME_CHARACTERS = 200
"""How much of a metric's name is shown."""

RemainingDays = Mapping[str, Collection[date]]
"""Days by metric that are not stored."""


class ReportRunRecorder:
    """Gathers what a fetch brings, partition by partition."""

    def __init__(self, context: dg.AssetExecutionContext, report_context: ReportContext) -> None:
        """Gather nothing yet."""
        self._context = context
        self._report_context = report_context
        self._lake = str(report_context.lake.read_location())
        self._metrics = self._load_metrics()
        self._metric_names = {
            each.id: each.name[:MAX_METRIC_NAME_CHARACTERS] for each in self._metrics if each.name
        }
        self._metadata_by_partition: dict[str, AssetMetadata] = {}
        self._errors_by_metric: dict[str, KlaviyoAssetsError] = {}
        self.stored_partitions = 0

    def record(self, outcome: FetchOutcome) -> None:
        """Take what became of partitions, or why nothing did, and tell of it."""
        match outcome:
            case StoredDays():
                self._record_stored(outcome)
            case RefusedMetric(refusal=MetricRefusal(is_known=True)):
                self._record_refused(outcome)
            case RefusedMetric():
                self._record_error(
                    outcome.metric_id,
                    len(outcome.row_counts),
                    self._build_unknown_metric_error(outcome),
                )
            case FailedReport():
                self._record_failed(outcome)

    def build_result(self) -> dg.MaterializeResult[Any]:
        """Return the result of which Dagster makes one event for each partition of the run."""
        for partition in self._context.partition_keys:
            metadata = self._metadata_by_partition[partition]
            self._context.add_asset_metadata(metadata, partition_key=partition)
        return dg.MaterializeResult()

    def log_materializations(self) -> None:
        """Log an event for each partition that is done, in a run that will not return a result."""
        for partition, metadata in self._metadata_by_partition.items():
            self._context.log_event(
                dg.AssetMaterialization(
                    self._context.asset_key, partition=partition, metadata=metadata
                )
            )

    def _record_stored(self, outcome: StoredDays) -> None:
        for day in outcome.row_counts:
            self._record_partition(
                outcome.metric_id, day, self._build_partition_metadata(outcome, day)
            )
        self.stored_partitions += len(outcome.row_counts)
        self._context.log.info(
            "%s: %s of metric %s stored, %s; %s by this run",
            self._report_context.stream.name,
            format_quantity(len(outcome.row_counts), "day"),
            self._metric_label(outcome.metric_id),
            format_quantity(sum(outcome.row_counts.values()), "row"),
            format_quantity(self._report_context.client.stats.requests, "request"),
        )

    def _record_partition(
        self, metric_id: str, day: date, partition_metadata: AssetMetadata
    ) -> None:
        name = self._metric_names.get(metric_id)
        # The UI keeps the order.
        metadata = {**({METRIC_NAME_METADATA_KEY: name} if name else {}), **partition_metadata}
        self._metadata_by_partition[partition_key(ReportPartition(metric_id, day))] = metadata

    def _load_metrics(self) -> Sequence[AccountMetric]:
        try:
            return read_metrics(self._report_context.lake)
        except KlaviyoAssetsError as error:
            self._context.log.warning("metrics are shown without their names: %s", error)
            return ()

    def _build_partition_metadata(self, outcome: StoredDays, day: date) -> AssetMetadata:
        shown = self._build_request_metadata(
            rows=outcome.row_counts[day],
            requests=outcome.requests,
            shared_by=outcome.sharing_days,
            rows_total=outcome.receipt.rows_total,
        )
        return {
            "dagster/partition_row_count": outcome.row_counts[day],
            "klaviyo/is_final": day in outcome.final_days,
            FETCHED_AT_METADATA_KEY: outcome.fetched_at.isoformat(),
            "klaviyo/account_timezone": self._report_context.calendar.zone.key,
            **shown,
        }

    def _build_request_metadata(
        self, *, rows: int, requests: int, shared_by: int, rows_total: int
    ) -> AssetMetadata:
        counters = self._report_context.client.stats
        shown = sync_metadata(
            self._report_context.stream,
            mode=SyncMode.INCREMENTAL_DEDUPED.value,
            cursor=None,
            numbers={
                "records_read": rows,
                "rows_written": rows,
                "requests": requests,
                "requests_shared_by": shared_by,
                "retries": counters.retries,
                "throttled_seconds": round(counters.throttled_seconds, 3),
                **self._report_context.client.clock_skew.skew_metadata(),
            },
            row_count=rows_total,
        )
        return shown | {LAKE_METADATA_KEY: self._lake}

    def _record_refused(self, outcome: RefusedMetric) -> None:
        """Log each partition as done: empty, unless rows are there from before the refusal."""
        refusal, report = outcome.refusal, self._report_context.stream.name
        reason = refusal.reason or UNKNOWN_REFUSAL_REASON
        shown = self._build_request_metadata(
            rows=0,
            requests=outcome.requests,
            shared_by=len(outcome.row_counts),
            rows_total=outcome.rows_total,
        )
        for day, rows in outcome.row_counts.items():
            self._record_partition(
                outcome.metric_id,
                day,
                {
                    REFUSED_METADATA_KEY: True,
                    "klaviyo/refused_reason": reason,
                    "klaviyo/refused_on": refusal.refused_on.isoformat(),
                    "dagster/partition_row_count": rows,
                    "klaviyo/account_timezone": self._report_context.calendar.zone.key,
                    **shown,
                },
            )
        self._context.log.warning(
            "Klaviyo makes no %s with metric %s: %s (said on %s). %s done, as empty; it is not "
            "asked again unless the run config says ask_refused: true.",
            report,
            self._metric_label(outcome.metric_id),
            reason,
            refusal.refused_on,
            format_quantity(len(outcome.row_counts), "partition"),
        )

    def _build_unknown_metric_error(self, outcome: RefusedMetric) -> UnknownMetricError:
        """Return the error for an id that no metric of the account has."""
        refusal = outcome.refusal
        where = "the account has no metric of this id"
        if self._report_context.lake.read_table_state(METRICS_TABLE) is None:
            where = "the table metrics was never read, so whether there is one is not known"
        nearest = describe_similar_metrics(outcome.metric_id, self._metrics)
        return UnknownMetricError(
            f"{where}; Klaviyo said on {refusal.refused_on}: "
            f"{refusal.reason or UNKNOWN_REFUSAL_REASON}.{nearest} "
            f"Was it mistyped in {CONVERSION_METRICS_VARIABLE}? It is not asked again unless the "
            "run config says "
            "ask_refused: true"
        )

    def _record_failed(self, outcome: FailedReport) -> None:
        """Take a metric whose report failed; the asset's page shows it beside its partitions."""
        metric_id, error, failed = outcome.metric_id, outcome.error, outcome.failed_metric
        if failed is not None and not isinstance(error, ReportFailedError):
            error.message = f"{error.message.rstrip('.')}. {failed.describe()}"
            if not failed.tries_left and isinstance(error, TransientError):
                error = ReportFailedError(error.message, stream=error.stream)
        self._record_error(metric_id, len(outcome.days), error)
        name = self._metric_names.get(metric_id)
        shown: AssetMetadata = {
            FAILED_METRIC_METADATA_KEY: metric_id,
            **({METRIC_NAME_METADATA_KEY: name} if name else {}),
            "klaviyo/partitions_not_stored": len(outcome.days),
            "klaviyo/failed_reason": failed.reason if failed is not None else error.message,
        }
        if failed is not None:
            shown |= {
                "klaviyo/failed_requests": failed.failure_count,
                "klaviyo/asked_again_at": failed.retry_at.isoformat(),
            }
        # Klaviyo's words, and ids, are metadata: a description is shown as Markdown.
        about = (
            f"A metric's report failed: {format_quantity(len(outcome.days), 'partition')} not "
            "stored."
        )
        self._context.log_event(
            dg.AssetObservation(self._context.asset_key, description=about, metadata=shown)
        )

    def _record_error(self, metric_id: str, partitions: int, error: KlaviyoAssetsError) -> None:
        """Keep the error of one metric for the end of the run, and say it now."""
        error.message = (
            f"metric {self._metric_label(metric_id)}: {error.message.rstrip('.')}. "
            f"{format_quantity(partitions, 'partition')} of it not stored"
        )
        error.stream = error.stream or self._report_context.stream.name
        self._context.log.error("%s. The other metrics go on.", error)
        self._errors_by_metric[metric_id] = error

    def _metric_label(self, metric_id: str) -> str:
        known = {each.id: each for each in self._metrics}
        return format_metric(known[metric_id]) if metric_id in known else ascii(metric_id)

    def raise_failed_metrics(self, *, by_sensor: bool) -> None:
        """Refuse to end well where a metric failed: all of them are named, the rest is stored.

        Dagster tries the run again only where that may help every metric that failed, and nobody
        else does: the sensor launches another one an hour later.

        Raises:
            KlaviyoAssetsError: the first metric's error, with those of the others in its text.
        """
        if not self._errors_by_metric:
            return
        tags = {FAILED_METRICS_TAG: FAILED_METRICS_SEPARATOR.join(self._errors_by_metric)}
        self._context.instance.add_run_tags(self._context.run.run_id, tags)
        errors = list(self._errors_by_metric.values())
        stored = f"{format_quantity(self.stored_partitions, 'partition')} of other metrics stored."
        text = "\n".join([*(each.message for each in errors), stored])
        lasting = [each for each in errors if not isinstance(each, TransientError)]
        first = (lasting or errors)[0]
        if by_sensor and not lasting:
            raise ReportFailedError(text, stream=first.stream) from first
        first.message = text
        raise first

    def build_quota_error(
        self, error: QuotaError, remaining: RemainingDays, *, by_sensor: bool
    ) -> QuotaError:
        """Return the error as what is done, what is left, when it can go on, and who sees to it."""
        count = sum(len(days) for days in remaining.values())
        metrics = sum(bool(days) for days in remaining.values())
        goes_on = "The sensor launches the rest by itself."
        if not by_sensor:
            goes_on = (
                f"Launch the rest then; the sensor {BACKFILL_SENSOR_NAME}, switched on, does it "
                "itself."
            )
        return QuotaError(
            f"{format_quantity(self.stored_partitions, 'partition')} stored, "
            f"{format_quantity(count, 'partition')} of "
            f"{format_quantity(metrics, 'metric')} left. {error.message.rstrip('.')}. {goes_on}",
            stream=self._report_context.stream.name,
            retry_after_seconds=error.retry_after_seconds,
        )

    def raise_unfinished_days(self, remaining: RemainingDays) -> None:
        """Refuse to end well where days could not be stored because they are not over.

        Raises:
            SettingError: there are some; the text names the first and the last.
        """
        days = sorted({day for each in remaining.values() for day in each})
        if days:
            zone, now = self._report_context.calendar.zone, self._report_context.calendar.now
            raise SettingError(
                f"days from {days[0]} to {days[-1]} are not stored: in {zone.key} they are not "
                f"over at {now.astimezone(zone):%Y-%m-%d %H:%M}, Klaviyo's time"
            )


MAX_PARTITIONS_PER_RUN = 360
"""Partitions a run of a backfill, of both reports: six whole time frames of a series, and nearly a
year of totals. One number, because Dagster gives a sensor over both assets the smaller of two and
warns of it at every load; kept answers make the cut free (a request covers more than a run)."""


def build_report_asset(stream: Stream, settings: Settings, zone: str | None) -> dg.AssetsDefinition:
    """Return the asset of a report; `zone` is that of its days, None where it is not known yet.

    Raises:
        TypeError: the stream is none.
    """
    is_series = report_definition(stream).interval is not None
    parents = ["metrics"] if is_series else ["metrics", "campaigns"]

    @dg.asset(
        key=asset_key(stream.name),
        description=stream.description,
        group_name=asset_group(stream),
        kinds=ASSET_KINDS,
        owners=ASSET_OWNERS,
        tags=asset_tags(stream),
        metadata=definition_metadata(stream),
        deps=[asset_key(parent) for parent in parents],
        partitions_def=build_report_partitions(settings, zone),
        backfill_policy=dg.BackfillPolicy.multi_run(MAX_PARTITIONS_PER_RUN),
        retry_policy=ASSET_RETRY_POLICY,
        output_required=False,
        config_schema=run_config_schema(stream),
    )
    def reported(
        context: dg.AssetExecutionContext,
        klaviyo: KlaviyoResource,
        lake: LakeResource,
    ) -> Iterator[dg.MaterializeResult[Any]]:
        context.log.addFilter(KeyRedactingFilter())
        events = _fetch_run(context, stream, klaviyo=klaviyo, lake=lake)
        if events is not None:
            yield events.build_result()

    return reported


def report_definition(stream: Stream) -> ReportEndpoint:
    """Return the report that a stream is.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(stream.source, ReportEndpoint):
        raise TypeError(f"{stream.name} is no report")
    return stream.source


def _fetch_run(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    klaviyo: KlaviyoResource,
    lake: LakeResource,
) -> ReportRunRecorder | None:
    """Fetch the run's partitions; return their events, or None where not all of them are stored."""
    try:
        with raise_as_failures(
            stream.name, may_skip=True, rewrite_message=partial(replace_asset_names, context)
        ):
            # Who orders it does so once: the retry of a run counts with what the run has found.
            is_retry = context.op_execution_context.retry_number > 0
            ask_refused = (
                should_retry_refused_metrics(stream, read_op_config(context)) and not is_retry
            )
            cells = partitions_of_run(context)
            with klaviyo.connect(warn=context.log.warning, lake=lake.lake()) as connection:
                desk = _build_report_context(context, stream, connection=connection, lake=lake)
                return _fetch_partitions(
                    context, cells, retry_refused=ask_refused, report_context=desk, lake=lake
                )
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
    say, settings = context.log.warning, connection.settings
    store, key = lake.lake(), context.asset_key
    check_same_lake(key, stream, last_lake=read_last_lake(context.instance, key), lake=store)
    store.prepare_for_sync(connection.account)
    if settings.tune_process:
        tune_process()
    return ReportContext(
        stream=stream,
        report=report_definition(stream),
        client=connection.client,
        lake=store,
        base_url=settings.base_url,
        account=connection.account,
        calendar=fetch_calendar(connection.account_connection, settings, warn=say),
        clock=utc_now,
        warn=say,
    )


def _warn_of_other_zones(context: ReportContext) -> None:
    mixed = describe_days_of_other_zones(context.lake, context.stream.name, context.calendar)
    if mixed is not None:
        context.warn(mixed)


def _fetch_partitions(
    context: dg.AssetExecutionContext,
    partitions: Sequence[ReportPartition],
    *,
    retry_refused: bool,
    report_context: ReportContext,
    lake: LakeResource,
) -> ReportRunRecorder | None:
    """Fetch the cells; return what was stored, or None where the run's own quota ended before.

    Raises:
        QuotaError: it ran out in a run that a person launched.
        KlaviyoAssetsError: of a metric nothing could be stored; the others are.
        SettingError: a day is not over; the others are stored.
        KlaviyoAssetsError: as `ReportFetch.run` says.
    """
    given = context.run.tags.get(MAX_REQUESTS_TAG)
    _warn_of_other_zones(report_context)
    events = ReportRunRecorder(context, report_context)
    has_narrow_timeframes = NARROW_TIMEFRAMES_TAG in context.run.tags
    fetch = ReportFetch(
        _build_partition_requests(context, partitions, has_narrow_timeframes=has_narrow_timeframes),
        context=report_context,
        purse=RequestBudget(int(given) if given is not None else None),
    )
    bounds = report_context.calendar.bounds
    try:
        if bounds is not None:
            outcomes = fetch.run(bounds, should_retry_refused=retry_refused)
            _store_outcomes(outcomes, events, report_context=report_context, lake=lake)
        events.raise_failed_metrics(by_sensor=given is not None)
        events.raise_unfinished_days(fetch.remaining_days)
    except QuotaError as error:
        events.log_materializations()
        if given is None:
            raise events.build_quota_error(error, fetch.remaining_days, by_sensor=False) from error
        context.log.warning(
            "%s", events.build_quota_error(error, fetch.remaining_days, by_sensor=True)
        )
        events.raise_failed_metrics(by_sensor=True)
        return None
    except BaseException:
        events.log_materializations()
        raise
    return events


def _store_outcomes(
    outcomes: Iterator[FetchOutcome],
    events: ReportRunRecorder,
    *,
    report_context: ReportContext,
    lake: LakeResource,
) -> None:
    """Let a fetch store what it asks for, and show what is stored in DuckDB, however it ends."""
    try:
        for outcome in outcomes:
            events.record(outcome)
    finally:
        if events.stored_partitions:
            lake.publish(report_context.lake, warn=report_context.warn)
            report_context.lake.vacuum(report_context.stream.name)


def _build_partition_requests(
    context: dg.AssetExecutionContext,
    partitions: Sequence[ReportPartition],
    *,
    has_narrow_timeframes: bool,
) -> list[PartitionRequest]:
    """Return what is wanted of each metric."""
    delivered = read_delivery_times(
        context.instance, context.asset_key, partitions, run_id=context.run.run_id
    )
    among = read_backfill_partitions(context.instance, context.asset_key, context.run.tags)
    return [
        PartitionRequest(
            metric_id=metric_id,
            days=days,
            sibling_days=days_of_metric(among.partitions, metric_id),
            pending_days=days_of_metric(among.pending, metric_id),
            delivered={
                cell.day: at for cell, at in delivered.items() if cell.metric_id == metric_id
            },
            should_widen=not has_narrow_timeframes,
        )
        for metric_id, days in days_by_metric(partitions).items()
    ]
