"""One sync of one stream: pages in, commits out, a receipt for each.

What belongs here: when to commit, and what a commit may claim. What does not: reading windows
(`pool`), requests per parent record (`details`), files (`lake`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Protocol

import pyarrow as pa

from klaviyo_assets.errors import (
    KlaviyoAssetsError,
    LakeConflictError,
    QuarantineError,
    ShrinkError,
)
from klaviyo_assets.lake import Lake, Noticed, Rebase, Receipt, Session, Sweep, Table
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.sync.manner import Manner, opened
from klaviyo_assets.sync.memory import give_free_blocks_back
from klaviyo_assets.sync.progress import (
    RETRIES,
    Progress,
    mark_from_json,
    slices_from_json,
)
from klaviyo_assets.sync.quarantine_retries import retries_from_json
from klaviyo_assets.sync.walk import SETTLED, Piece
from klaviyo_assets.tables.decode import Page

COMMIT_BYTES = 192 * 1024 * 1024
"""Rows read before a commit, in Arrow bytes: a hundred pages of events, two seconds of reading.

The session holds fewer in memory. Readers wait while files go to the disk, and each commit adds a
small file to a table without partitions, which is merged again and again. MiB at the peak for
200,000 and 1,000,000 events, and records a second (profiles, and events at 150 ms a page), medians
of three to six runs in turn, the speeds by that of the start beside each:

    128 MiB    337    367 (+ 9 %)    13,200    40,700
    192 MiB    335    361 (+ 8 %)
    256 MiB    323    361 (+ 12 %)   14,600    43,100

50,000 profiles and 200,000 events take as many commits with 192 MiB as with 256.
"""

GIVE_BACK_BYTES = 16 * 1024 * 1024
"""Rows handed to the lake, in Arrow bytes, after which free memory goes back to the system.

As much as the lake stages at a time: then most of it has just been written and is free.
"""

COMMIT_SECONDS = 60.0
"""Longest time between commits: what a kill may cost."""

QUARANTINE_SHARE = 0.01
QUARANTINE_COUNT = 100
"""Share and number of records put aside that, where both are exceeded, fail a sync at its end.

A share alone, judged on the few records of an hour, would fail a stream for two of them.
"""


class Items(Protocol):
    """What brings the pieces: a pool of windows, or a fan-out over parent records."""

    @property
    def vanished(self) -> int:
        """Return how many parent records were gone when they were asked about, so far."""
        ...

    @property
    def last_round_at(self) -> datetime | None:
        """Return when the last of several readings began, UTC; None where there is one."""
        ...

    @property
    def unanswered(self) -> Mapping[str, int]:
        """Return how many parent records Klaviyo gave no answer about so far, by the reason."""
        ...

    def items(self) -> Iterator[Piece | Slice]:
        """Yield pieces, and each slice once when it has been read to its end."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


@dataclass(slots=True)
class Tally:
    """What one sync has read and written so far."""

    records_read: int = 0
    rows_written: int = 0
    rows_total: int = 0
    deleted: int = 0
    """Rows that were marked as deleted."""
    lost: int = 0
    """Rows of damaged files, of which nobody can tell whether they would have stayed."""
    quarantined: int = 0
    taken_over: int = 0
    """Rows that other runs committed while everything was read."""
    reasons: Counter[str] = field(default_factory=Counter[str])
    """Why records were put aside, and how many for each reason."""
    commits: int = 0
    is_disordered: bool = False
    """Whether pages came out of the order that was asked for."""
    notices: set[str] = field(default_factory=set[str])


