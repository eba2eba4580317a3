"""Fetches report partitions: metric by metric, storing each day as soon as it is complete.

The queries of a metric are answered from cached responses, else by requests to Klaviyo.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial

import pyarrow as pa

from klaviyo_assets.api.messages import Request, Response
from klaviyo_assets.api.requests import (
    metric_aggregate_request,
    next_aggregate_request,
    next_report_request,
    report_request,
)
from klaviyo_assets.decode.reports import (
    ReportPage,
    ReportTableRow,
    merge_renamed_rows,
    parse_aggregate_page,
    parse_report_page,
    report_schema,
    rows_to_batch,
)
from klaviyo_assets.errors import (
    AccessDeniedError,
    ContractError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    MalformedPageError,
    QuotaError,
    RepeatedPageError,
    ReportFailedError,
    RevisionRetiredError,
    format_quantity,
)
from klaviyo_assets.lake.delta.state import TableState
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.lake.response_cache import CachedResponse
from klaviyo_assets.lake.write.report_partitions import PartitionFetch
from klaviyo_assets.lake.write.session import CommitReceipt
from klaviyo_assets.model.report import ONE_DAY, DateRange, ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.reports.bisect import ReportQuery, TimedRow
from klaviyo_assets.reports.calendar import ZONE_ERAS_KEY, day_end, zone_eras_to_json
from klaviyo_assets.reports.failed_requests import (
    FailedMetric,
    FailedRequestStore,
    RefusedMetric,
    RefusedMetricStore,
    ReportContext,
    is_wasted_request,
)
from klaviyo_assets.reports.planner import (
    CacheView,
    FetchTimes,
    FinishedDays,
    PartitionRequest,
    PlannedQuery,
    ReportResult,
    load_planner_inputs,
    resolve_days,
)
from klaviyo_assets.reports.send_schedule import (
    SEND_DAYS_KEY,
    SendDays,
    load_send_days,
    send_days_from_json,
)
from klaviyo_assets.seams import reach_crash_point

RESPONSE_CACHE_LIFETIME = timedelta(hours=6)
"""How long a response serves other runs: several times as long as a day's requests take."""

MAX_PAGES_WITHOUT_NEW_ROWS = 2
"""How many pages in a row may have no new row: a page may be empty, or repeat rows that moved."""


@dataclass(slots=True)
class RequestBudget:
    """How many requests a run may send (None: as many as the quota allows), and how many it has."""

    limit: int | None = None
    spent: int = 0

    def spend(self) -> None:
        """Count one request.

        Raises:
            QuotaError: the run has sent as many as it may.
        """
        if self.limit is not None and self.spent >= self.limit:
            raise QuotaError(f"this run has made the {self.spent} requests that it was given")
        self.spent += 1


@dataclass(frozen=True, slots=True)
class _FetchedPage:
    """A page of a response: its bytes, their content, and when Klaviyo sent it, UTC.

    `part`: the position of its request among the report's `parts`.
    """

    body: bytes
    page: ReportPage
    responded_at: datetime
    part: int = 0

    @property
    def next_part(self) -> int:
        """Return the part of the page that follows."""
        has_next_page = self.page.next_link or self.page.page_cursor
        return self.part if has_next_page else self.part + 1


def fetch_times(cached: Iterable[CachedResponse]) -> FetchTimes:
    """Return the queries of cached responses, each with its fetch time."""
    return {ReportQuery(each.date_range, each.message_ids): each.fetched_at for each in cached}


