"""Fetching report cells: what is wanted, asked for with the fewest requests, stored as it comes.

What belongs here: metric by metric, from wishes to commits, and what is left when the quota ends.
What does not: which questions (`walk`), answering them (`paying`), Dagster (`defs`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, datetime

import pyarrow as pa

from klaviyo_assets.errors import (
    AccessDeniedError,
    ContractError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    QuotaError,
    ReportFailedError,
    RevisionRetiredError,
    TransientError,
)
from klaviyo_assets.lake import Fetched, MetricRefusal, Receipt, Table, TableState, table_of
from klaviyo_assets.model.report import Cell, Days
from klaviyo_assets.sync.reports.desk import (
    LEARNED,
    Background,
    ReportDesk,
    background_of,
    is_over_at,
    terms_of,
)
from klaviyo_assets.sync.reports.failing import FailedMetric, FailureMemory, is_paid_in_vain
from klaviyo_assets.sync.reports.learned import learned_from_json
from klaviyo_assets.sync.reports.metric_requests import custom_metrics
from klaviyo_assets.sync.reports.metrics import stored_metrics
from klaviyo_assets.sync.reports.paying import Paying, Purse
from klaviyo_assets.sync.reports.walk import Finished, Wish, walk
from klaviyo_assets.sync.reports.zone import day_of
from klaviyo_assets.sync.reports.zone_changes import ZONES, eras_to_json
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
    """A metric that Klaviyo makes no report with, and the days wanted of it that it has not made.

    `rows` has how many rows of a day are stored all the same, from a time when it did, and
    `rows_total` how many the table has. `requests` were spent now to learn it: 0 if it was known.
    """

    metric_id: str
    refusal: MetricRefusal
    rows: Mapping[date, int]
    rows_total: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A metric whose report is not answered, or not so that it can be used.

    `days` are those wanted of it that are not stored, `failed` its requests that failed of late.
    """

    metric_id: str
    days: frozenset[date]
    error: KlaviyoAssetsError
    failed: FailedMetric | None


Outcome = Stored | Refused | Broken
"""What becomes of a metric: each is told as it happens, and the next metric's turn comes."""


class Fetch:
    """A fetch of some metrics' days, in the order given. Lazy: `outcomes` asks and stores.

    `left` has the days that are not stored yet, by metric; those of metrics that were refused, or
    whose answer was broken, are not in it.
    """

    def __init__(self, wishes: Sequence[Wish], *, desk: ReportDesk, purse: Purse) -> None:
        """Take the wishes; nothing is asked or read yet."""
        self.left = {wish.metric_id: set(wish.days) for wish in wishes}
        self.purse = purse
        self._wishes = wishes
        self._desk = desk
        self._table: Table = table_of(desk.stream, report_schema(desk.stream))

    def outcomes(self, bounds: Days, *, ask_refused: bool = False) -> Iterator[Outcome]:
        """Yield what has been stored, commit by commit, and the metrics that come to nothing.

        Of refused metrics, and of those that failed too often within a day, nothing is asked again
        unless `ask_refused`. A metric that fails is left; the others go on.

        Raises:
            QuotaError: the day's requests, or those of the run, are spent; what was yielded stands.
            KlaviyoAssetsError: as the client and the lake say; what was yielded stands.
        """
        desk = self._desk
        background = background_of(desk.stream, desk.report, desk.lake)
        terms = terms_of(desk.report, bounds, background, desk.calendar)
        refusals = Refusals(desk, self._table, asks_again=ask_refused)
        failures = FailureMemory(desk, asks_again=ask_refused)
        for wish in self._wishes:
            paying = Paying(
                desk,
                wish.metric_id,
                self.purse,
                refusals=refusals,
                failures=failures,
                background=background,
            )
            try:
                # Closed at once, whatever ends the loop: others wait for what it holds.
                with closing(walk(wish, terms, paying)) as walked:
                    for finished in walked:
                        yield from self._stored(wish, finished, background)
            except IneligibleMetricError:
                yield refusals.outcome(wish.metric_id, self._given_up(wish, bounds))
            except QuotaError:
                self._keep(background)
                if any(self.left.values()):
                    raise
                # What is not placed now is for sibling runs, which will be told themselves.
                return
            except KlaviyoAssetsError as error:
                if not is_of_one_metric(error):
                    raise
                self._keep(background)
                days = self._given_up(wish, bounds)
                failed = paying.failed_after(error)
                yield Broken(metric_id=wish.metric_id, days=days, error=error, failed=failed)

    def _given_up(self, wish: Wish, bounds: Days) -> frozenset[date]:
        """Take the days out of what is left that were asked for in vain, and return them."""
        days = frozenset(day for day in self.left[wish.metric_id] if day in bounds)
        self.left[wish.metric_id] -= days
        return days

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
            zones = eras_to_json(known.state if known is not None else {}, self._desk.calendar)
            return {LEARNED: learned.to_json(), ZONES: zones}

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


def is_of_one_metric(error: KlaviyoAssetsError) -> bool:
    """Tell whether an error says something of one metric's report alone, so that others go on.

    Not what holds for every request: a limit that is spent, a network that is gone, an account
    that is refused, a revision that has ended.
    """
    if isinstance(error, RevisionRetiredError | AccessDeniedError):
        return False
    return isinstance(error, ContractError | ReportFailedError) or is_paid_in_vain(error)


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

    def note(self, metric_id: str, error: IneligibleMetricError) -> None:
        """Remember that Klaviyo has just refused a metric, its words, and whether there is one."""
        desk = self._desk
        refusal = MetricRefusal(
            on=day_of(desk.calendar.now, desk.calendar.zone),
            reason=error.detail or error.code or "",
            is_known=self._is_listed(metric_id) or self._is_custom(metric_id),
        )
        desk.lake.note_refused(
            self._table, account=desk.account, metric_id=metric_id, refusal=refusal
        )
        self._news.add(metric_id)

    def outcome(self, metric_id: str, days: Collection[date]) -> Refused:
        """Return what is known of a refused metric, and of the days wanted of it."""
        lake, name = self._desk.lake, self._desk.stream.name
        refusal = self._known()[metric_id]
        if not refusal.is_known and self._is_listed(metric_id):
            refusal = replace(refusal, is_known=True)
        facts = lake.cell_facts(name)
        stored = {day: facts.get(Cell(metric_id, day)) for day in sorted(days)}
        rows = {day: each.rows if each is not None else 0 for day, each in stored.items()}
        state = lake.state(name)
        return Refused(
            metric_id=metric_id,
            refusal=refusal,
            rows=rows,
            rows_total=state.rows if state is not None else 0,
            requests=int(metric_id in self._news),
        )

    def _known(self) -> Mapping[str, MetricRefusal]:
        return self._desk.lake.refused_metrics(self._desk.stream.name)

    def _is_listed(self, metric_id: str) -> bool:
        return any(metric.id == metric_id for metric in stored_metrics(self._desk.lake))

    def _is_custom(self, metric_id: str) -> bool:
        """Return whether it is a custom metric, which no table has; False where nobody tells."""
        try:
            found = custom_metrics(self._desk.client, self._desk.base_url)
        except TransientError as error:
            self._desk.say(f"whether {metric_id!a} is a custom metric cannot be told: {error}")
            found = None
        return any(metric.id == metric_id for metric in found or ())
