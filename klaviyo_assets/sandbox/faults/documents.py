"""Faults inside a good response: links, repeated or missing records, false claims.

Pages keep a memory of what they sent, so that a cycle leads back and a duplicate is a real one. A
link that the right answer would not contain carries an alias in place of its cursor;
`resolve_alias` gives back the query it stands for.

`unsorted` is not here: its request is answered as it stands, in another order.

Values that JSON writers refuse (1e400, lone surrogates) are put in as marks and replaced in the
bytes. A record whose id can no longer be read is not counted as shown.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.faults.rules import Fault
from klaviyo_assets.sandbox.http_messages import HttpRequest, HttpResponse
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object
from klaviyo_assets.sandbox.query import encode_query


@dataclass(slots=True)
class SentPage:
    """The last page sent on a path: its query, its records in order."""

    query: str
    rows: list[Json]
    shown_ordinals: list[int] = field(default_factory=list[int])


class PageFaults:
    """Faults of pages, with the memory of each path."""

    def __init__(self) -> None:
        self.last_pages: dict[str, SentPage] = {}
        self.aliases: dict[str, str] = {}

    def resolve_alias(self, request: HttpRequest) -> HttpRequest:
        """The request with an alias in its cursor replaced by the query it stands for."""
        cursor = dict(parse_qsl(request.query, keep_blank_values=True)).get("page[cursor]", "")
        query = self.aliases.get(cursor)
        return request if query is None else request.with_query(query)

    def make_alias_link(self, request: HttpRequest, query: str) -> str:
        """A fresh link that answers as `query` would."""
        name = f"YWxpYXM6{len(self.aliases):06d}"
        self.aliases[name] = query
        pairs = [pair for pair in parse_qsl(query) if pair[0] != "page[cursor]"]
        return f"{request.origin}{request.path}?{encode_query((*pairs, ('page[cursor]', name)))}"

    def remember_page(self, request: HttpRequest, rows: list[Json], response: HttpResponse) -> None:
        """Keep what a page sent."""
        self.last_pages[request.path] = SentPage(request.query, rows, list(response.shown_ordinals))

    def apply_page_fault(
        self, fault: Fault, request: HttpRequest, response: HttpResponse, document: JsonObject
    ) -> None:
        """Change the document, and the reply's ids where they change."""
        rows, links = as_list(document.get("data")), as_object(document.get("links"))
        match fault.kind:
            case "same_next":
                links["next"] = f"{request.origin}{request.path}?{request.query}"
            case "cycle":
                links["next"] = self.previous_page_link(request)
            case "next_link":
                links["next"] = fault.text("url", "https://elsewhere.example/api/events")
            case "next_host":
                origin = fault.text("origin", "http://localhost:9")
                links["next"] = str(links.get("next") or "").replace(request.origin, origin)
            case "no_links":
                links, response.shown_ordinals = {}, []
            case "empty_page":
                links["next"] = self.make_alias_link(request, request.query)
                rows, response.shown_ordinals = [], []
            case "duplicates":
                rows = self.repeat_last_records(
                    int(fault.number("count", 2)), request, rows, response
                )
            case _:
                shorten_series(document)
                return
        document["data"], document["links"] = rows, links

    def previous_page_link(self, request: HttpRequest) -> str:
        """A link back to the page before this one, or to this one when there was none."""
        before = self.last_pages.get(request.path)
        return self.make_alias_link(request, request.query if before is None else before.query)

    def repeat_last_records(
        self, count: int, request: HttpRequest, rows: list[Json], response: HttpResponse
    ) -> list[Json]:
        """The page with the last records of the page before once more in front."""
        before = self.last_pages.get(request.path)
        if before is None or not before.rows:
            return rows
        response.shown_ordinals = before.shown_ordinals[-count:] + response.shown_ordinals
        return before.rows[-count:] + rows


def shorten_series(document: JsonObject) -> None:
    """Cut the last value off every statistic of a series report."""
    data = as_object(document.get("data"))
    attributes = as_object(data.get("attributes"))
    results: list[Json] = []
    for result in map(as_object, as_list(attributes.get("results"))):
        statistics = as_object(result.get("statistics"))
        cut: JsonObject = {name: as_list(value)[:-1] for name, value in statistics.items()}
        results.append({**result, "statistics": cut})
    document["data"] = {**data, "attributes": {**attributes, "results": results}}


def apply_claim_fault(
    fault: Fault,
    request: HttpRequest,
    response: HttpResponse,
    document: JsonObject,
    pages: PageFaults,
) -> None:
    """Change the document, and the reply's ids: of what is no page nothing counts as shown.

    With `"count"` a list is cut to so many records.
    """
    if "count" in fault.options:
        count = int(fault.number("count", 0))
        document["data"], response.shown_ordinals = (
            as_list(document.get("data"))[:count],
            response.shown_ordinals[:count],
        )
    match fault.kind:
        case "bare_page":
            document.pop("links", None)
            response.shown_ordinals = []
        case "errors_beside":
            document["errors"] = [{"status": 500, "code": "error", "detail": "timed out"}]
            response.shown_ordinals = []
        case "cut_list":
            document["links"] = {**as_object(document.get("links")), "next": None}
        case "endless":
            link = pages.make_alias_link(request, request.query)
            document["links"] = {**as_object(document.get("links")), "next": link}
        case _:
            pass


