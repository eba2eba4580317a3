"""Streams and pages of our own, small enough to read in a test."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import TIER_S, WHOLE_COLLECTION, Collection, Cursor, Slice, Stream

SYNCED_AT = datetime(2026, 7, 15, 12, tzinfo=UTC)

Record = dict[str, Any]


def build_stream(*columns: Column, cursor: str | None = None, name: str = "things") -> Stream:
    """Return a collection with these columns."""
    return Stream(
        name=name,
        description="One row per thing.",
        section="Things",
        source=Collection(path="/api/things", page_size=100),
        columns=columns,
        tier=TIER_S,
        scopes=("things:read",),
        cursor=Cursor(column=cursor, field=cursor) if cursor is not None else None,
    )


def build_record(id_: str = "a", /, **attributes: object) -> Record:
    """Return a record with the members that Klaviyo always sends."""
    link = f"https://a.klaviyo.com/api/things/{id_}/"
    return {"type": "thing", "id": id_, "attributes": attributes, "links": {"self": link}}


def with_relationships(record: Record, **relationships: object) -> Record:
    """Return the record with these relationships, each given by its `data`."""
    links = {"self": "https://a.klaviyo.com/r/", "related": "https://a.klaviyo.com/s/"}
    parts = {
        name.replace("_", "-"): {"data": data, "links": links}
        for name, data in relationships.items()
    }
    return record | {"relationships": parts}


def resource_identifier(kind: str, id_: str) -> Record:
    """Return a resource identifier."""
    return {"type": kind, "id": id_}


def page_body(*records: object, **members: object) -> bytes:
    """Return a page of these records, and of whatever else is given."""
    whole = {
        "data": list(records),
        "links": {"self": "https://a.klaviyo.com/api/things", "next": None, "prev": None},
    }
    return json.dumps(whole | members, ensure_ascii=False).encode()


def raw_page(*records: str) -> bytes:
    """Return a page whose records are written as JSON text by the caller."""
    return b'{"data":[' + ",".join(records).encode() + b'],"links":{"self":"x"}}'


def decode_page(stream: Stream, body: bytes, *, slice_: Slice = WHOLE_COLLECTION) -> DecodedPage:
    """Return the page that a new decoder makes of a body."""
    return PageDecoder(stream).decode(body, synced_at=SYNCED_AT, slice_=slice_)


def page_rows(page: DecodedPage) -> Sequence[Record]:
    """Return the page's rows as dictionaries, `synced_at` left out."""
    found: list[Record] = page.batch.drop_columns(["synced_at"]).to_pylist()
    return found


def page_issues(page: DecodedPage) -> tuple[str, ...]:
    """Return the page's notices but for absent fields: records in tests are short."""
    return tuple(each for each in page.notices if "declared, but no record" not in each)
