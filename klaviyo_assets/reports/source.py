"""Answers report queries about one metric: from cached responses, else by a request to Klaviyo."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from klaviyo_assets.api.request_guard import Request, Response
from klaviyo_assets.api.requests import next_report_request, report_request
from klaviyo_assets.crash_points import reach_crash_point
from klaviyo_assets.decode.reports import (
    ReportPage,
    ReportRow,
    merge_renamed_rows,
    parse_report_page,
)
from klaviyo_assets.errors import (
    ContractError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    MalformedPageError,
    QuotaError,
    RepeatedPageError,
    format_quantity,
)
from klaviyo_assets.lake.response_cache import CachedResponse
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.reports.allocation_state import TimedRow
from klaviyo_assets.reports.bisect import ReportQuery
from klaviyo_assets.reports.context import ReportContext, StoredSendFacts, load_send_days
from klaviyo_assets.reports.failed_requests import (
    FailedMetric,
    FailedRequestStore,
    RefusedMetricStore,
)
from klaviyo_assets.reports.planner import CacheView, FetchTimes, PlannedQuery, ReportResult

RESPONSE_CACHE_LIFETIME = timedelta(hours=6)
"""How long an answer serves other runs: as long as the day's requests take, several times over."""


MAX_PAGES_WITHOUT_NEW_ROWS = 2
"""A page may be empty, or bring again what shifted; more in a row are no progress."""


@dataclass(slots=True)
class RequestBudget:
    """Requests that a run may still make; None: as many as the quota has."""

    limit: int | None = None
    spent: int = 0

    def spend(self) -> None:
        """Take one request out.

        Raises:
            QuotaError: the run has made all that it may.
        """
        if self.limit is not None and self.spent >= self.limit:
            raise QuotaError(f"this run has made the {self.spent} requests that it was given")
        self.spent += 1


@dataclass(frozen=True, slots=True)
class _FetchedPage:
    """One page: as it came, what it holds, and when it was answered, UTC."""

    body: bytes
    page: ReportPage
    responded_at: datetime


def fetch_times(cached: Iterable[CachedResponse]) -> FetchTimes:
    """Return the queries of cached responses, each with its fetch time."""
    return {ReportQuery(each.date_range, each.message_ids): each.fetched_at for each in cached}


