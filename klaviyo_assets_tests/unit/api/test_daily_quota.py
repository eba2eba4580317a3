"""The day's quota of reports is never overrun, survives crashes, and says when it goes on."""

import multiprocessing
import os
import signal
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_assets.api import rate_limit_store
from klaviyo_assets.api.limits import DAILY_WINDOW_SECONDS, STEADY_WINDOW_SECONDS
from klaviyo_assets.api.rate_limiter import MAX_DAILY_WAIT_SECONDS, RateLimiter
from klaviyo_assets.errors import QuotaError
from klaviyo_assets.model.stream import TIER_M, TIER_REPORT, RateLimitBucket, RateTier

VALUES = RateLimitBucket("POST /api/campaign-values-reports", TIER_REPORT)
SERIES = RateLimitBucket("POST /api/flow-series-reports", TIER_REPORT)
START = 1_795_000_000.0
FEW = RateLimitBucket("POST /api/few", RateTier(name="few", burst=1, steady=2, daily=9))
QUICK = RateTier(name="quick", burst=1000, steady=60_000, daily=225)


class Clock:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def moment(seconds: float) -> datetime:
    """Return the UTC moment so many seconds after the start."""
    return datetime.fromtimestamp(START + seconds, UTC)


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still until it is moved."""
    return Clock()


@pytest.fixture
def open_rate_limiter(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., RateLimiter]]:
    """Give a function that opens the store of one folder, each time as another process would."""
    ledgers: list[RateLimiter] = []

    def ledger(*, scale: float = 1.0, reserve: int = 0, share: float = 0.9) -> RateLimiter:
        made = RateLimiter(
            tmp_path / "state",
            "AbC123",
            share=share,
            scale=scale,
            daily_reserve=reserve,
            clock=clock,
        )
        ledgers.append(made)
        return made

    yield ledger
    for each in ledgers:
        each.close()


def spend(
    ledger: RateLimiter, clock: Clock, requests: int, budget: RateLimitBucket = VALUES
) -> None:
    """Make so many requests, each as soon as it may go."""
    for _ in range(requests):
        clock.now += ledger.reserve((budget,))


def test_225_a_day_then_refusal(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """The 226th is refused at once, books nothing, and says when the first slot is free again."""
    ledger = open_rate_limiter()
    spend(ledger, clock, 225)
    with pytest.raises(QuotaError, match="225 of our 225 requests a day are used"):
        ledger.reserve((VALUES,))
    with pytest.raises(QuotaError) as caught:
        ledger.reserve((VALUES,))
    assert f"{moment(DAILY_WINDOW_SECONDS):%Y-%m-%d %H:%M:%S} UTC" in caught.value.message
    assert caught.value.retry_after_seconds == pytest.approx(
        DAILY_WINDOW_SECONDS - (clock.now - START)
    )
    quota = ledger.daily_quota(VALUES)
    assert (quota.used, quota.remaining, quota.limit) == (225, 0, 225)
    assert quota.next_free_at == moment(DAILY_WINDOW_SECONDS)
    assert quota.blocked_until is None


def test_at_224_one_more_goes_out(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """What is left can be spent to the last request, by whatever process."""
    spend(open_rate_limiter(), clock, 224)
    assert open_rate_limiter().daily_quota(VALUES).remaining == 1
    clock.now += open_rate_limiter().reserve((VALUES,))
    with pytest.raises(QuotaError):
        open_rate_limiter().reserve((VALUES,))


def test_two_a_minute_stay_two_whatever_the_share(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """A share of two would be one: reports keep the minute, and leave others a reserve instead."""
    ledger = open_rate_limiter(share=0.5)
    waits = [ledger.reserve((VALUES,)) for _ in range(3)]
    assert waits[2] == pytest.approx(STEADY_WINDOW_SECONDS)
    assert clock.now == START


def test_the_endpoints_have_a_quota_each(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """Klaviyo limits each report endpoint by itself."""
    ledger = open_rate_limiter()
    spend(ledger, clock, 5)
    assert ledger.daily_quota(VALUES).remaining == 220
    assert ledger.daily_quota(SERIES).remaining == 225
    assert ledger.reserve((SERIES,)) == 0


def test_a_reserve_is_left_to_others(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """Requests in the reserve are not ours; a project without one may still make them."""
    modest = open_rate_limiter(reserve=200)
    assert modest.daily_quota(VALUES).limit == 25
    spend(modest, clock, 25)
    with pytest.raises(QuotaError, match="25 of our 25"):
        modest.reserve((VALUES,))
    assert open_rate_limiter().daily_quota(VALUES).remaining == 200
    clock.now += 60
    assert open_rate_limiter().reserve((VALUES,)) == 0


def test_a_reserve_set_later_never_makes_less_than_nothing(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """If more is used than the share now allows, nothing is left, with the right reset time."""
    spend(open_rate_limiter(), clock, 30)
    quota = open_rate_limiter(reserve=205).daily_quota(VALUES)
    assert (quota.used, quota.remaining, quota.limit) == (30, 0, 20)
    # Ours is the next one when the eleventh of the thirty is a day old.
    assert quota.next_free_at == moment(DAILY_WINDOW_SECONDS + 5 * STEADY_WINDOW_SECONDS)


def test_the_scale_multiplies_the_day(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """A sandbox with more room has it in the daily quota as well, before the reserve."""
    assert open_rate_limiter(scale=100).daily_quota(VALUES).limit == 22_500
    assert open_rate_limiter(scale=2, reserve=50).daily_quota(VALUES).limit == 400
    assert open_rate_limiter(scale=0.001).daily_quota(VALUES).limit == 1


def test_the_day_slides(open_rate_limiter: Callable[..., RateLimiter], clock: Clock) -> None:
    """Slots come back one by one, a day after each was used, not all at midnight."""
    ledger = open_rate_limiter()
    for _ in range(9):
        assert ledger.reserve((FEW,)) <= 10
        clock.now += 900
    assert ledger.daily_quota(FEW).remaining == 0
    clock.now = START + DAILY_WINDOW_SECONDS - 301
    with pytest.raises(QuotaError):
        ledger.reserve((FEW,))
    clock.now = START + DAILY_WINDOW_SECONDS
    assert ledger.daily_quota(FEW).remaining == 1
    clock.now += 3 * 900
    assert ledger.daily_quota(FEW).remaining == 4
    for _ in range(4):
        clock.now += ledger.reserve((FEW,))
    assert ledger.daily_quota(FEW).remaining == 0


def test_a_short_wait_is_no_spent_day(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """A slot that comes back within minutes is waited for, and booked at its moment."""
    ledger = open_rate_limiter()
    spend(ledger, clock, 9, FEW)
    clock.now = START + DAILY_WINDOW_SECONDS - MAX_DAILY_WAIT_SECONDS - 1
    with pytest.raises(QuotaError):
        ledger.reserve((FEW,))
    clock.now += 2
    assert ledger.reserve((FEW,)) == pytest.approx(MAX_DAILY_WAIT_SECONDS - 1)


def test_a_long_queue_is_no_spent_day(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """Twenty requests at once wait ten minutes for the minute's limit; the day has room."""
    ledger = open_rate_limiter()
    waits = [ledger.reserve((VALUES,)) for _ in range(20)]
    assert waits[-1] == pytest.approx(9 * STEADY_WINDOW_SECONDS, abs=2)
    quota = ledger.daily_quota(VALUES)
    assert (quota.used, quota.remaining) == (20, 205)
    assert quota.next_free_at == moment(0)


