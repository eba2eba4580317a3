"""A record of a small collection, and the collection of such records.

Small means thousands: records lie in memory as values. Events and profiles have collections of
their own with the same surface (`ResourceCollection`).
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from klaviyo_assets.sandbox.clock import SECONDS_PER_DAY, format_iso_seconds, parse_micros
from klaviyo_assets.sandbox.json_types import Json, JsonObject

FieldValue = int | float | str | bool | None
Linkage = tuple[str, str | tuple[str, ...] | None]
TIME_FIELDS = frozenset(
    {
        "created",
        "updated",
        "created_at",
        "updated_at",
        "scheduled_at",
        "joined_group_at",
        "expires_at",
        "timestamp",
    }
)


class ResourceCollection(Protocol):
    """What the answering side needs of a collection; ordinals name records within it."""

    kind: str

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id that was ever given out; None for any other text."""
        ...

    def id_of(self, ordinal: int) -> str:
        """The id of an ordinal."""
        ...

    def is_alive(self, ordinal: int) -> bool:
        """Whether the record can be read now."""
        ...

    def field_values(self, ordinal: int, name: str) -> Sequence[FieldValue]:
        """The values of a field for filters and sorts, times in microseconds; empty for null."""
        ...

    def sorted_ordinals(self, name: str) -> Sequence[int]:
        """Ordinals of living records, ascending by the field and then by ordinal, nulls last."""
        ...

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes, those that come only on request included."""
        ...

    def links(self, ordinal: int) -> dict[str, Linkage]:
        """Relationships by name: the type, and an id, None, or many ids."""
        ...


@dataclass(slots=True, kw_only=True)
class ApiRecord:
    """One record; `filter_only_values` holds what filters see and attributes do not show."""

    id: str
    attributes: JsonObject
    links: dict[str, Linkage] = field(default_factory=dict[str, Linkage])
    filter_only_values: dict[str, FieldValue] = field(default_factory=dict[str, FieldValue])
    is_alive: bool = True


def build_lifetime(source: random.Random, *, base: int, days: int) -> JsonObject:
    """`created` and `updated`, both within the history and in that order."""
    created = base - 1 - source.randrange(days * SECONDS_PER_DAY)
    updated = created + source.randrange(base - created)
    return {"created": format_iso_seconds(created), "updated": format_iso_seconds(updated)}


def sort_key(values: Sequence[FieldValue]) -> tuple[int, float | str]:
    """A key that puts null last and compares only like with like."""
    first = values[0] if values else None
    if first is None:
        return (2, 0)
    if isinstance(first, str):
        return (1, first)
    return (0, first)


class RecordCollection:
    """A collection of `ApiRecord` values; sort orders are cached until something changes."""

    def __init__(self, kind: str, records: Iterable[ApiRecord]) -> None:
        """Take the records in the order of their ordinals."""
        self.kind = kind
        self.records = list(records)
        self.ordinals = {record.id: k for k, record in enumerate(self.records)}
        self.orders: dict[str, list[int]] = {}
        self.version = 0
        """Grows with every change of a record."""

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id ever given out, deleted ones included."""
        return self.ordinals.get(record_id)

    def id_of(self, ordinal: int) -> str:
        """The id of an ordinal."""
        return self.records[ordinal].id

    def is_alive(self, ordinal: int) -> bool:
        """Whether the record was not deleted."""
        return self.records[ordinal].is_alive

    def field_values(self, ordinal: int, name: str) -> Sequence[FieldValue]:
        """One value, or none when the field is null; dotted names reach into attributes."""
        record = self.records[ordinal]
        if name == "id":
            return (record.id,)
        if name in record.filter_only_values:
            return (record.filter_only_values[name],)
        value = value_at_path(record.attributes, name)
        if value is None:
            return ()
        if name in TIME_FIELDS and isinstance(value, str):
            return (parse_micros(value),)
        return (value,) if isinstance(value, str | int | float) else ()

    def sorted_ordinals(self, name: str) -> Sequence[int]:
        """Living ordinals, ascending by the field, then by ordinal."""
        cached = self.orders.get(name)
        if cached is None:
            living = [k for k, record in enumerate(self.records) if record.is_alive]
            cached = sorted(living, key=lambda k: sort_key(self.field_values(k, name)))
            self.orders[name] = cached
        return cached

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes of the record."""
        return self.records[ordinal].attributes

    def links(self, ordinal: int) -> dict[str, Linkage]:
        """Its relationships."""
        return self.records[ordinal].links

    def invalidate_orders(self) -> None:
        """Forget the orders after any change of a record."""
        self.orders = {}
        self.version += 1

    def add(self, record: ApiRecord) -> int:
        """Append a new record; its ordinal."""
        self.records.append(record)
        self.ordinals[record.id] = len(self.records) - 1
        self.invalidate_orders()
        return len(self.records) - 1


class SubsetCollection:
    """Some records of a collection, as those of one parent."""

    def __init__(self, whole: ResourceCollection, ordinals: Sequence[int]) -> None:
        """Take the ordinals of living records."""
        self.whole = whole
        self.kind = whole.kind
        self.members = frozenset(ordinals)

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id in the whole collection."""
        return self.whole.ordinal_of(record_id)

    def id_of(self, ordinal: int) -> str:
        """The id of an ordinal."""
        return self.whole.id_of(ordinal)

    def is_alive(self, ordinal: int) -> bool:
        """Whether it is among the records, and can be read now."""
        return ordinal in self.members and self.whole.is_alive(ordinal)

    def field_values(self, ordinal: int, name: str) -> Sequence[FieldValue]:
        """The values of a field."""
        return self.whole.field_values(ordinal, name)

    def sorted_ordinals(self, name: str) -> Sequence[int]:
        """The records in the order of the whole collection."""
        return [k for k in self.whole.sorted_ordinals(name) if k in self.members]

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes of the record."""
        return self.whole.attributes(ordinal)

    def links(self, ordinal: int) -> dict[str, Linkage]:
        """Its relationships."""
        return self.whole.links(ordinal)


def value_at_path(value: Json, path: str) -> Json:
    """The value at a dotted path; None where the path ends early."""
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