BROKEN_RECORD_KINDS: Final = frozenset({"no_id", "null_id", "string_record"})
_RAW_PLACEHOLDER: Final = "@@sandbox-raw@@"
_HUGE_STRING_BYTES: Final = 5 * 1024 * 1024
_RAW_VALUES: Final[dict[str, Callable[[], bytes]]] = {
    "huge_integer": lambda: b"9" * 80,
    "overflow": lambda: b"1e400",
    "nan_literal": lambda: b"NaN",
    "infinity_literal": lambda: b"-Infinity",
    "stray_byte": lambda: b'"before\xffafter"',
    "bare_control": lambda: b'"before\nafter"',
    "deep_nesting": lambda: b'{"a":[' * 100 + b"1" + b"]}" * 100,
    "nul_character": lambda: b'"before\\u0000after"',
    "lone_surrogate": lambda: b'"before\\ud800after"',
}
_FREE_FORM_ATTRIBUTES: Final = {"event": "event_properties", "profile": "properties"}


def apply_record_fault(fault: Fault, response: HttpResponse, document: JsonObject) -> None:
    """Change the records at `"at"` (an index, a list of indices, default 0) of a page.

    `"count"` changes that many from the first on.
    """
    rows = as_list(document.get("data"))
    chosen = target_indices(fault, len(rows))
    for position in chosen:
        rows[position] = alter_record(fault, rows[position])
    document["data"] = rows
    if fault.kind in BROKEN_RECORD_KINDS:
        response.shown_ordinals = [
            k for place, k in enumerate(response.shown_ordinals) if place not in chosen
        ]


def target_indices(fault: Fault, size: int) -> list[int]:
    """The indices to change that exist on the page."""
    at = fault.options.get("at", 0)
    first = [int(each) for each in as_list(at) if isinstance(each, int)]
    if isinstance(at, int):
        first = list(range(at, at + int(fault.number("count", 1))))
    return [position for position in first if position < size]


def alter_record(fault: Fault, record: Json) -> Json:
    """One record after the fault; `"field"` names the attribute, `"value"` what it becomes."""
    found = as_object(record)
    match fault.kind:
        case "no_id":
            found.pop("id", None)
        case "null_id":
            found["id"] = None
        case "null_attributes":
            found["attributes"] = None
        case "string_record":
            return f"<record {found.get('id')}>"
        case "new_relationship":
            related = as_object(found.get("relationships"))
            link: JsonObject = {"data": {"type": "novelty", "id": "N1"}}
            found["relationships"] = {**related, fault.text("field", "novelty"): link}
        case _:
            found["attributes"] = alter_attributes(fault, found)
    return found


def alter_attributes(fault: Fault, record: JsonObject) -> JsonObject:
    """The attributes with one of them strange."""
    attributes = as_object(record.get("attributes"))
    name = fault.text("field", "")
    match fault.kind:
        case "removed_field":
            attributes.pop(name or next(iter(attributes), ""), None)
        case "new_field":
            attributes[name or "brand_new_field"] = fault.options.get("value", {"since": 2027})
        case "new_value":
            attributes[name or "status"] = fault.options.get("value", "Teleported")
        case "type_change":
            attribute_name = name or next(iter(attributes), "")
            old = attributes.get(attribute_name)
            attributes[attribute_name] = fault.options.get("value", {"was": old})
        case _:
            put_free_form_value(
                attributes, name, kind=str(record.get("type")), value=odd_value(fault)
            )
    return attributes


def odd_value(fault: Fault) -> Json:
    """A text, or the mark in place of what no JSON writer writes."""
    if fault.kind == "nan_text":
        return "NaN"
    if fault.kind == "odd_text":
        return fault.text("value", 'x"; DROP TABLE profiles; -- <script>[x](javascript:1)</script>')
    return _RAW_PLACEHOLDER


def put_free_form_value(attributes: JsonObject, name: str, *, kind: str, value: Json) -> None:
    """Put a value into the named attribute, or into the record's free-form object."""
    free = _FREE_FORM_ATTRIBUTES.get(kind)
    if name or free is None:
        attributes[name or "odd"] = value
    else:
        attributes[free] = {**as_object(attributes.get(free)), "odd": value}


def insert_raw_value(fault: Fault, body: bytes) -> bytes:
    """The body with marks replaced by the raw value."""
    maker = _RAW_VALUES.get(fault.kind)
    if fault.kind == "huge_string":
        size = int(fault.number("bytes", _HUGE_STRING_BYTES))
        return body.replace(_RAW_PLACEHOLDER.encode(), b"x" * size)
    return body if maker is None else body.replace(f'"{_RAW_PLACEHOLDER}"'.encode(), maker())
