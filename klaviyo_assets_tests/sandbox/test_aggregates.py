"""Metric aggregates count events by their own time."""

import json
from collections import Counter
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient, SandboxResponse

WINDOW = [
    "greater-or-equal(datetime,2026-06-01T00:00:00Z)",
    "less-than(datetime,2026-09-01T00:00:00Z)",
]


def post(client: SandboxClient, **changes: object) -> SandboxResponse:
    """The answer to a sound request with these attributes changed; None takes one out."""
    attributes: dict[str, object] = {
        "metric_id": client.sandbox.store.metrics.id_of(5),
        "measurements": ["count", "sum_value", "unique"],
        "filter": WINDOW,
        **changes,
    }
    given = {name: value for name, value in attributes.items() if value is not None}
    body = json.dumps({"data": {"type": "metric-aggregate", "attributes": given}}).encode()
    kind = {"Content-Type": "application/vnd.api+json"}
    return client.request("/api/metric-aggregates", kind, method="POST", body=body)


def orders(client: SandboxClient) -> list[Document]:
    """The orders of the window, as the events endpoint shows them."""
    metric = client.sandbox.store.metrics.id_of(5)
    filters = ",".join([f"equals(metric_id,'{metric}')", *WINDOW])
    return client.read_records(f"/api/events?page[size]=1000&filter={filters}&include=attributions")


def test_aggregates_are_sums_over_the_events(client: SandboxClient) -> None:
    """Count, value and people by day are those of the events themselves."""
    attributes = post(client).json["data"]["attributes"]
    (row,) = attributes["data"]
    numbers = row["measurements"]
    records = orders(client)
    days = Counter(each["attributes"]["datetime"][:10] for each in records)
    found = {
        day[:10]: count for day, count in zip(attributes["dates"], numbers["count"], strict=True)
    }
    assert {day: count for day, count in found.items() if count} == days
    values = [each["attributes"]["event_properties"].get("$value") or 0 for each in records]
    assert sum(numbers["sum_value"]) == pytest.approx(sum(float(value) for value in values))
    people = {each["relationships"]["profile"]["data"]["id"] for each in records}
    assert max(numbers["unique"]) <= len(people) <= sum(numbers["unique"])
    assert len(records) > 10


def test_dates_are_true_instants_of_the_zone(client: SandboxClient) -> None:
    """Days of another zone begin at its midnight, sent in UTC, clock changes included."""
    frame = [
        "greater-or-equal(datetime,2026-03-25T00:00:00)",
        "less-than(datetime,2026-04-02T00:00:00)",
    ]
    attributes = post(client, filter=frame, timezone="Europe/Berlin").json["data"]["attributes"]
    zone = ZoneInfo("Europe/Berlin")
    locals_ = [datetime.fromisoformat(each).astimezone(zone) for each in attributes["dates"]]
    assert [(each.hour, each.day) for each in locals_] == [
        (0, day) for day in (25, 26, 27, 28, 29, 30, 31, 1)
    ]
    assert attributes["dates"][0] == "2026-03-24T23:00:00+00:00"
    assert attributes["dates"][-1] == "2026-03-31T22:00:00+00:00"


@pytest.mark.parametrize(("interval", "count"), [("hour", 2208), ("week", 14), ("month", 3)])
def test_intervals_add_up(client: SandboxClient, interval: str, count: int) -> None:
    """Hours, weeks and months of a window sum to the same."""
    attributes = post(client, interval=interval).json["data"]["attributes"]
    assert len(attributes["dates"]) == count
    assert sum(attributes["data"][0]["measurements"]["count"]) == len(orders(client))
    first = datetime.fromisoformat(attributes["dates"][1]).astimezone(UTC)
    assert interval == "hour" or first.hour == 0


def test_dimensions_part_the_events(client: SandboxClient) -> None:
    """Grouped by attributed flow there is a row per flow, and one with an empty text."""
    rows = post(client, by=["$attributed_flow"]).json["data"]["attributes"]["data"]
    credited = Counter(
        len(each["relationships"]["attributions"]["data"]) > 0 for each in orders(client)
    )
    counts = {row["dimensions"][0]: sum(row["measurements"]["count"]) for row in rows}
    assert sum(counts.values()) == sum(credited.values())
    assert len(counts) > 1
    assert counts[""] >= credited[False]
    one = next(flow for flow in counts if flow)
    only = post(client, filter=[*WINDOW, f"equals($attributed_flow,'{one}')"]).json
    assert sum(only["data"]["attributes"]["data"][0]["measurements"]["count"]) == counts[one]


@pytest.mark.parametrize(
    ("changes", "status", "detail"),
    [
        ({"filter": WINDOW[:1]}, 400, "A greater-or-equal and a less-than filter"),
        ({"filter": None}, 400, "'filter' is a required field."),
        ({"filter": "x"}, 400, "'filter' must be a list."),
        (
            {"filter": [WINDOW[0].replace("2026", "2024"), WINDOW[1]]},
            400,
            "The time range may not be longer than 1 year.",
        ),
        ({"measurements": ["sum"]}, 400, "'sum' is not a valid choice for measurements."),
        ({"interval": "year"}, 400, "'year' is not a valid choice for interval."),
        ({"timezone": "Europe/Kyiv"}, 400, "'Europe/Kyiv' is not a valid timezone."),
        ({"timezone": "europe/berlin"}, 400, "'europe/berlin' is not a valid timezone."),
        ({"by": ["$nothing"]}, 400, "'$nothing' is not a valid choice for by."),
        ({"page_size": 0}, 400, "page_size must be a positive integer."),
        ({"sort": "count"}, 400, "unsupported operand type(s) for +"),
        ({"sort": "count", "by": ["$flow"]}, 500, "A server error occurred."),
        ({"metric_id": "925e385b52fb405715f3616c337cc65c"}, 400, "Invalid metric id"),
    ],
)
def test_an_aggregate_beyond_the_offer_is_refused(
    client: SandboxClient, changes: dict[str, object], status: int, detail: str
) -> None:
    """What is not offered is a 400, what is known to break is a 500."""
    answered = post(client, **changes)
    assert answered.status == status
    assert answered.detail.startswith(detail)