@settings(max_examples=8)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.one_of(st.just(0.0), st.floats(0, 3000), st.floats(0, 90_000)),
        ),
        min_size=40,
        max_size=100,
    )
)
def test_no_24_hours_hold_more(steps: list[tuple[int, float]]) -> None:
    """Three processes in turn, any pauses: no stretch of a day holds more than the quota."""
    clock = Clock()
    budget = RateLimitBucket("b", RateTier(name="any", burst=2, steady=4, daily=20))
    sent: list[float] = []
    with TemporaryDirectory() as folder:
        ledgers = [RateLimiter(Path(folder), "a", clock=clock) for _ in range(3)]
        for who, pause in steps:
            clock.now += pause
            left = ledgers[who].daily_quota(budget).remaining
            try:
                sent.append(clock.now + ledgers[who].reserve((budget,)))
            except QuotaError:
                assert left == 0
        for ledger in ledgers:
            ledger.close()
    for place, start in enumerate(sent):
        assert bisect_left(sent, start + 86_400) - place <= 20


def test_klaviyos_own_word_keeps_everybody_out(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """After a 429 no process sends before its Retry-After ends, whatever our own count."""
    open_rate_limiter().reserve((VALUES,))
    open_rate_limiter().block_until_daily_reset((VALUES,), 73_473)
    later = open_rate_limiter()
    quota = later.daily_quota(VALUES)
    assert (quota.used, quota.remaining) == (1, 0)
    assert quota.blocked_until == quota.next_free_at == moment(73_474)
    with pytest.raises(QuotaError, match="Klaviyo says") as caught:
        later.reserve((VALUES,))
    assert caught.value.retry_after_seconds == pytest.approx(73_474)
    assert later.blocked_seconds((VALUES,)) == pytest.approx(73_474)
    assert later.reserve((SERIES,)) == 0
    clock.now += 73_475
    assert later.daily_quota(VALUES).blocked_until is None
    assert later.reserve((VALUES,)) == 0


def test_when_klaviyos_day_has_turned_all_of_it_is_there(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """A Retry-After shows when the fixed day turns: what was booked before counts no more."""
    ledger = open_rate_limiter()
    spend(ledger, clock, 9, FEW)
    ledger.block_until_daily_reset((FEW,), 3600)
    clock.now += 3601
    assert ledger.daily_quota(FEW).remaining == 9
    spend(ledger, clock, 9, FEW)
    with pytest.raises(QuotaError, match="9 of our 9"):
        ledger.reserve((FEW,))


def test_a_wrong_word_blocks_no_longer_than_a_day(
    open_rate_limiter: Callable[..., RateLimiter],
) -> None:
    """Nonsense in a header, from a proxy perhaps, cannot shut the endpoint for a year."""
    open_rate_limiter().block_until_daily_reset((VALUES,), 1e9)
    until = open_rate_limiter().daily_quota(VALUES).blocked_until
    assert until is not None
    assert until - moment(0) <= timedelta(days=1, minutes=2)


def test_only_a_daily_quota_can_be_spent_for_the_day(
    open_rate_limiter: Callable[..., RateLimiter],
) -> None:
    """A long wait on another endpoint ends its stream, and nothing more."""
    flows = RateLimitBucket("GET /api/flows", TIER_M)
    ledger = open_rate_limiter()
    ledger.block_until_daily_reset((flows,), 73_473)
    assert ledger.blocked_seconds((flows,)) == 0
    assert ledger.reserve((flows,)) == 0
    with pytest.raises(ValueError, match="no daily quota"):
        ledger.daily_quota(flows)


def test_looking_books_nothing(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """The quota can be shown as often as one likes."""
    ledger = open_rate_limiter()
    assert {ledger.daily_quota(VALUES).used for _ in range(5)} == {0}


def book(folder: str, clock_at: float, requests: int, sent: Connection) -> None:
    """Reserve as fast as the store allows, in a process of its own; send the number."""
    made = 0
    # A store that is busy for ten seconds says that this machine is; the count is the promise.
    rate_limit_store.BUSY_TIMEOUT_SECONDS = 300
    with closing(RateLimiter(Path(folder), "AbC123", clock=lambda: clock_at)) as ledger:
        for _ in range(requests):
            try:
                ledger.reserve((RateLimitBucket("POST /api/any", QUICK),))
            except QuotaError:
                break
            made += 1
    sent.send(made)


def test_processes_share_the_day(tmp_path: Path) -> None:
    """Four processes that want 100 each get 225 together."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(4)]
    made = [context.Process(target=book, args=(str(tmp_path), START, 100, end)) for _, end in ends]
    for process, (_, theirs) in zip(made, ends, strict=True):
        process.start()
        # Open in one process alone, it ends the wait below if that process fails.
        theirs.close()
    counts = [mine.recv() for mine, _ in ends]
    for process in made:
        process.join()
    assert sum(counts) == 225
    with closing(RateLimiter(tmp_path, "AbC123", clock=lambda: START)) as ledger:
        assert ledger.daily_quota(RateLimitBucket("POST /api/any", QUICK)).remaining == 0


def book_and_hang(folder: str, booked: Connection) -> None:
    """Book one request, tell so, and never send it."""
    RateLimiter(Path(folder), "AbC123", clock=lambda: START).reserve((VALUES,))
    booked.send("booked")
    signal.pause()


def test_a_kill_between_booking_and_sending_costs_one(tmp_path: Path) -> None:
    """What was booked stays booked, exactly once, and the next process goes on at once."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=book_and_hang, args=(str(tmp_path), theirs))
    process.start()
    theirs.close()
    assert mine.recv() == "booked"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    ledger = RateLimiter(tmp_path, "AbC123", clock=lambda: START)
    assert ledger.daily_quota(VALUES).used == 1
    ledger.reserve((VALUES,))
    assert ledger.daily_quota(VALUES).used == 2
    ledger.close()
