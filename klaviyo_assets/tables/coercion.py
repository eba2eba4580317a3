"""Single values: what a column makes of a JSON value that is not of its declared type.

What belongs here: the rules, one value at a time. What does not: whole columns (`arrays`).
The published types are not kept by real answers; what fits in no way becomes NULL, and the caller
keeps the value as sent in `extra`.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec

from klaviyo_assets.model.column import ColumnType

INT64 = range(-(2**63), 2**63)

_WHOLE = re.compile(r"[+-]?\d{1,19}(?:\.0+)?")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

_text = msgspec.json.Decoder(str)
_texts = msgspec.json.Decoder(list[str])
_scalars = msgspec.json.Decoder(list[msgspec.Raw])


def coerced(raw: bytes, kind: ColumnType) -> tuple[object, bool]:
    """Return the column's value for a JSON value, and whether it is of the declared type.

    Values are as the typed structs give them: timestamps and dates are text. JSON null and an
    absent value (empty bytes) are None, and fit.
    """
    if raw in {b"", b"null"}:
        return None, True
    return _RULES[kind](raw)


def _string(raw: bytes) -> tuple[object, bool]:
    if raw.startswith(b'"'):
        return _text.decode(raw), True
    return (None if raw[:1] in b"{[" else raw.decode()), False


def _moment_text(raw: bytes) -> tuple[object, bool]:
    return (_text.decode(raw), True) if raw.startswith(b'"') else (None, False)


def _integer(raw: bytes) -> tuple[object, bool]:
    text = _scalar_text(raw)
    if text is None or not _WHOLE.fullmatch(text):
        number = _float_of(text)
        is_whole = number is not None and number.is_integer() and abs(number) < 2**53
        return (int(number) if is_whole and number is not None else None), False
    value = int(text.partition(".")[0])
    is_declared = "." not in text and not raw.startswith(b'"')
    return (value, is_declared) if value in INT64 else (None, False)


def _number(raw: bytes) -> tuple[object, bool]:
    value = _float_of(_scalar_text(raw))
    return value, value is not None and not raw.startswith(b'"')


def _boolean(raw: bytes) -> tuple[object, bool]:
    value = {b"true": True, b"false": False}.get(raw)
    if value is not None:
        return value, True
    return {b'"true"': True, b'"false"': False}.get(raw.lower()), False


def _ids(raw: bytes) -> tuple[object, bool]:
    try:
        return _texts.decode(raw), True
    except msgspec.ValidationError:
        if not raw.startswith(b"["):
            return None, False
    texts = [_string(bytes(each))[0] for each in _scalars.decode(raw) if bytes(each) != b"null"]
    return (None if None in texts else texts), False


def _json(raw: bytes) -> tuple[object, bool]:
    return msgspec.Raw(raw), True


_RULES: Mapping[ColumnType, Callable[[bytes], tuple[object, bool]]] = {
    "string": _string,
    "timestamp": _moment_text,
    "date": _moment_text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "ids": _ids,
    "json": _json,
}


def _scalar_text(raw: bytes) -> str | None:
    if raw[:1] in b"{[tf":
        return None
    return _text.decode(raw).strip() if raw.startswith(b'"') else raw.decode()


def _float_of(text: str | None) -> float | None:
    if text is None or not _DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def number_in_text(raw: bytes) -> float | None:
    """Return the number that a JSON string says in full, None for any other value.

    In full: written out again it is the same number. Coordinates are published as number or text.
    """
    if not raw.startswith(b'"'):
        return None
    text = _text.decode(raw).strip()
    value = _float_of(text)
    return value if value is not None and Decimal(text) == Decimal(repr(value)) else None


def moment_of(text: str) -> datetime | None:
    """Return the moment in UTC that a text names, None if it names none.

    Any ISO 8601 form; without an offset it is UTC, without a time midnight.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def day_of(text: str) -> date | None:
    """Return the day that `YYYY-MM-DD` names, None for any other text."""
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None
