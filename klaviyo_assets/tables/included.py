"""Included resources: what a page brings beside its records, found by the records' relationships.

What belongs here: looking resources up. What does not: the records themselves.
"""

from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from klaviyo_assets.tables.findings import Findings
from klaviyo_assets.tables.resources import Identifier, Linkage, Relationships


class _Head(Struct, gc=False):
    type: str
    id: str
    relationships: Relationships | None = None


_heads = msgspec.json.Decoder(list[_Head])
_head = msgspec.json.Decoder(_Head)
_raws = msgspec.json.Decoder(list[Raw])


class IncludedResources:
    """The resources of one page, by type and id; of two with one name the later counts."""

    def __init__(self, included: Raw, findings: Findings) -> None:
        """Read `included` of a page; what has another shape is noted and left aside."""
        self._findings = findings
        self._found = {(head.type, head.id): (head, raw) for head, raw in self._read(included)}

    def _read(self, included: Raw) -> Iterator[tuple[_Head, Raw]]:
        if bytes(included) in {b"", b"null"}:
            return
        try:
            raws = _raws.decode(included)
        except msgspec.ValidationError:
            self._findings.note("included", "not a list, left aside")
            return
        try:
            yield from zip(_heads.decode(included), raws, strict=True)
        except msgspec.ValidationError:
            yield from self._one_by_one(raws)

    def _one_by_one(self, raws: list[Raw]) -> Iterator[tuple[_Head, Raw]]:
        for raw in raws:
            try:
                yield _head.decode(raw), raw
            except msgspec.ValidationError:
                self._findings.note("included", "a resource of another shape, left aside")

    def whole(self, linkage: Linkage) -> bytes:
        """Return the resources of a relationship as a JSON array, in its order.

        Empty bytes where the relationship was not sent. One that was not included is there as its
        identifier.
        """
        if linkage is None or isinstance(linkage, UnsetType):
            return b""
        return b"[" + b",".join(map(self._text, several(linkage))) + b"]"

    def _text(self, identifier: Identifier) -> bytes:
        found = self._found.get((identifier.type, identifier.id))
        if found is not None:
            return bytes(found[1])
        self._findings.note("included", f"no {identifier.type} of that id, kept as its identifier")
        return msgspec.json.encode(identifier)

    def related_of_first(self, linkage: Linkage, related: str) -> Linkage:
        """Return what the first resource of a relationship relates to as `related`."""
        first = next(iter(several(linkage)), None)
        found = self._found.get((first.type, first.id)) if first is not None else None
        relationships = found[0].relationships if found is not None else None
        relationship = (relationships or {}).get(related)
        return relationship.data if relationship is not None else UNSET


def several(linkage: Linkage) -> list[Identifier]:
    """Return the identifiers of a relationship, however many it has."""
    if linkage is None or isinstance(linkage, UnsetType):
        return []
    return linkage if isinstance(linkage, list) else [linkage]
