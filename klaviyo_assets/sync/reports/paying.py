"""Answers from Klaviyo, or from those that were paid for already.

What belongs here: one question answered, all its pages followed and kept. What does not: which
question (`walk`), how answers are kept (`lake`), the quota (`api/ledger.py`).
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.reports import following_report_request, report_request
from klaviyo_assets.errors import (
    ContractError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    MalformedPageError,
    QuotaError,
    RepeatedPageError,
)
from klaviyo_assets.lake import KeptAnswer
from klaviyo_assets.model.report import Report
from klaviyo_assets.sync.reports.asking import Answered, Kept, Turn, View
from klaviyo_assets.sync.reports.desk import Background, ReportDesk, stored_learned
from klaviyo_assets.sync.reports.failing import FailedMetric, FailureMemory
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.sync.reports.units import TimedRow
from klaviyo_assets.tables.report_answers import ReportPage, ReportRow, read_report
from klaviyo_assets.tables.report_names import with_one_name
from klaviyo_assets.wording import quantity

FRESH = timedelta(hours=6)
"""How long an answer serves other runs: as long as the day's requests take, several times over."""


MOST_PAGES_WITHOUT_NEWS = 2
"""A page may be empty, or bring again what shifted; more in a row are no progress."""


@dataclass(slots=True)
class Purse:
    """Requests that a run may still make; None: as many as the quota has."""

    left: int | None = None
    spent: int = 0

    def pay(self) -> None:
        """Take one request out.

        Raises:
            QuotaError: the run has made all that it may.
        """
        if self.left is not None and self.spent >= self.left:
            raise QuotaError(f"this run has made the {self.spent} requests that it was given")
        self.spent += 1


@dataclass(frozen=True, slots=True)
class _Read:
    """One page: as it came, what it holds, and when it was answered, UTC."""

    body: bytes
    page: ReportPage
    at: datetime


class Refusals(Protocol):
    """What is known of metrics that Klaviyo refuses."""

    def check(self, metric_id: str) -> None:
        """Raise IneligibleMetricError for a metric that is not to be asked for again."""
        ...

    def note(self, metric_id: str, error: IneligibleMetricError) -> None:
        """Remember that Klaviyo has just refused a metric, and its words."""
        ...


