"""The parts of a JSON:API document that are the same for every stream, as structs.

What belongs here: links, relationships, resource identifiers. What does not: attributes, whose
structs are made of a stream's columns (`structs`). Members that are not listed are read over.
None of these can be part of a cycle, so the garbage collector need not look at them.
Source: https://jsonapi.org/format/1.0/#document-structure
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Id = Annotated[str, Meta(min_length=1)]

ABSENT = Raw()
"""The default of a value that is passed on as it came: not even null was sent."""


NOTHING = frozenset({b"", b"null", b"[]", b"{}"})
"""JSON that says nothing, in every way that it may be sent."""


class Identifier(Struct, gc=False, omit_defaults=True):
    """A resource identifier: what a relationship's `data` is made of."""

    type: str
    id: Id
    meta: Raw = ABSENT


Linkage = Identifier | list[Identifier] | None | UnsetType
"""`data` of a relationship: to-one, to-many, empty to-one, or not sent at all."""


class Relationship(Struct, gc=False):
    """What a record says about another; `links` alone where the other was not asked for."""

    data: Linkage = UNSET


Relationships = dict[str, Relationship | None]
"""Those of one record, by name."""

Relations = Mapping[str, Sequence[Relationship | None]]
"""Those of all records of a page, in the records' order."""


class Links(Struct, gc=False, rename={"self_": "self"}):
    """Where this page is, and where the next one. `prev` may be rubbish, so it is not even read."""

    self_: str | None = None
    next: str | None = None


NO_LINKS = Links()
"""Those of an answer that has none."""


class Envelope(Struct, gc=False):
    """A page whose parts are kept as text, for reading each on its own."""

    data: Raw = ABSENT
    links: Raw = ABSENT
    errors: Raw = ABSENT
    included: Raw = ABSENT


def relations_of(each: Sequence[Relationships | None]) -> Relations:
    """Return the relationships of all records, name by name instead of record by record."""
    names = set(chain.from_iterable(filter(None, each)))
    return {name: [one.get(name) if one else None for one in each] for name in names}


def relationships_of(raw: Raw) -> tuple[Relationships, Mapping[str, Raw]]:
    """Return the relationships that have the documented shape, and those that have not, as sent.

    Raises:
        msgspec.ValidationError: not an object at all.
    """
    shaped: Relationships = {}
    odd: dict[str, Raw] = {}
    for name, each in _members.decode(raw).items():
        try:
            shaped[name] = _relationship.decode(each)
        except msgspec.ValidationError:
            odd[name] = each
    return shaped, odd


_members = msgspec.json.Decoder(dict[str, Raw])
_relationship = msgspec.json.Decoder(Relationship | None)
