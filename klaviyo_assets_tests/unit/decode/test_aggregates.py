"""Counts are read as Klaviyo means them, and nothing is guessed."""

import json
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets.api.requests import metric_aggregate_request, next_aggregate_request
from klaviyo_assets.decode.reports import (
    MAX_PAGE_GROUPS,
    parse_aggregate_page,
    parse_event_counts,
)
from klaviyo_assets.errors import BrokenBodyError, MalformedPageError, RepeatedPageError
from klaviyo_assets.model.report import TOTAL_DIMENSION
from klaviyo_assets.model.window import Window
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.streams.metrics import METRIC_AGGREGATES


def answer(dates: list[str], *rows: list[float]) -> bytes:
    """Return an answer with these rows of counts."""
    listed: list[object] = [{"dimensions": [], "measurements": {"count": row}} for row in rows]
    attributes: dict[str, object] = {"dates": dates, "data": listed}
    return json.dumps({"data": {"type": "metric-aggregate", "attributes": attributes}}).encode()


DATES = ["2026-09-01T00:00:00+00:00", "2026-09-02T00:00:00Z"]


def test_counts_by_utc_day() -> None:
    """A date in another zone belongs to the UTC day of its instant."""
    shifted = [DATES[0], "2026-09-02T02:00:00+02:00"]
    for dates in (DATES, shifted):
        found = parse_event_counts(answer(dates, [3.0, 4.0]))
        assert found == {date(2026, 9, 1): 3, date(2026, 9, 2): 4}


def test_no_row_means_none() -> None:
    """A metric without events in the window has days with none, not no days."""
    assert parse_event_counts(answer(DATES)) == {date(2026, 9, 1): 0, date(2026, 9, 2): 0}


@pytest.mark.parametrize("body", [b'{"data": {}}', answer(DATES, [3.0])])
def test_another_shape_is_refused(body: bytes) -> None:
    """Counts that do not belong to their dates are no counts."""
    with pytest.raises(MalformedPageError):
        parse_event_counts(body)


def test_a_broken_body_may_be_requested_again() -> None:
    """Half a response is not a wrong one, nor is a body that is none."""
    sound = answer(DATES, [1.0, 2.0])
    for body in (sound[:-9], b"{}", b'{"errors": []}', b'{"errors": [{"id": "e"}], ' + sound[1:]):
        with pytest.raises(BrokenBodyError):
            parse_event_counts(body)


REPORT = report_endpoint(METRIC_AGGREGATES)
BERLIN = ZoneInfo("Europe/Berlin")


def groups(*rows: tuple[str | None, list[float]], link: str | None = None) -> bytes:
    """Return an answer of two days in Berlin with the count of each group."""
    data: list[object] = [
        {"dimensions": [] if value is None else [value], "measurements": {"count": numbers}}
        for value, numbers in rows
    ]
    attributes: dict[str, object] = {
        "dates": ["2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00"],
        "data": data,
    }
    whole = {"data": {"type": "metric-aggregate", "attributes": attributes}}
    return json.dumps({**whole, "links": {"self": "https://k/", "next": link}}).encode()


def test_days_are_those_of_the_zone_and_zeros_stay_in_the_total() -> None:
    """A day of 25 hours is one day; a group has a row only where something was counted."""
    total = parse_aggregate_page(
        groups((None, [0, 3])), REPORT, dimension=TOTAL_DIMENSION, zone=BERLIN
    )
    assert total.days == (date(2026, 10, 25), date(2026, 10, 26))
    assert [(row.day, row.statistics) for row in total.rows] == [
        (date(2026, 10, 25), {"count": 0}),
        (date(2026, 10, 26), {"count": 3}),
    ]
    flows = parse_aggregate_page(
        groups(("", [0, 2]), ("f1", [1, 0])), REPORT, dimension="$attributed_flow", zone=BERLIN
    )
    assert [(row.day, *row.groupings.values()) for row in flows.rows] == [
        (date(2026, 10, 26), "$attributed_flow", ""),
        (date(2026, 10, 25), "$attributed_flow", "f1"),
    ]


@pytest.mark.parametrize("name", ["page_cursor", "page%5Bcursor%5D"])
def test_the_next_page_is_asked_for_in_the_body(name: str) -> None:
    """The link holds the cursor, the body takes it, and a circle ends."""
    link = f"https://k/api/metric-aggregates?{name}=abc"
    page = parse_aggregate_page(
        groups(("f1", [1, 0]), link=link), REPORT, dimension="$attributed_flow", zone=BERLIN
    )
    assert page.page_cursor == "abc"
    window = Window(datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 26, 23, tzinfo=UTC))
    first = metric_aggregate_request(
        REPORT, "M", window, timezone="Europe/Kyiv", dimension="$attributed_flow"
    )
    seen: set[str] = set()
    following = next_aggregate_request(first, "abc", seen_cursors=seen)
    bodies = [json.loads(each.body or b"{}")["data"]["attributes"] for each in (first, following)]
    assert bodies[1] == {**bodies[0], "page_cursor": "abc"}
    assert bodies[0]["by"] == ["$attributed_flow"]
    assert bodies[0]["timezone"] == "Europe/Kiev"
    with pytest.raises(RepeatedPageError):
        next_aggregate_request(following, "abc", seen_cursors=seen)


@pytest.mark.parametrize(
    "body",
    [
        groups(("f1", [1, 0]), link="https://k/api/metric-aggregates"),
        groups(*((str(number), [1.0, 0.0]) for number in range(MAX_PAGE_GROUPS))),
        groups((None, [1, 0])),
    ],
    ids=["a link without a cursor", "a full page without a link", "a group without its value"],
)
def test_groups_that_may_be_missing_are_no_answer(body: bytes) -> None:
    """Where the rest of the groups cannot be had, nothing of the time frame is stored."""
    with pytest.raises(MalformedPageError):
        parse_aggregate_page(body, REPORT, dimension="$attributed_flow", zone=BERLIN)
