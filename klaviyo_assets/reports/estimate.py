"""What a fetch costs, told beforehand: the same walk, answered from what is known.

A series costs exactly what is told. So do totals, as long as it is known on which days the
campaigns among them were sent. Where it is not, there are two numbers: as if each had been sent on
one day only, and as if on every day on which it can have been. Messages that no campaign tells of
(WhatsApp, deleted ones) are not in them until a report has shown them once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from math import ceil
from types import MappingProxyType

from klaviyo_assets.decode.reports import ReportRow
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.allocation_state import TimedRow
from klaviyo_assets.reports.bisect import ReportQuery
from klaviyo_assets.reports.planner import (
    DISTANT_PAST,
    CacheView,
    FetchTimes,
    PartitionRequest,
    PlannedQuery,
    PlannerInputs,
    ReportResult,
    resolve_days,
)
from klaviyo_assets.reports.send_schedule import (
    CampaignSchedule,
    MessageChannel,
    SendDays,
    SendTiming,
    SentOnDay,
    SpreadOverDays,
    send_days_from_json,
)

UNSENT_STATUSES = ("Draft", "Scheduled", "Preparing to schedule", "Unknown")
"""Statuses of campaigns of which no report has a row yet."""


@dataclass(frozen=True, slots=True)
class RequestCost:
    """`min_requests` if nothing is spread that need not be, `max_requests` if all of it is."""

    min_requests: int
    max_requests: int


SimulatedSend = tuple[str, Mapping[date, float]]
"""A campaign, and the recipients of one of its messages by day."""


class SimulatedSource:
    """Answers as they would be if messages were sent as `sent` has it."""

    def __init__(
        self,
        sent: Mapping[MessageChannel, SimulatedSend],
        fetch_times: FetchTimes,
        recent_timeframes: set[DateRange],
    ) -> None:
        """Take the assumed sends, the cached queries and the timeframes requested lately."""
        self.simulated_sends = sent
        self.fetch_times = dict(fetch_times)
        self.recent_timeframes = recent_timeframes
        self.requests = 0

    def fetch(
        self, choose_query: Callable[[CacheView], PlannedQuery]
    ) -> tuple[PlannedQuery, ReportResult]:
        """Return an answer, and count what it would cost."""
        planned = choose_query(CacheView(self.fetch_times, self.recent_timeframes))
        query = planned.query
        is_cached = self.fetch_times.get(query, DISTANT_PAST) > planned.newer_than
        fetched_at = planned.newer_than + timedelta(seconds=1)
        if not is_cached:
            self.requests += 1
            self.fetch_times[query] = fetched_at
        if not query.message_ids:
            self.recent_timeframes.add(query.date_range)
        rows = self._build_rows(query, fetched_at)
        return planned, ReportResult(rows=rows, fetched_at=fetched_at, requests=int(not is_cached))

    def cached_results(
        self, planned: PlannedQuery
    ) -> Iterator[tuple[ReportQuery, Sequence[TimedRow]]]:
        """Yield the answers kept about parts of a turn's time frame, as they would be."""
        for query, fetched_at in self.fetch_times.items():
            is_inside = query.date_range.is_within(planned.query.date_range)
            if is_inside and fetched_at > planned.newer_than:
                yield query, self._build_rows(query, fetched_at)

    def lock_allocation(self) -> AbstractContextManager[None]:
        """Return a block that keeps nobody out: nothing is asked."""
        return nullcontext()

    def _build_rows(self, query: ReportQuery, fetched_at: datetime) -> list[TimedRow]:
        return [
            TimedRow(_build_row(key, campaign, count), fetched_at)
            for key, (campaign, sent) in self.simulated_sends.items()
            if not query.message_ids or key[0] in query.message_ids
            if (count := sum(sent[day] for day in sent if day in query.date_range))
        ]


