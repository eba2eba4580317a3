"""What a client counts, by all of its threads, and how long the rate limit held a run back."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.api.client import ClientStats, ClientStatsCollector


@dataclass(slots=True)
class Clock:
    """Monotonic seconds that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_counters_add_up_and_stand_still() -> None:
    """A snapshot stays what it was while counting goes on."""
    tally = ClientStatsCollector()
    tally.add(requests=1, received_bytes=10)
    before = tally.stats
    tally.add(requests=2, retries=1, rate_limited=1)
    assert before == ClientStats(requests=1, received_bytes=10)
    assert tally.stats == ClientStats(requests=3, retries=1, rate_limited=1, received_bytes=10)


def test_threads_that_wait_at_once_wait_once() -> None:
    """Ten that wait the same five seconds were held back for five, not for fifty."""
    clock = Clock()
    tally = ClientStatsCollector(clock)
    for _ in range(10):
        tally.add_throttled_wait(5)
    clock.now = 5
    assert tally.stats.throttled_seconds == 5
    clock.now = 20
    assert tally.stats.throttled_seconds == 5


def test_a_wait_under_way_counts_as_far_as_it_has_come() -> None:
    """What a cancelled run had still to wait is not counted: it was not felt."""
    clock = Clock()
    tally = ClientStatsCollector(clock)
    tally.add_throttled_wait(60)
    assert tally.stats.throttled_seconds == 0
    clock.now = 7
    assert tally.stats.throttled_seconds == 7


waits = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 200)), max_size=30)


@given(waits=waits, after=st.integers(0, 300))
def test_throttled_seconds_are_those_in_which_anybody_waited(
    waits: list[tuple[int, int]], after: int
) -> None:
    """It is the union of all waits, and never more than the time that has passed."""
    clock = Clock()
    tally, waited = ClientStatsCollector(clock), set[int]()
    for pause, seconds in waits:
        clock.now += pause
        tally.add_throttled_wait(seconds)
        waited.update(range(int(clock.now), int(clock.now) + seconds))
        assert tally.stats.throttled_seconds <= clock.now
    clock.now += after
    passed = [second for second in waited if second < clock.now]
    assert tally.stats.throttled_seconds == len(passed)
