"""Estimates how many requests a fetch costs, by running the planner against a simulated source.

For a series the estimate is exact. For totals it is exact if the send days of all campaigns are
known. Otherwise there are two numbers: as if each message had been sent on one day, and as if on
every day that is possible. Reports may also have messages that no stored campaign names (deleted
ones; up to 2026-07-15 those of WhatsApp): until a report has shown them, only the most that
searching their days can cost is known.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from types import MappingProxyType

from klaviyo_assets.decode.reports import ReportRow
from klaviyo_assets.model.report import DateRange, contiguous_ranges
from klaviyo_assets.reports.allocation import SendKnowledge
from klaviyo_assets.reports.bisect import ReportQuery, TimedRow
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
    send_days_from_json,
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
