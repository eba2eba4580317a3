"""A first sync on a virtual clock: how many requests, and how long Klaviyo's limits make it last.

`python -m klaviyo_assets_tests.benchmarks.model_account` prints the account that the goals name.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType

from klaviyo_assets.api.limits import earliest_allowed_time, tier_limits
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import Collection, Detail, RateLimitBucket, Stream
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.benchmarks.report import markdown_table

REQUEST_GOAL = 6_426
REQUEST_GOAL_WITHOUT_DETAILS = 5_226
"""Requests of a first sync of the model account, without the pages of suppressed profiles."""

UNPAGED_RECORDS = 200
"""Records on a page of a collection that takes no `page[size]`."""

MODEL_COUNTS: Mapping[str, Sequence[int]] = MappingProxyType(
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
"""Records of each collection, slice by slice; slices that are not named are empty."""

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


def count_requests(stream: Stream, counts: Mapping[str, Sequence[int]]) -> int:
    """Return the requests of a first sync of one stream; none for a join.

    Totals of campaigns cost one request a metric and year where it is known when each was sent.
    """
    match stream.source:
        case Collection() as source:
            size = source.page_size or UNPAGED_RECORDS
            known = counts.get(stream.name, ())
            empty = len(source.slices) - len(known)
            return sum(max(1, ceil(count / size)) for count in known) + max(0, empty)
        case Detail() as source:
            return sum(counts.get(source.parent, ()))
        case ReportEndpoint() as report:
            metrics = METRIC_COUNT if report.has_metric else 1
            days = report.max_days if report.period == "day" else DAYS_A_MONTH
            return metrics * ceil(REPORT_DAYS / days)
        case _:
            return 0


def plan_requests(
    counts: Mapping[str, Sequence[int]],
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
    booked: dict[RateLimitBucket, BookedTimes] = {}
    left = {work.stream: work.requests for work in requests}
    ends = dict.fromkeys(left, 0.0)
    while any(left.values()):
        moments = {
            work.stream: max(
                earliest_allowed_time(
                    tier_limits(budget.tier, share=share, scale=1),
                    booked.setdefault(budget, BookedTimes()).nth_last,
                    0.0,
                )
                for budget in work.budgets
            )
            for work in requests
            if left[work.stream]
        }
        work = min(
            (each for each in requests if each.stream in moments), key=lambda w: moments[w.stream]
        )
        for budget in work.budgets:
            booked[budget].times.append(moments[work.stream])
        left[work.stream] -= 1
        ends[work.stream] = moments[work.stream]
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


def main() -> int:
    """Print the table; 1 where the goal of requests is missed by more than 5 %."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--share", type=float, default=0.9, help="our part of the steady limits")
    options.add_argument("--suppressed", type=int, default=0, help="suppressed profiles")
    options.add_argument("--without-details", action="store_true", help="no counts, no estimates")
    options.add_argument("--without-predictions", action="store_true")
    wanted = options.parse_args()
    streams = [
        stream
        for stream in STREAMS.values()
        if not (wanted.without_details and isinstance(stream.source, Detail))
    ]
    without = {"predictive_analytics"} if wanted.without_predictions else set[str]()
    counts = {**MODEL_COUNTS, "global_exclusions": (wanted.suppressed,)}
    planned = plan_requests(counts, streams=streams, excluded_fields=frozenset(without))
    print(format_table(planned, simulate(planned, share=wanted.share)))
    suppressed = ceil(wanted.suppressed / 100)
    total = sum(work.requests for work in planned) - suppressed
    goal = REQUEST_GOAL_WITHOUT_DETAILS if wanted.without_details else REQUEST_GOAL
    print(f"\n{total:,} requests without those of suppressed profiles; goal {goal:,} and 5 %")
    return int(total > goal * 1.05)


if __name__ == "__main__":
    sys.exit(main())
