"""Cursors and links: where the next page is.

A cursor is a keyset in base64: the sort value and id of the last record shown, and a fingerprint of
the order and the filter, so that it is stateless and of no use with another sort. Links are
absolute, with percent-encoded brackets, as recorded on 2026-09-04 at revision 2026-07-15.
"""

import base64
import binascii
import json
from typing import cast
from urllib.parse import quote

from klaviyo_assets.sandbox.errors import ApiError, invalid
from klaviyo_assets.sandbox.query import Query

# next, field, value, id, <id>, q, <fingerprint>
_PARTS = 7
SortValue = int | float | str | bool | None


def bad_cursor() -> ApiError:
    """The one answer to a cursor that is not ours, or not of this order."""
    return invalid("Invalid cursor provided.", pointer="/data/")


def event_cursor(query: Query, *, seconds: int, record_id: str) -> str:
    """An events cursor: a JSON list in base64."""
    keyset = json.dumps([seconds, record_id, not query.descending, query.fingerprint])
    return base64.b64encode(keyset.encode()).decode()


def read_event_cursor(query: Query) -> tuple[int, str] | None:
    """Seconds and id of the last event shown; None on the first page; 400 when it does not fit."""
    if query.cursor is None:
        return None
    try:
        keyset: object = json.loads(base64.b64decode(query.cursor, validate=True))
    except (binascii.Error, ValueError):
        raise bad_cursor() from None
    match keyset:
        case [int(seconds), str(record_id), bool(ascending), str(fingerprint)]:
            if fingerprint == query.fingerprint and ascending is not query.descending:
                return seconds, record_id
        case _:
            pass
    raise bad_cursor()


def record_cursor(query: Query, *, value: SortValue, record_id: str) -> str:
    """A cursor of any other collection: `next::<field>::<value>::id::<id>::q::<fingerprint>`."""
    value_text = json.dumps(value, ensure_ascii=False)
    keyset = f"next::{query.sort}::{value_text}::id::{record_id}::q::{query.fingerprint}"
    return base64.b64encode(keyset.encode()).decode()


def read_record_cursor(query: Query) -> tuple[SortValue, str] | None:
    """Sort value and id of the last record shown; None on the first page."""
    if query.cursor is None:
        return None
    try:
        parts = base64.b64decode(query.cursor, validate=True).decode().split("::")
        if len(parts) < _PARTS or (parts[0], parts[1]) != ("next", query.sort):
            raise bad_cursor()
        value: object = json.loads("::".join(parts[2:-4]))
    except (binascii.Error, ValueError):
        raise bad_cursor() from None
    if parts[-1] != query.fingerprint or not isinstance(value, int | float | str | None):
        raise bad_cursor()
    return cast("SortValue", value), parts[-3]


def query_text(pairs: tuple[tuple[str, str], ...]) -> str:
    """Pairs as a query with everything encoded that Klaviyo encodes, brackets included."""
    return "&".join(f"{quote(name, safe='-')}={quote(value, safe=':,')}" for name, value in pairs)


def next_link(origin: str, path: str, *, pairs: tuple[tuple[str, str], ...], cursor: str) -> str:
    """The absolute address of the next page: the same query with the new cursor."""
    kept = tuple(pair for pair in pairs if pair[0] != "page[cursor]")
    return f"{origin}{path}?{query_text((*kept, ('page[cursor]', cursor)))}"


def self_link(origin: str, path: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """The absolute address of this page; no trailing slash on collections."""
    return f"{origin}{path}?{query_text(pairs)}" if pairs else f"{origin}{path}"
