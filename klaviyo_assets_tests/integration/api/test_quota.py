"""The daily quota of reports over HTTP: Klaviyo's 429 is remembered, and our own count too."""

from datetime import date

import pytest

from klaviyo_assets.api.messages import Request, Response
from klaviyo_assets.api.requests import report_request
from klaviyo_assets.errors import QuotaError
from klaviyo_assets.model.report import DateRange, ReportEndpoint
from klaviyo_assets.streams.reports import FLOW_SERIES_REPORTS
from klaviyo_assets_tests.integration.api.conftest import FakeClock, MakeClient
from klaviyo_assets_tests.integration.api.scripted_server import (
    PAGE_BODY,
    run_server,
    send_response,
)

(BUDGET,) = FLOW_SERIES_REPORTS.rate_limit_buckets()


def report() -> Request:
    """Return a request for a report of one day."""
    assert isinstance(FLOW_SERIES_REPORTS.source, ReportEndpoint)
    day = date(2026, 10, 5)
    return report_request(
        FLOW_SERIES_REPORTS.source,
        stream=FLOW_SERIES_REPORTS,
        metric_id="RES",
        days=DateRange(day, day),
    )


def body_of(answer: Response) -> bytes:
    """Return the answer's body."""
    return answer.body


def test_a_report_is_posted_whole(client_of: MakeClient) -> None:
    """The body arrives as it was made, with the type that Klaviyo wants."""
    with run_server(send_response()) as server:
        request = report()
        assert client_of(server).fetch(request, body_of, stream="reports") == PAGE_BODY
        [seen] = server.received
    assert seen.line.startswith("POST /api/flow-series-reports ")
    assert seen.headers["content-type"] == "application/vnd.api+json"
    assert seen.body == request.body


def test_a_spent_day_is_remembered_by_all(client_of: MakeClient, fake_clock: FakeClock) -> None:
    """After a 429 for the daily quota no process sends that report before its Retry-After ends."""
    with run_server(send_response(429, b"", {"Retry-After": "73473"}), send_response()) as server:
        request = report()
        with pytest.raises(QuotaError, match="run it after 20") as caught:
            client_of(server).fetch(request, body_of, stream="reports")
        assert caught.value.retry_after_seconds == 73473
        fake_clock.now += 40_000
        with pytest.raises(QuotaError, match="Klaviyo says") as remembered:
            client_of(server).fetch(request, body_of, stream="reports")
        assert remembered.value.retry_after_seconds == pytest.approx(33_474)
        assert len(server.received) == 1
        fake_clock.now += 33_475
        assert client_of(server).fetch(request, body_of, stream="reports") == PAGE_BODY
    assert fake_clock.sleeps == []


def test_our_own_count_is_not_taken_for_klaviyos_word(
    client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """A day that our rate limit store finds spent slides on; it does not turn as a whole."""
    with run_server(send_response()) as server:
        client = client_of(server)
        for _ in range(225):
            client.fetch(report(), body_of, stream="reports")
            fake_clock.now += 60
        for _ in range(2):
            with pytest.raises(QuotaError, match="225 of our 225"):
                client.fetch(report(), body_of, stream="reports")
        assert len(server.received) == 225
    assert client.rate_limiter.daily_quota(BUDGET).blocked_until is None
    assert max(fake_clock.sleeps, default=0) < 60
