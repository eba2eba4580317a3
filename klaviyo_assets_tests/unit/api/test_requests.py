"""Requests have exactly the wanted parameters, and next links lead only onward."""

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets import __version__
from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.requests import (
    detail_request,
    first_page_request,
    next_page_request,
    parse_date_header,
    request_headers,
)
from klaviyo_assets.errors import ForeignLinkError, RepeatedPageError
from klaviyo_assets.model.stream import (
    TIER_L,
    TIER_M,
    TIER_XL,
    TIER_XS,
    WHOLE_COLLECTION,
    RateLimitBucket,
)
from klaviyo_assets.model.window import Window
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets.streams.forms import FORM_DEFINITIONS
from klaviyo_assets.streams.profiles import GLOBAL_EXCLUSIONS
from klaviyo_assets_tests.unit.api.samples import (
    BASE,
    EMAIL,
    EVENTS,
    KEY,
    LISTS_DETAILED,
    METRICS,
    PROFILES,
    build_request,
    query_parameters,
)

START = datetime(2026, 1, 31, tzinfo=UTC)
END = datetime(2026, 2, 1, tzinfo=UTC)


def test_the_first_page_of_a_window() -> None:
    """An inclusive cursor requests its exact window, ascending, in pages of the maximum."""
    request = first_page_request(EVENTS, WHOLE_COLLECTION, Window(START, END))
    assert query_parameters(request) == {
        "filter": "greater-or-equal(datetime,2026-01-31T00:00:00Z),"
        "less-than(datetime,2026-02-01T00:00:00Z)",
        "sort": "datetime",
        "page[size]": "1000",
        "include": "metric,attributions",
    }
    assert request == Request(
        method="GET",
        target=request.target,
        buckets=(RateLimitBucket("GET /api/events", TIER_XL),),
        path="/api/events",
    )
    assert request.target.startswith("/api/events?filter=greater-or-equal%28")


def test_a_strict_cursor_is_requested_one_second_earlier() -> None:
    """Where Klaviyo offers only greater-than, the first second of the window is not lost."""
    request = first_page_request(PROFILES, WHOLE_COLLECTION, Window(START, END))
    assert query_parameters(request)["filter"] == (
        "greater-than(updated,2026-01-30T23:59:59Z),less-than(updated,2026-02-01T00:00:00Z)"
    )


