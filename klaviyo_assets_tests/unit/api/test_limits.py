"""No window of Klaviyo's holds more than its limit, and little of what is allowed is wasted."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.api.limits import (
    BURST_WINDOW_SECONDS,
    STEADY_WINDOW_SECONDS,
    SlidingWindowLimit,
    earliest_allowed_time,
    tier_limits,
)
from klaviyo_assets.model.stream import (
    TIER_L,
    TIER_M,
    TIER_REPORT,
    TIER_S,
    TIER_XL,
    TIER_XS,
    RateTier,
)

TIERS = [TIER_XS, TIER_S, TIER_M, TIER_L, TIER_XL, TIER_REPORT]
SMALL = st.builds(
    RateTier, name=st.just("any"), burst=st.integers(1, 12), steady=st.integers(1, 99)
)
# Mostly at once, sometimes a pause that lets a part of a window go by.
PAUSES = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 2), st.floats(0, 70)), min_size=50, max_size=400
)


class Kept(list[float]):
    """Bookings in memory."""

    def nth_last(self, n: int) -> float | None:
        """Return the n-th last booking."""
        return self[-n] if len(self) >= n else None


def reserve_requests(limits: tuple[SlidingWindowLimit, ...], pauses: Sequence[float]) -> Kept:
    """Return the bookings of requests that come `pauses` seconds after each other."""
    bookings, now = Kept(), 1_800_000_000.0
    for pause in pauses:
        now += pause
        bookings.append(earliest_allowed_time(limits, bookings.nth_last, now))
    return bookings


def most_within(moments: Sequence[float], seconds: float) -> int:
    """Return the most moments that any half-open stretch of `seconds` holds, whatever its phase."""
    return max(
        (bisect_left(moments, start + seconds) - place for place, start in enumerate(moments)),
        default=0,
    )


@given(tier=SMALL, pauses=PAUSES, share=st.floats(0.05, 1))
def test_no_window_of_any_phase_holds_more(
    tier: RateTier, pauses: list[float], share: float
) -> None:
    """However requests come, no second exceeds the burst and no minute our share of the steady."""
    bookings = reserve_requests(tier_limits(tier, share=share, scale=1), pauses)
    assert most_within(bookings, 1) <= tier.burst
    assert most_within(bookings, 60) <= max(1, floor(tier.steady * share + 1e-6))


@given(tier=SMALL, pauses=PAUSES, seed=st.integers(0, 999))
def test_jitter_on_the_way_breaks_no_window(tier: RateTier, pauses: list[float], seed: int) -> None:
    """Requests that take up to a quarter of a second to arrive still keep to every window."""
    luck = random.Random(seed)
    bookings = reserve_requests(tier_limits(tier, share=1, scale=1), pauses)
    arrivals = sorted(moment + luck.random() * 0.249 for moment in bookings)
    assert most_within(arrivals, 1) <= tier.burst
    assert most_within(arrivals, 60) <= tier.steady


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: tier.name)
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_little_of_what_is_allowed_is_wasted(tier: RateTier, share: float) -> None:
    """With constant demand every tier is used to 98 % of its share in the long run."""
    limits = tier_limits(tier, share=share, scale=1)[:2]
    a_minute = max(1, floor(tier.steady * share))
    bookings = reserve_requests(limits, [0.0] * (a_minute * 5 + 1))
    lasted = bookings[-1] - bookings[0]
    assert (len(bookings) - 1) / lasted * 60 >= a_minute * 0.98


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: tier.name)
def test_the_burst_never_bounds_a_long_read(tier: RateTier) -> None:
    """The margin of the burst is free: a minute of bursts is at least twice the steady limit."""
    assert tier.burst * 60 / BURST_WINDOW_SECONDS >= 2 * tier.steady


def test_the_first_requests_do_not_wait() -> None:
    """A whole burst goes out at once; the next one waits for the window to move on."""
    bookings = reserve_requests(tier_limits(TIER_S, share=1, scale=1), [0.0] * 4)
    waits = [round(moment - bookings[0], 6) for moment in bookings]
    assert waits == [0, 0, 0, BURST_WINDOW_SECONDS]


def test_a_minute_is_waited_out() -> None:
    """With the steady share spent, the next request waits until the first is a minute old."""
    bookings = reserve_requests(tier_limits(TIER_REPORT, share=1, scale=1), [0.0] * 3)
    assert bookings[2] - bookings[0] == pytest.approx(STEADY_WINDOW_SECONDS)


def test_a_day_is_a_window_too() -> None:
    """After the daily quota the next moment is tomorrow."""
    tier = RateTier(name="any", burst=10, steady=600, daily=20)
    bookings = reserve_requests(tier_limits(tier, share=1, scale=1), [0.0] * 21)
    assert bookings[20] - bookings[0] >= 86_400


def test_the_share_is_of_the_steady_limit_and_rounds_down() -> None:
    """A share leaves the burst whole; of 15 a minute 0.9 are 13."""
    burst, steady = tier_limits(TIER_XS, share=0.9, scale=1)
    assert (burst.requests, steady.requests) == (1, 13)


def test_at_least_one_request_stays_ours() -> None:
    """However small the share, something moves."""
    assert [each.requests for each in tier_limits(TIER_XS, share=0.01, scale=1)] == [1, 1]
    assert tier_limits(TIER_REPORT, share=1, scale=1, reserve=225)[2].requests == 1


def test_a_daily_quota_has_a_reserve_instead_of_a_share() -> None:
    """Of two a minute no part can be left to others; of a day, so many requests can."""
    limits = tier_limits(TIER_REPORT, share=0.1, scale=1, reserve=25)
    assert [each.requests for each in limits] == [1, 2, 200]
    scaled = tier_limits(TIER_REPORT, share=0.1, scale=2, reserve=25)
    assert [each.requests for each in scaled] == [2, 4, 425]


def test_the_scale_multiplies_every_limit() -> None:
    """A sandbox with a hundred times the limits gets a hundred times the requests, day included."""
    limits = tier_limits(TIER_REPORT, share=1, scale=100)
    assert [each.requests for each in limits] == [100, 200, 22500]


def test_a_whole_number_loses_nothing_to_rounding() -> None:
    """0.29 of 100 is 29, though the floating product is a hair below."""
    assert (
        tier_limits(RateTier(name="any", burst=1, steady=100), share=0.29, scale=1)[1].requests
        == 29
    )


def test_a_clock_that_goes_back_does_not_change_the_order() -> None:
    """A `now` before the last booking is answered with a moment after it."""
    limits = tier_limits(TIER_M, share=1, scale=1)
    bookings = reserve_requests(limits, [0.0] * 10)
    assert earliest_allowed_time(limits, bookings.nth_last, bookings[-1] - 500) >= bookings[-1]


def test_fixed_windows_agree() -> None:
    """Klaviyo's own way of counting, by whole minutes of any phase, finds no minute too full."""
    bookings = reserve_requests(tier_limits(TIER_L, share=1, scale=1), [0.0] * 3000)
    for phase in (0.0, 7.3, 31.0, 59.9):
        minutes = Counter(floor((moment + phase) / 60) for moment in bookings)
        assert max(minutes.values()) <= TIER_L.steady
