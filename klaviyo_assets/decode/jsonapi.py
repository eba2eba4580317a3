"""JSON:API documents: the parts that all streams share, checks and repairs of a body, parsed pages.

`ParsedPage` is the result of both the fast path and the fallback, before it becomes Arrow.

Half a response that is taken for the last page loses all pages after it. So a page must have
`links.self`, which Klaviyo always sends, and no `errors`, which it never sends with records.
Source: the OpenAPI document of revision 2026-07-15.

Resources that were requested separately are put into a page where an `include` has them.
"""

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from klaviyo_assets.errors import BrokenBodyError, redact_keys
from klaviyo_assets.model.column import JsonPath

ResourceId = Annotated[str, Meta(min_length=1)]

ABSENT_JSON = Raw()
"""The default of a raw value: the member was not sent, not even as null."""


EMPTY_JSON_VALUES = frozenset({b"", b"null", b"[]", b"{}"})
"""Every form of JSON without content, including an absent value."""


json_object_decoder = msgspec.json.Decoder(dict[str, Raw])
"""Decodes a JSON object into its members, each still as JSON text."""

json_array_decoder = msgspec.json.Decoder(list[Raw])
"""Decodes a JSON array into its items, each still as JSON text."""


def encode_json_object(members: Mapping[str, bytes]) -> bytes:
    """Return a JSON object of members that are JSON text already, in the mapping's order."""
    pairs = (msgspec.json.encode(name) + b":" + value for name, value in members.items())
    return b"{" + b",".join(pairs) + b"}"


def encode_json_array(items: Iterable[bytes]) -> bytes:
    """Return a JSON array of items that are JSON text already."""
    return b"[" + b",".join(items) + b"]"


class ResourceIdentifier(Struct, gc=False, omit_defaults=True):
    """A resource identifier, as in a relationship's `data`."""

    type: str
    id: ResourceId
    meta: Raw = ABSENT_JSON


ResourceLinkage = ResourceIdentifier | list[ResourceIdentifier] | None | UnsetType
"""`data` of a relationship: to-one, to-many, empty to-one, or not sent at all."""


class Relationship(Struct, gc=False):
    """A relationship of a record; without `data` where the related resource was not requested."""

    data: ResourceLinkage = UNSET


RecordRelationships = dict[str, Relationship | None]
"""The relationships of one record, by name."""

PageRelationships = Mapping[str, Sequence[Relationship | None]]
"""The relationships of all records of a page, by name, in the records' order."""


class PageLinks(Struct, gc=False, rename={"self_": "self"}):
    """The URLs of this page and of the next one. `prev` may be malformed, so it is not read."""

    self_: str | None = None
    next: str | None = None


EMPTY_LINKS = PageLinks()
"""The links of a response that has none."""


class PageEnvelope(Struct, gc=False):
    """A page with its parts still as JSON text, to be decoded one by one."""

    data: Raw = ABSENT_JSON
    links: Raw = ABSENT_JSON
    errors: Raw = ABSENT_JSON
    included: Raw = ABSENT_JSON


def transpose_relationships(records: Sequence[RecordRelationships | None]) -> PageRelationships:
    """Return the relationships of all records, name by name instead of record by record."""
    names = set(chain.from_iterable(filter(None, records)))
    return {name: [one.get(name) if one else None for one in records] for name in names}


def parse_relationships(raw: Raw) -> tuple[RecordRelationships, Mapping[str, Raw]]:
    """Return the relationships of the documented shape, and the others as JSON text.

    Raises:
        msgspec.ValidationError: `raw` is not an object.
    """
    valid: RecordRelationships = {}
    malformed: dict[str, Raw] = {}
    for name, each in json_object_decoder.decode(raw).items():
        try:
            valid[name] = _relationship_decoder.decode(each)
        except msgspec.ValidationError:
            malformed[name] = each
    return valid, malformed


