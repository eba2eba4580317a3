"""Plans the queries for the wanted days of one metric, and tells when each day is complete.

Run against a simulated source, the same planner estimates how many requests a fetch costs. For a
series the estimate is exact. For totals it is exact if the send days of all campaigns are known.
Otherwise there are two numbers: as if each message had been sent on one day, and as if on every day
that is possible. Reports may also have messages that no stored campaign names (deleted ones; up to
2026-07-15 those of WhatsApp): until a report has shown them, only the most that searching their
days can cost is known.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Protocol

from klaviyo_assets.decode.reports import ReportRow
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ONE_DAY, DateRange, ReportEndpoint, contiguous_ranges
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.allocation import DayAllocator, SendKnowledge
from klaviyo_assets.reports.bisect import ReportQuery, TimedRow, group_by_message
from klaviyo_assets.reports.calendar import (
    ReportCalendar,
    choose_timeframes,
    last_complete_day,
    split_timeframe,
)
from klaviyo_assets.reports.send_schedule import (
    CampaignSchedule,
    MessageChannel,
    SendDays,
    derive_message_days,
    derive_possible_days,
    load_send_days,
    read_campaign_schedules,
    send_days_from_json,
)

FetchTimes = Mapping[ReportQuery, datetime]
"""The queries of one metric whose responses are cached, each with its fetch time (UTC)."""


@dataclass(frozen=True, slots=True)
class CacheView:
    """What recent requests have fetched already.

    `fetch_times`: the cached queries of the metric. `recent_timeframes`: the timeframes that were
    requested for any metric, without a filter of messages.
    """

    fetch_times: FetchTimes
    recent_timeframes: Collection[DateRange] = ()


@dataclass(frozen=True, slots=True)
class PlannedQuery:
    """The next query; a cached response fetched after `newer_than` (UTC) answers it too."""

    query: ReportQuery
    newer_than: datetime
    wanted_days: frozenset[date]
    """The wanted days that the response is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """A response with all its pages. `requests`: what it cost now, 0 if it was cached."""

    rows: Sequence[TimedRow]
    fetched_at: datetime
    requests: int


class QuerySource(Protocol):
    """Answers queries: from Klaviyo and the cache, or by simulation for an estimate."""

    def fetch(
        self, choose_query: Callable[[CacheView], PlannedQuery]
    ) -> tuple[PlannedQuery, ReportResult]:
        """Return the query that `choose_query` chooses in view of the cache, and its result.

        Meanwhile no other process requests the same metric.
        """
        ...

    def cached_results(
        self, planned: PlannedQuery
    ) -> Iterable[tuple[ReportQuery, Sequence[TimedRow]]]:
        """Yield cached queries about parts of the planned timeframe, with their rows."""
        ...

    def lock_allocation(self) -> AbstractContextManager[None]:
        """Return a context in which one process at a time allocates totals to days.

        It starts from what the others have found. For a series it does not lock.
        """
        ...


DISTANT_PAST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRequest:
    """The wanted days of one metric.

    `sibling_days`: days that sibling runs want too. `pending_days`: those of them that no run has
    finished; totals are allocated to them as well, so that all siblings send the queries that one
    run would. `delivered`: for each day, the fetch time of the response that a finished run already
    stored; a new request for that day must use a newer response. `should_widen`: false where no
    other run can use the response, so that timeframes are only as long as needed.
    """

    metric_id: str
    days: frozenset[date]
    sibling_days: frozenset[date] = frozenset()
    pending_days: frozenset[date] = frozenset()
    delivered: Mapping[date, datetime] = field(default_factory=dict[date, datetime])
    should_widen: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedDays:
    """Complete days and their rows.

    Without a day it only reports requests, whose findings about send days serve sibling runs.

    `requests`: what the timeframe has cost so far, for `sharing_days` wanted days. `fetched_at`:
    when Klaviyo sent the total or series that all these days come from, UTC.
    """

    rows: Mapping[date, Sequence[TimedRow]]
    fetched_at: datetime
    requests: int
    sharing_days: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerInputs:
    """The inputs that all metrics share: report, requestable days, campaigns and their send days.

    `knowledge` is None for a series, whose rows have days, and for totals by month.
    """

    report: ReportEndpoint
    bounds: DateRange
    knowledge: SendKnowledge | None
    campaigns: Collection[CampaignSchedule] = ()


