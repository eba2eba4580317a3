"""The day's quota of reports, met on the wire: Klaviyo's word is kept, and our own count too."""

from datetime import date

import pytest

from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.reports import report_request
from klaviyo_assets.errors import QuotaError
from klaviyo_assets.model.report import Days, Report
from klaviyo_assets.streams.reports import FLOW_SERIES_REPORTS
from klaviyo_assets_tests.integration.api.conftest import MakeClient, MovedTime
from klaviyo_assets_tests.integration.api.wire import PAGE, Server, reply, serving

(BUDGET,) = FLOW_SERIES_REPORTS.budgets()


def report(server: Server) -> Request:
    """Return a request for a report of one day."""
    assert isinstance(FLOW_SERIES_REPORTS.source, Report)
    day = date(2026, 10, 5)
    return report_request(
        FLOW_SERIES_REPORTS.source,
        stream=FLOW_SERIES_REPORTS,
        metric_id="RES",
        days=Days(day, day),
        base_url=server.url,
    )


def body_of(answer: Answer) -> bytes:
    """Return the answer's body."""
    return answer.body


def test_a_report_is_posted_whole(client_of: MakeClient) -> None:
    """The body arrives as it was made, with the type that Klaviyo wants."""
    with serving(reply()) as server:
        request = report(server)
        assert client_of(server).read(request, body_of, stream="reports") == PAGE
        [seen] = server.seen
    assert seen.line.startswith("POST /api/flow-series-reports ")
    assert seen.headers["content-type"] == "application/vnd.api+json"
    assert seen.body == request.body


def test_a_spent_day_is_remembered_by_all(client_of: MakeClient, moved: MovedTime) -> None:
    """After Klaviyo's word that a report's day is spent, nobody asks again before it is over."""
    with serving(reply(429, b"", {"Retry-After": "73473"}), reply()) as server:
        request = report(server)
        with pytest.raises(QuotaError, match="run it after 20") as told:
            client_of(server).read(request, body_of, stream="reports")
        assert told.value.retry_after_seconds == 73473
        moved.now += 40_000
        with pytest.raises(QuotaError, match="Klaviyo says") as remembered:
            client_of(server).read(request, body_of, stream="reports")
        assert remembered.value.retry_after_seconds == pytest.approx(33_474)
        assert len(server.seen) == 1
        moved.now += 33_475
        assert client_of(server).read(request, body_of, stream="reports") == PAGE
    assert moved.sleeps == []


def test_our_own_count_is_not_taken_for_klaviyos_word(
    client_of: MakeClient, moved: MovedTime
) -> None:
    """A day that our ledger finds spent slides on; it does not turn as a whole."""
    with serving(reply()) as server:
        client = client_of(server)
        for _ in range(225):
            client.read(report(server), body_of, stream="reports")
            moved.now += 60
        for _ in range(2):
            with pytest.raises(QuotaError, match="225 of our 225"):
                client.read(report(server), body_of, stream="reports")
        assert len(server.seen) == 225
    assert client.ledger.quota(BUDGET).blocked_until is None
    assert max(moved.sleeps, default=0) < 60
