"""Attributes that Klaviyo no longer sends."""

from klaviyo_assets.model.column import Column, attribute
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.tables.decode import PageDecoder
from klaviyo_assets_tests.unit.tables.samples import (
    SYNCED_AT,
    decoded,
    page_of,
    record,
    rows,
    stream_of,
)

THINGS = stream_of(
    Column("name", "Name."), Column("rank", "Rank.", "integer"), attribute("place.city", "City.")
)
GONE = "rank: declared, but no record of the page has it"


def test_a_removed_field_is_null_and_told() -> None:
    """Records of an older shape are stored with NULL, and the field that is gone is named."""
    page = decoded(THINGS, page_of(record("a", name="x", place={})))
    assert rows(page)[0]["rank"] is None
    assert page.notices == (GONE,)
    assert page.is_fast


def test_null_and_rare_fields_are_not_removed() -> None:
    """A field that is null in all records, or sent with some of them only, is there."""
    page = decoded(THINGS, page_of(record("a", rank=None, place=None), record("b", name=None)))
    assert page.notices == ()


def test_it_is_told_once() -> None:
    """The first page with records tells; the ten thousand after it do not repeat it."""
    decoder = PageDecoder(THINGS)
    empty, short = page_of(), page_of(record("a", name="x", place={}))
    notices = [decoder.decode(body, synced_at=SYNCED_AT).notices for body in (empty, short, short)]
    assert notices == [(), (GONE,), ()]


def test_a_detail_without_attributes_is_no_news() -> None:
    """A parent that has no detail is answered for with nothing, and that is as it should be."""
    page = decoded(STREAMS["campaigns_detailed"], page_of(data=record("a")))
    assert page.notices == ()
    assert rows(page)[0]["estimated_recipient_count"] is None
