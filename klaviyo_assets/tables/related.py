"""What the records of a page relate to: ids, and the resources that the page brings along.

What belongs here: looking up a relationship for all records at once. What does not: what the
columns are made of beside that.
"""

from collections.abc import Iterator
from typing import cast

import msgspec
from msgspec import UNSET, Raw, Struct

from klaviyo_assets.tables.findings import Findings
from klaviyo_assets.tables.resources import Identifier, Linkage, Relations, Relationships


class _Head(Struct, gc=False):
    type: str
    id: str
    relationships: Relationships | None = None


_heads = msgspec.json.Decoder(list[_Head])
_head = msgspec.json.Decoder(_Head)
_raws = msgspec.json.Decoder(list[Raw])


class Related:
    """The relationships of a page's records, in the records' order.

    Included resources are found by type and id; of two with one name the later counts.
    """

    def __init__(
        self, relations: Relations, *, rows: int, included: Raw, findings: Findings
    ) -> None:
        """Hold the page's parts; what has another shape than documented goes to `findings`."""
        self._relations = relations
        self._rows = rows
        self._included = included
        self._findings = findings
        self._resources: dict[tuple[str, str], tuple[_Head, Raw]] | None = None
        self._firsts: dict[str, list[tuple[int, Relationships]]] = {}

    def linkages(self, name: str) -> list[Linkage]:
        """Return a relationship's `data` for each record; UNSET where it was not sent."""
        found = self._relations.get(name)
        if found is None:
            return [UNSET] * self._rows
        return [each.data if each is not None else UNSET for each in found]

    def ids(self, name: str) -> list[str | None]:
        """Return the id of a to-one relationship; what is a list instead is kept as it came."""
        found = self.linkages(name)
        if set(map(type, found)) == {Identifier}:
            return [each.id for each in cast("list[Identifier]", found)]
        for row, each in enumerate(found):
            if isinstance(each, list):
                self._misfit(row, name, each, "where one related record is declared, left NULL")
        return [each.id if isinstance(each, Identifier) else None for each in found]

    def id_lists(self, name: str) -> list[list[str] | None]:
        """Return the ids of a to-many relationship in Klaviyo's order; None where not sent."""
        lists: list[list[str] | None] = []
        for row, each in enumerate(self.linkages(name)):
            if isinstance(each, Identifier):
                self._misfit(row, name, each, "where a list is declared, read as a list of one")
            lists.append([one.id for one in _several(each)] if _is_sent(each) else None)
        return lists

    def wholes(self, name: str) -> list[bytes]:
        """Return the included resources of a relationship as JSON arrays, in its order.

        Empty bytes where the relationship was not sent. A resource that was not included is there
        as its identifier.
        """
        # Most events have none: those cost no call.
        return [
            b"[" + b",".join(map(self._text, _several(each))) + b"]"
            if each
            else (b"" if each is None or each is UNSET else b"[]")
            for each in self.linkages(name)
        ]

    def ids_of_firsts(self, name: str, related: str) -> list[str | None]:
        """Return the id that the first included resource of `name` relates to as `related`."""
        if name not in self._firsts:
            rows = enumerate(self.linkages(name))
            firsts = ((row, self._first(each)) for row, each in rows if each)
            self._firsts[name] = [(row, each) for row, each in firsts if each]
        ids: list[str | None] = [None] * self._rows
        for row, each in self._firsts[name]:
            relationship = each.get(related)
            if relationship is not None and isinstance(relationship.data, Identifier):
                ids[row] = relationship.data.id
        return ids

    def texts_of_firsts(self, name: str, path: str) -> list[str | None]:
        """Return the text at a path below the attributes of the first included resource."""
        several = map(_several, self.linkages(name))
        found = [self._resource(each[0]) if each else None for each in several]
        return [_text_at(each[1], path) if each is not None else None for each in found]

    def keep_others(self, declared: frozenset[str]) -> None:
        """Keep the data of the relationships that no column is declared for."""
        for name in self._relations.keys() - declared:
            for row, each in enumerate(self._relations[name]):
                if each is not None and each.data:
                    raw = msgspec.json.encode(each.data)
                    self._findings.without_column(row, f"relationships.{name}", raw)

    def _misfit(self, row: int, name: str, data: Linkage, outcome: str) -> None:
        raw = msgspec.json.encode(data)
        self._findings.misfit(row, f"relationships.{name}", raw, outcome=outcome)

    def _first(self, linkage: Linkage) -> Relationships | None:
        several = _several(linkage)
        found = self._resource(several[0]) if several else None
        return found[0].relationships if found is not None else None

    def _text(self, identifier: Identifier) -> bytes:
        found = self._resource(identifier)
        if found is not None:
            return bytes(found[1])
        self._findings.note("included", f"no {identifier.type} of that id, kept as its identifier")
        return msgspec.json.encode(identifier)

    def _resource(self, identifier: Identifier) -> "tuple[_Head, Raw] | None":
        if self._resources is None:
            self._resources = {(head.type, head.id): (head, raw) for head, raw in self._read()}
        return self._resources.get((identifier.type, identifier.id))

    def _read(self) -> Iterator[tuple[_Head, Raw]]:
        if bytes(self._included) in {b"", b"null"}:
            return
        try:
            raws = _raws.decode(self._included)
        except msgspec.ValidationError:
            self._findings.note("included", "not a list, left aside")
            return
        try:
            heads = _heads.decode(self._included)
        except msgspec.ValidationError:
            heads = list(map(self._head_of, raws))
        yield from ((head, raw) for head, raw in zip(heads, raws, strict=True) if head is not None)

    def _head_of(self, raw: Raw) -> _Head | None:
        try:
            return _head.decode(raw)
        except msgspec.ValidationError:
            self._findings.note("included", "a resource of another shape, left aside")
            return None


def _text_at(raw: Raw, path: str) -> str | None:
    value = msgspec.json.decode(raw)
    for name in ("attributes", *path.split(".")):
        value = cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


def _several(linkage: Linkage) -> list[Identifier]:
    if isinstance(linkage, Identifier):
        return [linkage]
    return linkage if isinstance(linkage, list) else []


def _is_sent(linkage: Linkage) -> bool:
    return linkage is not None and linkage is not UNSET
