"""Report requests: the body says exactly what is wanted, and pages are followed with care."""

import json
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.api.messages import Request, map_error_response
from klaviyo_assets.api.requests import next_report_request, report_request
from klaviyo_assets.errors import (
    ForeignLinkError,
    IneligibleMetricError,
    RepeatedPageError,
    RequestError,
)
from klaviyo_assets.model.report import NO_METRIC, DateRange, ReportEndpoint
from klaviyo_assets.model.stream import TIER_REPORT, RateLimitBucket, Stream
from klaviyo_assets.streams.reports import (
    CAMPAIGN_VALUES_REPORTS,
    FLOW_SERIES_REPORTS,
    FORM_SERIES_REPORTS,
    SEGMENT_SERIES_REPORTS,
    STATISTICS,
)
from klaviyo_assets_tests.unit.api.samples import BASE, build_response, query_parameters

DAYS = DateRange(date(2026, 10, 1), date(2026, 10, 31))


def build_request(
    stream: Stream,
    *,
    days: DateRange = DAYS,
    message_ids: tuple[str, ...] = (),
    metric_id: str = "RES",
) -> Request:
    """Return the request for a report stream."""
    assert isinstance(stream.source, ReportEndpoint)
    return report_request(
        stream.source,
        stream=stream,
        metric_id=metric_id,
        days=days,
        message_ids=message_ids,
    )


def attributes_of(request: Request) -> dict[str, Any]:
    """Return the attributes of a report's body."""
    assert request.body is not None
    return json.loads(request.body)["data"]["attributes"]


def test_forms_and_segments_are_requested_without_a_metric() -> None:
    """Forms by version, segments without groupings, which their request does not take."""
    by_report = {
        stream.name: attributes_of(build_request(stream, metric_id=NO_METRIC))
        for stream in (FORM_SERIES_REPORTS, SEGMENT_SERIES_REPORTS)
    }
    usual = {"statistics", "timeframe", "interval"}
    assert by_report["form_series_reports"].keys() == {*usual, "group_by"}
    assert by_report["form_series_reports"]["group_by"] == ["form_id", "form_version_id"]
    assert by_report["segment_series_reports"].keys() == usual


def test_a_series_is_requested_for_whole_days_and_every_statistic() -> None:
    """Every statistic, the names that come for free, and both ends of the days, without offset."""
    request = build_request(FLOW_SERIES_REPORTS)
    assert (request.method, request.target, request.path) == (
        "POST",
        "/api/flow-series-reports",
        "/api/flow-series-reports",
    )
    assert json.loads(request.body or b"") == {
        "data": {
            "type": "flow-series-report",
            "attributes": {
                "statistics": list(STATISTICS),
                "timeframe": {"start": "2026-10-01T00:00:00", "end": "2026-10-31T23:59:59"},
                "interval": "daily",
                "conversion_metric_id": "RES",
                "group_by": [
                    "flow_id",
                    "flow_message_id",
                    "send_channel",
                    "flow_name",
                    "flow_message_name",
                ],
            },
        }
    }


def test_values_have_no_interval() -> None:
    """Klaviyo makes no series of campaigns, and refuses the field."""
    request = build_request(CAMPAIGN_VALUES_REPORTS)
    assert "interval" not in attributes_of(request)
    assert "filter" not in attributes_of(request)
    assert request.target == "/api/campaign-values-reports"


def test_a_report_spends_the_quota_of_its_endpoint() -> None:
    """Each endpoint has a budget of its own, counted by the day as well."""
    assert build_request(CAMPAIGN_VALUES_REPORTS).buckets == (
        RateLimitBucket("POST /api/campaign-values-reports", TIER_REPORT),
    )
    assert build_request(FLOW_SERIES_REPORTS).buckets == (
        RateLimitBucket("POST /api/flow-series-reports", TIER_REPORT),
    )


def test_an_answer_is_restricted_to_messages() -> None:
    """The filter names the messages, whatever characters their ids hold."""
    only = attributes_of(build_request(FLOW_SERIES_REPORTS, message_ids=("01A", 'b"],\\')))[
        "filter"
    ]
    assert only == r'contains-any(flow_message_id,["01A","b\"],\\"])'
    only = attributes_of(build_request(CAMPAIGN_VALUES_REPORTS, message_ids=("01A",)))["filter"]
    assert only == 'contains-any(campaign_message_id,["01A"])'


@given(st.text(min_size=1))
def test_a_hostile_metric_id_stays_a_value(metric_id: str) -> None:
    """Whatever an id holds, the body is JSON that says this id and nothing else."""
    request = build_request(CAMPAIGN_VALUES_REPORTS, metric_id=metric_id)
    assert attributes_of(request)["conversion_metric_id"] == metric_id
    assert request.target == build_request(CAMPAIGN_VALUES_REPORTS).target


@pytest.mark.parametrize("stream", [CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS])
def test_what_klaviyo_would_refuse_is_not_requested(stream: Stream) -> None:
    """A request that is too long costs one of 225 and brings a 400: it is refused here."""
    assert isinstance(stream.source, ReportEndpoint)
    longest = DateRange(DAYS.first, DAYS.first + timedelta(days=stream.source.max_days - 1))
    assert attributes_of(build_request(stream, days=longest))
    with pytest.raises(ValueError, match="days in one request"):
        build_request(stream, days=DateRange(longest.first, longest.last + timedelta(days=1)))
    assert attributes_of(build_request(stream, message_ids=("m",) * 100))
    with pytest.raises(ValueError, match="101 ids in one filter of 100"):
        build_request(stream, message_ids=("m",) * 101)
    with pytest.raises(ValueError, match="an id is empty"):
        build_request(stream, metric_id="")
    with pytest.raises(ValueError, match="an id is empty"):
        build_request(stream, message_ids=("m", ""))


