"""Faults of single records: broken ones, and sound ones with values that few programs expect.

Values that JSON writers refuse (1e400, lone surrogates) are put in as marks and replaced in the
bytes. A record whose id can no longer be read is not counted as shown.
"""

from collections.abc import Callable
from typing import Final

from klaviyo_assets.sandbox.faults.script import Fault
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object
from klaviyo_assets.sandbox.reply import Reply

BROKEN: Final = frozenset({"no_id", "null_id", "string_record"})
_MARK: Final = "@@sandbox-raw@@"
_MEGABYTES: Final = 5 * 1024 * 1024
_RAW: Final[dict[str, Callable[[], bytes]]] = {
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
_FREE: Final = {"event": "event_properties", "profile": "properties"}


def apply(fault: Fault, reply: Reply, document: JsonObject) -> None:
    """Change the records at `"at"` (an index, a list of indices, default 0) of a page.

    `"count"` changes that many from the first on.
    """
    rows = as_list(document.get("data"))
    chosen = places(fault, len(rows))
    for place in chosen:
        rows[place] = changed(fault, rows[place])
    document["data"] = rows
    if fault.kind in BROKEN:
        reply.shown = [k for place, k in enumerate(reply.shown) if place not in chosen]


def places(fault: Fault, size: int) -> list[int]:
    """The indices to change that exist on the page."""
    at = fault.options.get("at", 0)
    first = [int(each) for each in as_list(at) if isinstance(each, int)]
    if isinstance(at, int):
        first = list(range(at, at + int(fault.number("count", 1))))
    return [place for place in first if place < size]


def changed(fault: Fault, record: Json) -> Json:
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
            found["attributes"] = with_odd_value(fault, found)
    return found


def with_odd_value(fault: Fault, record: JsonObject) -> JsonObject:
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
            place = name or next(iter(attributes), "")
            old = attributes.get(place)
            attributes[place] = fault.options.get("value", {"was": old})
        case _:
            put_free(attributes, name, kind=str(record.get("type")), value=odd_value(fault))
    return attributes


def odd_value(fault: Fault) -> Json:
    """A text, or the mark in place of what no JSON writer writes."""
    if fault.kind == "nan_text":
        return "NaN"
    if fault.kind == "odd_text":
        return fault.text("value", 'x"; DROP TABLE profiles; -- <script>[x](javascript:1)</script>')
    return _MARK


def put_free(attributes: JsonObject, name: str, *, kind: str, value: Json) -> None:
    """Put a value into the named attribute, or into the record's free-form object."""
    free = _FREE.get(kind)
    if name or free is None:
        attributes[name or "odd"] = value
    else:
        attributes[free] = {**as_object(attributes.get(free)), "odd": value}


def raw(fault: Fault, body: bytes) -> bytes:
    """The body with marks replaced by the raw value."""
    maker = _RAW.get(fault.kind)
    if fault.kind == "huge_string":
        size = int(fault.number("bytes", _MEGABYTES))
        return body.replace(_MARK.encode(), b"x" * size)
    return body if maker is None else body.replace(f'"{_MARK}"'.encode(), maker())
