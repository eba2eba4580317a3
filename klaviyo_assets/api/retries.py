"""Whether to try again, and after how long: pure policy.

What belongs here: which errors deserve another try, and the arithmetic of waiting. What does not:
waiting itself (`client.py`), what an answer means (`refusals.py`).

Two bounds, because two things go wrong. A server that fails is given a number of tries. A spent
rate limit is nobody's failure: it is waited out, up to a total, as asking again at once only brings
the next 429. Source: https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from klaviyo_assets.errors import (
    ConnectionLostError,
    KlaviyoAssetsError,
    QuotaError,
    RateLimitError,
    TransientError,
)

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 10.0
"""Our own waits double up to this; with every answer a 429 they fill ten minutes in 60 requests."""

MANY = 16
"""So many waits before that the next one is the longest; more would overflow a float one day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient we are. `tries` includes the first one; `waiting_seconds` is for 429s, in all.

    Where `waits_long`, every wait after a failure is our longest one: few tries, far apart.
    `free_tries` is for what no server can have got.
    """

    tries: int = 6
    free_tries: int = 6
    waits_long: bool = False
    waiting_seconds: float = 600.0
    retry_after_seconds: float = 300.0
    """The longest `Retry-After` that is slept through; beyond it the quota is spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """What one request has been through: failures, 429s, and seconds waited because of 429s."""

    failures: int = 0
    refusals: int = 0
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after `seconds`; `tries` is what counts from then on."""

    seconds: float
    tries: Tries


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again; `error` is what the caller gets."""

    error: KlaviyoAssetsError


def next_wait(
    tries: Tries,
    error: KlaviyoAssetsError,
    *,
    policy: Policy,
    chance: float,
    now: datetime,
) -> Wait | GiveUp:
    """Return what to do after `error`.

    `chance` in [0, 1) spreads the waits, so that many clients do not come back together; `now` is
    the operator's local time, for the sentence that says when to come back.
    """
    if isinstance(error, QuotaError) or not isinstance(error, TransientError):
        return GiveUp(error)
    asked = error.retry_after_seconds
    if asked is not None and asked > policy.retry_after_seconds:
        return GiveUp(come_back(error, asked, now))
    if isinstance(error, RateLimitError):
        return after_refusal(tries, error, policy=policy, chance=chance)
    failed = replace(tries, failures=tries.failures + 1)
    was_sent = not isinstance(error, ConnectionLostError) or error.was_sent
    if failed.failures >= (policy.tries if was_sent else policy.free_tries):
        return GiveUp(worn(error, f"Given up after {failed.failures} tries."))
    waits = MANY if policy.waits_long else tries.failures
    return Wait(max(asked or 0.0, backoff(waits, chance)), failed)


def after_refusal(
    tries: Tries, error: RateLimitError, *, policy: Policy, chance: float
) -> Wait | GiveUp:
    """Return what to do after a 429: wait as long as Klaviyo says, or as long as our own back-off.

    "0 seconds" has been seen in real answers; half a second is the least, and up to a quarter more
    than asked spreads the return of several threads.
    """
    asked = error.retry_after_seconds
    if asked is None:
        seconds = backoff(tries.refusals, chance)
    else:
        seconds = max(asked, FIRST_WAIT_SECONDS / 2) * (1 + chance / 4)
    waited = tries.waited_seconds + seconds
    if waited > policy.waiting_seconds:
        said = f"Given up after {tries.refusals + 1} of them: {tries.waited_seconds:.0f} s waited."
        return GiveUp(worn(error, said))
    return Wait(seconds, replace(tries, refusals=tries.refusals + 1, waited_seconds=waited))


def backoff(count: int, chance: float) -> float:
    """Return the wait after `count` earlier ones: doubled each time, then cut by up to half."""
    whole = min(FIRST_WAIT_SECONDS * 2 ** min(count, MANY), LONGEST_WAIT_SECONDS)
    return whole * (1 - chance / 2)


def come_back(error: TransientError, asked: float, now: datetime) -> TransientError:
    """Return the error for a wait too long to sleep through, with the local time of its end."""
    back = (now + timedelta(seconds=asked)).strftime("%Y-%m-%d %H:%M %Z").rstrip()
    said = f"Klaviyo asks to wait {asked:.0f} s, which is too long to sleep: run it after {back}."
    if not isinstance(error, RateLimitError):
        return worn(error, said)
    return QuotaError(f"{error.message} {said}", stream=error.stream, retry_after_seconds=asked)


def worn(error: TransientError, said: str) -> TransientError:
    """Return the same error with one sentence more."""
    return replace(error, message=f"{error.message.rstrip('.')}. {said}")