class ReportSource:
    """Answers questions about one metric."""

    def __init__(  # noqa: PLR0913 - what it works with, each with a name
        self,
        context: ReportContext,
        metric_id: str,
        budget: RequestBudget,
        *,
        refused_metrics: RefusedMetricStore,
        failures: FailedRequestStore,
        send_facts: StoredSendFacts,
    ) -> None:
        """Take what it needs; nothing is asked yet."""
        self._refused_metrics = refused_metrics
        self._failures = failures
        self._send_facts = send_facts
        self._context = context
        self._metric_id = metric_id
        self._budget = budget
        self._spent_before = budget.spent
        self._response_cache = context.lake.response_cache(context.stream.name)
        self._fresh_since = context.calendar.now - RESPONSE_CACHE_LIFETIME

    @contextmanager
    def lock_allocation(self) -> Generator[None]:
        """Keep all other runs from placing totals of the report; begin with what they learned.

        A series tells the days itself: nobody is kept from asking for it.
        """
        if self._context.report.interval is not None:
            yield
            return
        with self._response_cache.lock_allocation(warn=self._context.warn):
            self._send_facts.send_days.merge(
                load_send_days(self._context.stream.name, self._context.lake)
            )
            yield

    def record_unusable(self, error: KlaviyoAssetsError) -> FailedMetric | None:
        """Return the failures of the metric that count, that which ended its questions included."""
        if self._budget.spent > self._spent_before:
            self._failures.record_unusable(self._metric_id, error)
        return self._failures.failed_metric(self._metric_id)

    def fetch(
        self, choose_query: Callable[[CacheView], PlannedQuery]
    ) -> tuple[PlannedQuery, ReportResult]:
        """Return an answer to what is chosen in view of what was paid for, and what was chosen.

        Raises:
            IneligibleMetricError: Klaviyo refuses the metric, or is known to.
            ReportFailedError: too many requests about it failed within a day.
            KlaviyoAssetsError: as the client says; QuotaError, too, where the run's part is spent.
        """
        with self._response_cache.lock_metric(self._metric_id, warn=self._context.warn):
            cached = self._response_cache.complete_responses(
                self._metric_id, fresh_since=self._fresh_since
            )
            cache = CacheView(
                fetch_times(cached),
                self._response_cache.recent_timeframes(max_age=RESPONSE_CACHE_LIFETIME),
            )
            planned = choose_query(cache)
            for each in cached:
                is_later = each.fetched_at > planned.newer_than
                if is_later and each.can_answer(
                    planned.query.date_range, planned.query.message_ids
                ):
                    return planned, self._load_cached_result(each)
            self._refused_metrics.check(self._metric_id)
            since = max(self._fresh_since, planned.newer_than)
            try:
                return planned, self._fetch_result(planned.query, fresh_since=since)
            except IneligibleMetricError as error:
                # Noted before another run may ask.
                self._refused_metrics.record(self._metric_id, error)
                raise

    def cached_results(
        self, planned: PlannedQuery
    ) -> Iterator[tuple[ReportQuery, Sequence[TimedRow]]]:
        """Yield the answers kept about parts of a turn's time frame that will do for it."""
        for each in self._response_cache.complete_responses(
            self._metric_id, fresh_since=self._fresh_since
        ):
            is_part = each.date_range != planned.query.date_range or each.message_ids
            is_inside = each.date_range.is_within(planned.query.date_range)
            if is_part and is_inside and each.fetched_at > planned.newer_than:
                yield (
                    ReportQuery(each.date_range, each.message_ids),
                    self._load_cached_result(each).rows,
                )

    def _load_cached_result(self, cached: CachedResponse) -> ReportResult:
        pages = [self._parse_page(body) for body in cached.decompress_pages()]
        return _build_result(pages, self._context.report, cached.fetched_at, requests=0)

    def _fetch_result(self, query: ReportQuery, *, fresh_since: datetime) -> ReportResult:
        """Ask Klaviyo page by page, and keep each; go on where a killed run ended.

        Raises:
            MalformedPageError: a series leaves out a day that was asked for.
        """
        read = self._load_partial_result(query, fresh_since)
        request: Request | None = self._build_request(query)
        seen: set[str] = set()
        for each in read:
            request = _next_request(request, each, seen)
        before = len(read)
        while request is not None:
            found, request = self._fetch_page(query, request, read, seen)
            read.append(found)
            reach_crash_point("before caching a response")
            self._response_cache.store_response(
                self._metric_id,
                query.date_range,
                query.message_ids,
                fetched_at=read[0].responded_at,
                pages=[each.body for each in read],
                is_complete=request is None,
            )
            reach_crash_point("after caching a response")
        self._failures.forget(self._metric_id, query)
        pages = [each.page for each in read]
        return _build_result(
            pages, self._context.report, read[0].responded_at, requests=len(read) - before
        )

    def _fetch_page(
        self,
        query: ReportQuery,
        request: Request,
        previous_pages: Sequence[_FetchedPage],
        seen_cursors: set[str],
    ) -> tuple[_FetchedPage, Request | None]:
        """Return the page after those `previous_pages`, and the request for the next.

        What was paid in vain is remembered.

        Raises:
            ReportFailedError: too many requests about the metric failed within a day.
        """
        note = partial(self._failures.record, self._metric_id, query)
        policy = self._failures.retry_policy(self._metric_id)
        reach_crash_point("before requesting a report")
        self._budget.spend()
        found = self._context.client.fetch(
            request,
            self._parse_response,
            stream=self._context.stream.name,
            retry_policy=policy,
            on_failure=note,
        )
        try:
            self._refuse_missing_days(query, found.page)
            refuse_repeated_pages([each.page for each in (*previous_pages, found)])
            following = _next_request(request, found, seen_cursors)
        except ContractError as error:
            note(error)
            raise
        self._quarantine_results(found.page)
        return found, following

    def _quarantine_results(self, page: ReportPage) -> None:
        """Keep and tell of results that belong to no message; all others are stored."""
        if not page.quarantined:
            return
        name = self._context.stream.name
        self._context.lake.quarantine_records(
            name, [(each.reason, each.record) for each in page.quarantined]
        )
        reasons = "; ".join(sorted({each.reason for each in page.quarantined}))
        self._context.warn(
            f"{name}: {format_quantity(len(page.quarantined), 'result')} of metric "
            f"{self._metric_id!a} could not be stored ({reasons}); they are in "
            f"lake/_quarantine/{name}, and are requested again with their days"
        )

    def _refuse_missing_days(self, query: ReportQuery, page: ReportPage) -> None:
        """Refuse a series that tells of some of the days alone; one of none at all is empty."""
        is_whole = self._context.report.interval is None or set(query.date_range) <= set(page.days)
        if not is_whole and not page.is_empty:
            raise MalformedPageError(
                f"the series has not all days from {query.date_range.first} to "
                f"{query.date_range.last}; "
                "nothing of it is stored",
                stream=self._context.stream.name,
            )

    def _build_request(self, query: ReportQuery) -> Request:
        return report_request(
            self._context.report,
            stream=self._context.stream,
            metric_id=self._metric_id,
            days=query.date_range,
            message_ids=query.message_ids,
            base_url=self._context.base_url,
        )

    def _load_partial_result(self, query: ReportQuery, fresh_since: datetime) -> list[_FetchedPage]:
        found = self._response_cache.find_partial_response(
            self._metric_id, query.date_range, query.message_ids, fresh_since=fresh_since
        )
        if found is None:
            return []
        return [
            _FetchedPage(body, self._parse_page(body), found.fetched_at)
            for body in found.decompress_pages()
        ]

    def _parse_response(self, response: Response) -> _FetchedPage:
        return _FetchedPage(response.body, self._parse_page(response.body), response.responded_at)

    def _parse_page(self, body: bytes) -> ReportPage:
        return parse_report_page(body, self._context.report)


