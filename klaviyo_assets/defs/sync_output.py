"""A sync as it passes from an asset to the IO manager: lazy, and able to report.

Lateness in metadata: each sync of events tells what it saw first, the comparison sums it up.
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
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.queries import ArrivalQuery
from klaviyo_assets.lake.write.session import CommitReceipt
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
from klaviyo_assets.wording import format_quantity

LATE_EVENTS_METADATA_KEY = "klaviyo/late_events"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOutput:
    """What a stream asset returns: nothing is written until the IO manager drains it."""

    stream: Stream
    asset_key: dg.AssetKey
    options: SyncOptions
    sync_run: SyncRun
    connection: KlaviyoConnection
    log: Callable[[str], None]
    observe: Callable[[dg.AssetObservation], None]
    lake_location: str
    """Which lake it writes, as text."""
    rows_before: int | None = None
    """Rows at the materialization before; None where there was none."""
    late_events_warning: str | None = None
    """That nothing looks for late events; None where something does, and for other streams."""

    @property
    def high_water_mark(self) -> datetime | None:
        """Return the high-water mark so far, UTC."""
        return self.sync_run.progress.high_water_mark if self.stream.cursor is not None else None

    def close(self) -> None:
        """Stop reading, and close the connection; what was committed stays."""
        self.sync_run.close()
        self.connection.close()

    def log_commit(self, receipt: CommitReceipt) -> None:
        """Log a commit, and keep its mark, which outlives the run.

        Not that of the last one: the materialization that follows has it.
        """
        tally, mark = self.sync_run.stats, self.high_water_mark
        upto = f", complete up to {mark:%Y-%m-%d %H:%M:%S} UTC" if mark is not None else ""
        taken = f"; {format_quantity(receipt.rows_rebased, 'row')} that other runs stored meanwhile"
        meanwhile = f"{taken} were put beside them" if receipt.rows_rebased else ""
        repeats = tally.records_read - tally.rows_written - tally.records_quarantined
        again = f" ({repeats:,} came twice)" if repeats > 0 else ""
        self.log(
            f"{self.stream.name}: {format_quantity(tally.records_read, 'record')} read{again}, "
            f"{format_quantity(receipt.rows_total, 'row')} stored{upto}{meanwhile}; "
            f"{format_quantity(self.connection.client.stats.requests, 'request')}"
        )
        if not self.sync_run.is_done:
            self.observe_cursor()

    def observe_cursor(self) -> None:
        """Write the mark as an observation into the asset's metadata."""
        if self.high_water_mark is not None:
            self.observe(dg.AssetObservation(self.asset_key, metadata=self.metadata()))

    def warnings(self) -> Iterator[str]:
        """Yield what the operator should know of a sync that is over, a sentence each."""
        name, gone = self.stream.name, self.sync_run.missing_parents
        if self.sync_run.stats.is_out_of_order and self.stream.is_sorted_by_cursor:
            yield (
                f"{name}: Klaviyo's pages were not in the order that was asked for; each window "
                "was read in one piece, and counts as read only because its paging came to its end"
            )
        if gone:
            total, parents = gone + self.sync_run.stats.records_read, base_stream_name(self.stream)
            yield f"{name}: {gone} of {total} {parents} were deleted since they were read, skipped"
        failed = sum(self.sync_run.unanswered_parents.values())
        if failed:
            reasons = "; ".join(sorted(self.sync_run.unanswered_parents))
            yield (
                f"{name}: Klaviyo gave no answer about {failed} of "
                f"{failed + gone + self.sync_run.stats.records_read} "
                f"{base_stream_name(self.stream)} "
                f"({reasons}); the others are stored, and the next run asks about these again"
            )
        if self.sync_run.stats.records_quarantined:
            yield self._quarantine_warning()
        if (
            self.stream.has_soft_deletes
            and self.options.is_id_scan
            and self.sync_run.stats.records_quarantined
        ):
            yield f"{name}: ids came that cannot be read, so none that is missing was marked"
        if self.sync_run.stats.rows_lost:
            yield (
                f"{name}: {format_quantity(self.sync_run.stats.rows_lost, 'row')} lay in damaged "
                "files; what "
                "Klaviyo has of them was read again, what it had deleted is lost"
            )
        yield from self._unseen_metric_warnings()

    def _unseen_metric_warnings(self) -> Iterator[str]:
        source, progress, name = self.stream.source, self.sync_run.progress, self.stream.name
        if isinstance(source, Collection) and source.has_metric_filter:
            seen = {each for each, known in progress.slices.items() if known.max_cursor is not None}
            for metric in sorted(set(progress.active_slices) - seen - {WHOLE_COLLECTION.name}):
                yield (
                    f"{name}: no event of {metric!r} was ever seen; check KLAVIYO_EVENT_METRIC_IDS "
                    "(Klaviyo's filter of events takes no custom metrics)"
                )

    def _quarantine_warning(self) -> str:
        """Return what to say of records that could not be stored."""
        tally, name = self.sync_run.stats, self.stream.name
        again = "; later runs ask for them again" if self.sync_run.has_pending_retries else ""
        return (
            f"{name}: {tally.records_quarantined:,} of "
            f"{format_quantity(tally.records_read, 'record')} could not "
            f"be stored ({'; '.join(sorted(tally.quarantine_reasons))}) and lie in "
            f"lake/_quarantine/{name}"
            f"{again}"
        )

    def metadata(self) -> AssetMetadata:
        """Return what the contract promises of a materialization, as of now."""
        tally, counters = self.sync_run.stats, self.connection.client.stats
        numbers: dict[str, int | float] = {
            "records_read": tally.records_read,
            "rows_written": tally.rows_written,
            "requests": counters.requests,
            "retries": counters.retries,
            "throttled_seconds": round(counters.throttled_seconds, 3),
            "rate_limited": counters.rate_limited,
            "received_bytes": counters.received_bytes,
            "commits": tally.commits,
            "quarantined": tally.records_quarantined,
            **self.connection.client.clock_skew.skew_metadata(),
        }
        if self.stream.has_soft_deletes:
            numbers["deleted"] = tally.rows_marked_deleted
        if isinstance(self.stream.source, Detail):
            numbers["vanished"] = self.sync_run.missing_parents
            numbers["unanswered"] = sum(self.sync_run.unanswered_parents.values())
        shown = sync_metadata(
            self.stream,
            mode=self.options.mode.value,
            cursor=self.high_water_mark,
            numbers=numbers,
            row_count=tally.rows_total,
        )
        shown[LAKE_METADATA_KEY] = self.lake_location
        if self.late_events_warning is not None:
            shown[LATE_EVENTS_METADATA_KEY] = self.late_events_warning
        if tally.quarantine_reasons:
            shown["klaviyo/quarantine_reasons"] = dg.MetadataValue.json(
                dict(tally.quarantine_reasons)
            )
        if tally.notices:
            shown["klaviyo/notices"] = dg.MetadataValue.json(sorted(tally.notices))
        return shown


