"""Puts resources that were requested separately into a page, where an `include` has them."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from klaviyo_assets.decode.jsonapi import (
    ResourceIdentifier,
    encode_json_array,
    encode_json_object,
    json_array_decoder,
    json_object_decoder,
    repair_json,
)

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
