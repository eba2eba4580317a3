"""The model account's figures: no client could be faster than our limits allow."""

import heapq
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.model.selection import offered_streams
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.benchmarks.model_account import (
    FULL_COUNTS,
    MODEL_COUNTS,
    StreamRequests,
    count_steady_requests,
    least_seconds,
    plan_requests,
    simulate,
)

SHARE = 0.9

BURST_SECONDS = 5
"""Bursts are spaced, and the optimum sends each at once: more than 5 % of the shortest syncs."""


def everything() -> list[StreamRequests]:
    """Return what each stream requests in a first sync with KLAVIYO_STREAMS=all."""
    streams = tuple(offered_streams(STREAMS, DEFAULT_REVISION).values())
    return plan_requests(FULL_COUNTS, streams=streams)


def late_streams(best: Mapping[str, float], ends: Mapping[str, float]) -> dict[str, float]:
    """Return by how much streams end later than the optimum and 5 %, in seconds."""
    late = {name: ends[name] - best[name] * 1.05 for name in ends}
    return {name: seconds for name, seconds in late.items() if seconds > BURST_SECONDS}


def test_a_first_sync_of_everything_ends_within_5_percent_of_the_optimum() -> None:
    """With KLAVIYO_STREAMS=all the limits let the last request of each budget go in time."""
    planned = everything()
    best, ends = least_seconds(planned, share=SHARE), simulate(planned, share=SHARE)
    assert not late_streams(best, ends)
    assert max(best.values()) <= max(ends.values()) <= max(best.values()) * 1.05


def run_limiter(
    planned: Sequence[StreamRequests], limiter: RateLimiter, now: list[float]
) -> dict[str, float]:
    """Return when each stream's last request leaves, in seconds; `now` is the limiter's clock.

    All streams begin at once, and each reserves its next request when the last one has left.
    """
    start, left = now[0], [each.requests for each in planned]
    due = [(start, position) for position in range(len(planned))]
    ends: dict[str, float] = {}
    while due:
        now[0], position = heapq.heappop(due)
        leaves_at = now[0] + limiter.reserve(planned[position].budgets)
        ends[planned[position].stream] = leaves_at - start
        left[position] -= 1
        if left[position]:
            heapq.heappush(due, (leaves_at, position))
    return ends


def test_the_rate_limiter_ends_within_5_percent_of_the_optimum(tmp_path: Path) -> None:
    """The limiter itself, with a clock that a test moves: a tenth of each stream's requests."""
    planned = [
        replace(each, requests=-(-each.requests // 10)) for each in everything() if each.requests
    ]
    now = [1_790_000_000.0]
    with closing(RateLimiter(tmp_path, "a", share=SHARE, clock=lambda: now[0])) as limiter:
        ends = run_limiter(planned, limiter, now)
    best = least_seconds(planned, share=SHARE)
    assert not late_streams(best, ends)
    assert max(best.values()) <= max(ends.values()) <= max(best.values()) * 1.05


def test_an_hour_of_the_default_set_grows_with_pages_alone() -> None:
    """Ten times the campaigns cost no request more; ten more lists cost one."""
    before = count_steady_requests(MODEL_COUNTS)
    more = {**MODEL_COUNTS, "campaigns": (10_000,), "lists": (210,)}
    after = count_steady_requests(more)
    assert sum(after.hourly.values()) == sum(before.hourly.values()) + 1
    assert sum(after.daily.values()) == sum(before.daily.values()) + 10
