"""Report requests beyond the published offer are refused."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from klaviyo_assets_tests.sandbox.report_requests import (
    SERIES_REPORT,
    VALUES_REPORT,
    day_timeframe,
    post_report,
    report_body,
    trailing_timeframe,
)
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

FUTURE = {"start": "2026-11-20T00:00:00", "end": "2026-11-20T23:59:59"}


LONG = {"start": "2025-01-01T00:00:00", "end": "2026-06-01T00:00:00"}


def refusals() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Reports, changes of the body, and the beginning of the refusal."""
    yield VALUES_REPORT, {"statistics": []}, "'statistics' is a required field."
    yield VALUES_REPORT, {"statistics": ["open"]}, "'open' is not a valid choice for statistics."
    yield VALUES_REPORT, {"timeframe": None}, "'timeframe' is a required field."
    yield (
        VALUES_REPORT,
        {"conversion_metric_id": None},
        "'conversion_metric_id' is a required field.",
    )
    yield VALUES_REPORT, {"interval": "daily"}, "'interval' is not a valid field for the resource"
    yield SERIES_REPORT, {"interval": None}, "'interval' is a required field."
    yield SERIES_REPORT, {"interval": "yearly"}, "'yearly' is not a valid choice for interval."
    yield (
        VALUES_REPORT,
        {"timeframe": {"key": "last_8_days"}},
        "'last_8_days' is not a valid timeframe",
    )
    yield (
        VALUES_REPORT,
        {"timeframe": {**day_timeframe(date(2026, 1, 1)), "key": "today"}},
        "'key' is not a valid field",
    )
    yield VALUES_REPORT, {"timeframe": {"start": "then", "end": "now"}}, "Invalid datetime: 'then'."
    yield VALUES_REPORT, {"timeframe": FUTURE}, "End date may not be in the future"
    yield VALUES_REPORT, {"timeframe": LONG}, "The timeframe may not be longer than 1 year."
    yield (
        VALUES_REPORT,
        {
            "timeframe": dict(
                zip(("end", "start"), day_timeframe(date(2026, 1, 1)).values(), strict=True)
            )
        },
        "The start",
    )
    yield SERIES_REPORT, {"timeframe": trailing_timeframe(61)}, "The timeframe for a daily interval"
    yield (
        SERIES_REPORT,
        {"timeframe": trailing_timeframe(8), "interval": "hourly"},
        "The timeframe for a hourly",
    )
    yield (
        SERIES_REPORT,
        {"timeframe": trailing_timeframe(365), "interval": "weekly"},
        "The timeframe for a weekly",
    )
    yield (
        VALUES_REPORT,
        {"group_by": ["campaign_id"]},
        "The following group by attributes are required",
    )
    yield VALUES_REPORT, {"group_by": ["flow_id"]}, "'flow_id' is not a valid choice for group_by."
    yield (
        VALUES_REPORT,
        {"filter": "equals(tag_id,'x')"},
        "'equals' is not an allowed filter operator",
    )
    yield (
        VALUES_REPORT,
        {"filter": "equals(send_channel,'mobile_push')"},
        "'mobile_push' is not a valid",
    )
    yield VALUES_REPORT, {"filter": "equals(flow_id,'x')"}, "'flow_id' is not a filterable field"
    twice = "equals(campaign_id,'x'),equals(campaign_id,'y')"
    yield VALUES_REPORT, {"filter": twice}, "Only one filter can be used per attribute"
    many = ",".join(f'"{k}"' for k in range(101))
    yield VALUES_REPORT, {"filter": f"contains-any(campaign_id,[{many}])"}, "At most 100 items"


@pytest.mark.parametrize(("kind", "changes", "detail"), list(refusals()))
def test_a_report_beyond_the_offer_is_refused(
    client: SandboxClient, kind: str, changes: dict[str, Any], detail: str
) -> None:
    """Whatever the reference does not offer is a 400 that says what."""
    answered = post_report(client, kind, **changes)
    assert answered.status == 400, answered.body[:200]
    assert answered.detail.startswith(detail)


def test_a_report_needs_its_content_type_and_a_body(client: SandboxClient) -> None:
    """Without the JSON:API content type 415, without a document 400."""
    sound = report_body(client, VALUES_REPORT)
    target = f"/api/{VALUES_REPORT}s"
    plain = client.request(target, {"Content-Type": "text/plain"}, method="POST", body=sound)
    assert plain.status == 415
    for text in (b"", b"[]", b'{"data":{"type":"x"}}'):
        kind = {"Content-Type": "application/vnd.api+json"}
        assert client.request(target, kind, method="POST", body=text).status == 400