def report_endpoint(stream: Stream) -> ReportEndpoint:
    """Return the endpoint of a report's stream.

    Raises:
        TypeError: the stream is not a report.
    """
    if not isinstance(stream.source, ReportEndpoint):
        raise TypeError(f"{stream.name} is no report")
    return stream.source


def load_planner_inputs(
    stream: Stream, lake: Lake, *, bounds: DateRange, calendar: ReportCalendar
) -> PlannerInputs:
    """Return the inputs, with what the lake knows of send days where totals are allocated to days.

    Raises:
        LakeError: a table cannot be read.
    """
    report = report_endpoint(stream)
    if not report.is_allocated:
        return PlannerInputs(report=report, bounds=bounds, knowledge=None)
    campaigns = read_campaign_schedules(lake)
    possible_days = {each.id: derive_possible_days(each, calendar.zone) for each in campaigns}
    days_of_message = {
        message_id: days
        for each in campaigns
        for message_id, days in derive_message_days(each, calendar.zone).items()
    }
    knowledge = SendKnowledge(
        subject_field=f"{report.subject}_id",
        message_field=report.message_field,
        possible_days_of=possible_days.get,
        send_days=load_send_days(stream.name, lake),
        is_final_day=partial(calendar.is_final, fetched_at=calendar.now),
        # Klaviyo counts what was sent just before midnight a little later.
        latest_settled_day=last_complete_day(calendar.now - ONE_DAY, calendar.zone),
        spread_messages={
            (message_id, campaign.channel or ""): days
            for campaign in campaigns
            for message_id in campaign.message_ids
            if (days := days_of_message.get(message_id) or possible_days[campaign.id]) is not None
            and len(days) > 1
        },
        days_of_message=days_of_message,
    )
    return PlannerInputs(report=report, bounds=bounds, knowledge=knowledge, campaigns=campaigns)


def resolve_days(
    request: PartitionRequest, inputs: PlannerInputs, source: QuerySource
) -> Generator[FinishedDays]:
    """Yield the wanted days within the bounds as they become complete, newest first.

    Raises:
        KlaviyoAssetsError: as `source` says; what was yielded before is valid.
    """
    rest = request.days.intersection(inputs.report.partition_days(inputs.bounds))
    while rest:
        with source.lock_allocation():
            planned, result = source.fetch(
                partial(_choose_query, rest, request=request, inputs=inputs)
            )
            yield from _allocate_days(
                planned, result, request=request, inputs=inputs, source=source
            )
        rest -= planned.wanted_days


def _choose_query(
    remaining_days: frozenset[date],
    cache: CacheView,
    *,
    request: PartitionRequest,
    inputs: PlannerInputs,
) -> PlannedQuery:
    """Return the cached query that serves most remaining days, else the newest timeframe.

    Of a report by month it is the newest month: no other response has its total.
    """
    if inputs.report.period == "month":
        newest = max(remaining_days)
        days_of_month = inputs.report.days_of(newest)
        return _build_planned_query(days_of_month, frozenset({newest}), request)
    cached = {
        query.date_range: fetched_at
        for query, fetched_at in cache.fetch_times.items()
        if not query.message_ids
    }
    served = [
        (_served_days(remaining_days, days, fetched_at, request), days)
        for days, fetched_at in cached.items()
    ]
    days, best = max(served, key=lambda each: len(each[0]), default=(frozenset[date](), None))
    if best is not None and days:
        return _build_planned_query(best, days, request)
    covered = {day for each in cached for day in each}
    timeframes = choose_timeframes(
        remaining_days,
        bounds=inputs.bounds,
        max_days=inputs.report.max_days,
        sibling_days=request.sibling_days - covered,
        should_widen=request.should_widen,
    )
    timeframe = timeframes[0]
    if inputs.knowledge is not None:
        timeframe = _isolate_messages(
            timeframe, remaining_days, cache, request=request, send_days=inputs.knowledge.send_days
        )
    return _build_planned_query(
        timeframe, frozenset(day for day in remaining_days if day in timeframe), request
    )


