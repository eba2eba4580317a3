"""Declarations: what makes sense together, and what is refused when the decoder is made."""

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest

from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.decode.schema import arrow_schema
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
from klaviyo_assets.model.stream import Collection, Detail, Stream
from klaviyo_assets.streams import COLLECTIONS, STREAMS
from klaviyo_assets_tests.unit.decode.samples import (
    SYNCED_AT,
    Record,
    build_record,
    build_stream,
    decode_page,
    page_body,
    page_rows,
)

READ = [stream for stream in COLLECTIONS if isinstance(stream.source, (Collection, Detail))]
SENT = {
    "string": "x",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "timestamp": "2026-01-31T00:00:00+00:00",
    "date": "2026-01-31",
    "json": [],
    "ids": ["x"],
}


def record_with_all_attributes(stream: Stream) -> Record:
    """Return a record that has every declared attribute, with its declared type."""
    attributes: Record = {}
    for column in stream.columns:
        if isinstance(column.source, FieldPath):
            *above, name = column.source.path.split(".")
            here = attributes
            for each in above:
                here = here.setdefault(each, {})
            here[name] = SENT[column.type]
    return build_record("a", **attributes)


@pytest.mark.parametrize("stream", READ, ids=lambda stream: stream.name)
def test_every_declared_stream_is_decoded_at_once(stream: Stream) -> None:
    """A record as declared fills its columns, leaves nothing over, and takes the fast path."""
    one = record_with_all_attributes(stream)
    if stream.name == "global_exclusions":
        suppression = [{"reason": "UNSUBSCRIBE", "timestamp": SENT["timestamp"]}]
        one["attributes"]["subscriptions"]["email"]["marketing"]["suppression"] = suppression
    page = decode_page(stream, page_body(one))
    assert page.is_fast
    assert page.notices == ()
    assert page.batch.schema == arrow_schema(stream)
    (row,) = page_rows(page)
    filled = [each.name for each in stream.columns if isinstance(each.source, FieldPath)]
    assert [name for name in filled if row[name] is None] == []
    assert row["extra"] is None


@pytest.mark.parametrize("stream", READ, ids=lambda stream: stream.name)
def test_every_declared_stream_survives_nulls(stream: Stream) -> None:
    """The published `required` is ignored: all but key and cursor may be null or missing."""
    cursor = stream.cursor.field if stream.cursor is not None else None
    attributes = {cursor: SENT["timestamp"]} if cursor and "." not in cursor else {}
    nulls = dict.fromkeys(record_with_all_attributes(stream)["attributes"])
    page = decode_page(
        stream, page_body(build_record("a", **nulls | attributes), build_record("b", **attributes))
    )
    # A profile that nothing suppresses is none of these; see test_broken.
    expected = 0 if stream.name == "global_exclusions" else 2
    assert page.batch.num_rows == expected
    assert page.is_fast == bool(expected)
    assert page.quarantined == ()


@pytest.mark.parametrize(
    "columns",
    [
        (Column("a", "Whole.", "json"), attribute_column("a.b", "Part.")),
        (attribute_column("a.b", "Part."), Column("a", "Whole.", "json")),
        (Column("a", "Text."), Column("b", "Number.", "integer", FieldPath("a"))),
        (
            Column("a", "Moment.", "timestamp", FieldPath("a", epoch_seconds_path="b")),
            Column("b", "Seconds."),
        ),
        (Column("a", "Text."), Column("b", "Newest.", "timestamp", LatestOf("a", "at"))),
        (Column("a", "One.", "ids", RelatedId("x")),),
        (Column("a", "Several.", "string", RelatedIds("x")),),
        (Column("a", "Whole.", "string", Included("x")),),
        (Column("a", "First.", "integer", FirstIncludedId("x", "y")),),
        (Column("a", "Newest.", "json", LatestOf("x", "y")),),
        (Column("a", "Constant.", "number", SliceConstant("x")),),
    ],
    ids=lambda columns: ", ".join(f"{each.type} {each.source}" for each in columns),
)
def test_contradictions_are_refused(columns: tuple[Column, ...]) -> None:
    """A path read as two things, or a place that cannot give its type, fails before any page."""
    with pytest.raises(ValueError, match="things: "):
        PageDecoder(build_stream(*columns))


def test_one_path_may_fill_several_columns() -> None:
    """The same attribute may be a column under two names."""
    stream = build_stream(
        Column("a", "Whole.", "json"), Column("b", "Same.", "json", FieldPath("a"))
    )
    assert page_rows(decode_page(stream, page_body(build_record("x", a=[1])))) == [
        {"id": "x", "a": "[1]", "b": "[1]", "extra": None}
    ]


def test_threads_may_share_a_decoder() -> None:
    """Pages that teach different things at the same time are all decoded whole."""
    decoder = PageDecoder(build_stream(Column("name", "Name.")))
    bodies = [
        page_body(build_record("a", **{f"new {n % 7}": n}), build_record("b", name=n))
        for n in range(70)
    ]
    with ThreadPoolExecutor(8) as threads:
        pages = list(threads.map(decode, repeat(decoder), bodies))
    assert [page_rows(page)[0]["extra"] for page in pages] == [
        f'{{"new {n % 7}":{n}}}' for n in range(70)
    ]
    assert decode(decoder, bodies[0]).is_fast


def decode(decoder: PageDecoder, body: bytes) -> DecodedPage:
    """Decode one page."""
    return decoder.decode(body, synced_at=SYNCED_AT)


def test_an_ignored_attribute_never_makes_a_record_another() -> None:
    """The picture of a template has a new address at every read; the row stays what it was."""
    templates = STREAMS["email_templates"]
    first, second = (
        decode_page(
            templates,
            page_body(
                build_record(
                    "a",
                    updated="2026-01-31T00:00:00+00:00",
                    screenshot_url=f"https://x/?sign={number}",
                )
            ),
        )
        for number in range(2)
    )
    assert first.batch.equals(second.batch)
    assert [row["extra"] for row in page_rows(first)] == [None]
