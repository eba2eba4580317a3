"""Attributes that Klaviyo no longer sends."""

from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.model.column import Column, attribute_column
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.unit.decode.samples import (
    SYNCED_AT,
    build_record,
    build_stream,
    decode_page,
    page_body,
    page_rows,
)

THINGS = build_stream(
    Column("name", "Name."),
    Column("rank", "Rank.", "integer"),
    attribute_column("place.city", "City."),
)
GONE = "rank: declared, but no record of the page has it"


def test_a_removed_field_is_null_and_reported() -> None:
    """Records without a field are stored with NULL, and the missing field is named."""
    page = decode_page(THINGS, page_body(build_record("a", name="x", place={})))
    assert page_rows(page)[0]["rank"] is None
    assert page.notices == (GONE,)
    assert page.is_fast


def test_null_and_rare_fields_are_not_removed() -> None:
    """A field that is null in all records, or sent with some of them only, is there."""
    page = decode_page(
        THINGS, page_body(build_record("a", rank=None, place=None), build_record("b", name=None))
    )
    assert page.notices == ()


def test_a_missing_field_is_reported_once() -> None:
    """The first page with records reports it; the ten thousand after it do not."""
    decoder = PageDecoder(THINGS)
    empty, short = page_body(), page_body(build_record("a", name="x", place={}))
    notices = [decoder.decode(body, synced_at=SYNCED_AT).notices for body in (empty, short, short)]
    assert notices == [(), (GONE,), ()]


def test_a_detail_without_attributes_is_not_reported() -> None:
    """A parent that has no detail is answered for with nothing, and that is as it should be."""
    page = decode_page(STREAMS["campaigns_detailed"], page_body(data=build_record("a")))
    assert page.notices == ()
    assert page_rows(page)[0]["estimated_recipient_count"] is None