def _isolate_messages(
    timeframe: DateRange,
    remaining_days: frozenset[date],
    cache: CacheView,
    *,
    request: PartitionRequest,
    send_days: SendDays,
) -> DateRange:
    """Return the newest part of a timeframe in which each message has a single known send day.

    It applies if another metric was requested for the same days, so that all messages of these
    days are known. The total over the whole timeframe would have to be followed by the parts that
    isolate the messages, and these parts are enough: skipping the total saves one request.
    """
    newest = [day for day in remaining_days if day in timeframe]
    known = [each for each in cache.recent_timeframes if all(day in each for day in newest)]
    if not known:
        return timeframe
    sent = {key: send_days.recipients_by_day(key) for key in send_days.message_keys()}
    choice = max if request.should_widen else min
    whole = timeframe if timeframe in known else choice(known, key=lambda each: (len(each), each))
    parts = split_timeframe(whole, sent, remaining_days | request.pending_days)
    return next(each for each in parts if max(newest) in each)


def _served_days(
    remaining_days: frozenset[date],
    timeframe: DateRange,
    fetched_at: datetime,
    request: PartitionRequest,
) -> frozenset[date]:
    return frozenset(
        day
        for day in remaining_days
        if day in timeframe and fetched_at > request.delivered.get(day, DISTANT_PAST)
    )


def _build_planned_query(
    timeframe: DateRange, wanted_days: frozenset[date], request: PartitionRequest
) -> PlannedQuery:
    newer_than = max(
        (request.delivered.get(day, DISTANT_PAST) for day in wanted_days), default=DISTANT_PAST
    )
    return PlannedQuery(ReportQuery(timeframe, ()), newer_than, wanted_days)


def _allocate_days(
    planned: PlannedQuery,
    result: ReportResult,
    *,
    request: PartitionRequest,
    inputs: PlannerInputs,
    source: QuerySource,
) -> Iterator[FinishedDays]:
    """Yield the days of one timeframe as its result and further queries complete them."""
    if inputs.knowledge is None:
        is_total = inputs.report.interval is None
        yield (_finish_total if is_total else _finish_series)(planned, result)
        return
    wanted = planned.wanted_days | request.pending_days
    allocator = DayAllocator(
        planned.query.date_range, result.rows, wanted=wanted, knowledge=inputs.knowledge
    )
    if wanted & allocator.state.open_days():
        for query, rows in source.cached_results(planned):
            messages = group_by_message(rows, inputs.knowledge.message_field)
            allocator.apply_cached_rows(query.date_range, query.message_ids, messages)
    requests = reported = result.requests
    for requests in _run_queries(
        allocator, planned, result.requests, knowledge=inputs.knowledge, source=source
    ):
        finished = allocator.take_finished_days()
        rows = {day: each for day, each in finished.items() if day in planned.wanted_days}
        warnings = allocator.state.take_warnings()
        if rows or warnings:
            reported = requests
            yield _build_finished_days(rows, planned, result, requests=requests, warnings=warnings)
    if requests > reported:
        yield _build_finished_days({}, planned, result, requests=requests)


def _finish_total(planned: PlannedQuery, result: ReportResult) -> FinishedDays:
    """Return the rows of a total as those of the one partition that it is requested for."""
    rows = dict.fromkeys(planned.wanted_days, result.rows)
    return _build_finished_days(rows, planned, result, requests=result.requests)


def _finish_series(planned: PlannedQuery, result: ReportResult) -> FinishedDays:
    by_day: dict[date, list[TimedRow]] = {
        day: [] for day in sorted(planned.wanted_days, reverse=True)
    }
    for row in result.rows:
        if row.row.day is not None and row.row.day in by_day:
            by_day[row.row.day].append(row)
    return _build_finished_days(by_day, planned, result, requests=result.requests)


