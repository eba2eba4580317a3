"""The parts of a JSON:API document that all streams share, and the checks and repairs of a body.

Half a response that is taken for the last page loses all pages after it. So a page must have
`links.self`, which Klaviyo always sends, and no `errors`, which it never sends with records.
Source: the OpenAPI document of revision 2026-07-15.
"""

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from klaviyo_assets.errors import BrokenBodyError

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
