"""Coerces JSON values to their columns' types, and collects what does not fit: the page's issues.

`ParsedPage` is the result of both the fast path and the fallback, before it becomes Arrow.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
from msgspec import Raw

from klaviyo_assets.decode.jsonapi import (
    PageLinks,
    PageRelationships,
    encode_json_object,
    json_array_decoder,
)
from klaviyo_assets.model.column import ColumnType, JsonPath
from klaviyo_assets.redaction import redact_keys

INT64_RANGE = range(-(2**63), 2**63)

_WHOLE_NUMBER_PATTERN = re.compile(r"[+-]?\d{1,19}(?:\.0+)?")
_DECIMAL_PATTERN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_DAY_PATTERN = re.compile(r"\d{4}-\d{2}-\d{2}")

_text_decoder = msgspec.json.Decoder(str)
_text_list_decoder = msgspec.json.Decoder(list[str])


def coerce_value(raw: bytes, kind: ColumnType) -> tuple[object, bool]:
    """Return the column's value for a JSON value, and whether that has the declared type.

    Values are in the form of the fast path's structs: timestamps and dates are text. JSON null and
    an absent value (empty bytes) become None, and fit every type.
    """
    if raw in {b"", b"null"}:
        return None, True
    return _COERCION_RULES[kind](raw)


def _coerce_string(raw: bytes) -> tuple[object, bool]:
    if raw.startswith(b'"'):
        return _text_decoder.decode(raw), True
    return (None if raw[:1] in b"{[" else raw.decode()), False


def _coerce_timestamp(raw: bytes) -> tuple[object, bool]:
    return (_text_decoder.decode(raw), True) if raw.startswith(b'"') else (None, False)


def _coerce_integer(raw: bytes) -> tuple[object, bool]:
    text = _scalar_text(raw)
    if text is None or not _WHOLE_NUMBER_PATTERN.fullmatch(text):
        number = _parse_finite_float(text)
        is_whole = number is not None and number.is_integer() and abs(number) < 2**53
        return (int(number) if is_whole and number is not None else None), False
    value = int(text.partition(".")[0])
    is_declared = "." not in text and not raw.startswith(b'"')
    return (value, is_declared) if value in INT64_RANGE else (None, False)


def _coerce_number(raw: bytes) -> tuple[object, bool]:
    value = _parse_finite_float(_scalar_text(raw))
    return value, value is not None and not raw.startswith(b'"')


def _coerce_boolean(raw: bytes) -> tuple[object, bool]:
    value = {b"true": True, b"false": False}.get(raw)
    if value is not None:
        return value, True
    return {b'"true"': True, b'"false"': False}.get(raw.lower()), False


def _coerce_ids(raw: bytes) -> tuple[object, bool]:
    try:
        return _text_list_decoder.decode(raw), True
    except msgspec.ValidationError:
        if not raw.startswith(b"["):
            return None, False
    texts = [
        _coerce_string(bytes(each))[0]
        for each in json_array_decoder.decode(raw)
        if bytes(each) != b"null"
    ]
    return (None if None in texts else texts), False


def _coerce_json(raw: bytes) -> tuple[object, bool]:
    return msgspec.Raw(raw), True


_COERCION_RULES: Mapping[ColumnType, Callable[[bytes], tuple[object, bool]]] = {
    "string": _coerce_string,
    "timestamp": _coerce_timestamp,
    "date": _coerce_timestamp,
    "integer": _coerce_integer,
    "number": _coerce_number,
    "boolean": _coerce_boolean,
    "ids": _coerce_ids,
    "json": _coerce_json,
}


def _scalar_text(raw: bytes) -> str | None:
    if raw[:1] in b"{[tf":
        return None
    return _text_decoder.decode(raw).strip() if raw.startswith(b'"') else raw.decode()


def _parse_finite_float(text: str | None) -> float | None:
    if text is None or not _DECIMAL_PATTERN.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def parse_number_text(raw: bytes) -> float | None:
    """Return the number in a JSON string if no digit is lost in a float; None for other values.

    Coordinates are published as a number or as text.
    """
    if not raw.startswith(b'"'):
        return None
    text = _text_decoder.decode(raw).strip()
    value = _parse_finite_float(text)
    return value if value is not None and Decimal(text) == Decimal(repr(value)) else None


def parse_timestamp(text: str) -> datetime | None:
    """Return the UTC datetime of an ISO 8601 text in any form; None for other texts.

    A text without an offset is read as UTC, one without a time as midnight.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_iso_day(text: str) -> date | None:
    """Return the date of a text `YYYY-MM-DD`; None for any other text."""
    try:
        return date.fromisoformat(text) if _DAY_PATTERN.fullmatch(text) else None
    except ValueError:
        return None


