"""Streams and pages of our own, small enough to read in a test."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import WHOLE, Collection, Cursor, Slice, Stream
from klaviyo_assets.model.tiers import S
from klaviyo_assets.tables.decode import Page, PageDecoder

SYNCED_AT = datetime(2026, 7, 15, 12, tzinfo=UTC)

Record = dict[str, Any]


def stream_of(*columns: Column, cursor: str | None = None, name: str = "things") -> Stream:
    """Return a collection with these columns."""
    return Stream(
        name=name,
        about="One row per thing.",
        section="Things",
        source=Collection(path="/api/things", page_size=100),
        columns=columns,
        tier=S,
        scopes=("things:read",),
        cursor=Cursor(column=cursor, field=cursor) if cursor is not None else None,
    )


def record(id_: str = "a", /, **attributes: object) -> Record:
    """Return a record with the members that Klaviyo always sends."""
    link = f"https://a.klaviyo.com/api/things/{id_}/"
    return {"type": "thing", "id": id_, "attributes": attributes, "links": {"self": link}}


def related(one: Record, **relationships: object) -> Record:
    """Return the record with these relationships, each given by its `data`."""
    links = {"self": "https://a.klaviyo.com/r/", "related": "https://a.klaviyo.com/s/"}
    parts = {
        name.replace("_", "-"): {"data": data, "links": links}
        for name, data in relationships.items()
    }
    return one | {"relationships": parts}


def identifier(kind: str, id_: str) -> Record:
    """Return a resource identifier."""
    return {"type": kind, "id": id_}


def page_of(*records: object, **members: object) -> bytes:
    """Return a page of these records, and of whatever else is given."""
    whole = {
        "data": list(records),
        "links": {"self": "https://a.klaviyo.com/api/things", "next": None, "prev": None},
    }
    return json.dumps(whole | members, ensure_ascii=False).encode()


def raw_page(*records: str) -> bytes:
    """Return a page whose records are written as JSON text by the caller."""
    return b'{"data":[' + ",".join(records).encode() + b'],"links":{"self":"x"}}'


def decoded(stream: Stream, body: bytes, *, slice_: Slice = WHOLE) -> Page:
    """Return the page that a new decoder makes of a body."""
    return PageDecoder(stream).decode(body, synced_at=SYNCED_AT, slice_=slice_)


def rows(page: Page) -> Sequence[Record]:
    """Return the page's rows as dictionaries, `synced_at` left out."""
    found: list[Record] = page.batch.drop_columns(["synced_at"]).to_pylist()
    return found


def news(page: Page) -> tuple[str, ...]:
    """Return the page's notices but for absent fields: records in tests are short."""
    return tuple(each for each in page.notices if "declared, but no record" not in each)
