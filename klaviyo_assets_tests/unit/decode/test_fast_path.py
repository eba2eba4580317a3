"""Pages as documented: decoded on the fast path, every field read, every type preserved."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.model.column import (
    Column,
    FieldPath,
    FirstIncludedId,
    Included,
    LatestOf,
    RelatedId,
    RelatedIds,
    SliceConstant,
    attribute_column,
)
from klaviyo_assets.model.stream import Detail, Slice
from klaviyo_assets_tests.unit.decode.samples import (
    SYNCED_AT,
    Record,
    build_record,
    build_stream,
    decode_page,
    page_body,
    page_issues,
    page_rows,
    raw_page,
    resource_identifier,
    with_relationships,
)

TYPES = build_stream(
    Column("text", "Text."),
    Column("count", "Count.", "integer"),
    Column("share", "Share.", "number"),
    Column("is_on", "Switch.", "boolean"),
    Column("at", "Moment.", "timestamp"),
    Column("on", "Day.", "date"),
    Column("free", "Anything.", "json"),
    attribute_column("audiences.included", "Ids.", "ids"),
    attribute_column("location.city", "City."),
    attribute_column("location.geo.lat", "Latitude.", "number"),
)
ATTRIBUTED = build_stream(
    Column("attributions", "Whole.", "json", Included("attributions")),
    Column("campaign", "First.", declared_source=FirstIncludedId("attributions", "campaign")),
    Column("flow", "First.", declared_source=FirstIncludedId("attributions", "flow")),
)


def test_every_type_is_read() -> None:
    """Each declared type arrives as its Arrow type, nested paths included."""
    one = build_record(
        text="x",
        count=-7,
        share=0.5,
        is_on=True,
        at="2026-01-31T10:00:00+02:00",
        on="2026-01-31",
        free={"a": [1, None]},
        audiences={"included": ["L1", "S2"]},
        location={"city": "Kiel", "geo": {"lat": 54}},
    )
    page = decode_page(TYPES, page_body(one))
    assert page.is_fast
    assert page_issues(page) == ()
    assert page_rows(page) == [
        {
            "id": "a",
            "text": "x",
            "count": -7,
            "share": 0.5,
            "is_on": True,
            "at": datetime(2026, 1, 31, 8, tzinfo=UTC),
            "on": date(2026, 1, 31),
            "free": '{"a": [1, null]}',
            "audiences_included": ["L1", "S2"],
            "location_city": "Kiel",
            "location_geo_lat": 54.0,
            "extra": None,
        }
    ]
    assert page.batch["synced_at"].to_pylist() == [SYNCED_AT]


def test_null_and_absent_are_null_at_every_depth() -> None:
    """A value, or the object around it, may be null or missing on the fast path."""
    empties = [
        build_record("a"),
        build_record(
            "b", **dict.fromkeys(("text", "count", "at", "free", "audiences", "location"))
        ),
        build_record("c", location={"city": None, "geo": None}, audiences={}),
    ]
    page = decode_page(TYPES, page_body(*empties))
    assert page.is_fast
    for row in page_rows(page):
        assert set(row.values()) - {"a", "b", "c"} == {None}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T10:00:00+00:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31 10:00:00+00:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00:00.123456+00:00", datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31 10:00:00.5Z", datetime(2026, 1, 31, 10, 0, 0, 500000, tzinfo=UTC)),
        ("2026-01-31T10:00:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00:00.123456789Z", datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_every_form_of_a_timestamp_is_read(text: str, moment: datetime) -> None:
    """The recorded forms, and those that Arrow's own parser does not take, are one moment."""
    # Beside one of the usual form, as a page would have it.
    page = decode_page(
        TYPES, page_body(build_record("a", at=text), build_record("b", at="2026-01-01T00:00:00Z"))
    )
    assert page.batch["at"].to_pylist() == [moment, datetime(2026, 1, 1, tzinfo=UTC)]
    assert page_issues(page) == ()


