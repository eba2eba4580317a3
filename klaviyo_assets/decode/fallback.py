"""Reads pages that the fast path cannot: record by record, coercing values, quarantining records.

Only pages with drift come here: a value of another type than its column's is coerced where that
loses nothing, and a record that cannot be used is quarantined.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise

import msgspec
from msgspec import Raw

from klaviyo_assets.decode.jsonapi import (
    ABSENT_JSON,
    EMPTY_JSON_VALUES,
    MISSING_DATA_MESSAGE,
    PageIssues,
    ParsedPage,
    QuarantinedRecord,
    RecordRelationships,
    envelope_decoder,
    is_json_null,
    json_array_decoder,
    json_object_decoder,
    json_type,
    parse_links,
    parse_relationships,
    transpose_relationships,
)
from klaviyo_assets.decode.schema import FieldNode, ObjectNode, extra_key
from klaviyo_assets.errors import BrokenBodyError, redact_known_keys
from klaviyo_assets.model.column import ColumnType, JsonPath

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


_RECORD_MEMBERS = frozenset({"type", "id", "attributes", "relationships", "links"})


class BrokenRecordError(ValueError):
    """A record that cannot be stored; the text is the reason. It never leaves this module."""


def parse_page_by_record(body: bytes, field_tree: ObjectNode, stream: str) -> ParsedPage:
    """Return the values of a page, read record by record.

    Args:
        body: the page, JSON in UTF-8.
        field_tree: the declared fields only, without learned ones.
        stream: the stream's name, for errors.

    Raises:
        BrokenBodyError: JSON, but not an object; or an object that is not a page.
        msgspec.DecodeError: not JSON.
    """
    # Names of fields appear in notices and in `extra`; a page may repeat the key in one of them.
    body = redact_known_keys(body)
    try:
        page = envelope_decoder.decode(body)
    except msgspec.ValidationError:
        raise BrokenBodyError("the response is JSON, but not an object", stream=stream) from None
    links = parse_links(page.links, stream)
    reader = _RecordReader(field_tree)
    records, is_list = _split_data(page.data, stream)
    for record in records:
        reader.read_record(record)
    return ParsedPage(
        ids=reader.ids,
        values=reader.values,
        relationships=transpose_relationships(reader.relationships),
        record_count=len(records),
        issues=reader.issues,
        included=page.included,
        links=links,
        errors=page.errors,
        is_list=is_list,
        is_fast=False,
        raw_records=reader.raw_records,
        quarantined=reader.quarantined,
    )


def _split_data(data: Raw, stream: str) -> tuple[list[Raw], bool]:
    """Return the records as JSON text, and whether `data` is a list."""
    if not len(data):
        raise BrokenBodyError(MISSING_DATA_MESSAGE, stream=stream)
    match json_type(data):
        case "array":
            return json_array_decoder.decode(data), True
        case "object":
            return [data], False
        case found:
            raise BrokenBodyError(
                f"the response is no page: its `data` is neither a list nor an object but {found}",
                stream=stream,
            )


class _RecordReader:
    """Collects the values of records field by field, one row for each record that can be stored."""

    def __init__(self, root: ObjectNode) -> None:
        self._root = root
        self.ids: list[str] = []
        self._fields = _leaf_fields(root)
        self.values: dict[JsonPath, list[object]] = {field.path: [] for field in self._fields}
        self.relationships: list[RecordRelationships | None] = []
        self.raw_records: list[Raw] = []
        self.quarantined: list[QuarantinedRecord] = []
        self.issues = PageIssues()

    def read_record(self, raw: Raw) -> None:
        """Read one record into the next row, or quarantine it."""
        try:
            members, id_ = _open_record(raw)
        except BrokenRecordError as broken:
            self.quarantined.append(QuarantinedRecord(str(broken), bytes(raw)))
            return
        row = len(self.ids)
        self.ids.append(id_)
        self.raw_records.append(raw)
        for field in self._fields:
            self.values[field.path].append(ABSENT_JSON if field.type == "json" else None)
        self._read_object(self._root, members["attributes"], row)
        self.relationships.append(
            self._read_relationships(members.get("relationships", ABSENT_JSON), row)
        )
        self._note_undeclared_members(members, row)

    def _read_object(self, node: ObjectNode, members: Raw, row: int) -> None:
        for name, value in json_object_decoder.decode(members).items():
            child = node.children.get(name)
            path = (*node.path, name)
            if isinstance(child, FieldNode):
                self._read_field(child, value, row)
            elif child is None:
                self.issues.new_fields.add(path)
                if not is_json_null(value):
                    key = extra_key(self._root, path)
                    self.issues.add_undeclared(row, key, bytes(value))
            elif json_type(value) == "object":
                self._read_object(child, value, row)
            elif not is_json_null(value):
                outcome = "where an object is declared, left NULL"
                key = extra_key(self._root, path)
                self.issues.add_mistyped(row, key, bytes(value), outcome=outcome)

    def _read_field(self, field: FieldNode, value: Raw, row: int) -> None:
        if field.purpose == "ignored":
            return
        if field.type == "json":
            self.values[field.path][row] = value
            return
        found, fits = coerce_or_keep(
            bytes(value), field.type, self.issues, row=row, key=extra_key(self._root, field.path)
        )
        self.values[field.path][row] = found
        if not fits:
            self.issues.loose_fields.add(field.path)

    def _read_relationships(self, raw: Raw, row: int) -> RecordRelationships | None:
        if bytes(raw) in EMPTY_JSON_VALUES:
            return None
        try:
            shaped, odd = parse_relationships(raw)
        except msgspec.ValidationError:
            self.issues.add_undeclared(row, "record.relationships", bytes(raw))
            return None
        for name, each in odd.items():
            self.issues.add_undeclared(row, f"relationships.{name}", bytes(each))
        return shaped

    def _note_undeclared_members(self, members: dict[str, Raw], row: int) -> None:
        if json_type(members["id"]) != "string":
            self.issues.add_notice("id", f"{json_type(members['id'])}, read as text")
        for name in members.keys() - _RECORD_MEMBERS:
            if bytes(members[name]) not in EMPTY_JSON_VALUES:
                self.issues.add_undeclared(row, f"record.{name}", bytes(members[name]))


def _open_record(raw: Raw) -> tuple[dict[str, Raw], str]:
    """Return the members of a record and its id.

    Raises:
        BrokenRecordError: it cannot be stored.
    """
    if (found := json_type(raw)) != "object":
        raise BrokenRecordError(f"the record is not an object but {found}")
    members = json_object_decoder.decode(raw)
    if "id" not in members:
        raise BrokenRecordError("the record has no id")
    id_, _ = coerce_value(bytes(members["id"]), "string")
    if not isinstance(id_, str) or json_type(members["id"]) == "boolean":
        raise BrokenRecordError(f"the record's id is {json_type(members['id'])}")
    if not id_:
        raise BrokenRecordError("the record's id is empty")
    if "attributes" not in members:
        raise BrokenRecordError("the record has no attributes")
    if (found := json_type(members["attributes"])) != "object":
        raise BrokenRecordError(f"the record's attributes are not an object but {found}")
    return members, id_


def _leaf_fields(node: ObjectNode) -> list[FieldNode]:
    fields: list[FieldNode] = []
    for child in node.children.values():
        if isinstance(child, ObjectNode):
            fields += _leaf_fields(child)
        elif child.purpose != "ignored":
            fields.append(child)
    return fields


_TOKEN_PATTERN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},]', re.DOTALL)
_OPENED_BY = {ord("]"): ord("["), ord("}"): ord("{")}
_QUOTE, _COMMA, _ARRAY, _ARRAY_END = map(ord, '",[]')
_IN_PAGE, _IN_DATA = 1, 2
"""How many brackets are open around a page's members, and around its records."""
_RECORD_BOUNDARIES = {(_COMMA, _IN_DATA), (_ARRAY_END, _IN_PAGE)}
"""The tokens between records, and after the last one, each with its bracket depth."""


