"""Whether to try again is decided without a clock, and every patience ends."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets import errors
from klaviyo_assets.api.retry import RetryBudget, RetryPolicy
from klaviyo_assets.errors import (
    BadKeyError,
    BrokenBodyError,
    ConnectionLostError,
    KlaviyoAssetsError,
    QuotaError,
    RateLimitError,
    ServerError,
    TransientError,
)

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=timezone(timedelta(hours=1), "CET"))
POLICY = RetryPolicy()


def spend(
    error: KlaviyoAssetsError, budget: RetryBudget | None = None, *, chance: float = 0.0
) -> float:
    """Return the wait before the retry after `error`; raise what ends the tries."""
    return (budget or RetryBudget(POLICY)).spend(error, jitter=chance, now=NOW)


def waits_for(
    error: KlaviyoAssetsError, *, chance: float = 0.0
) -> tuple[list[float], KlaviyoAssetsError]:
    """Return all waits that the same error again and again brings, and the error at the end."""
    budget, waits = RetryBudget(POLICY), list[float]()
    while True:
        try:
            waits.append(spend(error, budget, chance=chance))
        except KlaviyoAssetsError as end:
            return waits, end


def test_a_failing_server_gets_six_tries() -> None:
    """Waits double, then stay; the sixth failure is the last, and says how often it was tried."""
    waits, end = waits_for(ServerError("It failed.", stream="events"))
    assert waits == [1, 2, 4, 8, 10]
    assert type(end) is ServerError
    assert str(end) == "events: It failed. Given up after 6 tries."


def test_chance_spreads_the_waits() -> None:
    """Waits are cut by up to half, so that many clients do not come back together."""
    waits, _ = waits_for(ServerError("x"), chance=0.999)
    assert waits == pytest.approx([0.5, 1, 2, 4, 5], rel=0.01)


@pytest.mark.parametrize("kind", [ServerError, ConnectionLostError, BrokenBodyError])
def test_what_may_pass_is_tried_again(kind: type[TransientError]) -> None:
    """A server's failure, a lost connection and a broken body are worth another try."""
    assert spend(kind("x")) == 1


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, KlaviyoAssetsError)
        and not issubclass(kind, TransientError)
    ],
)
def test_nothing_permanent_is_tried_again(name: str) -> None:
    """Every other error of the tree is given to the caller as it is, at once."""
    error = getattr(errors, name)("x")
    with pytest.raises(KlaviyoAssetsError) as raised:
        spend(error)
    assert raised.value is error


def test_a_spent_quota_is_not_waited_out() -> None:
    """What the rate limit store refuses for hours is not tried again."""
    error = QuotaError("x", retry_after_seconds=1)
    with pytest.raises(QuotaError) as raised:
        spend(error)
    assert raised.value is error


@given(seconds=st.integers(1, 300), chance=st.floats(0, 1, exclude_max=True))
def test_retry_after_is_honoured(seconds: int, chance: float) -> None:
    """A 429 is never requested again before Klaviyo said, nor much later."""
    wait = spend(RateLimitError("x", retry_after_seconds=seconds), chance=chance)
    assert seconds <= wait <= seconds * 1.25


def test_no_429_is_retried_at_once() -> None:
    """Klaviyo has said "in 0 seconds", and refused again what came at once."""
    assert spend(RateLimitError("x", retry_after_seconds=0)) >= 0.5


def test_a_429_that_says_nothing_is_waited_out_by_our_own_back_off() -> None:
    """Without a number the waits double, up to a bound, for ten minutes in all."""
    waits, end = waits_for(RateLimitError("x"))
    assert waits[:5] == [1, 2, 4, 8, 10]
    assert 590 <= sum(waits) <= 600
    assert "600 s waited" in str(end) or "595 s waited" in str(end)


def test_a_storm_of_429s_is_survived() -> None:
    """Fifty in a row of one second each are within the patience; they use up no tries."""
    budget = RetryBudget(POLICY)
    for _ in range(50):
        spend(RateLimitError("x", retry_after_seconds=1), budget, chance=0.5)
    assert budget.failures == 0
    assert spend(ServerError("x"), budget) == 1


def test_patience_with_429s_ends() -> None:
    """The waits for 429s never exceed the bound in all, and the end is still a rate limit's."""
    waits, end = waits_for(RateLimitError("x", retry_after_seconds=7), chance=0.9)
    assert 600 - 7 * 1.25 <= sum(waits) <= 600
    assert type(end) is RateLimitError


def test_a_wait_beyond_the_cap_is_a_quota() -> None:
    """A day's wait is not slept through: the text says until when, in local time."""
    with pytest.raises(QuotaError) as raised:
        spend(RateLimitError("Refused.", stream="reports", retry_after_seconds=73473))
    assert raised.value.retry_after_seconds == 73473
    assert "2026-11-24 14:24 CET" in str(raised.value)
    assert str(raised.value).startswith("reports: Refused.")


def test_a_server_that_wants_hours_is_no_quota() -> None:
    """A 503 with a long wait ends the stream at once, and stays a server's failure."""
    with pytest.raises(ServerError) as raised:
        spend(ServerError("Down.", retry_after_seconds=3600))
    assert "19:00 CET" in str(raised.value)


def test_a_server_that_says_when_is_believed() -> None:
    """A 503 with a short wait is requested again no sooner."""
    assert spend(ServerError("Down.", retry_after_seconds=30)) == 30


def test_the_longest_wait_still_makes_a_date() -> None:
    """The largest number that is believed still makes a date."""
    with pytest.raises(QuotaError) as raised:
        spend(RateLimitError("x", retry_after_seconds=999_999_999))
    assert "run it after 2058-" in str(raised.value)


def test_mixed_trouble_is_counted_apart() -> None:
    """429s between failures do not lengthen the failures' patience."""
    budget = RetryBudget(POLICY)
    for _ in range(POLICY.max_tries - 1):
        spend(ServerError("x"), budget)
    spend(RateLimitError("x", retry_after_seconds=1), budget)
    with pytest.raises(ServerError):
        spend(ServerError("x"), budget)


def test_a_bad_key_is_tried_once() -> None:
    """The whole run stops at the first 401."""
    error = BadKeyError("x")
    with pytest.raises(BadKeyError) as raised:
        spend(error)
    assert raised.value is error