def _run_queries(
    allocator: DayAllocator,
    planned: PlannedQuery,
    requests: int,
    *,
    knowledge: SendKnowledge,
    source: QuerySource,
) -> Iterator[int]:
    """Send the allocator's queries; yield the requests spent before each one and at the end."""
    queries = allocator.generate_queries()
    query = next(queries, None)
    while query is not None:
        yield requests
        _, found = source.fetch(
            _choose_always(PlannedQuery(query, planned.newer_than, planned.wanted_days))
        )
        requests += found.requests
        try:
            query = queries.send(group_by_message(found.rows, knowledge.message_field))
        except StopIteration:
            query = None
    yield requests


def _choose_always(planned: PlannedQuery) -> Callable[[CacheView], PlannedQuery]:
    return lambda _: planned


def _build_finished_days(
    rows: Mapping[date, Sequence[TimedRow]],
    planned: PlannedQuery,
    result: ReportResult,
    *,
    requests: int,
    warnings: tuple[str, ...] = (),
) -> FinishedDays:
    return FinishedDays(
        rows=rows,
        fetched_at=result.fetched_at,
        requests=requests,
        sharing_days=len(planned.wanted_days),
        warnings=warnings,
    )


UNSENT_STATUSES = ("Draft", "Scheduled", "Preparing to schedule", "Unknown")
"""Statuses of campaigns that no report has a row of yet."""


@dataclass(frozen=True, slots=True)
class RequestCost:
    """The cost if each message was sent on one day, and if it was sent on all possible days.

    `unlisted_requests`: how many more it can cost at most, where the report has messages that no
    stored campaign names.
    """

    min_requests: int
    max_requests: int
    unlisted_requests: int = 0


SimulatedSend = tuple[str, Mapping[date, float]]
"""The id of a campaign, and the recipients of one of its messages by day."""


class SimulatedSource:
    """Answers queries as Klaviyo would if messages were sent as assumed; counts the requests."""

    def __init__(
        self,
        sends: Mapping[MessageChannel, SimulatedSend],
        fetch_times: FetchTimes,
        recent_timeframes: set[DateRange],
        *,
        requests_per_query: int = 1,
    ) -> None:
        """Take the assumed sends, the cached queries and the timeframes requested recently."""
        self._requests_per_query = requests_per_query
        self._sends = sends
        self._fetch_times = dict(fetch_times)
        self._recent_timeframes = recent_timeframes
        self.requests = 0

    def fetch(
        self, choose_query: Callable[[CacheView], PlannedQuery]
    ) -> tuple[PlannedQuery, ReportResult]:
        """Return the chosen query and its simulated result; count a request if it is not cached."""
        planned = choose_query(CacheView(self._fetch_times, self._recent_timeframes))
        query = planned.query
        is_cached = self._fetch_times.get(query, DISTANT_PAST) > planned.newer_than
        fetched_at = planned.newer_than + timedelta(seconds=1)
        if not is_cached:
            self.requests += self._requests_per_query
            self._fetch_times[query] = fetched_at
        if not query.message_ids:
            self._recent_timeframes.add(query.date_range)
        rows = self._build_rows(query, fetched_at)
        requests = 0 if is_cached else self._requests_per_query
        return planned, ReportResult(rows=rows, fetched_at=fetched_at, requests=requests)

    def cached_results(
        self, planned: PlannedQuery
    ) -> Iterator[tuple[ReportQuery, Sequence[TimedRow]]]:
        """Yield cached queries about parts of the planned timeframe, with simulated rows."""
        for query, fetched_at in self._fetch_times.items():
            is_inside = query.date_range.is_within(planned.query.date_range)
            if is_inside and fetched_at > planned.newer_than:
                yield query, self._build_rows(query, fetched_at)

    def lock_allocation(self) -> AbstractContextManager[None]:
        """Return a context without a lock, because nothing is requested."""
        return nullcontext()

    def _build_rows(self, query: ReportQuery, fetched_at: datetime) -> list[TimedRow]:
        return [
            TimedRow(_build_row(key, campaign, count), fetched_at)
            for key, (campaign, recipients) in self._sends.items()
            if not query.message_ids or key[0] in query.message_ids
            if (count := sum(recipients[day] for day in recipients if day in query.date_range))
        ]


