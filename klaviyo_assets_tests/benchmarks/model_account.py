"""The model account: how many requests its syncs take, and how long limits make them last.

`python -m klaviyo_assets_tests.benchmarks.model_account` prints the first sync of the default set,
with `--streams all` of everything, with `--hourly` what the default set takes from then on.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from types import MappingProxyType

from klaviyo_assets.api.limits import earliest_allowed_time, tier_limits
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import offered_streams
from klaviyo_assets.model.stream import Children, Collection, Detail, RateLimitBucket, Stream
from klaviyo_assets.settings import DEFAULT_REVISION, SUPPORTED_REVISIONS
from klaviyo_assets.streams import DEFAULT_STREAMS, STREAMS
from klaviyo_assets_tests.benchmarks.report import markdown_table

REQUEST_GOAL = 6_426
REQUEST_GOAL_WITHOUT_DETAILS = 5_226
"""Requests of a first sync of the model account, without the pages of suppressed profiles."""

UNPAGED_RECORDS = 200
"""Records on a page of a collection that takes no `page[size]`."""

RecordCounts = Mapping[str, Sequence[int]]
"""Records of each stream: of a collection slice by slice, of children parent by parent."""


def share_out(records: int, parents: int) -> tuple[int, ...]:
    """Return the number of children of each parent, as even as can be."""
    share, rest = divmod(records, parents)
    return tuple(share + (position < rest) for position in range(parents))


MODEL_COUNTS: RecordCounts = MappingProxyType(
    {
        "accounts": (1,),
        "campaigns": (1_000,),
        "email_templates": (300,),
        "events": (2_000_000,),
        "flows": (150,),
        "global_exclusions": (0,),
        "lists": (200,),
        "metrics": (20,),
        "profiles": (300_000,),
        "segments": (0,),
    }
)
"""Slices that are not named are empty."""

FULL_COUNTS: RecordCounts = MappingProxyType(
    {
        **MODEL_COUNTS,
        "campaign_messages": (1_200,),
        "catalog_categories": (150,),
        "catalog_items": (5_000,),
        "catalog_variants": (20_000,),
        "coupon_codes": share_out(100_000, 25),
        "coupons": (25,),
        "flow_actions": share_out(1_200, 150),
        "flow_messages": share_out(600, 600),
        "form_versions": share_out(120, 40),
        "forms": (40,),
        "images": (2_000,),
        "list_members": share_out(900_000, 200),
        "metric_properties": share_out(200, 20),
        "object_records": share_out(10_000, 5),
        "object_types": (5,),
        "push_tokens": (20_000,),
        "reviews": (10_000,),
        "segment_members": share_out(600_000, 60),
        "segments": (60,),
    }
)
"""The same account with what opt-in streams read; of what is not named a page holds all."""

NEW_IN_AN_HOUR: Mapping[str, int] = MappingProxyType(
    {"events": 230, "profiles": 230, "campaigns": 1, "campaign_messages": 1}
)
"""Records that an hour adds or changes: two million events a year, and their profiles."""

METRIC_COUNT, REPORT_DAYS, DAYS_A_MONTH = 20, 365, 31


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRequests:
    """What a stream asks for: that many requests, each spending all `rate_limit_buckets`."""

    stream: str
    budgets: tuple[RateLimitBucket, ...]
    requests: int


@dataclass(slots=True)
class BookedTimes:
    """The moments booked in one budget, in seconds from the start."""

    times: list[float] = field(default_factory=list[float])

    def nth_last(self, n: int) -> float | None:
        """Return the n-th booking from the end; None where fewer are."""
        return self.times[-n] if n <= len(self.times) else None


def count_pages(source: Collection | Children, records: int) -> int:
    """Return the requests for that many records: an empty answer is a request too."""
    return max(1, ceil(records / (source.page_size or UNPAGED_RECORDS)))


def count_requests(stream: Stream, counts: RecordCounts) -> int:
    """Return the least requests of a first sync of one stream; none for a view.

    It is the optimum: a request for each page that holds a record, and one for each slice or parent
    without any. Totals of campaigns cost one request a metric and year where it is known when each
    was sent.
    """
    known = counts.get(stream.name, ())
    match stream.source:
        case Collection() as source:
            empty = max(0, len(source.slices) - len(known))
            return sum(count_pages(source, each) for each in known) + empty
        case Children() as source:
            return sum(count_pages(source, each) for each in known)
        case Detail() as source:
            return sum(counts.get(source.parent, ()))
        case ReportEndpoint() as report:
            metrics = METRIC_COUNT if report.has_metric else 1
            days = report.max_days if report.period == "day" else DAYS_A_MONTH
            return metrics * ceil(REPORT_DAYS / days)
        case _:
            return 0


def count_second_sync_requests(
    stream: Stream, counts: RecordCounts, new: Mapping[str, int] = MappingProxyType({})
) -> int:
    """Return the requests of a later sync of one stream; none for a view or a report.

    `counts`: what there is by now. `new`: records of each stream that came or changed since.
    """
    match stream.source:
        case Collection() as source if stream.cursor is not None:
            return len(source.slices) - 1 + count_pages(source, new.get(stream.name, 0))
        case Children() if stream.cursor is not None:
            return len(counts.get(stream.name, ()))
        case Detail(version_column=str()) as source:
            return new.get(source.parent, 0)
        case ReportEndpoint():
            return 0
        case _:
            return count_requests(stream, counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyRequests:
    """What the streams of a set take once their first sync is done.

    `hourly`: requests of an hour by stream; `daily`: of a day, by stream that is read by parent.
    """

    hourly: Mapping[str, int]
    daily: Mapping[str, int]

    def __str__(self) -> str:
        """Return the paragraph of docs/streams.md."""
        hourly, daily = sum(self.hourly.values()), sum(self.daily.values())
        names = sorted(self.hourly, key=lambda name: (-self.hourly[name], name))
        several = [f"{self.hourly[each]} for `{each}`" for each in names if self.hourly[each] > 1]
        return (
            f"The default set takes {hourly} requests an hour at 1,000 campaigns and 200 lists: "
            f"{', '.join(several)}, one for each other stream; and {daily} a day for "
            f"`{'` and `'.join(self.daily)}`."
        )


def count_steady_requests(
    counts: RecordCounts = MODEL_COUNTS, *, revision: str = DEFAULT_REVISION
) -> SteadyRequests:
    """Return what the default set takes at a revision, in an hour and in a day."""
    offered = offered_streams(DEFAULT_STREAMS, revision)
    hourly, daily = dict[str, int](), dict[str, int]()
    for name, stream in offered.items():
        requests = count_second_sync_requests(stream, counts, NEW_IN_AN_HOUR)
        if requests:
            (daily if stream.is_read_by_parent else hourly)[name] = requests
    return SteadyRequests(hourly=hourly, daily=daily)


def plan_requests(
    counts: RecordCounts,
    *,
    streams: Iterable[Stream] = tuple(STREAMS.values()),
    excluded_fields: frozenset[str] = frozenset(),
) -> list[StreamRequests]:
    """Return what each stream asks for; `excluded_fields` are optional fields left out."""
    return [
        StreamRequests(
            stream=stream.name,
            budgets=stream.rate_limit_buckets(excluded_fields=excluded_fields),
            requests=count_requests(stream, counts),
        )
        for stream in streams
    ]


def simulate(requests: Sequence[StreamRequests], *, share: float) -> dict[str, float]:
    """Return when each stream's last request may leave, in seconds; all of them begin at once.

    Streams that share a budget take turns; `share` is our part of the steady limits.
    """
    booked = {budget: BookedTimes() for work in requests for budget in work.budgets}
    limits = {budget: tier_limits(budget.tier, share=share, scale=1) for budget in booked}
    waiting = [work for work in requests if work.requests]
    left = {work.stream: work.requests for work in waiting}
    ends = dict.fromkeys((work.stream for work in requests), 0.0)
    moments: dict[tuple[RateLimitBucket, ...], float] = {}
    while waiting:
        for budgets in {work.budgets for work in waiting} - moments.keys():
            moments[budgets] = max(
                earliest_allowed_time(limits[each], booked[each].nth_last, 0.0) for each in budgets
            )
        work = min(waiting, key=lambda each: moments[each.budgets])
        ends[work.stream] = moments[work.budgets]
        for budget in work.budgets:
            booked[budget].times.append(ends[work.stream])
        # The others may leave when they might before.
        moments = {each: at for each, at in moments.items() if not {*each} & {*work.budgets}}
        left[work.stream] -= 1
        waiting = (
            [each for each in waiting if left[each.stream]] if not left[work.stream] else waiting
        )
    return ends


def format_table(requests: Sequence[StreamRequests], ends: Mapping[str, float]) -> str:
    """Return requests and least wall time of each stream, and of all side by side."""
    rows = [
        (
            work.stream,
            f"{work.requests:,}",
            ", ".join(budget.tier.name for budget in work.budgets),
            f"{ends[work.stream] / 60:.1f}",
        )
        for work in requests
        if work.requests
    ]
    total = sum(work.requests for work in requests)
    rows.append(("all", f"{total:,}", "", f"{max(ends.values()) / 60:.1f}"))
    return markdown_table(("stream", "requests", "tiers", "least minutes"), rows)


def least_seconds(requests: Sequence[StreamRequests], *, share: float) -> dict[str, float]:
    """Return when the last request of each stream can leave at best, all begun at once.

    No plan is faster than the budget that has most to do: `share` of its steady limit a minute, and
    within the last minute its burst limit a second. Streams of one budget end with the last of it.
    """
    totals: dict[RateLimitBucket, int] = {}
    for work in requests:
        for budget in work.budgets:
            totals[budget] = totals.get(budget, 0) + work.requests
    return {
        work.stream: max(
            (_least_bucket_seconds(budget, totals[budget], share) for budget in work.budgets),
            default=0.0,
        )
        for work in requests
    }


def _least_bucket_seconds(budget: RateLimitBucket, requests: int, share: float) -> float:
    tier, last = budget.tier, max(0, requests - 1)
    days, last = (0, last) if tier.daily is None else divmod(last, tier.daily)
    # Of a budget with a daily limit requests of the day are left to others, not a share.
    a_minute = max(1, floor(tier.steady * (share if tier.daily is None else 1.0)))
    minutes, last = divmod(last, a_minute)
    return 86_400.0 * days + 60.0 * minutes + last // tier.burst


def format_steady_requests(steady: SteadyRequests) -> str:
    """Return the requests of an hour and of a day by stream, most first."""
    rows = [
        *sorted(
            ((n, f"{k:,}", "hour") for n, k in steady.hourly.items()), key=lambda r: -int(r[1])
        ),
        ("all", f"{sum(steady.hourly.values()):,}", "hour"),
        *((n, f"{k:,}", "day") for n, k in steady.daily.items()),
    ]
    return markdown_table(("stream", "requests", "in a"), rows)


def main() -> int:
    """Print the table; 1 where the goal of requests is missed by more than 5 %."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--streams", choices=("default", "all"), default="default")
    options.add_argument("--revision", choices=SUPPORTED_REVISIONS, default=DEFAULT_REVISION)
    options.add_argument("--hourly", action="store_true", help="what comes after the first sync")
    options.add_argument("--share", type=float, default=0.9, help="our part of the steady limits")
    options.add_argument("--suppressed", type=int, default=0, help="suppressed profiles")
    options.add_argument("--without-details", action="store_true", help="no counts, no estimates")
    options.add_argument("--without-predictions", action="store_true")
    wanted = options.parse_args()
    if wanted.hourly:
        print(format_steady_requests(count_steady_requests(revision=wanted.revision)))
        return 0
    is_full = wanted.streams == "all"
    streams = [
        stream
        for stream in offered_streams(
            STREAMS if is_full else DEFAULT_STREAMS, wanted.revision
        ).values()
        if not (wanted.without_details and isinstance(stream.source, Detail))
    ]
    without = {"predictive_analytics"} if wanted.without_predictions else set[str]()
    counts = {
        **(FULL_COUNTS if is_full else MODEL_COUNTS),
        "global_exclusions": (wanted.suppressed,),
    }
    planned = plan_requests(counts, streams=streams, excluded_fields=frozenset(without))
    print(format_table(planned, simulate(planned, share=wanted.share)))
    if is_full:
        return 0
    suppressed = ceil(wanted.suppressed / 100)
    total = sum(work.requests for work in planned) - suppressed
    goal = REQUEST_GOAL_WITHOUT_DETAILS if wanted.without_details else REQUEST_GOAL
    print(f"\n{total:,} requests without those of suppressed profiles; goal {goal:,} and 5 %")
    return int(total > goal * 1.05)


if __name__ == "__main__":
    sys.exit(main())
