"""Collections that need no story of their own, generated from the published schema of their type.

Every published attribute has a value of its type. The first record has all of them; of the others
every seventh value is null where the reference allows it. Relationships agree in both directions: a
record that names its parent is among the parent's children.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from klaviyo_assets.sandbox.account.records import (
    ApiRecord,
    FieldValue,
    Linkage,
    RecordCollection,
    ResourceCollection,
    value_at_path,
)
from klaviyo_assets.sandbox.account.seeds import mix_bits, random_source, short_id
from klaviyo_assets.sandbox.clock import SECONDS_PER_DAY, format_iso_seconds, parse_micros
from klaviyo_assets.sandbox.facts.operations import PublishedKind
from klaviyo_assets.sandbox.json_types import Json, JsonObject

CHILD_PARENTS: Final[Mapping[str, tuple[str, str]]] = {
    "coupon-code": ("coupon", "coupon"),
    "catalog-variant": ("item", "catalog-item"),
    "form-version": ("form", "form"),
    "import-error": ("", "profile-bulk-import-job"),
    "metric-property": ("metric", "metric"),
    "object-record": ("", "object-type"),
    "object-ingestion-log": ("object-type", "object-type"),
}
"""For each type that is read by its parents: the relationship, and the parent's type."""

FIXED_IDS: Final[Mapping[str, tuple[str, ...]]] = {
    "billing-usage": ("email", "sms", "profiles", "reviews", "customer_agent"),
    "webhook-topic": tuple(
        f"event:klaviyo.{name}"
        for name in ("sent_sms", "clicked_sms", "received_email", "opened_email", "clicked_email")
    ),
}
"""Ids that Klaviyo gives to everybody."""

FEW_RECORDS: Final[Mapping[str, int]] = {
    "brand-email-default": 1,
    "data-source": 3,
    "object-type": 5,
    "text-messaging-sender": 5,
    "text-messaging-sender-registration": 3,
    "web-feed": 12,
    "webhook": 4,
}
"""How many records a type has at most, where an account never has fifty."""

_WORDS_WITH_TIME = ("created", "created_at", "recorded_date")
_NULL_EVERY = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorContext:
    """What generated records are made of: `base` in seconds, and how many of each type."""

    seed: int
    base: int
    days: int
    count: int
    account_id: str


def record_count(kind: str, count: int) -> int:
    """Return how many records a type has."""
    if kind in FIXED_IDS:
        return len(FIXED_IDS[kind]) if count else 0
    if kind == "tracking-setting":
        return 1
    return min(count, FEW_RECORDS.get(kind, count))


def generated_ids(context: GeneratorContext, kind: str) -> tuple[str, ...]:
    """Return the ids of a type, in the form that Klaviyo gives them."""
    count = record_count(kind, context.count)
    if kind in FIXED_IDS:
        return FIXED_IDS[kind][:count]
    if kind == "tracking-setting":
        return (context.account_id,)
    if kind in {"catalog-item", "catalog-variant", "catalog-category"}:
        return tuple(f"$custom:::$default:::{kind[8:].upper()}-{k}" for k in range(count))
    if kind == "image":
        return tuple(str(70_000_000 + k) for k in range(count))
    if kind == "coupon-code":
        coupons = generated_ids(context, "coupon")
        return tuple(f"CODE{k:05}-{coupons[k % len(coupons)]}" for k in range(count))
    if kind == "coupon":
        return tuple(f"OFFER{k}" for k in range(count))
    return tuple(short_id(context.seed, kind, k) for k in range(count))