FIRST_SEEN_METADATA_KEY = "klaviyo/first_seen"

MAX_SUMMED_SYNCS = 1000
"""Materializations that are summed up: six weeks of hourly ones."""


LATE_EVENTS_SCHEDULE = "klaviyo_daily_late_events"


def late_events_warning(
    context: dg.AssetExecutionContext, stream: Stream, settings: Settings
) -> str | None:
    """Return the sentence for a sync of events where nothing looks for late ones; else None.

    That is so with no lookback, while the daily schedule is off or goes back no day.
    """
    if stream.name != EVENTS_STREAM_NAME or settings.lookback_days:
        return None
    switched_on = is_switched_on(context.instance, LATE_EVENTS_SCHEDULE, settings, run=context.run)
    if switched_on and settings.late_events_days:
        return None
    return (
        "late events are not looked for: one that Klaviyo takes in after its time was read is "
        f"never read. Switch on the schedule {LATE_EVENTS_SCHEDULE} with KLAVIYO_LATE_EVENTS_DAYS "
        "above 0 (KLAVIYO_AUTOMATION=recommended does), or set KLAVIYO_LOOKBACK_DAYS"
    )


def first_seen_metadata(sync_output: SyncOutput, lake: Lake) -> dict[str, dg.JsonMetadataValue]:
    """Return how late the events were that this sync saw first; nothing for a first or full sync.

    Events past the mark count only where the last sync is not long ago: else they tell its age.
    """
    mark, version = (
        sync_output.sync_run.progress.previous_cursor,
        sync_output.sync_run.version_before,
    )
    is_events = sync_output.stream.name == EVENTS_STREAM_NAME
    if (
        not is_events
        or mark is None
        or version is None
        or not sync_output.sync_run.stats.rows_written
    ):
        return {}
    since = ArrivalQuery(
        version=version,
        high_water_mark=mark,
        value_column=EVENT_METRIC_COLUMN,
        time_column=EVENT_TIME_COLUMN,
    )
    measured = lake.measure_arrival_delays(
        EVENTS_STREAM_NAME, since, steps_per_doubling=DELAY_STEPS_PER_DOUBLING
    )
    found = count_lateness(measured, should_include_new=utc_now() - mark <= MAX_SYNC_INTERVAL)
    return {FIRST_SEEN_METADATA_KEY: dg.MetadataValue.json(dict(found))} if found else {}


def lateness_metadata(
    instance: dg.DagsterInstance, events_key: dg.AssetKey, names: Mapping[str, str]
) -> dict[str, CheckMetadataValue]:
    """Return p50, p99 and the latest by metric over the last syncs, and the lookback they suggest.

    `names` are those of metrics by id.
    """
    records = instance.fetch_materializations(events_key, limit=MAX_SUMMED_SYNCS).records
    told = [
        value.value
        for each in records
        if each.asset_materialization is not None
        and (value := each.asset_materialization.metadata.get(FIRST_SEEN_METADATA_KEY)) is not None
    ]
    found = merge_lateness_counts(cast("list[Mapping[str, LatenessCounts]]", told))
    if not found:
        return {}
    rows = [
        dg.TableRecord(
            {
                "metric": names.get(metric) or metric,
                "events": each.event_count,
                "p50": format_duration(each.quantile(0.5)),
                "p99": format_duration(each.quantile(0.99)),
                "max": format_duration(timedelta(seconds=each.max_delay_seconds)),
                "behind the mark": sum(each.behind.values()),
            }
        )
        for metric, each in found.items()
    ]
    return {
        "klaviyo/lateness": dg.MetadataValue.table(rows),
        "klaviyo/suggested_lookback_days": suggest_lookback_days(list(found.values())),
    }


def format_duration(duration: timedelta) -> str:
    """Return a span as people say it: 2.4 d, 3.5 h, 7 min."""
    for unit, name in ((timedelta(days=1), "d"), (timedelta(hours=1), "h")):
        if duration >= unit:
            return f"{duration / unit:.1f} {name}"
    return f"{duration / timedelta(minutes=1):.0f} min"
