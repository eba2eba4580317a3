"""A record of a small collection, and the shelf of such records.

Small means thousands: records lie in memory as values. Events and profiles have shelves of their
own with the same surface (`Shelf`).
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.moments import DAY_SECONDS, moment, seconds_text

Value = int | float | str | bool | None
Linked = tuple[str, str | tuple[str, ...] | None]
TIME_FIELDS = frozenset(
    {
        "created",
        "updated",
        "created_at",
        "updated_at",
        "scheduled_at",
        "joined_group_at",
    }
)


class Shelf(Protocol):
    """What the answering side needs of a collection; ordinals name records within it."""

    kind: str

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id that was ever given out; None for any other text."""
        ...

    def id_of(self, ordinal: int) -> str:
        """The id of an ordinal."""
        ...

    def alive(self, ordinal: int) -> bool:
        """Whether the record can be read now."""
        ...

    def values(self, ordinal: int, name: str) -> Sequence[Value]:
        """The values of a field for filters and sorts, times in microseconds; empty for null."""
        ...

    def order(self, name: str) -> Sequence[int]:
        """Ordinals of living records, ascending by the field and then by ordinal, nulls last."""
        ...

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes, the ones that need asking included."""
        ...

    def links(self, ordinal: int) -> dict[str, Linked]:
        """Relationships by name: the type, and an id, None, or many ids."""
        ...


@dataclass(slots=True, kw_only=True)
class Record:
    """One record; `hidden` holds what filters see and attributes do not show."""

    id: str
    attributes: JsonObject
    links: dict[str, Linked] = field(default_factory=dict[str, Linked])
    hidden: dict[str, Value] = field(default_factory=dict[str, Value])
    alive: bool = True


def lifetime(source: random.Random, *, base: int, days: int) -> JsonObject:
    """`created` and `updated`, both within the history and in that order."""
    created = base - 1 - source.randrange(days * DAY_SECONDS)
    updated = created + source.randrange(base - created)
    return {"created": seconds_text(created), "updated": seconds_text(updated)}


def sort_key(values: Sequence[Value]) -> tuple[int, float | str]:
    """A key that puts null last and compares only like with like."""
    first = values[0] if values else None
    if first is None:
        return (2, 0)
    if isinstance(first, str):
        return (1, first)
    return (0, first)


class RecordShelf:
    """A shelf of `Record` values; orders are kept until something changes."""

    def __init__(self, kind: str, records: Iterable[Record]) -> None:
        """Take the records in the order of their ordinals."""
        self.kind = kind
        self.records = list(records)
        self.ordinals = {record.id: k for k, record in enumerate(self.records)}
        self.orders: dict[str, list[int]] = {}

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id ever given out, deleted ones included."""
        return self.ordinals.get(record_id)

    def id_of(self, ordinal: int) -> str:
        """The id of an ordinal."""
        return self.records[ordinal].id

    def alive(self, ordinal: int) -> bool:
        """Whether the record was not deleted."""
        return self.records[ordinal].alive

    def values(self, ordinal: int, name: str) -> Sequence[Value]:
        """One value, or none when the field is null; dotted names reach into attributes."""
        record = self.records[ordinal]
        if name == "id":
            return (record.id,)
        if name in record.hidden:
            return (record.hidden[name],)
        value = reach(record.attributes, name)
        if value is None:
            return ()
        if name in TIME_FIELDS and isinstance(value, str):
            return (moment(value),)
        return (value,) if isinstance(value, str | int | float) else ()

    def order(self, name: str) -> Sequence[int]:
        """Living ordinals, ascending by the field, then by ordinal."""
        kept = self.orders.get(name)
        if kept is None:
            living = [k for k, record in enumerate(self.records) if record.alive]
            kept = sorted(living, key=lambda k: sort_key(self.values(k, name)))
            self.orders[name] = kept
        return kept

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes of the record."""
        return self.records[ordinal].attributes

    def links(self, ordinal: int) -> dict[str, Linked]:
        """Its relationships."""
        return self.records[ordinal].links

    def changed(self) -> None:
        """Forget the orders after any change of a record."""
        self.orders = {}

    def add(self, record: Record) -> int:
        """Put a new record on the shelf; its ordinal."""
        self.records.append(record)
        self.ordinals[record.id] = len(self.records) - 1
        self.changed()
        return len(self.records) - 1


def reach(value: Json, path: str) -> Json:
    """The value at a dotted path; None where the path ends early."""
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
