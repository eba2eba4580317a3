"""A sync as it passes from an asset to the IO manager: lazy, and able to report.

What belongs here: the carrier, its log lines, its observations, its metadata. What does not: the
sync itself (`sync`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from klaviyo_assets.defs.metadata import Metadata, sync_metadata
from klaviyo_assets.defs.resources import Connection
from klaviyo_assets.defs.same_lake import LAKE
from klaviyo_assets.lake import Receipt
from klaviyo_assets.model.descriptions import widened_by
from klaviyo_assets.model.stream import WHOLE, Collection, Detail, Stream
from klaviyo_assets.sync.plan import Order
from klaviyo_assets.sync.pull import Pull
from klaviyo_assets.wording import quantity

LATE_EVENTS = "klaviyo/late_events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Syncing:
    """What a stream asset returns: nothing is written until the IO manager drains it."""

    stream: Stream
    asset_key: dg.AssetKey
    order: Order
    pull: Pull
    connection: Connection
    log: Callable[[str], None]
    observe: Callable[[dg.AssetObservation], None]
    lake: str
    """Which lake it writes, as text."""
    rows_before: int | None = None
    """Rows at the materialization before; None where there was none."""
    late_events: str | None = None
    """That nothing looks for late events; None where something does, and for other streams."""

    @property
    def mark(self) -> datetime | None:
        """Return the high-water mark so far, UTC."""
        return self.pull.progress.mark if self.stream.cursor is not None else None

    def close(self) -> None:
        """Stop reading, and close the connection; what was committed stays."""
        self.pull.close()
        self.connection.close()

    def report(self, receipt: Receipt) -> None:
        """Log a commit, and keep its mark, which outlives the run.

        Not that of the last one: the materialization that follows has it.
        """
        tally, mark = self.pull.tally, self.mark
        upto = f", complete up to {mark:%Y-%m-%d %H:%M:%S} UTC" if mark is not None else ""
        taken = f"; {quantity(receipt.taken_over, 'row')} that other runs stored meanwhile"
        meanwhile = f"{taken} were put beside them" if receipt.taken_over else ""
        repeats = tally.records_read - tally.rows_written - tally.quarantined
        again = f" ({repeats:,} came twice)" if repeats > 0 else ""
        self.log(
            f"{self.stream.name}: {quantity(tally.records_read, 'record')} read{again}, "
            f"{quantity(receipt.rows_total, 'row')} stored{upto}{meanwhile}; "
            f"{quantity(self.connection.client.counters.requests, 'request')}"
        )
        if not self.pull.is_done:
            self.keep_mark()

    def keep_mark(self) -> None:
        """Write the mark as an observation into the asset's metadata."""
        if self.mark is not None:
            self.observe(dg.AssetObservation(self.asset_key, metadata=self.metadata()))

    def remarks(self) -> Iterator[str]:
        """Yield what the operator should know of a sync that is over, a sentence each."""
        name, gone = self.stream.name, self.pull.vanished
        if self.pull.tally.is_disordered and self.stream.comes_in_order:
            yield (
                f"{name}: Klaviyo's pages were not in the order that was asked for; each window "
                "was read in one piece, and counts as read only because its paging came to its end"
            )
        if gone:
            total, parents = gone + self.pull.tally.records_read, widened_by(self.stream)
            yield f"{name}: {gone} of {total} {parents} were deleted since they were read, skipped"
        failed = sum(self.pull.unanswered.values())
        if failed:
            reasons = "; ".join(sorted(self.pull.unanswered))
            yield (
                f"{name}: Klaviyo gave no answer about {failed} of "
                f"{failed + gone + self.pull.tally.records_read} {widened_by(self.stream)} "
                f"({reasons}); the others are stored, and the next run asks about these again"
            )
        if self.pull.tally.quarantined:
            yield self._put_aside()
        if self.stream.marks_deleted and self.order.sweeps_ids and self.pull.tally.quarantined:
            yield f"{name}: ids came that cannot be read, so none that is missing was marked"
        if self.pull.tally.lost:
            yield (
                f"{name}: {quantity(self.pull.tally.lost, 'row')} lay in damaged files; what "
                "Klaviyo has of them was read again, what it had deleted is lost"
            )
        yield from self._unseen_metrics()

    def _unseen_metrics(self) -> Iterator[str]:
        source, progress, name = self.stream.source, self.pull.progress, self.stream.name
        if isinstance(source, Collection) and source.metric_filter:
            seen = {each for each, known in progress.slices.items() if known.highest is not None}
            for metric in sorted(set(progress.active) - seen - {WHOLE.name}):
                yield (
                    f"{name}: no event of {metric!r} was ever seen; check KLAVIYO_EVENT_METRIC_IDS "
                    "(Klaviyo's filter of events takes no custom metrics)"
                )

    def _put_aside(self) -> str:
        """Return what to say of records that could not be stored."""
        tally, name = self.pull.tally, self.stream.name
        again = "; later runs ask for them again" if self.pull.asks_again else ""
        return (
            f"{name}: {tally.quarantined:,} of {quantity(tally.records_read, 'record')} could not "
            f"be stored ({'; '.join(sorted(tally.reasons))}) and lie in lake/_quarantine/{name}"
            f"{again}"
        )

    def metadata(self) -> Metadata:
        """Return what the contract promises of a materialization, as of now."""
        tally, counters = self.pull.tally, self.connection.client.counters
        numbers: dict[str, int | float] = {
            "records_read": tally.records_read,
            "rows_written": tally.rows_written,
            "requests": counters.requests,
            "retries": counters.retries,
            "throttled_seconds": round(counters.throttled_seconds, 3),
            "rate_limited": counters.rate_limited,
            "received_bytes": counters.received_bytes,
            "commits": tally.commits,
            "quarantined": tally.quarantined,
            **self.connection.client.clocks.numbers(),
        }
        if self.stream.marks_deleted:
            numbers["deleted"] = tally.deleted
        if isinstance(self.stream.source, Detail):
            numbers["vanished"] = self.pull.vanished
            numbers["unanswered"] = sum(self.pull.unanswered.values())
        shown = sync_metadata(
            self.stream,
            mode=self.order.mode.value,
            mark=self.mark,
            numbers=numbers,
            row_count=tally.rows_total,
        )
        shown[LAKE] = self.lake
        if self.late_events is not None:
            shown[LATE_EVENTS] = self.late_events
        if tally.reasons:
            shown["klaviyo/quarantine_reasons"] = dg.MetadataValue.json(dict(tally.reasons))
        if tally.notices:
            shown["klaviyo/notices"] = dg.MetadataValue.json(sorted(tally.notices))
        return shown
