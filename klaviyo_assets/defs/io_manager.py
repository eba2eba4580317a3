"""The IO manager, and what it writes: a stream's asset returns a sync that has its first response.

The IO manager also loads tables for downstream assets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from klaviyo_assets.defs.health import MAX_STEP_RETRIES, StepEnd, raise_as_failures
from klaviyo_assets.defs.metadata import (
    FIRST_SEEN_METADATA_KEY,
    LAKE_METADATA_KEY,
    PREVIEW_METADATA_KEY,
    ROW_COUNT_METADATA_KEY,
    AssetMetadata,
    LastMetadata,
    build_preview,
    stream_name_of_asset,
    sync_metadata,
    waiting_numbers,
)
from klaviyo_assets.defs.resources import KlaviyoConnection, LakeResource
from klaviyo_assets.errors import format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.queries import ArrivalQuery
from klaviyo_assets.lake.write.session import CommitReceipt
from klaviyo_assets.model.stream import (
    WHOLE_COLLECTION,
    Collection,
    Stream,
    base_stream_name,
)
from klaviyo_assets.reconcile.counts import (
    DELAY_STEPS_PER_DOUBLING,
    EVENT_METRIC_COLUMN,
    EVENT_TIME_COLUMN,
    EVENTS_STREAM_NAME,
    MAX_SYNC_INTERVAL,
    count_lateness,
)
from klaviyo_assets.seams import reach_crash_point, utc_now
from klaviyo_assets.sync.plan import SyncOptions
from klaviyo_assets.sync.sync_run import SyncRun

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


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
    last: LastMetadata
    """What Dagster knew of the asset before the sync."""
    late_events_warning: str | None = None
    """Says that nothing looks for late events; None where something does, and for other streams."""

    @property
    def high_water_mark(self) -> datetime | None:
        """Return the high-water mark so far (UTC); None for a stream without a cursor."""
        has_cursor = self.stream.cursor is not None and not self.sync_run.is_part
        return self.sync_run.progress.high_water_mark if has_cursor else None

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

    def _rare_numbers(self) -> dict[str, int]:
        """Return what most syncs have none of; the UI would plot a line at zero."""
        stats, requests = self.sync_run.stats, self.connection.client.stats
        return {
            "rate_limited": requests.rate_limited,
            "received_bytes": requests.received_bytes,
            "commits": stats.commits,
            "quarantined": stats.records_quarantined,
            "deleted": stats.rows_marked_deleted if self.stream.has_soft_deletes else 0,
            "versions_written": stats.versions_written,
            "vanished": self.sync_run.missing_parents,
            "unanswered": sum(self.sync_run.unanswered_parents.values()),
        }

    def preview_metadata(self) -> dict[str, dg.TableMetadataValue]:
        """Return a few rows that were read; if none were, those of the sync before."""
        preview = build_preview(self.sync_run.preview) or self.last.preview
        return {} if preview is None else {PREVIEW_METADATA_KEY: preview}

    def metadata(self) -> AssetMetadata:
        """Return the metadata that the contract promises of a materialization, as of now."""
        stats, requests = self.sync_run.stats, self.connection.client.stats
        numbers: dict[str, int | float] = {
            "records_read": stats.records_read,
            "rows_written": stats.rows_written,
            "requests": requests.requests,
            "retries": requests.retries,
            "throttled_seconds": round(requests.throttled_seconds, 3),
            **waiting_numbers(requests.throttled_seconds),
            **{name: number for name, number in self._rare_numbers().items() if number},
            **self.connection.client.clock_skew.skew_metadata(),
        }
        metadata = sync_metadata(
            self.stream,
            mode=self.options.mode.value,
            cursor=self.high_water_mark,
            numbers=numbers,
            row_count=stats.rows_total,
        )
        metadata[LAKE_METADATA_KEY] = self.lake_location
        if self.sync_run.full_read_reason:
            metadata["klaviyo/full_read"] = self.sync_run.full_read_reason
        if self.late_events_warning is not None:
            metadata["klaviyo/late_events"] = self.late_events_warning
        if stats.quarantine_reasons:
            metadata["klaviyo/quarantine_reasons"] = dg.MetadataValue.json(
                dict(stats.quarantine_reasons)
            )
        if stats.notices:
            metadata["klaviyo/notices"] = dg.MetadataValue.json(sorted(stats.notices))
        return metadata


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


_PUBLISH_INTERVAL = timedelta(minutes=1)
"""How often a long sync publishes its commits to DuckDB.