class ReportSource:
    """Answers the queries of one metric."""

    def __init__(  # noqa: PLR0913 - what it works with, each with a name
        self,
        context: ReportContext,
        metric_id: str,
        budget: RequestBudget,
        *,
        refused_metrics: RefusedMetricStore,
        failures: FailedRequestStore,
        send_days: SendDays | None,
    ) -> None:
        """Do no I/O; `send_days` is None for a series."""
        self._refused_metrics = refused_metrics
        self._failures = failures
        self._send_days = send_days
        self._context = context
        self._metric_id = metric_id
        self._budget = budget
        self._spent_before = budget.spent
        self._response_cache = context.lake.response_cache(context.stream.name)
        self._fresh_since = context.calendar.now - RESPONSE_CACHE_LIFETIME

    @contextmanager
    def lock_allocation(self) -> Generator[None]:
        """Keep other runs from allocating totals of the report; take over the send days they found.

        The rows of a series have days, so for a series it does nothing.
        """
        if self._send_days is None:
            yield
            return
        with self._response_cache.lock_allocation(warn=self._context.warn):
            self._send_days.merge(load_send_days(self._context.stream.name, self._context.lake))
            yield

    def record_unusable(self, error: KlaviyoAssetsError) -> FailedMetric | None:
        """Return the metric's failures; `error` is recorded if it made this run's requests vain."""
        if self._budget.spent > self._spent_before:
            self._failures.record_unusable(self._metric_id, error)
        return self._failures.failed_metric(self._metric_id)

    def fetch(
        self, choose_query: Callable[[CacheView], PlannedQuery]
    ) -> tuple[PlannedQuery, ReportResult]:
        """Return the query that `choose_query` chooses in view of the cache, and its result.

        Raises:
            IneligibleMetricError: Klaviyo refuses the metric, now or before.
            ReportFailedError: too many requests for the metric failed within a day.
            QuotaError: the daily quota or the run's budget is spent.
            KlaviyoAssetsError: as the client says.
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
                # Recorded under the lock: another run must not send the same request.
                self._refused_metrics.record(self._metric_id, error)
                raise

    def cached_results(
        self, planned: PlannedQuery
    ) -> Iterator[tuple[ReportQuery, Sequence[TimedRow]]]:
        """Yield cached queries about parts of the planned timeframe, with their rows."""
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
        pages = [each.page for each in self._parse_pages(cached)]
        return _build_result(pages, self._context.report, cached.fetched_at, requests=0)

    def _fetch_result(self, query: ReportQuery, *, fresh_since: datetime) -> ReportResult:
        """Request page by page, and cache each page; continue where a killed run stopped.

        Raises:
            MalformedPageError: a series lacks a day of the query.
        """
        pages = self._load_partial_result(query, fresh_since)
        request: Request | None = self._first_request(query, 0)
        seen: set[str] = set()
        for each in pages:
            request = self._next_request(query, request, each, seen)
        cached_count = len(pages)
        while request is not None:
            fetched, request = self._fetch_page(query, request, pages, seen)
            pages.append(fetched)
            reach_crash_point("before caching a response")
            self._response_cache.store_response(
                self._metric_id,
                query.date_range,
                query.message_ids,
                fetched_at=pages[0].responded_at,
                pages=[each.body for each in pages],
                is_complete=request is None,
            )
            reach_crash_point("after caching a response")
        self._failures.forget(self._metric_id, query)
        return _build_result(
            [each.page for each in pages],
            self._context.report,
            pages[0].responded_at,
            requests=len(pages) - cached_count,
        )

    def _fetch_page(
        self,
        query: ReportQuery,
        request: Request,
        previous_pages: Sequence[_FetchedPage],
        seen: set[str],
    ) -> tuple[_FetchedPage, Request | None]:
        """Return the page that follows `previous_pages`, and the request for the next.

        Requests that were spent in vain are recorded.

        Raises:
            ReportFailedError: too many requests for the metric failed within a day.
        """
        record_failure = partial(self._failures.record, self._metric_id, query)
        part = previous_pages[-1].next_part if previous_pages else 0
        same_part = [each.page for each in previous_pages if each.part == part]
        policy = self._failures.retry_policy(self._metric_id)
        reach_crash_point("before requesting a report")
        self._budget.spend()
        fetched = self._context.client.fetch(
            request,
            partial(self._parse_response, part=part),
            stream=self._context.stream.name,
            retry_policy=policy,
            on_failure=record_failure,
        )
        try:
            self._refuse_missing_days(query, fetched.page)
            _refuse_repeated_pages([*same_part, fetched.page])
            next_request = self._next_request(query, request, fetched, seen)
        except ContractError as error:
            record_failure(error)
            raise
        self._quarantine_results(fetched.page)
        return fetched, next_request

    def _quarantine_results(self, page: ReportPage) -> None:
        """Set aside the results that cannot be stored, and warn of them."""
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
        """Refuse a series with some of the days only; one without any day is empty."""
        is_whole = self._context.report.interval is None or set(query.date_range) <= set(page.days)
        if not is_whole and not page.is_empty:
            raise MalformedPageError(
                f"the series has not all days from {query.date_range.first} to "
                f"{query.date_range.last}; "
                "nothing of it is stored",
                stream=self._context.stream.name,
            )

    def _first_request(self, query: ReportQuery, part: int) -> Request:
        """Return the request for the first page of a part of a query."""
        report, calendar = self._context.report, self._context.calendar
        if report.metric == "event":
            first, last = query.date_range.first, query.date_range.last
            window = Window(day_end(first - ONE_DAY, calendar.zone), day_end(last, calendar.zone))
            return metric_aggregate_request(
                report,
                self._metric_id,
                window,
                timezone=calendar.zone.key,
                dimension=report.parts[part],
            )
        return report_request(
            report,
            stream=self._context.stream,
            metric_id=self._metric_id,
            days=query.date_range,
            message_ids=query.message_ids,
        )

    def _next_request(
        self, query: ReportQuery, request: Request | None, fetched: _FetchedPage, seen: set[str]
    ) -> Request | None:
        """Return the request for the page that follows; `seen` has the pages of the part so far."""
        if request is None:
            return None
        page, report = fetched.page, self._context.report
        if fetched.next_part != fetched.part:
            seen.clear()
            is_end = fetched.next_part == len(report.parts)
            return None if is_end else self._first_request(query, fetched.next_part)
        if report.metric == "event":
            return next_aggregate_request(request, page.page_cursor or "", seen_cursors=seen)
        return next_report_request(
            request,
            link=page.next_link,
            page_cursor=page.page_cursor,
            base_url=self._context.client.base_url,
            seen_targets=seen,
        )

    def _load_partial_result(self, query: ReportQuery, fresh_since: datetime) -> list[_FetchedPage]:
        found = self._response_cache.find_partial_response(
            self._metric_id, query.date_range, query.message_ids, fresh_since=fresh_since
        )
        if found is None:
            return []
        return self._parse_pages(found)

    def _parse_pages(self, cached: CachedResponse) -> list[_FetchedPage]:
        """Return the pages of a cached response, each with the part that it is of."""
        pages: list[_FetchedPage] = []
        for body in cached.decompress_pages():
            part = pages[-1].next_part if pages else 0
            pages.append(_FetchedPage(body, self._parse_page(body, part), cached.fetched_at, part))
        return pages

    def _parse_response(self, response: Response, *, part: int) -> _FetchedPage:
        page = self._parse_page(response.body, part)
        return _FetchedPage(response.body, page, response.responded_at, part)

    def _parse_page(self, body: bytes, part: int) -> ReportPage:
        report = self._context.report
        if report.metric != "event":
            return parse_report_page(body, report)
        zone = self._context.calendar.zone
        return parse_aggregate_page(body, report, dimension=report.parts[part], zone=zone)


def _refuse_repeated_pages(pages: Sequence[ReportPage]) -> None:
    """Refuse a response whose last pages have no new row, since each page costs a request.

    Raises:
        RepeatedPageError: all rows of as many pages as are allowed have been on earlier pages.
    """
    if len(pages) <= MAX_PAGES_WITHOUT_NEW_ROWS:
        return
    earlier, last = pages[:-MAX_PAGES_WITHOUT_NEW_ROWS], pages[-MAX_PAGES_WITHOUT_NEW_ROWS:]
    if _row_identities(last) <= _row_identities(earlier):
        raise RepeatedPageError(
            f"{len(last)} pages in a row bring no row that was not there before, after "
            f"{len(earlier)} pages: paging does not end. Tell Klaviyo's support if it "
            "stays so."
        )


def _row_identities(pages: Iterable[ReportPage]) -> set[tuple[object, ...]]:
    """Return what the rows of pages are about, without their statistics."""
    return {(row.day, *sorted(row.groupings.items())) for page in pages for row in page.rows}


def _build_result(
    pages: Sequence[ReportPage], report: ReportEndpoint, fetched_at: datetime, *, requests: int
) -> ReportResult:
    rows = merge_renamed_rows([row for page in pages for row in page.rows], report)
    timed = [TimedRow(row, fetched_at) for row in rows]
    return ReportResult(rows=timed, fetched_at=fetched_at, requests=requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDays:
    """Partitions of one metric that are now stored, in a table of `rows_total` rows.

    `row_counts`: the number of rows by day. `sums`: by day, the sum of each additive statistic over
    the rows, without those that are zero on every one of the days. `requests`: what their timeframe
    has cost so far, for `sharing_days` wanted days. `fetched_at`: when Klaviyo sent their total or
    series, UTC.
    """

    metric_id: str
    row_counts: Mapping[date, int]
    sums: Mapping[date, Mapping[str, float]]
    final_days: frozenset[date]
    fetched_at: datetime
    requests: int
    sharing_days: int
    rows_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedReport:
    """A metric whose report could not be fetched.

    `days`: its wanted days that are not stored. `failed_metric`: its requests that failed recently.
    """

    metric_id: str
    days: frozenset[date]
    error: KlaviyoAssetsError
    failed_metric: FailedMetric | None


FetchOutcome = StoredDays | RefusedMetric | FailedReport
"""What a fetch yields: stored days of a metric, or why a metric has none."""


class ReportFetch:
    """A fetch of the wanted days of some metrics, in the order given; `run` does all the I/O.

    `remaining_days` has the days that are not stored yet, by metric. The days of refused and
    failed metrics are not in it.
    """

    def __init__(
        self, requests: Sequence[PartitionRequest], *, context: ReportContext, budget: RequestBudget
    ) -> None:
        """Do no I/O."""
        self.remaining_days = {request.metric_id: set(request.days) for request in requests}
        self._budget = budget
        self._requests = requests
        self._context = context
        self._table = build_table(context.stream, report_schema(context.stream))
        self._send_days: SendDays | None = None

    def run(self, bounds: DateRange, *, should_retry: bool = False) -> Iterator[FetchOutcome]:
        """Yield what was stored, after each commit, and each metric that is refused or fails.

        Metrics that Klaviyo refused, or that failed too often within a day, are requested again
        only if `should_retry`. After a metric that fails, the others go on.

        Raises:
            QuotaError: the daily quota or the run's budget is spent; what was yielded is stored.
            KlaviyoAssetsError: as the client and the lake say; what was yielded is stored.
        """
        context = self._context
        inputs = load_planner_inputs(
            context.stream, context.lake, bounds=bounds, calendar=context.calendar
        )
        self._send_days = inputs.knowledge.send_days if inputs.knowledge is not None else None
        refusals = RefusedMetricStore(context, self._table, should_retry_refused=should_retry)
        failures = FailedRequestStore(context, should_retry_failed=should_retry)
        for request in self._requests:
            source = ReportSource(
                context,
                request.metric_id,
                self._budget,
                refused_metrics=refusals,
                failures=failures,
                send_days=self._send_days,
            )
            try:
                # Closed at once, whatever ends the loop, because other runs wait for its locks.
                with closing(resolve_days(request, inputs, source)) as resolved:
                    for finished_days in resolved:
                        yield from self._store_days(request, finished_days)
            except IneligibleMetricError:
                yield refusals.build_outcome(request.metric_id, self._abandon_days(request, bounds))
            except QuotaError:
                self._commit_send_days()
                if any(self.remaining_days.values()):
                    raise
                # All wanted days are stored. What was left to allocate is for sibling runs.
                return
            except KlaviyoAssetsError as error:
                if not is_metric_error(error):
                    raise
                self._commit_send_days()
                days, failed = self._abandon_days(request, bounds), source.record_unusable(error)
                yield FailedReport(
                    metric_id=request.metric_id, days=days, error=error, failed_metric=failed
                )

    def _abandon_days(self, request: PartitionRequest, bounds: DateRange) -> frozenset[date]:
        """Remove a metric's requestable days from the remaining ones, and return them."""
        requestable = self._context.report.partition_days(bounds)
        days = frozenset(self.remaining_days[request.metric_id]).intersection(requestable)
        self.remaining_days[request.metric_id] -= days
        return days

    def _store_days(
        self, request: PartitionRequest, finished_days: FinishedDays
    ) -> Iterator[StoredDays]:
        context, fetched_at = self._context, finished_days.fetched_at
        for warning in finished_days.warnings:
            context.warn(warning)
        # Klaviyo's clock at the time of the response decides which days are over.
        last_day = {day: context.report.days_of(day).last for day in finished_days.rows}
        days = [day for day, last in last_day.items() if context.calendar.is_over(last, fetched_at)]
        if not days:
            self._commit_send_days()
            return
        final = frozenset(
            day for day in days if context.calendar.is_final(last_day[day], fetched_at)
        )
        partitions = {
            ReportPartition(request.metric_id, day): PartitionFetch(fetched_at, day in final)
            for day in days
        }
        rows = table_rows(partitions, finished_days)
        receipt = self._commit(partitions, rows_to_batch(context.stream, rows))
        self.remaining_days[request.metric_id].difference_update(days)
        yield StoredDays(
            metric_id=request.metric_id,
            row_counts={day: len(finished_days.rows[day]) for day in days},
            sums=sum_statistics(context.stream, {day: finished_days.rows[day] for day in days}),
            final_days=final,
            fetched_at=fetched_at,
            requests=finished_days.requests,
            sharing_days=finished_days.sharing_days,
            rows_total=receipt.rows_total,
        )

    def _commit(
        self, partitions: Mapping[ReportPartition, PartitionFetch], batch: pa.RecordBatch
    ) -> CommitReceipt:
        receipt = self._context.lake.replace_report_partitions(
            self._table,
            account=self._context.account,
            partitions=partitions,
            batch=batch,
            build_state=self._build_state,
        )
        reach_crash_point("after storing partitions")
        return receipt

    def _build_state(self, known: TableState | None) -> Mapping[str, object]:
        """Return the zones of the table's days, and the send days; a series has none."""
        stored: Mapping[str, object] = known.state if known is not None else {}
        state: dict[str, object] = {
            ZONE_ERAS_KEY: zone_eras_to_json(stored, self._context.calendar)
        }
        if self._send_days is not None:
            send_days = send_days_from_json(stored.get(SEND_DAYS_KEY))
            send_days.merge(self._send_days)
            state[SEND_DAYS_KEY] = send_days.to_json()
        return state

    def _commit_send_days(self) -> None:
        """Store the send days found since the last commit, because they cost requests."""
        if self._send_days is not None and self._send_days.message_keys():
            self._commit({}, rows_to_batch(self._context.stream, ()))


