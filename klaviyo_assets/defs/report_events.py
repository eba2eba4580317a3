"""What a report's run tells Dagster: an event per partition, and what is left undone.

What belongs here: metadata and sentences. What does not: the fetch itself (`sync.reports`).

A run whose partitions are all done hands their metadata to Dagster, which writes the events; a run
that ends before that writes those of the stored partitions itself.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

from klaviyo_assets.defs.metadata import Metadata, sync_metadata
from klaviyo_assets.defs.partitions import DRAIN_SENSOR, FAILED_METRICS, FAILED_SEPARATOR, key_of
from klaviyo_assets.defs.report_history import FETCHED_AT
from klaviyo_assets.defs.same_lake import LAKE
from klaviyo_assets.errors import (
    KlaviyoAssetsError,
    QuotaError,
    ReportFailedError,
    SettingError,
    TransientError,
    UnknownMetricError,
)
from klaviyo_assets.lake import MetricRefusal
from klaviyo_assets.model.report import Cell
from klaviyo_assets.sync.plan import SyncMode
from klaviyo_assets.sync.reports.desk import ReportDesk
from klaviyo_assets.sync.reports.fetch import Broken, Outcome, Refused, Stored
from klaviyo_assets.sync.reports.metrics import (
    TABLE,
    VARIABLE,
    Metric,
    nearest_sentence,
    shown_metric,
    stored_metrics,
)
from klaviyo_assets.wording import quantity

METRIC_NAME = "klaviyo/metric_name"
REFUSED = "klaviyo/refused"
"""Metadata of a partition that is done because Klaviyo makes no report with its metric."""

FAILED_METRIC = "klaviyo/failed_metric"
"""Metadata of the observation that a metric's report failed: the metric."""

NO_REASON = "Klaviyo's words were not kept"
"""Said where a refusal was remembered by a release that kept its day alone."""

MOST_CHARACTERS = 200
"""How much of a metric's name is shown."""

Left = Mapping[str, Collection[date]]
"""Days by metric that are not stored."""