def refuse_repeated_pages(pages: Sequence[ReportPage]) -> None:
    """Refuse an answer whose last pages bring nothing new: each costs a request of the day.

    Raises:
        RepeatedPageError: so many pages in a row bring no row that was not there before.
    """
    news = pages[-MAX_PAGES_WITHOUT_NEW_ROWS:]
    if len(pages) <= MAX_PAGES_WITHOUT_NEW_ROWS:
        return
    known = {row_identity(row) for page in pages[:-MAX_PAGES_WITHOUT_NEW_ROWS] for row in page.rows}
    if all(row_identity(row) in known for page in news for row in page.rows):
        raise RepeatedPageError(
            f"{len(news)} pages in a row bring no row that was not there before, after "
            f"{len(pages) - len(news)} pages: paging does not end. Tell Klaviyo's support if it "
            "stays so."
        )


def row_identity(row: ReportRow) -> tuple[object, ...]:
    """Return what a row of an answer is about."""
    return (row.day, *sorted(row.groupings.items()))


def _next_request(request: Request | None, page: _FetchedPage, seen: set[str]) -> Request | None:
    if request is None:
        return None
    link, page_cursor = page.page.next_link, page.page.page_cursor
    return next_report_request(request, link=link, page_cursor=page_cursor, seen_urls=seen)


def _build_result(
    pages: Sequence[ReportPage], report: ReportEndpoint, fetched_at: datetime, *, requests: int
) -> ReportResult:
    rows = merge_renamed_rows([row for page in pages for row in page.rows], report)
    timed = [TimedRow(row, fetched_at) for row in rows]
    return ReportResult(rows=timed, fetched_at=fetched_at, requests=requests)