It must be well below the time for which retired files are kept: until then the published views
still read them.
"""


class LakeIOManager(dg.ConfigurableIOManager):
    """Stores the syncs of stream assets; loads a `DataFrame`, `pyarrow.Table` or a relation."""

    lake: dg.ResourceDependency[LakeResource]

    def handle_output(self, context: dg.OutputContext, obj: SyncOutput) -> None:
        """Run the sync to its end, commit by commit, and publish it to DuckDB.

        Raises:
            dg.Failure: the sync failed. What was committed before stays.
        """
        step_end = self._build_step_end(context, obj)
        try:
            with step_end.recording_failures(), raise_as_failures(obj.stream.name):
                self._write_output(obj, context.log.warning)
                lateness = first_seen_metadata(obj, self.lake.lake())
        except BaseException:
            if obj.sync_run.is_done:
                # No materialization will follow and carry the cursor of the last commit.
                obj.observe_cursor()
            raise
        finally:
            obj.close()
        # The preview is what people look for: below thirty numbers nobody finds it.
        metadata = {
            **obj.preview_metadata(),
            **obj.metadata(),
            **self._row_count_metadata(obj),
            **lateness,
        }
        context.add_output_metadata(metadata)
        step_end.record_success()
        reach_crash_point("after writing an output")

    def _build_step_end(self, context: dg.OutputContext, sync_output: SyncOutput) -> StepEnd:
        retries = context.step_context.previous_attempt_count
        return StepEnd(
            stream=sync_output.stream,
            asset_key=sync_output.asset_key,
            run_id=context.step_context.run_id,
            lake=self.lake.lake,
            instance=context.step_context.instance,
            warn=context.log.warning,
            will_retry=retries < MAX_STEP_RETRIES,
        )

    def _write_output(self, sync_output: SyncOutput, warn: Callable[[str], None]) -> None:
        lake = self.lake.lake()
        publish_at = monotonic() + _PUBLISH_INTERVAL.total_seconds()
        for receipt in sync_output.sync_run.run(lake):
            reach_crash_point("before observing a commit")
            sync_output.log_commit(receipt)
            reach_crash_point("after observing a commit")
            if monotonic() >= publish_at:
                self.lake.publish(lake, warn=warn)
                publish_at = monotonic() + _PUBLISH_INTERVAL.total_seconds()
        for warning in sync_output.warnings():
            warn(warning)
        self.lake.publish(lake, warn=warn)
        lake.vacuum(sync_output.stream.name)

    def _row_count_metadata(self, sync_output: SyncOutput) -> dict[str, int]:
        """Return the row count of a detail stream's relation, which is that of its parent's table.

        The relation has the parent's rows and columns as well. Nothing for every other stream.
        """
        parent = base_stream_name(sync_output.stream)
        state = None if parent is None else self.lake.lake().read_table_state(parent)
        return {} if state is None else {ROW_COUNT_METADATA_KEY: state.rows}

    def load_input(
        self, context: dg.InputContext
    ) -> "pd.DataFrame | pa.Table | duckdb.DuckDBPyRelation":
        """Return the asset's relation in the type with which the input is annotated.

        Without an annotation it is a `pandas.DataFrame`. Times are UTC.

        Raises:
            dg.Failure: a table of the relation was never stored, or cannot be read.
        """
        upstream = context.upstream_output
        name = stream_name_of_asset(
            context.asset_key, upstream.definition_metadata if upstream else {}
        )
        with raise_as_failures(name):
            relation = self.lake.lake().query_relation(name)
        wanted = context.dagster_type.typing_type
        if wanted is pa.Table:
            return relation.to_arrow_table()
        if wanted is type(relation):
            return relation
        # Not DuckDB's own `df`: it uses what pandas 3 deprecates, and warns at every call.
        return relation.to_arrow_table().to_pandas()