class ReportEvents:
    """Gathers what a fetch brings, partition by partition."""

    def __init__(self, context: dg.AssetExecutionContext, desk: ReportDesk) -> None:
        """Gather nothing yet."""
        self._context = context
        self._desk = desk
        self._lake = str(desk.lake.whereabouts())
        self._metrics = self._known_metrics()
        self._names = {each.id: each.name[:MOST_CHARACTERS] for each in self._metrics if each.name}
        self._metadata_by_partition: dict[str, Metadata] = {}
        self._failed: dict[str, KlaviyoAssetsError] = {}
        self.stored = 0

    def add(self, outcome: Outcome) -> None:
        """Take what became of partitions, or why nothing did, and tell of it."""
        match outcome:
            case Stored():
                self._stored(outcome)
            case Refused(refusal=MetricRefusal(is_known=True)):
                self._refused(outcome)
            case Refused():
                self._fail(outcome.metric_id, len(outcome.rows), self._unknown(outcome))
            case Broken():
                self._broken(outcome)

    def materialize(self) -> dg.MaterializeResult[Any]:
        """Return the result of which Dagster makes one event for each partition of the run."""
        for partition in self._context.partition_keys:
            metadata = self._metadata_by_partition[partition]
            self._context.add_asset_metadata(metadata, partition_key=partition)
        return dg.MaterializeResult()

    def log_done(self) -> None:
        """Log an event for each partition that is done, in a run that will not return a result."""
        for partition, metadata in self._metadata_by_partition.items():
            self._context.log_event(
                dg.AssetMaterialization(
                    self._context.asset_key, partition=partition, metadata=metadata
                )
            )

    def _stored(self, outcome: Stored) -> None:
        for day in outcome.rows:
            self._done(outcome.metric_id, day, self._metadata(outcome, day))
        self.stored += len(outcome.rows)
        self._context.log.info(
            "%s: %s of metric %s stored, %s; %s by this run",
            self._desk.stream.name,
            quantity(len(outcome.rows), "day"),
            self._shown(outcome.metric_id),
            quantity(sum(outcome.rows.values()), "row"),
            quantity(self._desk.client.counters.requests, "request"),
        )

    def _done(self, metric_id: str, day: date, facts: Metadata) -> None:
        name = self._names.get(metric_id)
        # The UI keeps the order.
        metadata = {**({METRIC_NAME: name} if name else {}), **facts}
        self._metadata_by_partition[key_of(Cell(metric_id, day))] = metadata

    def _known_metrics(self) -> Sequence[Metric]:
        try:
            return stored_metrics(self._desk.lake)
        except KlaviyoAssetsError as error:
            self._context.log.warning("metrics are shown without their names: %s", error)
            return ()

    def _metadata(self, outcome: Stored, day: date) -> Metadata:
        shown = self._sync_metadata(
            rows=outcome.rows[day],
            requests=outcome.requests,
            shared_by=outcome.shared_by,
            rows_total=outcome.receipt.rows_total,
        )
        return {
            "dagster/partition_row_count": outcome.rows[day],
            "klaviyo/is_final": day in outcome.final,
            FETCHED_AT: outcome.fetched_at.isoformat(),
            "klaviyo/account_timezone": self._desk.calendar.zone.key,
            **shown,
        }

    def _sync_metadata(
        self, *, rows: int, requests: int, shared_by: int, rows_total: int
    ) -> Metadata:
        counters = self._desk.client.counters
        shown = sync_metadata(
            self._desk.stream,
            mode=SyncMode.INCREMENTAL_DEDUPED.value,
            mark=None,
            numbers={
                "records_read": rows,
                "rows_written": rows,
                "requests": requests,
                "requests_shared_by": shared_by,
                "retries": counters.retries,
                "throttled_seconds": round(counters.throttled_seconds, 3),
                **self._desk.client.clocks.numbers(),
            },
            row_count=rows_total,
        )
        return shown | {LAKE: self._lake}

    def _refused(self, outcome: Refused) -> None:
        """Log each partition as done: empty, unless rows are there from before the refusal."""
        refusal, report = outcome.refusal, self._desk.stream.name
        reason = refusal.reason or NO_REASON
        shown = self._sync_metadata(
            rows=0,
            requests=outcome.requests,
            shared_by=len(outcome.rows),
            rows_total=outcome.rows_total,
        )
        for day, rows in outcome.rows.items():
            self._done(
                outcome.metric_id,
                day,
                {
                    REFUSED: True,
                    "klaviyo/refused_reason": reason,
                    "klaviyo/refused_on": refusal.on.isoformat(),
                    "dagster/partition_row_count": rows,
                    "klaviyo/account_timezone": self._desk.calendar.zone.key,
                    **shown,
                },
            )
        self._context.log.warning(
            "Klaviyo makes no %s with metric %s: %s (said on %s). %s done, as empty; it is not "
            "asked again unless the run config says ask_refused: true.",
            report,
            self._shown(outcome.metric_id),
            reason,
            refusal.on,
            quantity(len(outcome.rows), "partition"),
        )

    def _unknown(self, outcome: Refused) -> UnknownMetricError:
        """Return the error for an id that no metric of the account has."""
        refusal = outcome.refusal
        where = "the account has no metric of this id"
        if self._desk.lake.state(TABLE) is None:
            where = "the table metrics was never read, so whether there is one is not known"
        nearest = nearest_sentence(outcome.metric_id, self._metrics)
        return UnknownMetricError(
            f"{where}; Klaviyo said on {refusal.on}: {refusal.reason or NO_REASON}.{nearest} "
            f"Was it mistyped in {VARIABLE}? It is not asked again unless the run config says "
            "ask_refused: true"
        )

    def _broken(self, outcome: Broken) -> None:
        """Take a metric whose report failed; the asset's page shows it beside its partitions."""
        metric_id, error, failed = outcome.metric_id, outcome.error, outcome.failed
        if failed is not None and not isinstance(error, ReportFailedError):
            error.message = f"{error.message.rstrip('.')}. {failed.told()}"
            if not failed.tries_left and isinstance(error, TransientError):
                error = ReportFailedError(error.message, stream=error.stream)
        self._fail(metric_id, len(outcome.days), error)
        name = self._names.get(metric_id)
        shown: Metadata = {
            FAILED_METRIC: metric_id,
            **({METRIC_NAME: name} if name else {}),
            "klaviyo/partitions_not_stored": len(outcome.days),
            "klaviyo/failed_reason": failed.reason if failed is not None else error.message,
        }
        if failed is not None:
            shown |= {
                "klaviyo/failed_requests": failed.count,
                "klaviyo/asked_again_at": failed.asked_again_at.isoformat(),
            }
        # Klaviyo's words, and ids, are metadata: a description is shown as Markdown.
        about = f"A metric's report failed: {quantity(len(outcome.days), 'partition')} not stored."
        self._context.log_event(
            dg.AssetObservation(self._context.asset_key, description=about, metadata=shown)
        )

    def _fail(self, metric_id: str, partitions: int, error: KlaviyoAssetsError) -> None:
        """Keep the error of one metric for the end of the run, and say it now."""
        error.message = (
            f"metric {self._shown(metric_id)}: {error.message.rstrip('.')}. "
            f"{quantity(partitions, 'partition')} of it not stored"
        )
        error.stream = error.stream or self._desk.stream.name
        self._context.log.error("%s. The other metrics go on.", error)
        self._failed[metric_id] = error

    def _shown(self, metric_id: str) -> str:
        known = {each.id: each for each in self._metrics}
        return shown_metric(known[metric_id]) if metric_id in known else ascii(metric_id)

    def refuse_failed(self, *, by_sensor: bool) -> None:
        """Refuse to end well where a metric failed: all of them are named, the rest is stored.

        Dagster tries the run again only where that may help every metric that failed, and nobody
        else does: the sensor launches another one an hour later.

        Raises:
            KlaviyoAssetsError: the first metric's error, with those of the others in its text.
        """
        if not self._failed:
            return
        tags = {FAILED_METRICS: FAILED_SEPARATOR.join(self._failed)}
        self._context.instance.add_run_tags(self._context.run.run_id, tags)
        errors = list(self._failed.values())
        stored = f"{quantity(self.stored, 'partition')} of other metrics stored."
        text = "\n".join([*(each.message for each in errors), stored])
        lasting = [each for each in errors if not isinstance(each, TransientError)]
        first = (lasting or errors)[0]
        if by_sensor and not lasting:
            raise ReportFailedError(text, stream=first.stream) from first
        first.message = text
        raise first

    def spent(self, error: QuotaError, left: Left, *, by_sensor: bool) -> QuotaError:
        """Return the error as what is done, what is left, when it can go on, and who sees to it."""
        count = sum(len(days) for days in left.values())
        metrics = sum(bool(days) for days in left.values())
        goes_on = "The sensor launches the rest by itself."
        if not by_sensor:
            goes_on = (
                f"Launch the rest then; the sensor {DRAIN_SENSOR}, switched on, does it itself."
            )
        return QuotaError(
            f"{quantity(self.stored, 'partition')} stored, {quantity(count, 'partition')} of "
            f"{quantity(metrics, 'metric')} left. {error.message.rstrip('.')}. {goes_on}",
            stream=self._desk.stream.name,
            retry_after_seconds=error.retry_after_seconds,
        )

    def refuse_unfinished(self, left: Left) -> None:
        """Refuse to end well where days could not be stored because they are not over.

        Raises:
            SettingError: there are some; the text names the first and the last.
        """
        days = sorted({day for each in left.values() for day in each})
        if days:
            zone, now = self._desk.calendar.zone, self._desk.calendar.now
            raise SettingError(
                f"days from {days[0]} to {days[-1]} are not stored: in {zone.key} they are not "
                f"over at {now.astimezone(zone):%Y-%m-%d %H:%M}, Klaviyo's time"
            )