class CostEstimator:
    """Estimates partition requests in turn; send days found by earlier ones save later ones."""

    def __init__(
        self,
        inputs: PlannerInputs,
        *,
        assume_spread: bool,
        recent_timeframes: Collection[DateRange] = (),
    ) -> None:
        """Take the inputs, and the timeframes that were requested recently for any metric.

        `assume_spread`: a message that may have been sent on several days was sent on all of them;
        otherwise on the last of them.
        """
        self._inputs = inputs
        self._recent_timeframes = set(recent_timeframes)
        self._sends: Mapping[MessageChannel, SimulatedSend] = {}
        if inputs.knowledge is not None:
            # A copy, because the planner records the send days that it finds.
            send_days = send_days_from_json(inputs.knowledge.send_days.to_json())
            knowledge = replace(inputs.knowledge, send_days=send_days)
            self._inputs = replace(inputs, knowledge=knowledge)
            self._sends = _simulate_sends(inputs.campaigns, knowledge, assume_spread=assume_spread)

    def estimate(
        self, request: PartitionRequest, fetch_times: FetchTimes = MappingProxyType({})
    ) -> int:
        """Return what one more partition request costs, given the cached queries of its metric."""
        source = SimulatedSource(
            self._sends,
            fetch_times,
            self._recent_timeframes,
            requests_per_query=len(self._inputs.report.parts),
        )
        for _ in resolve_days(request, self._inputs, source):
            pass
        return source.requests


def estimate_cost(
    requests: Sequence[PartitionRequest],
    inputs: PlannerInputs,
    *,
    fetch_times: Mapping[str, FetchTimes],
    recent_timeframes: Collection[DateRange] = (),
    shown_days: Collection[date] = (),
) -> RequestCost:
    """Return what the requests cost in this order; `fetch_times`: cached queries by metric.

    `shown_days`: the days of which a response for any metric has shown all messages.
    """
    counts: list[int] = []
    for assume_spread in (False, True):
        estimator = CostEstimator(
            inputs, assume_spread=assume_spread, recent_timeframes=recent_timeframes
        )
        counts.append(
            sum(
                estimator.estimate(request, fetch_times.get(request.metric_id, {}))
                for request in requests
            )
        )
    unlisted = 0
    if inputs.knowledge is not None:
        unlisted = sum(_max_search_requests(each.days.difference(shown_days)) for each in requests)
    return RequestCost(min(counts), max(counts), unlisted)


def _max_search_requests(days: Collection[date]) -> int:
    """Return how many queries find all send days of all messages on these days, at most.

    Halving ends with single days, so it takes one query less than there are days. A range that
    begins or ends with other days is queried once more without them: the whole range, and around
    each gap the two parts that it leaves.
    """
    return len(days) + 2 * (len(contiguous_ranges(days)) - 1) if days else 0


def _simulate_sends(
    campaigns: Iterable[CampaignSchedule], knowledge: SendKnowledge, *, assume_spread: bool
) -> dict[MessageChannel, SimulatedSend]:
    """Return the sends by message: on the known send days, else on those the campaign names."""
    sends: dict[MessageChannel, SimulatedSend] = {}
    send_days = knowledge.send_days
    for campaign in campaigns:
        for message_id in campaign.message_ids:
            possible = knowledge.possible_days(message_id, campaign.id)
            if possible is None or campaign.status in UNSENT_STATUSES:
                continue
            assumed = possible if assume_spread else (possible.last,)
            key = (message_id, campaign.channel or "")
            without_sends = send_days.ranges_without_sends(key) if len(possible) > 1 else ()
            days = [day for day in assumed if not any(day in each for each in without_sends)]
            sends[key] = (campaign.id, dict.fromkeys(days, 1.0))
    for key in send_days.message_keys():
        if recipients := send_days.recipients_by_day(key):
            campaign_id, _ = sends.get(key, ("", {}))
            sends[key] = (campaign_id, recipients)
    return sends


def _build_row(key: MessageChannel, campaign: str, recipients: float) -> ReportRow:
    message_id, channel = key
    return ReportRow(
        day=None,
        groupings={
            "campaign_id": campaign,
            "campaign_message_id": message_id,
            "send_channel": channel,
        },
        statistics={"recipients": recipients, "delivered": recipients},
    )