def test_a_next_link_is_requested_with_the_same_body() -> None:
    """The next page is a POST of its own, against the same budget."""
    first = build_request(FLOW_SERIES_REPORTS)
    seen: set[str] = set()
    link = f"{BASE}/api/flow-series-reports?page_cursor=abc"
    second = next_report_request(
        first, link=link, page_cursor=None, base_url=BASE, seen_targets=seen
    )
    assert second is not None
    assert BASE + second.target == link
    assert (second.method, second.body, second.buckets) == ("POST", first.body, first.buckets)
    assert (
        next_report_request(second, link=None, page_cursor=None, base_url=BASE, seen_targets=seen)
        is None
    )
    assert seen == {first.target, second.target}


def test_a_page_cursor_leads_on_where_no_link_does() -> None:
    """The documented parameter is used as it is, encoded."""
    first = build_request(FLOW_SERIES_REPORTS)
    second = next_report_request(
        first, link=None, page_cursor="a&b=c#/é", base_url=BASE, seen_targets=set()
    )
    assert second is not None
    assert query_parameters(second) == {"page_cursor": "a&b=c#/é"}
    third = next_report_request(
        second, link=None, page_cursor="next", base_url=BASE, seen_targets={first.target}
    )
    assert third is not None
    assert query_parameters(third) == {"page_cursor": "next"}


def test_the_link_weighs_more_than_the_cursor() -> None:
    """Where both are there the link, which recorded answers carry, is followed."""
    link = f"{BASE}/api/flow-series-reports?page_cursor=link"
    following = next_report_request(
        build_request(FLOW_SERIES_REPORTS),
        link=link,
        page_cursor="cursor",
        base_url=BASE,
        seen_targets=set(),
    )
    assert following is not None
    assert BASE + following.target == link


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/api/flow-series-reports?page_cursor=a",
        "/api/campaign-values-reports?page_cursor=a",
        "http://a.klaviyo.com/api/flow-series-reports?page_cursor=a",
    ],
)
def test_a_foreign_link_is_not_followed(link: str) -> None:
    """The key, and the quota of another endpoint, are not spent on a link's word."""
    with pytest.raises(ForeignLinkError):
        next_report_request(
            build_request(FLOW_SERIES_REPORTS),
            link=link,
            page_cursor=None,
            base_url=BASE,
            seen_targets=set(),
        )


def test_a_circle_of_pages_ends() -> None:
    """A cursor that comes back is refused before it costs another request."""
    seen: set[str] = set()
    request = build_request(FLOW_SERIES_REPORTS)
    for cursor in ("a", "b"):
        following = next_report_request(
            request, link=None, page_cursor=cursor, base_url=BASE, seen_targets=seen
        )
        assert following is not None
        request = following
    with pytest.raises(RepeatedPageError):
        next_report_request(request, link=None, page_cursor="a", base_url=BASE, seen_targets=seen)


def error_for_400(detail: str, pointer: str | None = None) -> Exception:
    """Return the error for a 400 with this detail, at this place of the body."""
    source = {"source": {"pointer": pointer}} if pointer is not None else {}
    body = {"errors": [{"id": "1", "status": 400, "code": "invalid", "detail": detail, **source}]}
    return map_error_response(
        build_response(400, json.dumps(body)), build_request(CAMPAIGN_VALUES_REPORTS)
    )


def test_a_metric_that_reports_do_not_take_has_an_error_of_its_own() -> None:
    """It differs from every other 400: one metric is left out and the rest continues."""
    error = error_for_400("Passed in conversion metric does not support querying for values data")
    assert isinstance(error, IneligibleMetricError)
    assert "is left out" in error.message
    assert error.detail == "Passed in conversion metric does not support querying for values data"
    assert type(error_for_400("Invalid filter provided")) is RequestError


@pytest.mark.parametrize(
    ("detail", "pointer"),
    [
        ("Passed in conversion metric does not exist", "/data/attributes/conversion_metric_id"),
        ("Das geht nicht.", "/data/attributes/conversion_metric_id"),
        ("Das geht nicht.", "data/attributes/conversion_metric_id/"),
        ("Metric 'RES' is not available for reporting", "/data/"),
        ("conversion_metric_id is invalid", None),
    ],
)
def test_a_refusal_of_the_metric_is_recognized_by_its_pointer(
    detail: str, pointer: str | None
) -> None:
    """The error's pointer identifies the metric; without a pointer its sentence does."""
    assert isinstance(error_for_400(detail, pointer), IneligibleMetricError)


@pytest.mark.parametrize(
    ("detail", "pointer"),
    [
        ("'metric' is not a valid choice for group_by", "/data/attributes/group_by"),
        ("End date may not be in the future", "/data/attributes/timeframe"),
        ("Invalid input.", "/data/"),
    ],
)
def test_a_refusal_of_something_else_is_not_the_metrics(detail: str, pointer: str) -> None:
    """What is wrong with every report is no reason to leave one metric after the other out."""
    assert type(error_for_400(detail, pointer)) is RequestError