@pytest.mark.parametrize("nulls", [("null", "null"), ("null", "7"), ("[]", "1234"), ("7", "null")])
def test_json_null_is_null(nulls: tuple[str, str]) -> None:
    """JSON null under a free-form attribute is NULL, not text; a value as long is stored."""
    stream = build_stream(Column("free", "Anything.", "json"))
    found = (f'{{"id":"{n}","attributes":{{"free":{text}}}}}' for n, text in enumerate(nulls))
    expected = [None if text == "null" else text for text in nulls]
    assert decode_page(stream, raw_page(*found)).batch["free"].to_pylist() == expected


def test_a_number_may_be_written_as_text() -> None:
    """Coordinates come as either: text that says the same number is that number, and no news."""
    texts = ["54.5", "-10.1410", " 7 ", "1e2", None]
    body = page_body(
        *(build_record(str(n), location={"geo": {"lat": x}}) for n, x in enumerate(texts))
    )
    page = decode_page(TYPES, body)
    assert page.batch["location_geo_lat"].to_pylist() == [54.5, -10.141, 7.0, 100.0, None]
    assert page.is_fast
    assert page_issues(page) == ()
    assert page.batch["extra"].null_count == len(texts)


def test_relationships_become_ids() -> None:
    """To-one gives an id, to-many a list in Klaviyo's order; absent is null, empty is empty."""
    stream = build_stream(
        Column("metric_id", "One.", declared_source=RelatedId("metric")),
        Column("tag_ids", "Several.", "ids", RelatedIds("tags")),
    )
    tags = [resource_identifier("tag", "t2"), resource_identifier("tag", "t1")]
    page = decode_page(
        stream,
        page_body(
            with_relationships(
                build_record("a"), metric=resource_identifier("metric", "m"), tags=tags
            ),
            with_relationships(build_record("b"), metric=None, tags=[]),
            build_record("c"),
            build_record("d")
            | {"relationships": {"metric": {"links": {"self": "x"}}, "tags": None}},
            build_record("e") | {"relationships": None},
        ),
    )
    assert page.is_fast
    assert page.batch["metric_id"].to_pylist() == ["m", None, None, None, None]
    assert page.batch["tag_ids"].to_pylist() == [["t2", "t1"], [], None, None, None]


def test_relationships_without_data_cost_nothing() -> None:
    """Relationships that only carry links are learned once, then fast, and leave no trace."""
    links = {"links": {"self": "https://a.klaviyo.com/x/", "related": "https://a.klaviyo.com/y/"}}
    one = build_record("a", text="x") | {"relationships": {"lists": links, "segments": links}}
    decoder = PageDecoder(TYPES)
    first = decoder.decode(page_body(one), synced_at=SYNCED_AT)
    page = decoder.decode(page_body(one), synced_at=SYNCED_AT)
    assert (first.is_fast, page.is_fast) == (False, True)
    assert page.batch.equals(first.batch)
    assert page_rows(page)[0]["extra"] is None
    assert page_issues(page) == ()


def test_included_resources_are_kept_whole() -> None:
    """A to-many relationship's resources are one JSON array, in its order, byte for byte."""
    first = '{"type": "attribution", "id": "x1", "attributes": {"n": 1.50},\n "links": {}}'
    second = '{"id":"x2","type":"attribution"}'
    data = [resource_identifier("attribution", "x2"), resource_identifier("attribution", "x1")]
    body = page_body(
        with_relationships(build_record("a"), attributions=data),
        with_relationships(build_record("b"), attributions=[]),
    )
    whole = body[:-1] + f', "included": [{first}, {second}]}}'.encode()
    page = decode_page(ATTRIBUTED, whole)
    assert page.is_fast
    assert page.batch["attributions"].to_pylist() == [f"[{second},{first}]", "[]"]