class Paying:
    """Answers questions about one metric."""

    def __init__(  # noqa: PLR0913 - what it works with, each with a name
        self,
        desk: ReportDesk,
        metric_id: str,
        purse: Purse,
        *,
        refusals: Refusals,
        failures: FailureMemory,
        background: Background,
    ) -> None:
        """Take what it needs; nothing is asked yet."""
        self._refusals = refusals
        self._failures = failures
        self._background = background
        self._desk = desk
        self._metric_id = metric_id
        self._purse = purse
        self._spent_before = purse.spent
        self._answers = desk.lake.answers(desk.stream.name)
        self._fresh_since = desk.calendar.now - FRESH

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep all other runs from placing totals of the report; begin with what they learned.

        A series tells the days itself: nobody is kept from asking for it.
        """
        if self._desk.report.interval is not None:
            yield
            return
        with self._answers.alone(say=self._desk.say):
            self._background.learned.take(stored_learned(self._desk.stream.name, self._desk.lake))
            yield

    def failed_after(self, error: KlaviyoAssetsError) -> FailedMetric | None:
        """Return the failures of the metric that count, that which ended its questions included."""
        if self._purse.spent > self._spent_before:
            self._failures.note_unusable(self._metric_id, error)
        return self._failures.known(self._metric_id)

    def ask(self, choose: Callable[[View], Turn]) -> tuple[Turn, Answered]:
        """Return an answer to what is chosen in view of what was paid for, and what was chosen.

        Raises:
            IneligibleMetricError: Klaviyo refuses the metric, or is known to.
            ReportFailedError: too many requests about it failed within a day.
            KlaviyoAssetsError: as the client says; QuotaError, too, where the run's part is spent.
        """
        with self._answers.lock(self._metric_id, say=self._desk.say):
            kept = self._answers.kept(self._metric_id, fresh_since=self._fresh_since)
            view = View(
                [Kept(each.days, each.fetched_at, each.message_ids) for each in kept],
                self._answers.frames(within=FRESH),
            )
            turn = choose(view)
            for each in kept:
                is_later = each.fetched_at > turn.newer_than
                if is_later and each.serves(turn.part.days, turn.part.message_ids):
                    return turn, self._again(each)
            self._refusals.check(self._metric_id)
            since = max(self._fresh_since, turn.newer_than)
            try:
                return turn, self._pay(turn.part, fresh_since=since)
            except IneligibleMetricError as error:
                # Noted before another run may ask.
                self._refusals.note(self._metric_id, error)
                raise

    def paid(self, turn: Turn) -> Iterator[tuple[Part, Sequence[TimedRow]]]:
        """Yield the answers kept about parts of a turn's time frame that will do for it."""
        for each in self._answers.kept(self._metric_id, fresh_since=self._fresh_since):
            is_part = each.days != turn.part.days or each.message_ids
            is_inside = each.days.first in turn.part.days and each.days.last in turn.part.days
            if is_part and is_inside and each.fetched_at > turn.newer_than:
                yield Part(each.days, each.message_ids), self._again(each).rows

    def _again(self, kept: KeptAnswer) -> Answered:
        pages = [self._page(body) for body in kept.pages()]
        return _answered(pages, self._desk.report, kept.fetched_at, requests=0)

    def _pay(self, part: Part, *, fresh_since: datetime) -> Answered:
        """Ask Klaviyo page by page, and keep each; go on where a killed run ended.

        Raises:
            MalformedPageError: a series leaves out a day that was asked for.
        """
        read = self._begun(part, fresh_since)
        request: Request | None = self._request(part)
        seen: set[str] = set()
        for each in read:
            request = _following(request, each, seen)
        before = len(read)
        while request is not None:
            found, request = self._paid_page(part, request, read, seen)
            read.append(found)
            self._answers.put(
                self._metric_id,
                part.days,
                part.message_ids,
                fetched_at=read[0].at,
                pages=[each.body for each in read],
                is_whole=request is None,
            )
        self._failures.take_back(self._metric_id, part)
        pages = [each.page for each in read]
        return _answered(pages, self._desk.report, read[0].at, requests=len(read) - before)

    def _paid_page(
        self, part: Part, request: Request, before: Sequence[_Read], seen: set[str]
    ) -> tuple[_Read, Request | None]:
        """Return the page after those `before`, and the request for the next.

        What was paid in vain is remembered.

        Raises:
            ReportFailedError: too many requests about the metric failed within a day.
        """
        note = partial(self._failures.note, self._metric_id, part)
        policy = self._failures.policy(self._metric_id)
        self._purse.pay()
        found = self._desk.client.read(
            request, self._read, stream=self._desk.stream.name, policy=policy, failed=note
        )
        try:
            self._refuse_missing_days(part, found.page)
            refuse_standstill([each.page for each in (*before, found)])
            following = _following(request, found, seen)
        except ContractError as error:
            note(error)
            raise
        self._put_aside(found.page)
        return found, following

    def _put_aside(self, page: ReportPage) -> None:
        """Keep and tell of results that belong to no message; all others are stored."""
        if not page.put_aside:
            return
        name = self._desk.stream.name
        self._desk.lake.quarantine(name, [(each.reason, each.record) for each in page.put_aside])
        reasons = "; ".join(sorted({each.reason for each in page.put_aside}))
        self._desk.say(
            f"{name}: {quantity(len(page.put_aside), 'result')} of metric {self._metric_id!a} "
            f"could not be stored ({reasons}); kept in lake/_quarantine/{name}, and asked for "
            "again when the days are fetched again"
        )

    def _refuse_missing_days(self, part: Part, page: ReportPage) -> None:
        """Refuse a series that tells of some of the days alone; one of none at all is empty."""
        is_whole = self._desk.report.interval is None or set(part.days) <= set(page.days)
        if not is_whole and not page.is_empty:
            raise MalformedPageError(
                f"the series has not all days from {part.days.first} to {part.days.last}; "
                "nothing of it is stored",
                stream=self._desk.stream.name,
            )

    def _request(self, part: Part) -> Request:
        return report_request(
            self._desk.report,
            stream=self._desk.stream,
            metric_id=self._metric_id,
            days=part.days,
            message_ids=part.message_ids,
            base_url=self._desk.base_url,
        )

    def _begun(self, part: Part, fresh_since: datetime) -> list[_Read]:
        found = self._answers.begun(
            self._metric_id, part.days, part.message_ids, fresh_since=fresh_since
        )
        if found is None:
            return []
        return [_Read(body, self._page(body), found.fetched_at) for body in found.pages()]

    def _read(self, answer: Answer) -> _Read:
        return _Read(answer.body, self._page(answer.body), answer.at)

    def _page(self, body: bytes) -> ReportPage:
        return read_report(body, self._desk.report)


def refuse_standstill(pages: Sequence[ReportPage]) -> None:
    """Refuse an answer whose last pages bring nothing new: each costs a request of the day.

    Raises:
        RepeatedPageError: so many pages in a row bring no row that was not there before.
    """
    news = pages[-MOST_PAGES_WITHOUT_NEWS:]
    if len(pages) <= MOST_PAGES_WITHOUT_NEWS:
        return
    known = {rows_told(row) for page in pages[:-MOST_PAGES_WITHOUT_NEWS] for row in page.rows}
    if all(rows_told(row) in known for page in news for row in page.rows):
        raise RepeatedPageError(
            f"{len(news)} pages in a row bring no row that was not there before, after "
            f"{len(pages) - len(news)} pages: paging does not end. Tell Klaviyo's support if it "
            "stays so."
        )


def rows_told(row: ReportRow) -> tuple[object, ...]:
    """Return what a row of an answer is about."""
    return (row.day, *sorted(row.groupings.items()))


def _following(request: Request | None, read: _Read, seen: set[str]) -> Request | None:
    if request is None:
        return None
    link, page_cursor = read.page.next_link, read.page.page_cursor
    return following_report_request(request, link=link, page_cursor=page_cursor, seen=seen)


def _answered(
    pages: Sequence[ReportPage], report: Report, fetched_at: datetime, *, requests: int
) -> Answered:
    rows = with_one_name([row for page in pages for row in page.rows], report)
    timed = [TimedRow(row, fetched_at) for row in rows]
    return Answered(rows=timed, fetched_at=fetched_at, requests=requests)
