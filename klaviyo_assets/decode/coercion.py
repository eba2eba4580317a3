"""Coerces JSON values of another type than their column's. Only pages with drift come here."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec

from klaviyo_assets.decode.jsonapi import PageIssues, json_array_decoder
from klaviyo_assets.model.column import ColumnType

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


def coerce_or_keep(
    raw: bytes, kind: ColumnType, issues: PageIssues, *, row: int, key: str
) -> tuple[object, bool]:
    """Return a column's value for a JSON value, and whether it fits; if not, add it to `extra`.

    `key`: that in `extra`.
    """
    if kind == "number" and (number := parse_number_text(raw)) is not None:
        return number, True
    value, fits = coerce_value(raw, kind)
    if not fits:
        end = "left NULL" if value is None else "converted"
        issues.add_mistyped(row, key, raw, outcome=f"where {kind} is declared, {end}")
    return value, fits
