"""Rate windows are enforced as published, and their headers are the recorded ones."""

import pytest

from klaviyo_assets.sandbox.access import FixedWindowCounter, SandboxRateLimiter, throttling_error
from klaviyo_assets.sandbox.account.config import PrivateApiKey
from klaviyo_assets.sandbox.facts.schema import (
    PUBLISHED_L,
    PUBLISHED_M,
    PUBLISHED_REPORT,
    PUBLISHED_S,
    PUBLISHED_XS,
)
from klaviyo_assets.sandbox.http_messages import ApiError
from klaviyo_assets_tests.sandbox.conftest import StartSandbox

MINUTE = 60_000_000.0


def test_a_second_holds_the_burst_and_no_more() -> None:
    """Three requests pass within a second of tier S, the fourth waits for the next second."""
    windows = FixedWindowCounter(PUBLISHED_S, 1.0)
    waits = [windows.count_request(MINUTE + at) for at in (0.0, 0.1, 0.2, 0.75, 1.0)]
    assert waits[:3] == [None, None, None]
    assert waits[3] == pytest.approx(0.25)
    assert waits[4] is None


def test_a_minute_holds_the_steady_share_and_refusals_count() -> None:
    """Of one request a second fifteen pass in a minute of tier XS; also the refused are counted."""
    windows = FixedWindowCounter(PUBLISHED_XS, 1.0)
    waits = [windows.count_request(MINUTE + at) for at in range(60)]
    assert [wait is None for wait in waits] == [True] * 15 + [False] * 45
    assert waits[15] == 45
    assert windows.count_request(MINUTE + 60) is None


def test_a_day_holds_225_reports() -> None:
    """The 226th report of a day waits for the next day, however slowly they came."""
    windows = FixedWindowCounter(PUBLISHED_REPORT, 1.0)
    day = 20_000 * 86_400.0
    waits = [windows.count_request(day + at * 60) for at in range(226)]
    assert waits[:225] == [None] * 225
    assert waits[225] == 86_400 - 225 * 60


def test_windows_are_fixed_and_not_sliding() -> None:
    """Six requests within a tenth of a second pass when a second's border lies between them."""
    windows = FixedWindowCounter(PUBLISHED_S, 1.0)
    waits = [windows.count_request(MINUTE + at) for at in (0.95, 0.96, 0.97, 1.01, 1.02, 1.03)]
    assert waits == [None] * 6


def test_scale_multiplies_every_limit() -> None:
    """A scale of two doubles burst, steady and daily limits; at least one request stays."""
    assert FixedWindowCounter(PUBLISHED_REPORT, 2.0).limits == [(1, 2), (60, 4), (86_400, 450)]
    assert FixedWindowCounter(PUBLISHED_REPORT, 0.001).limits == [(1, 1), (60, 1), (86_400, 1)]


def test_a_lowered_parameter_spends_both_budgets() -> None:
    """A call with a lowered parameter counts against the operation and against the parameter."""
    limits = SandboxRateLimiter(1.0)
    budgets = {
        "get_profiles": PUBLISHED_L,
        "additional-fields[profile]=predictive_analytics": PUBLISHED_M,
    }
    for _ in range(10):
        limits.count_request(budgets, MINUTE)
    with pytest.raises(ApiError) as refused:
        limits.count_request(budgets, MINUTE)
    assert refused.value.status == 429
    assert (
        limits.count_request({"get_profiles": PUBLISHED_L}, MINUTE)["ratelimit-remaining"] == "63"
    )


def test_headers_are_the_recorded_ones() -> None:
    """Limits are listed by window, remaining and reset speak of the burst window."""
    limits = SandboxRateLimiter(1.0)
    assert limits.count_request({"get_profiles": PUBLISHED_L}, MINUTE) == {
        "ratelimit-limit": "75, 75;w=1, 750;w=60",
        "ratelimit-remaining": "74",
        "ratelimit-reset": "1",
    }
    reports = limits.count_request({"query": PUBLISHED_REPORT}, MINUTE)
    assert reports["ratelimit-limit"] == "1, 1;w=1, 2;w=60, 225;w=86400"


def test_a_429_names_whole_seconds_only() -> None:
    """A refusal carries `retry-after` rounded up and says it in its detail."""
    error = throttling_error(44.2)
    assert error.headers == {"retry-after": "45"}
    assert error.detail == "Request was throttled. Expected available in 45 seconds."


def test_the_server_throttles_and_keeps_the_count(start_sandbox: StartSandbox) -> None:
    """Three requests at once to a 1/s endpoint end in a 429 without rate headers; all count."""
    client = start_sandbox(rate_limit_scale=1.0)
    client.sandbox.service.wall_clock = lambda: MINUTE
    answers = [client.request("/api/accounts") for _ in range(3)]
    refused = [each for each in answers if each.status == 429]
    passed = [each for each in answers if each.status == 200]
    assert (len(passed), len(refused)) == (1, 2)
    assert int(refused[0].headers["retry-after"]) >= 1
    assert not [name for name in refused[0].headers if name.startswith("ratelimit")]
    assert refused[0].json["errors"][0]["code"] == "throttled"
    assert "ratelimit-limit" in passed[0].headers
    summary = client.call_admin("GET", "/__journal?summary=1")
    assert (summary["throttled"], summary["requests"]) == (len(refused), 3)


def test_errors_count_against_the_windows(start_sandbox: StartSandbox) -> None:
    """Requests that end as 400 spend the budget too."""
    client = start_sandbox(rate_limit_scale=1.0)
    client.sandbox.service.wall_clock = lambda: MINUTE
    statuses = [client.request("/api/accounts?nonsense=1").status for _ in range(3)]
    assert set(statuses) == {400, 429}


def test_two_keys_share_the_windows_of_their_account(start_sandbox: StartSandbox) -> None:
    """A second key of the account finds the windows spent by the first."""
    keys = (PrivateApiKey(value="pk_one"), PrivateApiKey(value="pk_two"))
    client = start_sandbox(rate_limit_scale=1.0, keys=keys)
    client.sandbox.service.wall_clock = lambda: MINUTE
    assert client.request("/api/accounts").status == 200
    other = {"Authorization": "Klaviyo-API-Key pk_two"}
    assert client.request("/api/accounts", other).status == 429
