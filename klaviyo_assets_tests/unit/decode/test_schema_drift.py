"""Pages that hold more than was declared, or other types: nothing is lost, and it is learned."""

import json
from datetime import UTC, date, datetime

import pytest

from klaviyo_assets.decode.decoder import MAX_LEARNED_FIELDS, DecodedPage, PageDecoder
from klaviyo_assets.model.column import (
    Column,
    ColumnType,
    RelatedId,
    RelatedIds,
    SliceConstant,
    attribute_column,
)
from klaviyo_assets.model.privacy import PrivacyRules
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

THINGS = build_stream(
    Column("name", "Name."),
    attribute_column("location.city", "City."),
    attribute_column("location.geo.lat", "Latitude.", "number"),
    Column("metric_id", "Metric.", declared_source=RelatedId("metric")),
)


def extras(page: DecodedPage) -> list[Record | None]:
    """Return each row's `extra`, read."""
    return [row["extra"] and json.loads(row["extra"]) for row in page_rows(page)]


def test_an_unknown_attribute_is_kept_in_extra() -> None:
    """What no column is for is in `extra` under its full path, as it was sent."""
    page = decode_page(
        THINGS,
        raw_page(
            '{"id":"a","attributes":{"name":"x","rank":{"n": 1.50},"location":{"floor":[1,  2]}}}',
            '{"id":"b","attributes":{"name":"y"}}',
        ),
    )
    assert page.batch["extra"].to_pylist() == [
        '{"location.floor":[1,  2],"rank":{"n": 1.50}}',
        None,
    ]
    assert page.batch["name"].to_pylist() == ["x", "y"]
    assert page_issues(page) == (
        "location.floor: array without a column, kept in `extra`",
        "rank: object without a column, kept in `extra`",
    )
    assert not page.is_fast


def test_an_unknown_null_says_nothing() -> None:
    """Klaviyo sends null for what was not requested; that is no news, and no `extra`."""
    page = decode_page(THINGS, page_body(build_record("a", name="x", predictive_analytics=None)))
    assert extras(page) == [None]
    assert page_issues(page) == ()


def test_new_fields_are_learned() -> None:
    """The page that brings a field first is slow, the next ones are fast and lose nothing."""
    decoder = PageDecoder(THINGS)
    both = [
        build_record("a", name="x", rank=1, location={"floor": 2}),
        build_record("b", rank=None),
    ]
    first = decoder.decode(page_body(*both), synced_at=SYNCED_AT)
    second = decoder.decode(page_body(*both), synced_at=SYNCED_AT)
    assert (first.is_fast, second.is_fast) == (False, True)
    assert second.batch.equals(first.batch)
    assert extras(second) == [{"location.floor": 2, "rank": 1}, None]
    assert page_issues(second) == page_issues(first)


def test_other_types_are_learned() -> None:
    """A field that came with another type than declared is read loosely, and fast, from then on."""
    decoder = PageDecoder(THINGS)
    body = page_body(
        build_record("a", name=7, location={"geo": {"lat": True}}), build_record("b", name="y")
    )
    first = decoder.decode(body, synced_at=SYNCED_AT)
    second = decoder.decode(body, synced_at=SYNCED_AT)
    assert (first.is_fast, second.is_fast) == (False, True)
    assert second.batch.equals(first.batch)
    assert page_issues(second) == page_issues(first)
    assert second.batch["name"].to_pylist() == ["7", "y"]


def test_what_was_learned_stays_when_more_is_learned() -> None:
    """A second kind of news does not make the first forgotten."""
    decoder = PageDecoder(THINGS)
    both = [build_record("a", rank=1), build_record("b", name=2), build_record("c", shade="z")]
    for one in both:
        assert not decoder.decode(page_body(one), synced_at=SYNCED_AT).is_fast
    assert decoder.decode(page_body(*both), synced_at=SYNCED_AT).is_fast


def test_endless_new_fields_are_stored_but_not_learned() -> None:
    """An account with a new field in every record costs time, never memory or a value."""
    decoder = PageDecoder(THINGS)
    many = [build_record(str(n), **{f"field {n}": n}) for n in range(MAX_LEARNED_FIELDS + 1)]
    for _ in range(2):
        page = decoder.decode(page_body(*many), synced_at=SYNCED_AT)
        assert not page.is_fast
        assert extras(page) == [{f"field {n}": n} for n in range(MAX_LEARNED_FIELDS + 1)]
        assert len(page.notices) == 51
        assert page.notices[-1].endswith(" more notices of this page")