_relationship_decoder = msgspec.json.Decoder(Relationship | None)


MISSING_DATA_MESSAGE = "the response is an object without `data`"

envelope_decoder = msgspec.json.Decoder(PageEnvelope)
_links_decoder = msgspec.json.Decoder(PageLinks)


def check_page_envelope(links: PageLinks | None, errors: Raw, *, stream: str) -> None:
    """Refuse a page without `links.self`, or with `errors`.

    `links`: None where no page can follow, as for a single record.

    Raises:
        BrokenBodyError: a retry may help.
    """
    reason = ""
    if bytes(errors) not in EMPTY_JSON_VALUES:
        reason = "it has `errors` beside `data`"
    elif links is not None and not links.self_:
        reason = "it has no `links.self`, so it does not say whether another page follows"
    if reason:
        raise BrokenBodyError(f"the response is no page: {reason}", stream=stream)


def check_response_envelope(body: bytes, *, stream: str, is_paged: bool) -> None:
    """Refuse a body that cannot be a successful response of Klaviyo's, whatever was requested.

    Raises:
        BrokenBodyError: not a JSON object, or one without `data`, with `errors`, or, if
            `is_paged`, without `links.self`; a retry may help.
    """
    try:
        found = envelope_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenBodyError("the response is no JSON object in UTF-8", stream=stream) from None
    if not len(found.data):
        raise BrokenBodyError(MISSING_DATA_MESSAGE, stream=stream)
    links = parse_links(found.links, stream) if is_paged else None
    check_page_envelope(links, found.errors, stream=stream)


def parse_links(raw: Raw, stream: str) -> PageLinks:
    """Return the links of a page.

    Raises:
        BrokenBodyError: it cannot be read; to stop here would lose the pages behind it.
    """
    if bytes(raw) in EMPTY_JSON_VALUES:
        return EMPTY_LINKS
    try:
        return _links_decoder.decode(raw)
    except msgspec.ValidationError:
        text = "the response is no page: where the next one is cannot be read from its `links`"
        raise BrokenBodyError(text, stream=stream) from None


# A pair, any other escape (taken whole, so that `\\ud800` is no surrogate), or half a pair.
_ESCAPE_PATTERN = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)

# A string, taken whole, or what most readers and writers of JSON take for a number.
_TEXT_OR_NUMBER_PATTERN = re.compile(
    rb'"(?:[^"\\]*+(?:\\.[^"\\]*+)*+)"|(?P<number>-?Infinity|NaN)', re.DOTALL
)
_CONTROL_PATTERN = re.compile(rb"[\x00-\x1f]")

NOT_A_NUMBER_NOTICE = "number: NaN or Infinity, which JSON does not have, read as null"
INVALID_UTF8_NOTICE = "text: bytes that are not UTF-8, replaced by U+FFFD"
CONTROL_CHARACTER_NOTICE = "text: control characters that were not escaped, escaped"
UNPAIRED_SURROGATE_NOTICE = "text: half of a surrogate pair, replaced by U+FFFD"


def strip_bom(body: bytes, stream: str) -> bytes:
    """Return the body without a byte order mark.

    Raises:
        BrokenBodyError: it is empty, or HTML or XML.
    """
    text = body.removeprefix(codecs.BOM_UTF8)
    start = text[:256].lstrip()
    if not start and not text.strip():
        raise BrokenBodyError("the response is empty", stream=stream)
    if start.startswith(b"<"):
        raise BrokenBodyError("the response is HTML or XML, not JSON", stream=stream)
    return text


