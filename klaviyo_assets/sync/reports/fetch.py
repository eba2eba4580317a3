"""Fetching report cells: what is wanted, asked for with the fewest requests, stored as it comes.

What belongs here: metric by metric, from wishes to commits, and what is left when the quota ends.
What does not: which questions (`walk`), answering them (`paying`), Dagster (`defs`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from klaviyo_assets.errors import IneligibleMetricError, QuotaError
from klaviyo_assets.lake import Fetched, Receipt, Table, TableState, table_of
from klaviyo_assets.model.report import Cell, Days
from klaviyo_assets.sync.reports.desk import (
    LEARNED,
    Background,
    ReportDesk,
    background_of,
    is_over_at,
    terms_of,
)
from klaviyo_assets.sync.reports.learned import learned_from_json
from klaviyo_assets.sync.reports.paying import Paying, Purse
from klaviyo_assets.sync.reports.walk import Finished, Wish, walk
from klaviyo_assets.sync.reports.zone import day_of
from klaviyo_assets.tables.reports import StoredRow, report_schema, rows_to_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Cells of one metric that are now in the lake.

    `rows` has the number of rows by day. `requests` is what their time frame has cost so far,
    `shared_by` for how many days wanted. `receipt` is that of their commit.
    """

    metric_id: str
    rows: Mapping[date, int]
    final: frozenset[date]
    fetched_at: datetime
    requests: int
    shared_by: int
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A metric that Klaviyo computes no report for; `on` is the day it said so."""

    metric_id: str
    on: date
    is_news: bool


class Fetch:
    """A fetch of some metrics' days, in the order given. Lazy: `outcomes` asks and stores.

    `left` has the days that are not stored yet, by metric; those of refused metrics are not in it.
    """

    def __init__(self, wishes: Sequence[Wish], *, desk: ReportDesk, purse: Purse) -> None:
        """Take the wishes; nothing is asked or read yet."""
        self.left = {wish.metric_id: set(wish.days) for wish in wishes}
        self.purse = purse
        self._wishes = wishes
        self._desk = desk
        self._table: Table = table_of(desk.stream, report_schema(desk.stream))

    def outcomes(self, bounds: Days, *, ask_refused: bool = False) -> Iterator[Stored | Refused]:
        """Yield what has been stored, commit by commit, and the metrics that Klaviyo refuses.

        Of refused metrics nothing is asked again unless `ask_refused`.

        Raises:
            QuotaError: the day's requests, or those of the run, are spent; what was yielded stands.
            KlaviyoAssetsError: as the client and the lake say; what was yielded stands.
        """
        desk = self._desk
        background = background_of(desk.stream, desk.report, desk.lake)
        terms = terms_of(desk.report, bounds, background, desk.calendar)
        refusals = Refusals(desk, self._table, asks_again=ask_refused)
        for wish in self._wishes:
            paying = Paying(
                desk, wish.metric_id, self.purse, refusals=refusals, background=background
            )
            try:
                # Closed at once, whatever ends the loop: others wait for what it holds.
                with closing(walk(wish, terms, paying)) as walked:
                    for finished in walked:
                        yield from self._stored(wish, finished, background)
            except IneligibleMetricError:
                del self.left[wish.metric_id]
                yield refusals.told(wish.metric_id)
            except QuotaError:
                self._keep(background)
                if any(self.left.values()):
                    raise
                # What is not placed now is for sibling runs, which will be told themselves.
                return

    def _stored(self, wish: Wish, finished: Finished, background: Background) -> Iterator[Stored]:
        desk, at = self._desk, finished.fetched_at
        for note in finished.notes:
            desk.say(note)
        # Klaviyo's own clock has the last word on which days are over.
        days = [day for day in finished.rows if is_over_at(day, at, desk.calendar)]
        if not days:
            self._keep(background)
            return
        cells = {
            Cell(wish.metric_id, day): Fetched(at, desk.calendar.is_final(day, at)) for day in days
        }
        rows = [
            StoredRow(
                cell=cell, row=each.row, is_final=fetched.is_final, fetched_at=each.fetched_at
            )
            for cell, fetched in cells.items()
            for each in finished.rows[cell.day]
        ]
        receipt = self._commit(cells, rows_to_batch(desk.stream, rows), background)
        self.left[wish.metric_id].difference_update(days)
        yield Stored(
            metric_id=wish.metric_id,
            rows={day: len(finished.rows[day]) for day in days},
            final=frozenset(cell.day for cell, fetched in cells.items() if fetched.is_final),
            fetched_at=at,
            requests=finished.requests,
            shared_by=finished.shared_by,
            receipt=receipt,
        )

    def _commit(
        self, cells: Mapping[Cell, Fetched], batch: pa.RecordBatch, background: Background
    ) -> Receipt:
        def state_of(known: TableState | None) -> Mapping[str, object]:
            learned = learned_from_json(known.state.get(LEARNED) if known is not None else None)
            learned.take(background.learned)
            return {LEARNED: learned.to_json()}

        return self._desk.lake.replace_cells(
            self._table,
            account=self._desk.account,
            cells=cells,
            batch=batch,
            state_of=state_of,
        )

    def _keep(self, background: Background) -> None:
        """Keep what was learned since the last commit: it was paid for."""
        if background.learned.units():
            self._commit({}, rows_to_batch(self._desk.stream, ()), background)


class Refusals:
    """The metrics that Klaviyo refuses for a report, as the lake has them."""

    def __init__(self, desk: ReportDesk, table: Table, *, asks_again: bool) -> None:
        """Read nothing yet; with `asks_again` what is known does not count."""
        self._desk = desk
        self._table = table
        self._asks_again = asks_again
        self._news: set[str] = set()

    def check(self, metric_id: str) -> None:
        """Refuse to ask for a metric that Klaviyo has refused before.

        Raises:
            IneligibleMetricError: it has.
        """
        if not self._asks_again and metric_id in self._known():
            raise IneligibleMetricError(f"Klaviyo has refused metric {metric_id!a} before")

    def note(self, metric_id: str) -> None:
        """Remember that Klaviyo has just refused a metric."""
        desk = self._desk
        on = day_of(desk.calendar.now, desk.calendar.zone)
        desk.lake.note_refused(self._table, account=desk.account, metric_id=metric_id, on=on)
        self._news.add(metric_id)

    def told(self, metric_id: str) -> Refused:
        """Return what is known of a refused metric."""
        today = day_of(self._desk.calendar.now, self._desk.calendar.zone)
        on = self._known().get(metric_id, today)
        return Refused(metric_id=metric_id, on=on, is_news=metric_id in self._news)

    def _known(self) -> Mapping[str, date]:
        return self._desk.lake.refused_metrics(self._desk.stream.name)