@pytest.mark.parametrize(
    ("kind", "sent", "value"),
    [
        ("string", "12.50", "12.50"),
        ("string", "true", "true"),
        ("string", '{"a":1}', None),
        ("string", "[1]", None),
        ("integer", "3.0", 3),
        ("integer", "1e3", 1000),
        ("integer", '"42"', 42),
        ("integer", "3.5", None),
        ("integer", '"many"', None),
        ("integer", "true", None),
        ("integer", "9" * 80, None),
        ("integer", "9223372036854775808", None),
        ("number", '"0.30000000000000000001"', 0.3),
        ("number", '"north"', None),
        ("number", "1e400", None),
        ("number", '"NaN"', None),
        ("number", "false", None),
        ("number", "{}", None),
        ("boolean", '"true"', True),
        ("boolean", "1", None),
        ("timestamp", "1700000000", None),
        ("timestamp", '"yesterday"', None),
        ("timestamp", '""', None),
        ("timestamp", '"0000-01-01T00:00:00Z"', None),
        ("timestamp", '"0001-01-01T00:00:00+01:00"', None),
        ("timestamp", '"9999-12-31T23:59:59-01:00"', None),
        ("date", '"0000-01-01"', None),
        ("timestamp", '"2026-02-30T00:00:00Z"', None),
        ("date", '"2026-01-31T00:00:00Z"', None),
        ("date", "20260131", None),
        ("date", '"20260131"', None),
        ("ids", "[1,2]", ["1", "2"]),
        ("ids", '["a",null]', ["a"]),
        ("ids", '"a"', None),
        ("ids", "[[]]", None),
        ("ids", "{}", None),
    ],
)
def test_another_type_is_converted_or_null(kind: ColumnType, sent: str, value: object) -> None:
    """What a column cannot take as it is becomes its type or NULL; `extra` has what was sent."""
    page = decode_page(
        build_stream(Column("v", "Value.", kind)),
        raw_page(f'{{"id":"a","attributes":{{"v":{sent}}}}}'),
    )
    assert page.batch["v"].to_pylist() == [value]
    assert page.batch["extra"].to_pylist() == [f'{{"v":{sent}}}']
    (notice,) = page_issues(page)
    assert notice.startswith("v: ")
    assert f"where {kind} is declared" in notice
    assert ("left NULL" in notice) == (value is None)


def test_good_values_beside_a_bad_timestamp_stay() -> None:
    """One text that is no moment makes one NULL, not a column of them."""
    stream = build_stream(Column("at", "Moment.", "timestamp"), Column("on", "Day.", "date"))
    page = decode_page(
        stream,
        page_body(
            build_record("a", at="2026-01-31T00:00:00Z", on="soon"),
            build_record("b", at="soon", on="2026-01-31"),
        ),
    )
    assert page.batch["at"].to_pylist() == [datetime(2026, 1, 31, tzinfo=UTC), None]
    assert page.batch["on"].to_pylist() == [None, date(2026, 1, 31)]
    assert extras(page) == [{"on": "soon"}, {"at": "soon"}]
    assert page.is_fast


def test_an_object_may_become_a_scalar() -> None:
    """A scalar instead of an object leaves its columns NULL and is stored in `extra`."""
    page = decode_page(
        THINGS, page_body(build_record("a", name="x", location="Kiel"), build_record("b"))
    )
    assert page.batch["location_city"].to_pylist() == [None, None]
    assert extras(page) == [{"location": "Kiel"}, None]
    assert page_issues(page) == (
        "location: string where an object is declared, left NULL, kept in `extra`",
    )


def test_an_unknown_relationship_is_kept_if_it_holds_data() -> None:
    """New relationships are in `extra` with their identifiers; without data they say nothing."""
    owner = resource_identifier("user", "u1") | {"meta": {"since": 2020}}
    body = page_body(
        with_relationships(
            build_record("a"), owner=owner, friends=[resource_identifier("thing", "b")]
        ),
        with_relationships(build_record("b"), owner=None, friends=[]),
        with_relationships(build_record("c"), metric=resource_identifier("metric", "m")),
        build_record("d"),
    )
    stored = {
        "relationships.owner": owner,
        "relationships.friends": [resource_identifier("thing", "b")],
    }
    decoder = PageDecoder(THINGS)
    pages = [decoder.decode(body, synced_at=SYNCED_AT) for _ in range(2)]
    for page in pages:
        assert extras(page) == [stored, None, None, None]
        assert page.batch["metric_id"].to_pylist() == [None, None, "m", None]
    assert [page.is_fast for page in pages] == [False, True]


def test_one_related_record_may_become_several() -> None:
    """A list in a to-one relationship is NULL and in `extra`; a list of one may come bare."""
    stream = build_stream(
        Column("metric_id", "One.", declared_source=RelatedId("metric")),
        Column("tag_ids", "Several.", "ids", RelatedIds("tags")),
    )
    tag, metrics = resource_identifier("tag", "t"), [resource_identifier("metric", "m")]
    page = decode_page(
        stream, page_body(with_relationships(build_record("a"), metric=metrics, tags=tag))
    )
    assert page.batch["metric_id"].to_pylist() == [None]
    assert page.batch["tag_ids"].to_pylist() == [["t"]]
    assert extras(page) == [{"relationships.metric": metrics, "relationships.tags": tag}]