MAX_NOTICES = 50
MAX_NOTICE_NAME_CHARACTERS = 120
"""Most characters of a field's name in a notice; Klaviyo's names have no maximum length."""

_TYPE_BY_FIRST_BYTE = {
    ord('"'): "string",
    ord("{"): "object",
    ord("["): "array",
    ord("t"): "boolean",
    ord("f"): "boolean",
    ord("n"): "null",
}


def json_type(raw: bytes | Raw) -> str:
    """Return the JSON type of a value: string, number, boolean, null, array or object."""
    return _TYPE_BY_FIRST_BYTE.get(memoryview(raw)[0], "number")


def is_json_null(raw: bytes | Raw) -> bool:
    """Return whether a JSON value is null, or absent (empty bytes)."""
    length = len(raw)
    return not length or (length == len(b"null") and bytes(raw) == b"null")


@dataclass(slots=True)
class PageIssues:
    """Collects, while a page is read, what its columns cannot hold. Rows are numbered from 0.

    `new_fields`: paths without a declaration. `loose_fields`: paths at which another type than the
    declared one was received.
    """

    extra_values: dict[int, dict[str, bytes]] = field(default_factory=dict[int, dict[str, bytes]])
    new_fields: set[JsonPath] = field(default_factory=set[JsonPath])
    loose_fields: set[JsonPath] = field(default_factory=set[JsonPath])
    _notices: set[str] = field(default_factory=set[str])

    def add_extra(self, row: int, key: str, raw: bytes) -> None:
        """Put a JSON value into the record's `extra`."""
        self.extra_values.setdefault(row, {})[key] = raw

    def add_undeclared(self, row: int, key: str, raw: bytes) -> None:
        """Put a value without a column into `extra`, and add a notice."""
        self.add_extra(row, key, raw)
        self.add_notice(key, f"{json_type(raw)} without a column, kept in `extra`")

    def add_mistyped(self, row: int, key: str, raw: bytes, *, outcome: str) -> None:
        """Put a value of another than the declared type into `extra`; the column got `outcome`."""
        self.add_extra(row, key, raw)
        self.add_notice(key, f"{json_type(raw)} {outcome}, kept in `extra`")

    def coerce_or_keep(
        self, raw: bytes, kind: ColumnType, *, at: tuple[int, str]
    ) -> tuple[object, bool]:
        """Return a column's value for a JSON value, and whether it fits; if not, add it to `extra`.

        `at`: the row, and the key in `extra`.
        """
        if kind == "number" and (number := parse_number_text(raw)) is not None:
            return number, True
        value, fits = coerce_value(raw, kind)
        if not fits:
            end = "left NULL" if value is None else "converted"
            self.add_mistyped(*at, raw, outcome=f"where {kind} is declared, {end}")
        return value, fits

    def add_notice(self, name: str, text: str) -> None:
        """Add a notice about the field `name`; `text` must contain no value of a record."""
        name = redact_keys(name)
        shown = (
            name
            if len(name) <= MAX_NOTICE_NAME_CHARACTERS
            else f"{name[:MAX_NOTICE_NAME_CHARACTERS]}..."
        )
        self._notices.add(f"{shown!r}: {text}" if not shown.isprintable() else f"{shown}: {text}")

    def notices(self) -> tuple[str, ...]:
        """Return the notices, sorted, each once; beyond the maximum only their number."""
        ordered = sorted(self._notices)
        more = len(ordered) - MAX_NOTICES
        if more <= 0:
            return tuple(ordered)
        return (*ordered[:MAX_NOTICES], f"and {more} more notices of this page")

    def extra_objects(self, rows: int) -> list[bytes]:
        """Return the JSON of `extra`, its keys sorted, for each of the first rows; empty: none."""
        by_row = map(self.extra_values.get, range(rows))
        return [encode_json_object(dict(sorted(each.items()))) if each else b"" for each in by_row]


@dataclass(frozen=True, slots=True)
class QuarantinedRecord:
    """A record that cannot be stored, as received; `reason` contains no value of it."""

    reason: str
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPage:
    """The values of one page's records that can be stored; all lists have the same length.

    `values`: a list for every path of the field tree, with text for strings and times, numbers,
    booleans, lists of ids, and `Raw` for JSON (empty where absent). `record_count`: all records
    received, including those in `quarantined`. `raw_records`: the stored records as JSON, only from
    the fallback. `is_list`: whether `data` was a list. `included`, `links` and `errors`: the page's
    members of these names.
    """

    ids: Sequence[str]
    values: Mapping[JsonPath, Sequence[object]]
    relationships: PageRelationships
    record_count: int
    issues: PageIssues
    included: Raw
    links: PageLinks
    errors: Raw
    is_list: bool
    is_fast: bool
    raw_records: Sequence[Raw] = ()
    quarantined: list[QuarantinedRecord] = field(default_factory=list[QuarantinedRecord])