class GeneratedCollections:
    """The generated types of one account, each made when it is first read."""

    def __init__(
        self,
        context: GeneratorContext,
        kinds: Mapping[str, PublishedKind],
        written: Mapping[str, ResourceCollection],
    ) -> None:
        """Generate the types of `kinds` that are not among the `written` ones."""
        self.context = context
        self.kinds = {name: each for name, each in kinds.items() if name not in written}
        self.written = written
        self.made: dict[str, RecordCollection] = {}

    def collection(self, kind: str) -> RecordCollection:
        """Return a type's records; `KeyError` for a type that nobody knows."""
        if kind not in self.made:
            self.made[kind] = self._build(kind, self.kinds[kind])
        return self.made[kind]

    def ids(self, kind: str) -> Sequence[str]:
        """Return the ids of a type, without making its records where they are generated."""
        if kind in self.kinds:
            return generated_ids(self.context, kind)
        collection = self.written.get(kind)
        if collection is None:
            return ()
        if isinstance(collection, RecordCollection):
            return [record.id for record in collection.records]
        return [collection.id_of(k) for k in collection.sorted_ordinals("id")[:200]]

    def _build(self, kind: str, facts: PublishedKind) -> RecordCollection:
        records: list[ApiRecord] = []
        for index, record_id in enumerate(generated_ids(self.context, kind)):
            builder = ValueBuilder(self.context, kind, index)
            attributes = builder.build_object(facts.attributes, "")
            links = self._links(kind, facts, index)
            record = ApiRecord(
                id=record_id,
                attributes=attributes,
                links=links,
                filter_only_values=dict(self._filter_values(kind, attributes, links, index)),
            )
            records.append(record)
        return RecordCollection(kind, records)

    def _links(self, kind: str, facts: PublishedKind, index: int) -> dict[str, Linkage]:
        found: dict[str, Linkage] = {}
        for name, (target, is_many) in facts.relationships.items():
            if not is_many:
                found[name] = (target, self._one_related(kind, name, index=index, target=target))
            elif CHILD_PARENTS.get(target, ("", ""))[1] == kind:
                found[name] = (target, self._children(kind, target, index))
            else:
                ids = self.ids(target)
                some = [ids[(index * 3 + k) % len(ids)] for k in range(index % 4) if ids]
                found[name] = (target, tuple(dict.fromkeys(some)))
        return found

    def _one_related(self, kind: str, name: str, *, index: int, target: str) -> str | None:
        ids = self.ids(target)
        is_parent = CHILD_PARENTS.get(kind, ("", ""))[0] == name
        if not ids or (not is_parent and index % 5 == 4):
            return None
        return ids[index % len(ids)]

    def _children(self, kind: str, child: str, index: int) -> tuple[str, ...]:
        return tuple(self.ids(child)[index :: len(self.ids(kind))])

    def _filter_values(
        self, kind: str, attributes: JsonObject, links: Mapping[str, Linkage], index: int
    ) -> Iterator[tuple[str, FieldValue]]:
        """Yield what filters see besides attributes: ids of related records, a status inside."""
        for name, (_, ids) in links.items():
            if isinstance(ids, str):
                yield f"{name}.id", ids
        parent = CHILD_PARENTS.get(kind, ("", ""))[1]
        if parent:
            ids = self.ids(parent)
            yield f"parent:{parent}", ids[index % len(ids)] if ids else None
        if kind.startswith("profile-suppression"):
            yield "created", parse_micros(str(attributes["created_at"]))
        if kind == "review":
            yield "status", str(value_at_path(attributes, "status.value"))


class ValueBuilder:
    """Builds the attributes of one record; the same record has the same values every time."""

    def __init__(self, context: GeneratorContext, kind: str, index: int) -> None:
        self.kind = kind
        self.index = index
        self.source = random_source(context.seed, kind, index)
        self.created = context.base - 1 - self.source.randrange(context.days * SECONDS_PER_DAY)
        self.updated = self.created + self.source.randrange(context.base - self.created)
        self.makers: Mapping[str, Callable[[Mapping[str, Any], str], Json]] = {
            "string": self.build_text,
            "integer": lambda _schema, _path: self.source.randrange(1_000),
            "number": lambda _schema, _path: round(self.source.random() * 200, 2),
            "boolean": lambda _schema, path: mix_bits(len(path), self.index) % 3 == 0,
            "object": self.build_nested,
            "array": self.build_array,
            "union": self.build_union,
        }

    def build_object(self, schemas: Sequence[Mapping[str, Any]], path: str) -> JsonObject:
        """Return an object with a value for each member."""
        return {
            each["name"]: self.build_value(each, f"{path}.{each['name']}" if path else each["name"])
            for each in schemas
        }

    def build_value(self, schema: Mapping[str, Any], path: str) -> Json:
        """Return a value of the schema, null now and then where it may be."""
        if schema.get("nullable") and self.index and self.source.randrange(_NULL_EVERY) == 0:
            return None
        return self.makers[schema["type"]](schema, path)

    def build_text(self, schema: Mapping[str, Any], path: str) -> Json:
        """Return a time, a choice, or a text that says what it is."""
        name = path.rpartition(".")[2]
        if schema.get("enum"):
            return schema["enum"][self.index % len(schema["enum"])]
        if schema.get("format") == "date-time":
            return format_iso_seconds(self.created if name in _WORDS_WITH_TIME else self.updated)
        if name.endswith(("url", "link")) or name == "url":
            return f"https://shop.example.com/{self.kind}/{self.index}"
        if "email" in name:
            return f"{self.kind}{self.index}@example.com"
        return f"{self.kind} {name} {self.index} – “é”"

    def build_nested(self, schema: Mapping[str, Any], path: str) -> Json:
        """Return an object: its documented members, or members of the account's own choice."""
        if schema.get("fields"):
            return self.build_object(schema["fields"], path)
        return {"note": f"{self.kind} {self.index}", "rank": self.index, "deep": {"is_on": True}}

    def build_array(self, schema: Mapping[str, Any], path: str) -> Json:
        """Return none, one or two members."""
        items = schema.get("items") or {"type": "string"}
        return [self.build_value({**items, "nullable": False}, path) for _ in range(self.index % 3)]

    def build_union(self, schema: Mapping[str, Any], path: str) -> Json:
        """Return one of the published forms, as far as the lists name them."""
        _ = schema
        if self.kind == "review" and path == "status":
            value = ("published", "pending", "rejected", "featured", "unpublished")[self.index % 5]
            reason: Json = {"reason": "other", "status_explanation": "Not about the product"}
            rejected: JsonObject = {"value": value, "rejection_reason": reason}
            return rejected if value == "rejected" else {"value": value}
        if self.kind == "tracking-setting":
            return {"type": "dynamic", "value": "campaign_name"}
        if self.kind == "template-universal-content":
            return {"content_type": "block", "type": "text", "data": {"content": "<p>Hello</p>"}}
        return f"{path} {self.index}" if self.index % 2 else {"type": path, "value": self.index}