@given(st.datetimes(datetime(2001, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_window_loses_nothing_at_its_start(start: datetime) -> None:
    """Whatever the start, all of its second is requested: the bound is a whole second before it."""
    for stream, least in ((EVENTS, timedelta(0)), (PROFILES, timedelta(seconds=1))):
        request = first_page_request(stream, WHOLE_COLLECTION, Window(start, None))
        bound_text = query_parameters(request)["filter"].partition(",")[2].rstrip(")")
        bound = datetime.fromisoformat(bound_text)
        assert least <= start - bound < least + timedelta(seconds=1)
        assert bound.microsecond == 0


def test_an_open_side_has_no_filter_clause() -> None:
    """A window without bounds has no filter at all, one with an end no start."""
    everything = first_page_request(EVENTS, WHOLE_COLLECTION, Window())
    assert "filter" not in query_parameters(everything)
    until = first_page_request(EVENTS, WHOLE_COLLECTION, Window(None, END))
    assert query_parameters(until)["filter"] == "less-than(datetime,2026-02-01T00:00:00Z)"


def test_bounds_of_another_zone_mean_the_same_moment() -> None:
    """Window bounds in local time are sent in UTC."""
    local = START.astimezone(timezone(timedelta(hours=-8)))
    here = first_page_request(EVENTS, WHOLE_COLLECTION, Window(START, None))
    assert first_page_request(EVENTS, WHOLE_COLLECTION, Window(local, None)) == here


def test_a_slice_is_requested_besides_the_window() -> None:
    """The slice's own filter and the bounds are joined by AND."""
    request = first_page_request(EVENTS, EMAIL, Window(START, None))
    assert query_parameters(request)["filter"] == (
        'equals(messages.channel,"email"),equals(archived,false),'
        "greater-or-equal(datetime,2026-01-31T00:00:00Z)"
    )


def test_a_stream_without_a_cursor_is_requested_whole() -> None:
    """No sort, no bounds and no page size where Klaviyo accepts none."""
    request = first_page_request(METRICS, WHOLE_COLLECTION, Window(START, END))
    assert request.target == "/api/metrics"


def test_an_additional_field_is_requested_and_counted_in_its_own_bucket() -> None:
    """Fields on request stand in one parameter, and the lower limit of one is a second budget."""
    request = first_page_request(PROFILES, WHOLE_COLLECTION, Window())
    name = "additional-fields[profile]"
    assert query_parameters(request)[name] == "subscriptions,predictive_analytics"
    assert request.buckets == (
        RateLimitBucket("GET /api/profiles", TIER_L),
        RateLimitBucket("additional-fields[profile]=predictive_analytics", TIER_M),
    )


def test_a_field_left_out_costs_nothing() -> None:
    """Without the costly field neither the parameter nor its budget is there."""
    without = frozenset({"predictive_analytics"})
    request = first_page_request(PROFILES, WHOLE_COLLECTION, Window(), excluded_fields=without)
    assert query_parameters(request)["additional-fields[profile]"] == "subscriptions"
    assert request.buckets == (RateLimitBucket("GET /api/profiles", TIER_L),)


def test_fields_are_named_by_resource() -> None:
    """A sparse field set is requested under the singular of the collection."""
    request = first_page_request(PROFILES, WHOLE_COLLECTION, Window(), fields=("email", "updated"))
    assert query_parameters(request)["fields[profile]"] == "email,updated"


def test_a_collection_is_not_read_record_by_record() -> None:
    """The two shapes are not taken for each other."""
    with pytest.raises(TypeError, match="metrics is not read record by record"):
        detail_request(METRICS, "1")
    with pytest.raises(TypeError, match="lists_detailed is not read page by page"):
        first_page_request(LISTS_DETAILED, WHOLE_COLLECTION, Window())


def test_a_detail_spends_both_budgets() -> None:
    """A count costs its endpoint's budget and the parameter's own, and brings nothing else."""
    request = detail_request(LISTS_DETAILED, "Y6nRLr")
    assert request.target == (
        "/api/lists/Y6nRLr?additional-fields%5Blist%5D=profile_count&fields%5Blist%5D=profile_count"
    )
    assert request.buckets == (
        RateLimitBucket("GET /api/lists/{id}", TIER_L),
        RateLimitBucket("additional-fields[list]=profile_count", TIER_XS),
    )


def test_a_detail_asks_for_its_own_columns_alone() -> None:
    """What came with the parent's pages is not sent again, nor stored as something unknown."""
    request = detail_request(FORM_DEFINITIONS, "Y6nRLr")
    assert request.target == "/api/forms/Y6nRLr?fields%5Bform%5D=definition.versions"


@pytest.mark.parametrize(
    ("record_id", "path"),
    [
        (
            "$custom:::$default:::SKU 1/2",
            "/api/lists/%24custom%3A%3A%3A%24default%3A%3A%3ASKU%201%2F2",
        ),
        ("../../etc/passwd", "/api/lists/..%2F..%2Fetc%2Fpasswd"),
        ("..", "/api/lists/%2E%2E"),
        ("a?b#c&d", "/api/lists/a%3Fb%23c%26d"),
        ("%2e%2e", "/api/lists/%252e%252e"),
        ("x\r\nHost: evil", "/api/lists/x%0D%0AHost%3A%20evil"),
    ],
    ids=["catalog", "folders", "dots", "query", "encoded", "header"],
)
def test_an_id_stays_one_segment_of_the_path(record_id: str, path: str) -> None:
    """Whatever an id holds, it cannot leave its place in the URL."""
    request = detail_request(LISTS_DETAILED, record_id)
    assert urlsplit(request.target).path == path


def test_an_empty_id_is_refused() -> None:
    """An empty id would request the collection instead."""
    with pytest.raises(ValueError, match="without an id"):
        detail_request(LISTS_DETAILED, "")


def test_a_next_link_is_followed_as_it_is() -> None:
    """The link carries filter, sort and cursor; only the URL changes."""
    first = build_request("/api/events", "sort=datetime")
    link = f"{BASE}/api/events?page%5Bcursor%5D=WzE3MDc1MjMyMTNd&sort=datetime"
    following = next_page_request(first, link, base_url=BASE, seen_targets=set())
    assert following == Request("GET", link.removeprefix(BASE), first.buckets, first.path)


def test_a_trailing_slash_is_the_same_path() -> None:
    """Klaviyo's links end in a slash on some endpoints."""
    following = next_page_request(
        build_request(), f"{BASE}/api/events/?page%5Bcursor%5D=a", base_url=BASE, seen_targets=set()
    )
    assert following is not None
    assert following.target == "/api/events/?page%5Bcursor%5D=a"


@pytest.mark.parametrize("link", [None, ""])
def test_no_link_is_the_end(link: str | None) -> None:
    """A page without a next link is the last one."""
    assert next_page_request(build_request(), link, base_url=BASE, seen_targets=set()) is None


@pytest.mark.parametrize(
    "link",
    [
        "http://a.klaviyo.com/api/events?x=1",
        "https://evil.example/api/events?x=1",
        "https://a.klaviyo.com:8443/api/events?x=1",
        "https://a.klaviyo.com@evil.example/api/events?x=1",
        "https://user@a.klaviyo.com/api/events?x=1",
        "https://a.klaviyo.com\\@evil.example/api/events?x=1",
        "//evil.example/api/events",
        "https://a.klaviyo.com/api/profiles?x=1",
        "https://a.klaviyo.com/api/events/../profiles",
        "https://a.klaviyo.com:port/api/events",
        "https://[::1/api/events",
        "https://a.klaviyo.com/api/events?x=1\r\nHost: evil.example",
        "ht\ttps://a.klaviyo.com/api/events",
        "javascript:alert(1)",
    ],
    ids=ascii,
)
def test_a_foreign_link_is_not_followed(link: str) -> None:
    """Another scheme, host, port, user or path: the request would carry the key there."""
    with pytest.raises(ForeignLinkError, match="leaves the endpoint"):
        next_page_request(build_request(), link, base_url=BASE, seen_targets=set())


def test_a_foreign_link_is_named_without_its_query() -> None:
    """The error names the link's target without its query, which may hold personal data."""
    with pytest.raises(ForeignLinkError) as caught:
        next_page_request(
            build_request(),
            "https://evil.example/x?email=jane@example.com",
            base_url=BASE,
            seen_targets=set(),
        )
    assert "https://evil.example/x" in str(caught.value)
    assert "jane" not in str(caught.value)


def test_the_same_page_again_is_a_circle() -> None:
    """A next link to the page just read would go on for ever."""
    first = build_request("/api/events", "page%5Bcursor%5D=a")
    with pytest.raises(RepeatedPageError, match="already read"):
        next_page_request(first, first.target, base_url=BASE, seen_targets=set())


def test_a_longer_circle_is_found() -> None:
    """A, B, A: the reader remembers every page, not only the last one."""
    seen: set[str] = set()
    a = build_request("/api/events", "page%5Bcursor%5D=a")
    b = next_page_request(
        a, f"{BASE}/api/events?page%5Bcursor%5D=b", base_url=BASE, seen_targets=seen
    )
    assert b is not None
    with pytest.raises(RepeatedPageError, match="2 pages so far"):
        next_page_request(b, BASE + a.target, base_url=BASE, seen_targets=seen)


def test_asking_twice_for_the_same_next_page_is_no_circle() -> None:
    """A caller that tries a page again gets the same request again."""
    seen: set[str] = set()
    link = f"{BASE}/api/events?page%5Bcursor%5D=b"
    once = next_page_request(build_request(), link, base_url=BASE, seen_targets=seen)
    assert next_page_request(build_request(), link, base_url=BASE, seen_targets=seen) == once


def test_every_request_says_who_and_which_revision() -> None:
    """The key, the revision and the refusal to fall forward are on every request."""
    assert request_headers(KEY, DEFAULT_REVISION) == {
        "Authorization": f"Klaviyo-API-Key {KEY}",
        "revision": "2026-10-15",
        "X-Klaviyo-Revision-Fall-Forward-Opt-Out": "1",
        "Accept": "application/vnd.api+json",
        "Accept-Encoding": "gzip",
        "User-Agent": f"klaviyo-assets/{__version__}",
    }


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sun, 06 Nov 1994 08:49:37 +0200", datetime(1994, 11, 6, 6, 49, 37, tzinfo=UTC)),
        ("Sun, 06 Nov 1994 08:49:37 -0000", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_the_servers_clock_is_read_where_there_is_one(text: str, moment: datetime | None) -> None:
    """The Date header is a moment in UTC; nonsense is no moment and no failure."""
    assert parse_date_header({"date": text}) == moment


def test_an_answer_without_a_date_has_no_clock() -> None:
    """Without a `Date` header the server time is None."""
    assert parse_date_header({}) is None


def test_a_cursor_that_may_be_missing_is_always_bounded() -> None:
    """Suppressed profiles are requested by their timestamp even on a first or full read."""
    request = first_page_request(GLOBAL_EXCLUSIONS, WHOLE_COLLECTION, Window())
    assert "filter=greater-or-equal%28subscriptions.email.marketing.suppression.timestamp" in (
        request.target
    )
