"""What a stream's asset hands to the IO manager: a sync that has not been written yet.

Also how late events arrive: each sync of events records it in its metadata, and the completeness
check sums it up over many syncs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import dagster as dg

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.automation import is_switched_on
from klaviyo_assets.defs.checks import CheckMetadataValue
from klaviyo_assets.defs.metadata import LAKE_METADATA_KEY, AssetMetadata, sync_metadata
from klaviyo_assets.defs.resources import KlaviyoConnection
from klaviyo_assets.errors import format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.queries import ArrivalQuery
from klaviyo_assets.lake.write.session import CommitReceipt
from klaviyo_assets.model.automation import LATE_EVENTS_SCHEDULE_NAME
from klaviyo_assets.model.stream import (
    WHOLE_COLLECTION,
    Collection,
    Detail,
    Stream,
    base_stream_name,
)
from klaviyo_assets.reconcile.counts import (
    EVENT_METRIC_COLUMN,
    EVENT_TIME_COLUMN,
    EVENTS_STREAM_NAME,
)
from klaviyo_assets.reconcile.lateness import (
    DELAY_STEPS_PER_DOUBLING,
    MAX_SYNC_INTERVAL,
    LatenessCounts,
    count_lateness,
    merge_lateness_counts,
    suggest_lookback_days,
)
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.plan import SyncOptions
from klaviyo_assets.sync.sync_run import SyncRun

LATE_EVENTS_METADATA_KEY = "klaviyo/late_events"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOutput:
    """A sync that has its first response; the IO manager reads the rest and writes it."""

    stream: Stream
    asset_key: dg.AssetKey
    options: SyncOptions
    sync_run: SyncRun
    connection: KlaviyoConnection
    log: Callable[[str], None]
    observe: Callable[[dg.AssetObservation], None]
    lake_location: str
    """The lake that the sync writes to, as text."""
    rows_before: int | None = None
    """Rows at the previous materialization; None if there was none."""
    late_events_warning: str | None = None
    """Says that nothing looks for late events; None where something does, and for other streams."""

    @property
    def high_water_mark(self) -> datetime | None:
        """Return the high-water mark so far (UTC); None for a stream without a cursor."""
        return self.sync_run.progress.high_water_mark if self.stream.cursor is not None else None

    def close(self) -> None:
        """Stop reading and close the connection. What was committed stays."""
        self.sync_run.close()
        self.connection.close()

    def log_commit(self, receipt: CommitReceipt) -> None:
        """Log a commit, and observe its high-water mark, so that it outlives a run that is killed.

        The mark of the last commit is not observed: the materialization that follows carries it.
        """
        stats, mark = self.sync_run.stats, self.high_water_mark
        up_to = f", complete up to {mark:%Y-%m-%d %H:%M:%S} UTC" if mark is not None else ""
        others = format_quantity(receipt.rows_rebased, "row")
        rebased = f"; {others} that other runs stored meanwhile were kept"
        meanwhile = rebased if receipt.rows_rebased else ""
        repeats = stats.records_read - stats.rows_written - stats.records_quarantined
        twice = f" ({repeats:,} repeated)" if repeats > 0 else ""
        self.log(
            f"{self.stream.name}: {format_quantity(stats.records_read, 'record')} read{twice}, "
            f"{format_quantity(receipt.rows_total, 'row')} stored{up_to}{meanwhile}; "
            f"{format_quantity(self.connection.client.stats.requests, 'request')}"
        )
        if not self.sync_run.is_done:
            self.observe_cursor()

    def observe_cursor(self) -> None:
        """Log the metadata so far, high-water mark included, as an observation of the asset."""
        if self.high_water_mark is not None:
            self.observe(dg.AssetObservation(self.asset_key, metadata=self.metadata()))

    def warnings(self) -> Iterator[str]:
        """Yield what the operator should know of a sync that has ended, one sentence each."""
        name, stats = self.stream.name, self.sync_run.stats
        if stats.is_out_of_order and self.stream.is_sorted_by_cursor:
            yield (
                f"{name}: Klaviyo's pages were not in the requested order; each window was read in "
                "one piece, and counts as read only because its last page came"
            )
        yield from self._parent_warnings()
        if stats.records_quarantined:
            yield self._quarantine_warning()
        if self.stream.has_soft_deletes and self.options.is_id_scan and stats.records_quarantined:
            yield f"{name}: some ids cannot be read, so no missing row was marked as deleted"
        if stats.rows_lost:
            yield (
                f"{name}: {format_quantity(stats.rows_lost, 'row')} were in damaged files; those "
                "that Klaviyo still has were read again, the others are lost"
            )
        yield from self._unseen_metric_warnings()

    def _parent_warnings(self) -> Iterator[str]:
        """Yield warnings of a detail stream whose parents Klaviyo deleted or did not answer for."""
        name, parents = self.stream.name, base_stream_name(self.stream)
        deleted, unanswered = self.sync_run.missing_parents, self.sync_run.unanswered_parents
        known = deleted + self.sync_run.stats.records_read
        if deleted:
            were_read = f"{deleted} of {known} {parents}"
            yield f"{name}: {were_read} were deleted since they were read, skipped"
        if failed := sum(unanswered.values()):
            yield (
                f"{name}: Klaviyo gave no response for {failed} of {failed + known} {parents} "
                f"({'; '.join(sorted(unanswered))}); the others are stored, and the next run "
                "requests these again"
            )

    def _unseen_metric_warnings(self) -> Iterator[str]:
        """Yield a warning for each metric of the events filter that no event was seen of."""
        source, progress, name = self.stream.source, self.sync_run.progress, self.stream.name
        if isinstance(source, Collection) and source.has_metric_filter:
            seen = {each for each, known in progress.slices.items() if known.max_cursor is not None}
            for metric in sorted(set(progress.active_slices) - seen - {WHOLE_COLLECTION.name}):
                yield (
                    f"{name}: no event of {metric!r} was ever seen; check KLAVIYO_EVENT_METRIC_IDS "
                    "(Klaviyo's filter of events takes no custom metrics)"
                )

    def _quarantine_warning(self) -> str:
        """Return the warning about records that could not be stored."""
        stats, name = self.sync_run.stats, self.stream.name
        retries = "; later runs request them again" if self.sync_run.has_pending_retries else ""
        return (
            f"{name}: {stats.records_quarantined:,} of "
            f"{format_quantity(stats.records_read, 'record')} could not be stored "
            f"({'; '.join(sorted(stats.quarantine_reasons))}) and are in "
            f"lake/_quarantine/{name}{retries}"
        )

    def metadata(self) -> AssetMetadata:
        """Return the metadata that the contract promises of a materialization, as of now."""
        stats, requests = self.sync_run.stats, self.connection.client.stats
        numbers: dict[str, int | float] = {
            "records_read": stats.records_read,
            "rows_written": stats.rows_written,
            "requests": requests.requests,
            "retries": requests.retries,
            "throttled_seconds": round(requests.throttled_seconds, 3),
            "rate_limited": requests.rate_limited,
            "received_bytes": requests.received_bytes,
            "commits": stats.commits,
            "quarantined": stats.records_quarantined,
            **self.connection.client.clock_skew.skew_metadata(),
        }
        if self.stream.has_soft_deletes:
            numbers["deleted"] = stats.rows_marked_deleted
        if isinstance(self.stream.source, Detail):
            numbers["vanished"] = self.sync_run.missing_parents
            numbers["unanswered"] = sum(self.sync_run.unanswered_parents.values())
        metadata = sync_metadata(
            self.stream,
            mode=self.options.mode.value,
            cursor=self.high_water_mark,
            numbers=numbers,
            row_count=stats.rows_total,
        )
        metadata[LAKE_METADATA_KEY] = self.lake_location
        if self.late_events_warning is not None:
            metadata[LATE_EVENTS_METADATA_KEY] = self.late_events_warning
        if stats.quarantine_reasons:
            metadata["klaviyo/quarantine_reasons"] = dg.MetadataValue.json(
                dict(stats.quarantine_reasons)
            )
        if stats.notices:
            metadata["klaviyo/notices"] = dg.MetadataValue.json(sorted(stats.notices))
        return metadata


FIRST_SEEN_METADATA_KEY = "klaviyo/first_seen"

MAX_SUMMED_SYNCS = 1000
"""How many materializations are summed up: six weeks of hourly ones."""


def late_events_warning(
    context: dg.AssetExecutionContext, stream: Stream, settings: Settings
) -> str | None:
    """Return a warning for a sync of events if nothing looks for late events, else None.

    Nothing does if there is no lookback, and the daily schedule is off or reads no day again.
    """
    if stream.name != EVENTS_STREAM_NAME or settings.lookback_days:
        return None
    switched_on = is_switched_on(
        context.instance, LATE_EVENTS_SCHEDULE_NAME, settings, run=context.run
    )
    if switched_on and settings.late_events_days:
        return None
    return (
        "nothing looks for late events: an event that Klaviyo receives after a sync has passed its "
        f"time is never read. Switch on the schedule {LATE_EVENTS_SCHEDULE_NAME} with "
        "KLAVIYO_LATE_EVENTS_DAYS above 0 (KLAVIYO_AUTOMATION=recommended does), or set "
        "KLAVIYO_LOOKBACK_DAYS"
    )


def first_seen_metadata(sync_output: SyncOutput, lake: Lake) -> dict[str, dg.JsonMetadataValue]:
    """Return how late the events arrived that this sync stored first.

    Nothing for a first or full sync. Events past the previous high-water mark count only if the
    last sync was not long ago: otherwise their delay measures how long ago it was.
    """
    sync_run = sync_output.sync_run
    mark, version = sync_run.progress.previous_cursor, sync_run.version_before
    is_events = sync_output.stream.name == EVENTS_STREAM_NAME
    if not is_events or mark is None or version is None or not sync_run.stats.rows_written:
        return {}
    arrivals = ArrivalQuery(
        version=version,
        high_water_mark=mark,
        value_column=EVENT_METRIC_COLUMN,
        time_column=EVENT_TIME_COLUMN,
    )
    delays = lake.measure_arrival_delays(
        EVENTS_STREAM_NAME, arrivals, steps_per_doubling=DELAY_STEPS_PER_DOUBLING
    )
    counts = count_lateness(delays, should_include_new=utc_now() - mark <= MAX_SYNC_INTERVAL)
    return {FIRST_SEEN_METADATA_KEY: dg.MetadataValue.json(dict(counts))} if counts else {}


def lateness_metadata(
    instance: dg.DagsterInstance, events_key: dg.AssetKey, names: Mapping[str, str]
) -> dict[str, CheckMetadataValue]:
    """Return the delays of events by metric over the last syncs, and the lookback they suggest.

    The delays are the median, the 99th percentile and the maximum. `names` are the names of
    metrics by id.
    """
    records = instance.fetch_materializations(events_key, limit=MAX_SUMMED_SYNCS).records
    counts_by_sync = [
        value.value
        for each in records
        if each.asset_materialization is not None
        and (value := each.asset_materialization.metadata.get(FIRST_SEEN_METADATA_KEY)) is not None
    ]
    lateness = merge_lateness_counts(cast("list[Mapping[str, LatenessCounts]]", counts_by_sync))
    if not lateness:
        return {}
    rows = [
        dg.TableRecord(
            {
                "metric": names.get(metric) or metric,
                "events": each.event_count,
                "p50": format_duration(each.quantile(0.5)),
                "p99": format_duration(each.quantile(0.99)),
                "max": format_duration(timedelta(seconds=each.max_delay_seconds)),
                "before the cursor": sum(each.behind.values()),
            }
        )
        for metric, each in lateness.items()
    ]
    return {
        "klaviyo/lateness": dg.MetadataValue.table(rows),
        "klaviyo/suggested_lookback_days": suggest_lookback_days(list(lateness.values())),
    }


def format_duration(duration: timedelta) -> str:
    """Return a duration in the largest unit that fits: 2.4 d, 3.5 h, 7 min."""
    for unit, name in ((timedelta(days=1), "d"), (timedelta(hours=1), "h")):
        if duration >= unit:
            return f"{duration / unit:.1f} {name}"
    return f"{duration / timedelta(minutes=1):.0f} min"
