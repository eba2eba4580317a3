"""Filters select exactly what their operators name."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.sandbox.clock import parse_micros
from klaviyo_assets.sandbox.filters import FilterClause, FilterLiteral, parse_filter
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient

BOUNDS: dict[str, Callable[[str, str], bool]] = {
    "greater-than": lambda value, edge: value > edge,
    "greater-or-equal": lambda value, edge: value >= edge,
    "less-than": lambda value, edge: value < edge,
    "less-or-equal": lambda value, edge: value <= edge,
}
TIMES = [
    ("events", "datetime", tuple(BOUNDS)),
    ("profiles", "updated", ("greater-than", "less-than")),
    ("profiles", "created", ("greater-than", "less-than")),
    ("lists", "updated", ("greater-than",)),
    ("segments", "created", ("greater-than",)),
    ("flows", "updated", tuple(BOUNDS)),
    ("templates", "created", tuple(BOUNDS)),
]


@pytest.mark.parametrize(
    ("name", "field", "operator"),
    [(name, field, operator) for name, field, operators in TIMES for operator in operators],
)
def test_bounds_are_strict_or_inclusive_as_named(
    client: SandboxClient, name: str, field: str, operator: str
) -> None:
    """With a bound at a record's own time, that record is in or out as the operator says."""
    records = client.read_records(f"/api/{name}?page[size]=10")
    times = sorted(record["attributes"][field] for record in records)
    edge = times[len(times) // 2]
    found = client.read_ids(f"/api/{name}?filter={operator}({field},{edge.replace('+', '%2B')})")
    wanted = [each["id"] for each in records if BOUNDS[operator](each["attributes"][field], edge)]
    assert sorted(found) == sorted(wanted)
    assert 0 < len(found) < len(records)


def test_campaign_bounds_are_exact_to_the_microsecond(client: SandboxClient) -> None:
    """Campaign times carry microseconds, and strict bounds part neighbours by one of them."""
    channel = "equals(messages.channel,'email')"
    records = client.read_records(f"/api/campaigns?filter={channel}")
    edge = sorted(each["attributes"]["updated_at"] for each in records)[5]
    assert "." in edge
    text = edge.replace("+", "%2B")
    beyond = client.read_ids(f"/api/campaigns?filter={channel},greater-than(updated_at,{text})")
    from_it = client.read_ids(
        f"/api/campaigns?filter={channel},greater-or-equal(updated_at,{text})"
    )
    assert len(from_it) - len(beyond) == 1


def test_two_bounds_make_a_window(client: SandboxClient) -> None:
    """Lower and upper bound together are a half-open window, and windows side by side are all."""
    days = ["2026-01-01", "2026-05-01", "2026-11-21"]
    parts: list[str] = []
    for start, end in pairwise(days):
        window = f"greater-or-equal(datetime,{start}T00:00:00Z),less-than(datetime,{end}T00:00:00Z)"
        parts += client.read_ids(f"/api/events?page[size]=500&filter={window}")
    whole = client.read_ids(
        "/api/events?page[size]=1000&filter=less-than(datetime,2026-11-21T00:00:00Z)"
    )
    older = client.read_ids("/api/events?filter=less-than(datetime,2026-01-01T00:00:00Z)")
    assert sorted(parts + older) == sorted(whole)


def test_timestamps_are_numbers_of_seconds(client: SandboxClient) -> None:
    """Events can be bounded by whole and fractional seconds since 1970."""
    records = client.read_records("/api/events?page[size]=1000")
    edge = sorted(each["attributes"]["timestamp"] for each in records)[700]
    at_least = {each["id"] for each in records if each["attributes"]["timestamp"] >= edge}
    for bound in (f"greater-or-equal(timestamp,{edge})", f"greater-than(timestamp,{edge - 0.5})"):
        assert set(client.read_ids(f"/api/events?page[size]=1000&filter={bound}")) == at_least


def test_events_of_a_metric_and_of_a_profile(client: SandboxClient) -> None:
    """Filters by metric and by profile give just those events, in both orders."""
    records = client.read_records("/api/events?page[size]=1000&sort=datetime")
    for name, field in (("metric", "metric_id"), ("profile", "profile_id")):
        wanted = related_id(records[40], name)
        mine = [each["id"] for each in records if related_id(each, name) == wanted]
        query = f"page[size]=10&filter=equals({field},'{wanted}')"
        assert client.read_ids(f"/api/events?sort=datetime&{query}") == mine
        assert client.read_ids(f"/api/events?sort=-datetime&{query}") == mine[::-1]
    assert client.read_ids("/api/events?filter=equals(metric_id,'nobody')") == []


def related_id(record: Document, name: str) -> str | None:
    """The id of a to-one relationship."""
    data = record["relationships"][name]["data"]
    return data and data["id"]


def test_has_leaves_out_events_without_the_relation(client: SandboxClient) -> None:
    """`has(metric)` drops the few events whose metric cannot be resolved, and no other."""
    records = client.read_records("/api/events?page[size]=1000")
    found = set(client.read_ids("/api/events?page[size]=1000&filter=has(metric)"))
    without = [each["id"] for each in records if related_id(each, "metric") is None]
    assert without
    assert found == {each["id"] for each in records} - set(without)


def test_identifiers_equal_and_any(client: SandboxClient) -> None:
    """Profiles are found by e-mail address, exactly, one or many at once."""
    emails = [
        each["attributes"]["email"] for each in client.read_records("/api/profiles?page[size]=100")
    ]
    one, two = [email for email in emails if email][:2]
    assert len(client.read_ids(f'/api/profiles?filter=equals(email,"{one}")')) == 1
    assert len(client.read_ids(f"/api/profiles?filter=any(email,['{one}','{two}'])")) == 2
    assert client.read_ids(f"/api/profiles?filter=equals(email,'{one.upper()}')") == []


def test_suppressions_are_found_by_reason_and_time(client: SandboxClient) -> None:
    """A suppression filter finds the profiles of which any suppression meets it."""
    field = "subscriptions.email.marketing.suppression"
    target = "/api/profiles?additional-fields[profile]=subscriptions&page[size]=100"
    suppressed = {
        each["id"]: each["attributes"]["subscriptions"]["email"]["marketing"]["suppression"]
        for each in client.read_records(target)
        if each["attributes"]["subscriptions"]["email"]["marketing"]["suppression"]
    }
    since = f"filter=greater-or-equal({field}.timestamp,2000-01-01T00:00:00Z)"
    assert set(client.read_ids(f"/api/profiles?{since}")) == set(suppressed)
    reason = next(iter(suppressed.values()))[0]["reason"]
    wanted = {k for k, each in suppressed.items() if reason in {one["reason"] for one in each}}
    assert set(client.read_ids(f"/api/profiles?filter=equals({field}.reason,'{reason}')")) == wanted


@pytest.mark.parametrize(
    ("operator", "part", "test"),
    [
        ("contains", "al", str.__contains__),
        ("starts-with", "s", str.startswith),
        ("ends-with", "s", str.endswith),
    ],
)
def test_texts_contain_begin_and_end(
    client: SandboxClient, operator: str, part: str, test: Callable[[str, str], bool]
) -> None:
    """Tags are found by parts of their names."""
    names = {each["id"]: each["attributes"]["name"] for each in client.read_records("/api/tags")}
    wanted = {record_id for record_id, name in names.items() if test(name, part)}
    assert wanted
    assert set(client.read_ids(f"/api/tags?filter={operator}(name,'{part}')")) == wanted


def test_filters_without_effect_select_nothing_away(client: SandboxClient) -> None:
    """The two filters recorded as without effect return everything, whatever they say."""
    everything = client.read_ids("/api/segments")
    assert client.read_ids("/api/segments?filter=equals(is_starred,true)") == everything
    metrics = client.read_ids("/api/metrics")
    assert client.read_ids("/api/metrics?filter=equals(integration.category,'nope')") == metrics
    shopify = client.read_ids("/api/metrics?filter=equals(integration.name,'Shopify')")
    assert 0 < len(shopify) < len(metrics)


def test_the_grammar_joins_by_and_and_by_comma() -> None:
    """`and(a,b)` and `a,b` are the same two clauses."""
    joined = parse_filter("equals(a,'x, y)'),less-than(b,2026-01-01T00:00:00Z)")
    assert joined == parse_filter("and(equals(a,'x, y)'),less-than(b,2026-01-01T00:00:00Z))")
    edge = parse_micros("2026-01-01T00:00:00+00:00")
    assert joined[1] == FilterClause("less-than", "b", (FilterLiteral(edge, "time"),))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_can_be_quoted(text: str) -> None:
    """A string literal gives back any text, once quotes and backslashes are escaped."""
    for quote in "\"'":
        escaped = text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
        (clause,) = parse_filter(f"equals(name,{quote}{escaped}{quote})")
        assert clause.values == (FilterLiteral(text, "text"),)