def repair_json(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    r"""Return strictly valid JSON for what lenient parsers accept, and a notice for each change.

    It replaces NaN and infinities, bytes that are not UTF-8, unescaped control characters in
    strings, and unpaired surrogate escapes: JSON allows `"\ud800"`, but UTF-8 cannot encode it, and
    neither msgspec nor DuckDB reads text with it. In an `id` the four digits are kept after U+FFFD,
    so that different ids stay different. Any other error is left in the text.
    """
    notices: set[str] = set()
    before = b""
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
        notices.add(INVALID_UTF8_NOTICE)

    def mend(found: re.Match[bytes]) -> bytes:
        nonlocal before
        is_id, before = before == b'"id"', found[0]
        if found["number"] is not None:
            notices.add(NOT_A_NUMBER_NOTICE)
            return b"null"
        return _repair_text(found[0], notices, is_id=is_id)

    return _TEXT_OR_NUMBER_PATTERN.sub(mend, body), tuple(sorted(notices))


def _repair_text(text: bytes, notices: set[str], *, is_id: bool) -> bytes:
    escaped = _CONTROL_PATTERN.sub(lambda each: b"\\u%04x" % each[0][0], text)
    if escaped != text:
        notices.add(CONTROL_CHARACTER_NOTICE)

    def whole(found: re.Match[bytes]) -> bytes:
        if found["half"] is None:
            return found[0]
        notices.add(UNPAIRED_SURROGATE_NOTICE)
        return rb"\ufffd" + (found[0][2:].lower() if is_id else b"")

    return _ESCAPE_PATTERN.sub(whole, escaped) if b"\\u" in escaped else escaped


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


_identifier_decoder = msgspec.json.Decoder(ResourceIdentifier)


def _decode_members(raw: bytes | Raw) -> dict[str, bytes]:
    """Return the members of a JSON object; none of any other value."""
    try:
        return {name: bytes(each) for name, each in json_object_decoder.decode(raw).items()}
    except msgspec.DecodeError:
        return {}


def _decode_items(raw: bytes | Raw) -> list[bytes]:
    """Return the items of a JSON array; none of any other value."""
    try:
        return [bytes(each) for each in json_array_decoder.decode(raw)]
    except msgspec.DecodeError:
        return []


def _identifier(record: bytes) -> ResourceIdentifier | None:
    """Return type and id of a record; None where it has none that can be stored."""
    try:
        return _identifier_decoder.decode(record)
    except msgspec.DecodeError:
        return None


def parse_record_ids(body: bytes) -> list[str]:
    """Return the ids of the records of a page, in order; those without one are left out."""
    rows = _decode_items(_decode_members(repair_json(body)[0]).get("data", b""))
    return [each.id for each in map(_identifier, rows) if each is not None]


def add_included_resources(
    body: bytes, related: Mapping[str, bytes], *, relationship: str
) -> bytes:
    """Return a page with related records, as `include={relationship}` would have sent it.

    `related`: the response with the records of a to-many relationship, by the id of the record of
    the page. A record that it does not name is related to none. A record without an id stays as it
    is: it cannot be stored.
    """
    page = _decode_members(repair_json(body)[0])
    included = _decode_items(page.get("included", b""))
    rows: list[bytes] = []
    for row in _decode_items(page.get("data", b"")):
        own = _identifier(row)
        if own is None:
            rows.append(row)
            continue
        found = _decode_items(
            _decode_members(repair_json(related.get(own.id, b"{}"))[0]).get("data", b"")
        )
        included += found
        rows.append(_relate(row, relationship, found))
    page |= {"data": encode_json_array(rows), "included": encode_json_array(included)}
    return encode_json_object(page)


def _relate(record: bytes, relationship: str, related: list[bytes]) -> bytes:
    """Return the record with the identifiers of its related ones."""
    members = _decode_members(record)
    relationships = _decode_members(members.get("relationships", b"{}"))
    own = _decode_members(relationships.get(relationship, b"{}"))
    identifiers = [
        msgspec.json.encode({"type": each.type, "id": each.id})
        for each in map(_identifier, related)
        if each is not None
    ]
    own["data"] = encode_json_array(identifiers)
    relationships[relationship] = encode_json_object(own)
    members["relationships"] = encode_json_object(relationships)
    return encode_json_object(members)
