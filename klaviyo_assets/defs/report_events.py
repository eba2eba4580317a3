"""What a report's run tells Dagster: an event per partition, and what is left undone.

What belongs here: metadata and sentences. What does not: the fetch itself (`sync.reports`).

A run whose partitions are all done hands their metadata to Dagster, which writes the events; a run
that ends before that writes those of the stored partitions itself.
"""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

import dagster as dg

from klaviyo_assets.defs.metadata import Metadata, sync_metadata
from klaviyo_assets.defs.partitions import DRAIN_SENSOR, cell_of, key_of
from klaviyo_assets.defs.report_history import FETCHED_AT
from klaviyo_assets.errors import KlaviyoAssetsError, QuotaError, SettingError
from klaviyo_assets.model.report import Cell
from klaviyo_assets.sync.plan import SyncMode
from klaviyo_assets.sync.reports.desk import ReportDesk
from klaviyo_assets.sync.reports.fetch import Refused, Stored
from klaviyo_assets.sync.reports.metrics import stored_metrics
from klaviyo_assets.wording import quantity

METRIC_NAME = "klaviyo/metric_name"
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
        self._names = self._metric_names()
        self._metadata_by_partition: dict[str, Metadata] = {}
        self._refused_metrics: dict[str, Metadata] = {}

    @property
    def stored(self) -> int:
        """Return how many partitions are stored."""
        return len(self._metadata_by_partition)

    def add(self, outcome: Stored | Refused) -> None:
        """Take what was stored, or an observation of a refused metric, and tell of it."""
        if isinstance(outcome, Refused):
            self._refused(outcome)
            return
        for day in outcome.rows:
            partition = key_of(Cell(outcome.metric_id, day))
            self._metadata_by_partition[partition] = self._metadata(outcome, day)
        name = self._names.get(outcome.metric_id)
        self._context.log.info(
            "%s: %s of metric %s stored, %s; %s by this run",
            self._desk.stream.name,
            quantity(len(outcome.rows), "day"),
            f"{name} ({outcome.metric_id})" if name else outcome.metric_id,
            quantity(sum(outcome.rows.values()), "row"),
            quantity(self._desk.client.counters.requests, "request"),
        )

    def materialize(self) -> dg.MaterializeResult[Any]:
        """Return the result of which Dagster makes one event for each partition of the run.

        Partitions of refused metrics are among them: there is nothing more to fetch.
        """
        for partition in self._context.partition_keys:
            metadata = self._metadata_by_partition.get(partition)
            metadata = metadata or self._refused_metrics[cell_of(partition).metric_id]
            self._context.add_asset_metadata(metadata, partition_key=partition)
        return dg.MaterializeResult()

    def log_stored(self) -> None:
        """Log an event for each stored partition, in a run that will not return a result."""
        for partition, metadata in self._metadata_by_partition.items():
            self._context.log_event(
                dg.AssetMaterialization(
                    self._context.asset_key, partition=partition, metadata=metadata
                )
            )

    def _metric_names(self) -> Mapping[str, str]:
        """Return the names of the metrics that the lake knows; keys of partitions are ids."""
        try:
            stored = stored_metrics(self._desk.lake)
        except KlaviyoAssetsError as error:
            self._context.log.warning("metrics are shown without their names: %s", error)
            return {}
        return {each.id: each.name[:MOST_CHARACTERS] for each in stored if each.name}

    def _metadata(self, outcome: Stored, day: date) -> Metadata:
        counters = self._desk.client.counters
        shown = sync_metadata(
            self._desk.stream,
            mode=SyncMode.INCREMENTAL_DEDUPED.value,
            mark=None,
            numbers={
                "records_read": outcome.rows[day],
                "rows_written": outcome.rows[day],
                "requests": outcome.requests,
                "requests_shared_by": outcome.shared_by,
                "retries": counters.retries,
                "throttled_seconds": round(counters.throttled_seconds, 3),
            },
            row_count=outcome.receipt.rows_total,
        )
        name = self._names.get(outcome.metric_id)
        # The partition's own facts first: the UI keeps the order.
        return {
            **({METRIC_NAME: name} if name else {}),
            "dagster/partition_row_count": outcome.rows[day],
            "klaviyo/is_final": day in outcome.final,
            FETCHED_AT: outcome.fetched_at.isoformat(),
            "klaviyo/account_timezone": self._desk.calendar.zone.key,
            **shown,
        }

    def _refused(self, outcome: Refused) -> None:
        what = f"Klaviyo computes no {self._desk.stream.name} for"
        said = (
            f"it refused it on {outcome.on}. It is not asked again unless the run config says "
            "ask_refused: true."
        )
        self._context.log.warning("%s metric %s: %s", what, outcome.metric_id, said)
        self._context.log_event(
            dg.AssetObservation(
                self._context.asset_key,
                # A page takes a description for Markdown: what Klaviyo calls its own stays out.
                description=f"{what} the metric below: {said}",
                metadata={
                    "klaviyo/refused_metric": outcome.metric_id,
                    "klaviyo/refused_on": outcome.on.isoformat(),
                },
            )
        )
        self._refused_metrics[outcome.metric_id] = {
            "klaviyo/refused": True,
            "klaviyo/refused_reason": f"{what} this metric: {said}",
            "klaviyo/refused_on": outcome.on.isoformat(),
            "dagster/partition_row_count": 0,
        }

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