def test_the_first_attribution_names_what_it_relates_to() -> None:
    """The first resource of the relationship decides, whatever the order of `included`."""
    campaign = {"data": resource_identifier("campaign", "c1")}
    included: list[Record] = [
        resource_identifier("attribution", "x1")
        | {"relationships": {"campaign": campaign, "flow": None}},
        resource_identifier("attribution", "x2") | {"relationships": {"flow": {"links": {}}}},
        resource_identifier("metric", "x1") | {"attributes": {"name": "Opened"}},
    ]
    attributions = [
        resource_identifier("attribution", "x1"),
        resource_identifier("attribution", "x2"),
    ]
    page = decode_page(
        ATTRIBUTED,
        page_body(
            with_relationships(build_record("a"), attributions=attributions),
            with_relationships(build_record("b"), attributions=attributions[::-1]),
            with_relationships(build_record("c"), attributions=[]),
            build_record("d"),
            included=included,
        ),
    )
    assert page.batch["campaign"].to_pylist() == ["c1", None, None, None]
    assert page.batch["flow"].to_pylist() == [None] * 4
    assert page.batch["attributions"].null_count == 1


def test_a_resource_that_was_not_included_is_kept_as_its_identifier() -> None:
    """A record that refers to a resource missing in `included` has its identifier."""
    page = decode_page(
        ATTRIBUTED,
        page_body(
            with_relationships(
                build_record("a"), attributions=[resource_identifier("attribution", "x")]
            )
        ),
    )
    assert page.batch["attributions"].to_pylist() == ['[{"type":"attribution","id":"x"}]']
    assert page.batch["campaign"].to_pylist() == [None]
    assert page_issues(page) == ("included: no attribution of that id, kept as its identifier",)


