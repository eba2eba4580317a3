"""Lateness of many syncs adds up, and the lookback it suggests would have been enough."""

import math
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.lake.read.queries import ArrivalDelay
from klaviyo_assets.reconcile.counts import (
    DELAY_STEPS_PER_DOUBLING,
    MetricLateness,
    count_lateness,
    delay_quantile,
    merge_lateness_counts,
    suggest_lookback_days,
)

DAY = 86_400.0
waits = st.lists(st.floats(0, 50 * DAY), min_size=1, max_size=60)


def step_of(seconds: float) -> int:
    """Return the step of the scale, as the lake's query has it."""
    return math.floor(DELAY_STEPS_PER_DOUBLING * math.log2(max(seconds, 60) / 60))


def build_delays(
    seconds: list[float], *, is_behind: bool = True, value: str = "AAA"
) -> list[ArrivalDelay]:
    """Return what a sync measures of events that late, one each."""
    return [
        ArrivalDelay(
            value=value,
            is_before_high_water_mark=is_behind,
            delay_step=step_of(each),
            rows=1,
            max_delay_seconds=each,
        )
        for each in seconds
    ]


def merge_syncs(*syncs: list[ArrivalDelay], with_forward: bool = True) -> dict[str, MetricLateness]:
    """Return the figures of some syncs together."""
    return merge_lateness_counts(
        count_lateness(each, should_include_new=with_forward) for each in syncs
    )


@given(waits, waits, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_quantiles_of_many_syncs_are_right_to_a_fifth(
    first: list[float], second: list[float], share: float
) -> None:
    """Whatever the syncs are cut into, a quantile lies between the true one and a fifth more."""
    found = merge_syncs(build_delays(first), build_delays(second))["AAA"]
    ordered = sorted([*first, *second])
    true = ordered[math.ceil(share * len(ordered)) - 1]
    estimated = found.quantile(share).total_seconds()
    assert estimated <= max(ordered) + 1e-6
    assert true <= estimated + 1e-3 or estimated == max(ordered)
    assert estimated <= max(true, 60) * 2 ** (1 / DELAY_STEPS_PER_DOUBLING) * 1.001


@given(waits)
def test_the_suggested_lookback_would_have_brought_them(seconds: list[float]) -> None:
    """Of the events behind the high-water mark 99 of 100 are within the days suggested."""
    days = suggest_lookback_days(list(merge_syncs(build_delays(seconds)).values()))
    within = sum(each <= days * DAY + 1 for each in seconds)
    assert within >= math.floor(0.99 * len(seconds))


def test_a_long_pause_is_not_lateness() -> None:
    """Events past the mark of an old sync, imports, and events without a metric do not count."""
    paused = build_delays([9 * DAY], is_behind=False)
    assert merge_syncs(paused, with_forward=False) == {}
    assert merge_syncs(build_delays([400 * DAY])) == {}
    nobody = ArrivalDelay(
        value=None, is_before_high_water_mark=True, delay_step=0, rows=1, max_delay_seconds=1.0
    )
    assert merge_syncs([nobody]) == {}


def test_without_late_events_no_lookback_is_suggested() -> None:
    """Events past the high-water mark need none, however long after their moment a sync came."""
    found = merge_syncs(build_delays([3600.0], is_behind=False))
    assert suggest_lookback_days(list(found.values())) == 0
    assert found["AAA"].quantile(0.5) == timedelta(hours=1)
    assert delay_quantile({}, 0.5, max_delay_seconds=0.0) == timedelta()