class CostEstimator:
    """Costs of wishes one after the other: what an earlier one teaches spares the later ones."""

    def __init__(
        self,
        inputs: PlannerInputs,
        campaigns: Iterable[CampaignSchedule],
        *,
        assumed_days: Callable[[DateRange], Collection[date]],
        recent_timeframes: Collection[DateRange] = (),
    ) -> None:
        """Take what is known; `assumed_days` tells on which of some days a spread message was sent.

        `recent_timeframes` are the time frames that any metric was asked about lately.
        """
        self._inputs = inputs
        self._recent_timeframes = set(recent_timeframes)
        self._simulated_sends: Mapping[MessageChannel, SimulatedSend] = {}
        if inputs.knowledge is not None:
            send_days = send_days_from_json(inputs.knowledge.send_days.to_json())
            self._inputs = replace(inputs, knowledge=replace(inputs.knowledge, send_days=send_days))
            self._simulated_sends = _simulate_sends(
                campaigns, inputs.knowledge.send_timing_of, send_days, assumed_days
            )

    def estimate(
        self, request: PartitionRequest, fetch_times: FetchTimes = MappingProxyType({})
    ) -> int:
        """Return what one more partition request costs, given the cached queries of its metric."""
        simulated = SimulatedSource(self._simulated_sends, fetch_times, self._recent_timeframes)
        for _ in resolve_days(request, self._inputs, simulated):
            pass
        return simulated.requests


def estimate_cost(
    requests: Sequence[PartitionRequest],
    inputs: PlannerInputs,
    *,
    fetch_times: Mapping[str, FetchTimes],
    campaigns: Iterable[CampaignSchedule] = (),
    recent_timeframes: Collection[DateRange] = (),
) -> RequestCost:
    """Return what the requests cost in this order; `fetch_times`: cached queries by metric."""
    known = list(campaigns)
    counts: list[int] = []
    for days_of in (last_day_only, all_days):
        estimate = CostEstimator(
            inputs, known, assumed_days=days_of, recent_timeframes=recent_timeframes
        )
        counts.append(
            sum(
                estimate.estimate(request, fetch_times.get(request.metric_id, {}))
                for request in requests
            )
        )
    return RequestCost(min(counts), max(counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRate:
    """How fast requests can go: `requests_left` now, `daily_limit` a day, `requests_per_minute`."""

    requests_left: int
    daily_limit: int
    requests_per_minute: int

    def minutes_for(self, requests: int) -> int:
        """Return how many minutes of asking that many requests are."""
        return ceil(requests / self.requests_per_minute)

    def days_for(self, requests: int) -> int:
        """Return how many times the quota has to become free before the last of them; 0: today."""
        return ceil(max(0, requests - self.requests_left) / self.daily_limit)

    def finish_time(self, requests: int, now: datetime) -> datetime:
        """Return when the last of them can have been made, UTC."""
        days = self.days_for(requests)
        of_last_day = (
            requests if not days else requests - self.requests_left - (days - 1) * self.daily_limit
        )
        return now + timedelta(days=days, minutes=self.minutes_for(of_last_day))


def _simulate_sends(
    campaigns: Iterable[CampaignSchedule],
    send_timing_of: Callable[[str], SendTiming],
    send_days: SendDays,
    assumed_days: Callable[[DateRange], Collection[date]],
) -> dict[MessageChannel, SimulatedSend]:
    """Return what was sent by unit: as learned, else as the campaign tells."""
    sent: dict[MessageChannel, SimulatedSend] = {}
    for campaign in campaigns:
        if campaign.status in UNSENT_STATUSES:
            continue
        for message_id in campaign.message_ids:
            match send_timing_of(campaign.id):
                case SentOnDay(day):
                    days: Collection[date] = (day,)
                case SpreadOverDays(stretch):
                    none = send_days.ranges_without_sends((message_id, campaign.channel or ""))
                    days = [
                        day
                        for day in assumed_days(stretch)
                        if not any(day in each for each in none)
                    ]
                case _:
                    continue
            sent[message_id, campaign.channel or ""] = (campaign.id, dict.fromkeys(days, 1.0))
    for key in send_days.message_keys():
        if send_days.recipients_by_day(key):
            campaign_id, _ = sent.get(key, ("", {}))
            sent[key] = (campaign_id, send_days.recipients_by_day(key))
    return sent


def last_day_only(date_range: DateRange) -> Collection[date]:
    """Return the days of a message that is not spread after all."""
    return (date_range.last,)


def all_days(date_range: DateRange) -> Collection[date]:
    """Return the days of a message that is spread as far as it can be."""
    return date_range


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