@pytest.mark.parametrize("data", [{"type": "metric"}, {"type": "metric", "id": 7}, "m", [1]])
def test_a_relationship_of_another_shape_is_kept(data: object) -> None:
    """A relationship that cannot be read harms neither its record nor the others."""
    page = decode_page(
        THINGS,
        page_body(
            with_relationships(build_record("a", name="x"), metric=data),
            with_relationships(build_record("b"), metric=None),
        ),
    )
    assert page.batch["id"].to_pylist() == ["a", "b"]
    assert page.batch["metric_id"].to_pylist() == [None, None]
    stored = extras(page)[0]
    assert stored is not None
    assert stored["relationships.metric"]["data"] == data


@pytest.mark.parametrize("relationships", [[], {}, None])
def test_empty_relationships_may_be_written_in_any_way(relationships: object) -> None:
    """PHP writes an empty object as a list; it is empty all the same."""
    page = decode_page(THINGS, page_body(build_record("a") | {"relationships": relationships}))
    assert extras(page) == [None]
    assert page_issues(page) == ()


def test_members_beside_the_attributes_are_kept() -> None:
    """What a record holds outside of `attributes` is in `extra` below `build_record`."""
    one = build_record("a") | {"meta": {"v": 2}, "lid": "x", "relationships": "none"}
    page = decode_page(THINGS, page_body(one))
    stored = {"record.lid": "x", "record.meta": {"v": 2}, "record.relationships": "none"}
    assert extras(page) == [stored]
    fast = decode_page(THINGS, page_body(build_record("a") | {"meta": {"v": 2}}))
    assert fast.is_fast
    assert extras(fast) == [{"record.meta": {"v": 2}}]


HOSTILE = [
    'quote"and\\slash',
    "with blank",
    "dots.in.it",
    "$value",
    "größe",
    'x"; DROP TABLE profiles; --',
    "line\nbreak",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_keys_like_others(name: str) -> None:
    """Whatever a field is called, `extra` is JSON and has it under that name, each time."""
    decoder = PageDecoder(THINGS)
    for _ in range(2):
        page = decoder.decode(page_body(build_record("a", **{name: 1})), synced_at=SYNCED_AT)
        assert extras(page) == [{name: 1}]


def test_names_that_differ_in_case_do_not_clash() -> None:
    """`name` and `Name` are two fields, in one record or in two."""
    page = decode_page(
        THINGS,
        page_body(build_record("a", name="x", Name="y", NAME="z"), build_record("b", Name="w")),
    )
    assert page.batch["name"].to_pylist() == ["x", None]
    assert extras(page) == [{"NAME": "z", "Name": "y"}, {"Name": "w"}]


def test_two_paths_never_share_a_key() -> None:
    """A name that looks like the path of another field is quoted, the same way each time."""
    one = build_record("a", location={"floor": 1}, **{"location.floor": 2, '"location.floor"': 3})
    decoder = PageDecoder(THINGS)
    for _ in range(2):
        page = decoder.decode(page_body(one), synced_at=SYNCED_AT)
        assert extras(page) == [
            {"location.floor": 1, '"location.floor"': 2, '"\\"location.floor\\""': 3}
        ]


def test_a_notice_shows_no_value_and_no_page_of_a_name() -> None:
    """Notices may be logged: a name is cut and made printable, a value is never there."""
    body = page_body(build_record("secret-id", name=["secret"], **{"n\n" * 500: "secret"}))
    for notice in decode_page(THINGS, body).notices:
        assert "secret" not in notice
        assert "\n" not in notice
        assert len(notice) < 500


def test_excluded_columns_leave_no_trace() -> None:
    """An excluded column, or path with all below it, is NULL, and nothing of it in `extra`."""
    stream = build_stream(
        Column("name", "Name."),
        attribute_column("analytics.clv", "Value.", "number"),
        attribute_column("analytics.orders", "Orders.", "number"),
        Column("channel", "Channel.", declared_source=SliceConstant("channel")),
    )
    body = page_body(
        build_record("a", name="x", analytics={"clv": 1, "orders": "many", "new": 3}, more=1)
    )
    for exclude in ({"analytics", "channel"}, {"analytics_clv", "analytics_orders", "channel"}):
        decoder = PageDecoder(stream, privacy=PrivacyRules(excluded_columns=frozenset(exclude)))
        page = decoder.decode(body, synced_at=SYNCED_AT)
        assert page.batch.schema == decoder.schema == PageDecoder(stream).schema
        nulls = dict.fromkeys(["analytics_clv", "analytics_orders", "channel"])
        assert page_rows(page) == [{"id": "a", "name": "x", **nulls, "extra": '{"more":1}'}]
    one = PageDecoder(stream, privacy=PrivacyRules(excluded_columns=frozenset({"analytics_clv"})))
    page = one.decode(body, synced_at=SYNCED_AT)
    assert extras(page) == [{"analytics.new": 3, "analytics.orders": "many", "more": 1}]


def test_the_cursor_cannot_be_excluded() -> None:
    """A stream without its cursor would start again from the beginning each time."""
    stream = build_stream(Column("at", "Moment.", "timestamp"), cursor="at")
    with pytest.raises(ValueError, match="cursor"):
        PageDecoder(stream, privacy=PrivacyRules(excluded_columns=frozenset({"at"})))