def test_a_missing_moment_is_taken_from_the_seconds() -> None:
    """An event without `datetime` takes its `timestamp`; with both, `datetime` stands."""
    stream = build_stream(
        Column("timestamp", "Seconds.", "integer"),
        Column(
            "datetime",
            "Moment.",
            "timestamp",
            FieldPath("datetime", epoch_seconds_path="timestamp"),
        ),
        cursor="datetime",
    )
    page = decode_page(
        stream,
        page_body(
            build_record("a", timestamp=86400, datetime=None),
            build_record("b", timestamp=0),
            build_record("c", timestamp=5, datetime="2026-01-01T00:00:00Z"),
        ),
    )
    assert page.batch["datetime"].to_pylist() == [
        datetime(1970, 1, 2, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
    ]
    assert page.is_fast


def test_the_newest_of_several_timestamps_counts() -> None:
    """The newest item of an array is found by time, not by order or by text."""
    stream = build_stream(
        Column("suppressions", "All.", "json", FieldPath("mail.suppression")),
        Column("suppressed_at", "Newest.", "timestamp", LatestOf("mail.suppression", "timestamp")),
    )
    several = [
        {"reason": "X", "timestamp": "2026-01-01T00:00:00+00:00"},
        {"reason": "Y", "timestamp": "2026-01-01T03:00:00+05:00"},
        {"reason": "Z", "timestamp": "2025-12-31 23:30:00Z"},
        {"reason": "none"},
    ]
    page = decode_page(
        stream,
        page_body(
            build_record("a", mail={"suppression": several}),
            build_record("b", mail={"suppression": []}),
            build_record("c", mail=None),
        ),
    )
    assert page.batch["suppressed_at"].to_pylist() == [datetime(2026, 1, 1, tzinfo=UTC), None, None]
    assert page.batch["suppressions"].to_pylist()[1:] == ["[]", None]


def test_a_slice_brings_its_constants() -> None:
    """What Klaviyo says only by the question is filled in from the slice; else it is null."""
    stream = build_stream(Column("channel", "Channel.", declared_source=SliceConstant("channel")))
    email = Slice(name="email", filter="", values={"channel": "email"})
    body = page_body(build_record("a"), build_record("b"))
    assert decode_page(stream, body, slice_=email).batch["channel"].to_pylist() == ["email"] * 2
    assert decode_page(stream, body).batch["channel"].to_pylist() == [None] * 2


def test_a_received_value_is_used_before_the_requested_one() -> None:
    """The channel in a record's message is stored, and reported where it is another."""
    place = SliceConstant(
        "channel", included_relationship="campaign-messages", included_path="definition.channel"
    )
    stream = build_stream(Column("channel", "Channel.", declared_source=place))
    message = {"type": "campaign-message", "id": "m"}
    changed = message | {"attributes": {"definition": {"channel": "sms"}}}
    related = {"campaign-messages": {"data": [message]}}
    body = page_body(
        build_record("a") | {"relationships": related}, build_record("b"), included=[changed]
    )
    email = Slice(name="email", filter="", values={"channel": "email"})
    page = decode_page(stream, body, slice_=email)
    assert page.batch["channel"].to_pylist() == ["sms", "email"]
    assert any("records of sms came for email" in each for each in page.notices)


def test_a_single_record_is_a_page_of_one() -> None:
    """An endpoint of one record returns an object instead of a list."""
    about_one = replace(TYPES, source=Detail(parent="things", path="/api/things/{id}"))
    page = decode_page(about_one, page_body(data=build_record("a", text="x"), links={}))
    assert page.is_fast
    assert page.record_count == 1
    assert page.batch["text"].to_pylist() == ["x"]


def test_an_empty_page_has_the_columns_and_the_way_on() -> None:
    """A page without records in the middle has the link to the next one."""
    stream = build_stream(Column("at", "Moment.", "timestamp"), cursor="at")
    links = {"self": "x", "next": "https://a.klaviyo.com/next"}
    page = decode_page(stream, page_body(links=links, included=[]))
    assert page.batch.num_rows == page.record_count == 0
    assert page.batch.schema == PageDecoder(stream).schema
    assert page.next_link == "https://a.klaviyo.com/next"
    assert (page.lowest_cursor, page.highest_cursor, page.is_ascending) == (None, None, True)


def test_a_page_may_be_larger_than_requested() -> None:
    """Every record that came is in the batch, in the page's order."""
    page = decode_page(TYPES, page_body(*(build_record(str(each)) for each in range(250))))
    assert page.batch["id"].to_pylist() == [str(each) for each in range(250)]
    assert page.record_count == 250


@pytest.mark.parametrize(
    ("days", "ends", "is_ascending"),
    [((1, 2, 2, 9), (1, 9), True), ((3, 9, 2), (2, 9), False), ((5,), (5, 5), True)],
)
def test_a_page_has_the_range_of_its_cursor(
    days: tuple[int, ...], ends: tuple[int, int], *, is_ascending: bool
) -> None:
    """The lowest and the highest cursor are those of all rows, wherever they stand."""
    stream = build_stream(Column("at", "Moment.", "timestamp"), cursor="at")
    found = [
        build_record(str(place), at=f"2026-01-0{day}T00:00:00Z") for place, day in enumerate(days)
    ]
    page = decode_page(stream, page_body(*found))
    lowest, highest = (datetime(2026, 1, day, tzinfo=UTC) for day in ends)
    assert (page.lowest_cursor, page.highest_cursor, page.is_ascending) == (
        lowest,
        highest,
        is_ascending,
    )


def test_an_event_of_next_year_is_kept() -> None:
    """A cursor in the future is returned as it is; the plan decides what it may move."""
    stream = build_stream(Column("at", "Moment.", "timestamp"), cursor="at")
    page = decode_page(stream, page_body(build_record("a", at="9999-12-31T23:59:59.999999Z")))
    assert page.highest_cursor == datetime.max.replace(tzinfo=UTC)


def test_the_last_page_may_say_so_in_two_ways() -> None:
    """By null, or by leaving `next` out."""
    for links in ({"self": "x", "next": None}, {"self": "x"}):
        assert decode_page(TYPES, page_body(links=links)).next_link is None