@dataclass(frozen=True, slots=True)
class SalvagedPage:
    """A page without its unreadable records, and those records as received."""

    body: bytes
    quarantined: tuple[QuarantinedRecord, ...]


def salvage_page(body: bytes) -> SalvagedPage | None:
    """Return a page without its unreadable records.

    None if all records are readable, or if the page has no recognizable records. All brackets must
    match: a truncated page is not salvaged, because records would be missing from it.
    """
    found = _split_records(body)
    if found is None:
        return None
    head, records, tail = found
    reasons = [_decode_error_reason(each) for each in records]
    sound = [each for each, why in zip(records, reasons, strict=True) if not why]
    if len(sound) == len(records):
        return None
    broken = zip(reasons, records, strict=True)
    return SalvagedPage(
        head + b",".join(sound) + tail,
        tuple(QuarantinedRecord(why, record.strip()) for why, record in broken if why),
    )


def _decode_error_reason(record: bytes) -> str:
    try:
        # Nested as deeply as in the page, where it may exceed the recursion limit.
        json_object_decoder.decode(b'{"data":[' + record + b"]}")
    except RecursionError:
        return "the record is nested too deep to read"
    except msgspec.DecodeError:
        return "the record is not JSON"
    return ""


def _split_records(body: bytes) -> tuple[bytes, list[bytes], bytes] | None:
    """Return the text before a page's records, the records, and the text after them."""
    name, is_over = b"", False
    edges: list[int] = []
    for token, depth in _iterate_tokens(body):
        sign = body[token.start()]
        if (sign, depth) == (_QUOTE, _IN_PAGE):
            name = token[0]
        is_first = (sign, depth, name) == (_ARRAY, _IN_PAGE, b'"data"') and not edges
        if is_first or (edges and not is_over and (sign, depth) in _RECORD_BOUNDARIES):
            edges.append(token.start())
            is_over = sign == _ARRAY_END
        if depth < 0:
            return None
    if not is_over:
        return None
    records = [body[one + 1 : other] for one, other in pairwise(edges)]
    return body[: edges[0] + 1], records, body[edges[-1] :]


def _iterate_tokens(body: bytes) -> Iterator[tuple[re.Match[bytes], int]]:
    """Yield strings, brackets and commas, each with the number of brackets around it.

    If the brackets do not match, the last item has the depth -1.
    """
    opened = bytearray()
    token = None
    for token in _TOKEN_PATTERN.finditer(body):
        sign = body[token.start()]
        if sign in _OPENED_BY:
            if not opened or opened.pop() != _OPENED_BY[sign]:
                yield token, -1
                return
            yield token, len(opened)
        else:
            yield token, len(opened)
            if sign in _OPENED_BY.values():
                opened.append(sign)
    if token is not None and opened:
        yield token, -1