def table_rows(
    partitions: Mapping[ReportPartition, PartitionFetch], finished_days: FinishedDays
) -> list[ReportTableRow]:
    """Return the rows of the partitions, whose days are among the finished ones."""
    return [
        ReportTableRow(
            partition=partition,
            row=each.row,
            is_final=fetched.is_final,
            fetched_at=each.fetched_at,
        )
        for partition, fetched in partitions.items()
        for each in finished_days.rows[partition.day]
    ]


def sum_statistics(
    stream: Stream, rows: Mapping[date, Sequence[TimedRow]]
) -> dict[date, dict[str, float]]:
    """Return the sums of additive statistics over the rows of each day that has rows.

    A statistic that is zero on all days is left out: what never happens is not worth a curve.
    """
    names = [each.name for each in stream.columns if each.is_additive]
    sums = {
        day: {name: sum(each.row.statistics.get(name) or 0.0 for each in found) for name in names}
        for day, found in rows.items()
        if found
    }
    told = {name for each in sums.values() for name, value in each.items() if value}
    return {
        day: {name: value for name, value in each.items() if name in told}
        for day, each in sums.items()
    }


def is_metric_error(error: KlaviyoAssetsError) -> bool:
    """Return whether an error concerns the report of one metric, so that the others go on.

    It does not if every request would fail: if the quota is spent, the network is down, the account
    is refused or the API revision is retired.
    """
    if isinstance(error, RevisionRetiredError | AccessDeniedError):
        return False
    return isinstance(error, ContractError | ReportFailedError) or is_wasted_request(error)