class Pull:
    """A sync under way. Lazy: `receipts` reads and writes, one commit a step."""

    def __init__(
        self,
        *,
        table: Table,
        read: Callable[[], Items],
        manner: Manner,
        progress: Progress,
        state: Callable[[Progress], dict[str, object]],
    ) -> None:
        """Take the parts, and begin to read.

        `read` begins a read of everything that is wanted, each time anew; `state` gives the JSON
        object that each commit carries.
        """
        self.table = table
        self.progress = deepcopy(progress)
        self.is_done = False
        """Whether everything was read and is committed: the receipt just given is the last."""
        self.version_before = manner.version
        self.tally = Tally()
        self._read = read
        self._manner = manner
        self._state = state
        self._before = progress
        self._items = read()
        self._stream = self._items.items()
        self._is_second = False
        self._first: list[Piece | Slice] = []
        self._failure: KlaviyoAssetsError | None = None
        self._uncommitted_bytes = 0
        self._unreturned_bytes = 0
        self._ended: set[str] = set()
        self._began: datetime | None = None

    @property
    def vanished(self) -> int:
        """Return how many parent records were gone when they were asked about, so far."""
        return self._items.vanished

    @property
    def unanswered(self) -> Mapping[str, int]:
        """Return how many parent records Klaviyo gave no answer about so far, by the reason."""
        return self._items.unanswered

    @property
    def asks_again(self) -> bool:
        """Return whether later syncs ask again for what could not be stored."""
        is_swept = self._manner.moves_mark and self._manner.replaces
        return is_swept or bool(self.progress.retries.windows)

    def prime(self) -> None:
        """Wait for the first answer, so that a refusal shows before anything is written.

        Raises:
            KlaviyoAssetsError: as the client and the decoder say.
        """
        first = next(self._stream, None)
        if first is not None:
            self._first.append(first)

    def close(self) -> None:
        """Stop reading; what was committed stays."""
        self._items.close()
        self._manner.hang_up()

    def receipts(self, lake: Lake) -> Iterator[Receipt]:
        """Read everything and write it; yield after each commit.

        What was read before a failure is committed first, but for a full refresh, which shows only
        whole. One that would take away much of the table is read a second time before it is
        believed. Closing the iterator stops the readers.

        Raises:
            KlaviyoAssetsError: what stopped the sync.
        """
        try:
            try:
                yield from self._written(lake)
            except ShrinkError as first:
                self._begin_again(first, lake)
                yield from self._confirmed(lake)
        finally:
            self.close()

    def _written(self, lake: Lake) -> Iterator[Receipt]:
        with opened(self.table, lake, self._manner) as session:
            self._refuse_race(lake)
            yield from self._write(session)

    def _confirmed(self, lake: Lake) -> Iterator[Receipt]:
        """Write what a second read brings, as far as it is believed.

        Raises:
            ShrinkError: it says the same as the first, and nobody has confirmed it.
        """
        try:
            yield from self._written(lake)
        except ShrinkError as second:
            second.message = refused_shrink(second, self._manner)
            raise

    def _begin_again(self, first: ShrinkError, lake: Lake) -> None:
        """Forget what was read, and read everything once more.

        An id scan is planned by the ids of a version: from now on by that which there is now.
        """
        if not self._manner.replaces:
            now = lake.state(self.table.name)
            self._manner = replace(self._manner, version=None if now is None else now.version)
        self._manner.say(
            f"{self.table.name}: only {first.rows_now:,} of {first.rows_before:,} rows are still "
            "there by what was read; it is read a second time before that is believed"
        )
        self._items.close()
        self.progress, self.tally = deepcopy(self._before), Tally()
        self._first, self._ended, self._began = [], set(), None
        self._uncommitted_bytes = self._unreturned_bytes = 0
        self._is_second = True
        self._items = self._read()
        self._stream = self._items.items()

    def _refuse_race(self, lake: Lake) -> None:
        """Refuse to write by a plan that another run has overtaken.

        A replacement of what there was is no such plan: it goes on from what others committed.
        """
        if self._manner.replaces and self._manner.version is not None:
            return
        now = lake.state(self.table.name)
        if (now.version if now is not None else None) != self._manner.version:
            raise LakeConflictError(
                "another run committed to this table meanwhile; nothing of this run was written, "
                "run it again to go on from there",
                stream=self.table.name,
            )

    def _write(self, session: Session | Sweep) -> Iterator[Receipt]:
        """Write what the readers bring; their failure comes after a commit of what came before it.

        A failure of the session itself is raised as it is, without another commit: rows that it
        may have dropped are claimed by the progress already.
        """
        due = monotonic() + COMMIT_SECONDS
        while (item := self._next()) is not None:
            self._take(session, item)
            is_due = self._uncommitted_bytes >= COMMIT_BYTES or monotonic() >= due
            if is_due and not self._manner.is_all_or_nothing:
                yield self._commit(session, is_last=False)
                due = monotonic() + COMMIT_SECONDS
        if self._failure is None:
            broken = self._too_many_broken()
            if (
                broken is not None
                and self._manner.is_all_or_nothing
                and self._manner.version is not None
            ):
                # What the table holds is worth more than a replacement with holes.
                raise broken
            receipt = self._commit(session)
            self.is_done = broken is None
            yield receipt
            if broken is not None:
                raise broken
            return
        if not self._manner.is_all_or_nothing and self.tally.records_read:
            yield self._commit(session)
        raise self._failure

    def _next(self) -> Piece | Slice | None:
        """Return what the readers bring next; None at their end, or once one of them has failed."""
        if self._first:
            return self._first.pop(0)
        try:
            return next(self._stream, None)
        except KlaviyoAssetsError as failure:
            self._failure = failure
            return None

    def _take(self, session: Session | Sweep, item: Piece | Slice) -> None:
        if isinstance(item, Slice):
            self._ended.add(item.name)
            if self._manner.moves_mark:
                self.progress.finish(item.name)
            return
        self._began = item.at if self._began is None else min(self._began, item.at)
        self._count(session, item.page)
        batch: pa.RecordBatch = item.batch
        if batch.num_rows:
            session.add(batch)
            size = batch.get_total_buffer_size()
            self._uncommitted_bytes += size
            self._unreturned_bytes += size
        if self._manner.tunes_process and self._unreturned_bytes >= GIVE_BACK_BYTES:
            give_free_blocks_back()
            self._unreturned_bytes = 0
        read, unread = item.claims()
        self.tally.is_disordered |= unread is not None
        if self._manner.moves_mark:
            self.progress.note(item.slice.name, read, item.highest, unread)
            if item.suspect is not None:
                again, now = self.progress.retries, self._manner.started_at
                again.note(item.slice.name, item.suspect, now)

    def _count(self, session: Session | Sweep, page: Page) -> None:
        self.tally.records_read += page.records
        self.tally.notices.update(page.notices)
        if not page.quarantined:
            return
        self.tally.quarantined += len(page.quarantined)
        self.tally.reasons.update(each.reason for each in page.quarantined)
        session.quarantine((each.reason, each.record) for each in page.quarantined)

    def _too_many_broken(self) -> QuarantineError | None:
        """Return the failure of a sync that has put many records aside, of many and by share."""
        put_aside, read = self.tally.quarantined, self.tally.records_read
        if put_aside <= max(QUARANTINE_COUNT, read * QUARANTINE_SHARE):
            return None
        return QuarantineError(
            f"{put_aside} of {read} records cannot be stored, more than {QUARANTINE_COUNT} and "
            f"more than 1 % ({'; '.join(sorted(self.tally.reasons))}); they lie in "
            f"lake/_quarantine/{self.table.name} with the reason, and later runs ask for them "
            "again. Tell the developers of klaviyo_assets, or Klaviyo's support, if it stays so",
            stream=self.table.name,
        )

    def _commit(self, session: Session | Sweep, *, is_last: bool = True) -> Receipt:
        state, noticed = self._state(self.progress), self._noticed()
        guard = self._manner.guard(is_second=self._is_second)
        if isinstance(session, Session):
            rebase = self._rebase() if self._manner.replaces else None
            receipt = session.commit(state, noticed, rebase, is_last=is_last, guard=guard)
        else:
            receipt = session.commit(state, noticed, guard)
        self._uncommitted_bytes = 0
        self.progress.shown = self.progress.mark
        self.tally.commits += 1
        self.tally.rows_written += receipt.rows_written
        self.tally.deleted += receipt.deleted
        self.tally.lost += receipt.lost
        self.tally.taken_over += receipt.taken_over
        self.tally.rows_total = receipt.rows_total
        return receipt

    def _noticed(self) -> Noticed | None:
        """Return what a whole read says of rows that it did not bring; None where they leave.

        One that put records aside, or left a slice out, has not seen all there is: it marks none.
        """
        if not self._manner.marks_deleted:
            return None
        is_whole = self._ended.issuperset(self.progress.active) and not self.tally.quarantined
        at, manner = self._began if is_whole else None, self._manner
        return Noticed(at=at, since=manner.since, hidden=manner.hidden)

    def _rebase(self) -> Rebase:
        """Return how to go on from what others committed while everything was read.

        What they read before the last round began, and it did not bring, is gone; what they read
        later, it may have missed.
        """
        began = self._began or self._manner.started_at
        last = self._items.last_round_at
        since = began if last is None else max(began, last - SETTLED)
        return Rebase(since=since, state_of=self._united, hidden=self._manner.hidden)

    def _united(self, theirs: Mapping[str, object]) -> dict[str, object]:
        """Return the state of a table that holds what was read here and what others read since.

        Where columns of their rows are emptied for a setting of privacy, what they read is asked
        for again: their state does not count.
        """
        if not self._manner.hidden:
            self.progress.unite(
                slices_from_json(theirs),
                mark_from_json(theirs),
                retries_from_json(theirs.get(RETRIES)),
            )
        return self._state(self.progress)


def refused_shrink(error: ShrinkError, manner: Manner) -> str:
    """Return what the operator is told of a read that was not believed, and how to confirm it."""
    missing = error.rows_before - error.rows_now
    done = "mark {} of {} rows as deleted" if manner.marks_deleted else "drop {} of {} rows"
    return (
        f"this read would {done.format(f'{missing:,}', f'{error.rows_before:,}')} (rows before: "
        f"{error.rows_before:,}, rows now: {error.rows_now:,}), more than the "
        f"{manner.shrink_limit:.0%} of KLAVIYO_SHRINK_LIMIT, and a second read of everything said "
        "the same. Nothing was dropped or marked. If it is true (many records were deleted at "
        "Klaviyo, or a setting such as KLAVIYO_EVENT_METRIC_IDS leaves them out), launch it once "
        "more with confirm_shrink: true in its run config; if not, run it again later"
    )
