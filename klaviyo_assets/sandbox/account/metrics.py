"""The metrics of an account, and pools of the properties that their events carry.

Two metrics share one name on purpose (Placed Order of Shopify and of the own API): names are no
keys. The share is out of 1,024 events. Times in seconds since 1970.

A pool entry is the object's text without its closing brace; the event adds its own `$event_id`.
Hazards: integers beyond 64 bits, one key with many types, `$`-keys, nested arrays, emoji, nulls.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from klaviyo_assets.sandbox.account.records import ApiRecord, Linkage, RecordCollection
from klaviyo_assets.sandbox.account.seeds import OCCASIONS, PRODUCTS, random_source, short_id
from klaviyo_assets.sandbox.clock import SECONDS_PER_DAY, format_iso_seconds
from klaviyo_assets.sandbox.json_types import Json, JsonObject, dump_json


@dataclass(frozen=True, slots=True)
class MetricTemplate:
    """A metric: its name, its integration, its share, and the family of its properties."""

    name: str
    integration: str
    share: int
    property_family: str
    is_conversion: bool = False


SHOPIFY_INTEGRATION = "Shopify"
KLAVIYO_INTEGRATION = "Klaviyo"
API_INTEGRATION = "API"
METRIC_TEMPLATES: tuple[MetricTemplate, ...] = (
    MetricTemplate("Active on Site", API_INTEGRATION, 190, "browse"),
    MetricTemplate("Received Email", KLAVIYO_INTEGRATION, 210, "message"),
    MetricTemplate("Opened Email", KLAVIYO_INTEGRATION, 150, "message"),
    MetricTemplate("Viewed Product", API_INTEGRATION, 130, "product"),
    MetricTemplate("Clicked Email", KLAVIYO_INTEGRATION, 50, "click"),
    MetricTemplate("Placed Order", SHOPIFY_INTEGRATION, 50, "order", is_conversion=True),
    MetricTemplate("Ordered Product", SHOPIFY_INTEGRATION, 80, "product", is_conversion=True),
    MetricTemplate("Checkout Started", SHOPIFY_INTEGRATION, 40, "order", is_conversion=True),
    MetricTemplate("Fulfilled Order", SHOPIFY_INTEGRATION, 30, "order", is_conversion=True),
    MetricTemplate("Cancelled Order", SHOPIFY_INTEGRATION, 4, "order", is_conversion=True),
    MetricTemplate("Refunded Order", SHOPIFY_INTEGRATION, 4, "order", is_conversion=True),
    MetricTemplate("Placed Order", API_INTEGRATION, 10, "order", is_conversion=True),
    MetricTemplate("Received SMS", KLAVIYO_INTEGRATION, 20, "text"),
    MetricTemplate("Clicked SMS", KLAVIYO_INTEGRATION, 6, "text"),
    MetricTemplate("Consented to Receive SMS", KLAVIYO_INTEGRATION, 3, "consent"),
    MetricTemplate("Subscribed to List", KLAVIYO_INTEGRATION, 15, "list"),
    MetricTemplate("Unsubscribed from List", KLAVIYO_INTEGRATION, 4, "list"),
    MetricTemplate("Bounced Email", KLAVIYO_INTEGRATION, 5, "message"),
    MetricTemplate("Marked Email as Spam", KLAVIYO_INTEGRATION, 1, "message"),
    MetricTemplate("Received Push", KLAVIYO_INTEGRATION, 8, "text"),
    MetricTemplate("Loyalty 🎁 Points", API_INTEGRATION, 13, "odd", is_conversion=True),
)
UNRESOLVED_METRIC = 255

ORDER_METRICS = frozenset({5, 6, 7, 11})
"""Metrics whose events can be credited to a message."""

CREDITED_METRICS = frozenset({1, 2, 4})
"""Metrics whose events can earn the credit: an email received, opened or clicked."""


def build_metric_table() -> bytes:
    """1,024 slots, each the index of a metric; the last slot is an event without a metric."""
    table = bytearray()
    for index, kind in enumerate(METRIC_TEMPLATES):
        table += bytes([index]) * kind.share
    return bytes(table[:1023].ljust(1023, b"\0") + bytes([UNRESOLVED_METRIC]))


def build_integration(name: str) -> Json:
    """The free object that a metric carries, by the name of its integration."""
    key = name.lower()
    category = {
        SHOPIFY_INTEGRATION: "eCommerce",
        KLAVIYO_INTEGRATION: "Internal",
        API_INTEGRATION: "API",
    }[name]
    return {
        "object": "integration",
        "id": {
            SHOPIFY_INTEGRATION: "0eMvjm",
            KLAVIYO_INTEGRATION: "7FtS4J",
            API_INTEGRATION: "4vsZpW",
        }[name],
        "key": key,
        "name": name,
        "category": {
            "id": {SHOPIFY_INTEGRATION: 3, KLAVIYO_INTEGRATION: 0, API_INTEGRATION: 9}[name],
            "category": category,
        },
    }


def build_metrics(seed: int, *, base: int, days: int) -> RecordCollection:
    """One record per metric, created in the first week of the history."""
    records: list[ApiRecord] = []
    for index, kind in enumerate(METRIC_TEMPLATES):
        created = (
            base
            - days * SECONDS_PER_DAY
            - random_source(seed, "metric", index).randrange(7 * SECONDS_PER_DAY)
        )
        attributes: JsonObject = {
            "name": kind.name,
            "created": format_iso_seconds(created),
            "updated": format_iso_seconds(created + 3600 * index),
            "integration": build_integration(kind.integration),
        }
        hidden = {"integration.name": kind.integration}
        record_id = short_id(seed, "metric", index)
        records.append(
            ApiRecord(
                id=record_id,
                attributes=attributes,
                links={"flow-triggers": ("flow", ())},
                filter_only_values={**hidden, "integration.category": None},
            )
        )
    return RecordCollection("metric", records)


def build_custom_metrics(seed: int, *, base: int, metrics: RecordCollection) -> RecordCollection:
    """Two custom metrics, one counting and one summing; ids are 32 hexadecimal digits."""
    records: list[ApiRecord] = []
    for index, (name, method) in enumerate((("Big Orders", "count"), ("Net Revenue", "value"))):
        group: JsonObject = {
            "metric_id": metrics.id_of(5),
            "metric_filters": [
                {
                    "property": "$value",
                    "filter": {"type": "numeric", "operator": "greater-than", "value": 100},
                }
            ],
            "value_property": "$value" if method == "value" else None,
        }
        attributes: JsonObject = {
            "name": name,
            "created": format_iso_seconds(base - 90 * SECONDS_PER_DAY),
            "updated": format_iso_seconds(base - 30 * SECONDS_PER_DAY),
            "definition": {"aggregation_method": method, "metric_groups": [group]},
        }
        record_id = f"{random_source(seed, 'custom', index).getrandbits(128):032x}"
        links = {"metrics": ("metric", (metrics.id_of(5),))}
        records.append(ApiRecord(id=record_id, attributes=attributes, links={**links}))
    return RecordCollection("custom-metric", records)


def build_mapped_metrics(
    *, base: int, metrics: RecordCollection, custom: RecordCollection
) -> RecordCollection:
    """The seven fixed words; cancelled sales are not mapped, refunds map to a custom metric."""
    places = {
        "revenue": 5,
        "ordered_product": 6,
        "refunded_sales": None,
        "cancelled_sales": None,
        "viewed_product": 3,
        "added_to_cart": None,
        "started_checkout": 7,
    }
    records: list[ApiRecord] = []
    for name, position in places.items():
        metric = None if position is None else metrics.id_of(position)
        customised = custom.id_of(1) if name == "refunded_sales" else None
        attributes: JsonObject = {"updated": format_iso_seconds(base - 60 * SECONDS_PER_DAY)}
        links = {"metric": ("metric", metric), "custom-metric": ("custom-metric", customised)}
        records.append(ApiRecord(id=name, attributes=attributes, links={**links}))
    return RecordCollection("mapped-metric", records)


EVENT_POOL_SIZE = 64


def order_line(source: random.Random) -> JsonObject:
    """One line of an order; `Quantity` is a number here and a text there."""
    name, sku, price, category = source.choice(PRODUCTS)
    quantity = source.randint(1, 4)
    return {
        "ProductID": source.randrange(10**6),
        "SKU": sku,
        "ProductName": name,
        "Quantity": str(quantity) if source.random() < 0.1 else quantity,
        "ItemPrice": price,
        "RowTotal": round(price * quantity, 2),
        "ProductURL": f"https://shop.example.com/products/{source.randrange(10**6)}",
        "ImageURL": f"https://cdn.example.com/img/{source.randrange(10**9):09d}.jpg",
        "Categories": [category, "All products"],
    }


def order_properties(source: random.Random) -> JsonObject:
    """A placed order: items, totals, addresses in `$extra`."""
    items = [order_line(source) for _ in range(source.randint(1, 2))]
    total = round(sum(float(str(each["RowTotal"])) for each in items), 2)
    shown: Json = str(total) if source.random() < 0.05 else total
    found: JsonObject = {
        "$value": shown,
        "$value_currency": "USD",
        "OrderId": 2**66 + source.getrandbits(60),
        "Items": [str(each["ProductName"]) for each in items],
        "Discount Code": source.choice((None, "WELCOME10", "VIP-🎉", "")),
        "Item Count": len(items),
        "tax_lines": [[0.0625, "MA"], [0.01, None]],
        "$extra": {"line_items": items, "note": None, "source_name": "web", "gift": False},
    }
    return found


def product_properties(source: random.Random) -> JsonObject:
    """A product seen or ordered."""
    found = order_line(source)
    value: Json = found["ItemPrice"]
    return {
        "$value": value,
        "$value_currency": "USD",
        **found,
        "$extra": {"referrer": BROWSER_CONTEXT},
    }


BROWSER_CONTEXT: Json = {
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
    "screen": [1920, 1080],
    "consent": {"analytics": True, "ads": None},
    "experiments": [["checkout-v2", "b"], ["hero", "control"]],
    "languages": ["en-US", "en", "de"],
    "referrer": "https://www.example.com/search?q=gift+ideas&utm_source=newsletter&utm_medium=mail",
    "session": {"id": "3f1c0e0e-6d0b-4f4e-9a56-2f6a1d9d3c11", "pages": 7, "seconds": 318.25},
    "connection": {"type": "4g", "rtt": 50, "downlink": 9.85, "save_data": False},
    "geo": {"city": "Boston", "region": "MA", "point": [42.3584, -71.0598], "accuracy": None},
    "features": ["webp", "avif", "service-worker", "push", "payment-request"],
}


def browse_properties(source: random.Random) -> JsonObject:
    """A visit to the site."""
    found: JsonObject = {
        "page": f"https://shop.example.com/{source.choice(('', 'sale', 'new', 'about'))}",
        "browser": source.choice(("Chrome", "Safari", "Firefox")),
        "os": source.choice(("macOS", "iOS", "Android", "Windows")),
        "$use_ip": True,
        "$is_session_activity": True,
        "utm": {"source": "klaviyo", "campaign": source.choice(OCCASIONS), "term": None},
        "$extra": BROWSER_CONTEXT,
    }
    return found


def message_properties(source: random.Random) -> JsonObject:
    """An email received, opened, bounced."""
    found: JsonObject = {
        "Email Domain": source.choice(("gmail.com", "outlook.com", "example.org")),
        "$internal": {"Transmission ID": f"{source.getrandbits(64):x}"},
        "machine_open": source.choice((True, False, None, "unknown")),
        "Client Canonical": source.choice(("Apple Mail", "Gmail", "Outlook")),
        "$extra": BROWSER_CONTEXT,
    }
    return found


def click_properties(source: random.Random) -> JsonObject:
    """A click in an email."""
    return {
        **message_properties(source),
        "URL": f"https://shop.example.com/p/{source.randrange(10**5)}?a=1&b",
    }


def text_message_properties(source: random.Random) -> JsonObject:
    """A text message or push."""
    found: JsonObject = {
        "Message Body": "Hi {{ first_name }}! 20% off today 🎉 Reply STOP to opt out",
        "From Number": "+15550100",
        "segments": source.randint(1, 3),
        "$extra": BROWSER_CONTEXT,
    }
    return found


def consent_properties(source: random.Random) -> JsonObject:
    """A consent given."""
    return {"$consent": ["sms"], "$source": -6, "Method": source.choice(("Form", "Keyword"))}


def list_properties(source: random.Random) -> JsonObject:
    """A list joined or left."""
    return {"List": source.choice(OCCASIONS), "$source": "form", "$extra": None}


def odd_properties(source: random.Random) -> JsonObject:
    """What a custom sender may send: every type under the same keys."""
    amounts: tuple[Json, ...] = (1, 1.5, "1", None, True, [1, "1"], {"n": 1})
    return {
        "points": source.choice(amounts),
        "ledger": 2**70 + source.getrandbits(69),
        "nested": {"a": [{"b": [1, [2, [3, {"c": None}]]]}]},
        'name with "quotes", dots.and $': "line\nbreak\ttab \\ back",
        "$value": source.choice(amounts[:3]),
        "tags": [],
        "empty": {},
    }


PROPERTY_BUILDERS: dict[str, Callable[[random.Random], JsonObject]] = {
    "order": order_properties,
    "product": product_properties,
    "browse": browse_properties,
    "message": message_properties,
    "click": click_properties,
    "text": text_message_properties,
    "consent": consent_properties,
    "list": list_properties,
    "odd": odd_properties,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessage:
    """A message of the account that events are about: of a campaign or of a flow (`owner_kind`)."""

    owner_kind: Literal["campaign", "flow"]
    owner_id: str
    message_id: str
    name: str
    channel: str

    def properties(self) -> JsonObject:
        """What the events of the message say about it."""
        is_flow = self.owner_kind == "flow"
        of_owner: JsonObject = {"$flow": self.owner_id} if is_flow else {"Campaign Name": self.name}
        shown = "Subject" if self.channel == "email" else "Message Name"
        return {"$message": self.message_id, **of_owner, shown: f"{self.name} ✨"}

    def links(self) -> dict[str, Linkage]:
        """What an attribution to the message relates to."""
        return {
            self.owner_kind: (self.owner_kind, self.owner_id),
            f"{self.owner_kind}-message": (f"{self.owner_kind}-message", self.message_id),
        }


@dataclass(frozen=True, slots=True)
class EventPools:
    """By metric and place in its pool: properties in JSON, open for one more member, and messages.

    Places are the same for all metrics: who received, opened and clicked at one place did so with
    one message.
    """

    properties: list[list[bytes]]
    messages: list[list[SentMessage | None]]


_MESSAGE_FAMILIES = frozenset({"message", "click", "text"})


def message_channel(metric: MetricTemplate) -> str:
    """The channel of the messages that a metric's events are about."""
    return next(
        (
            channel
            for word, channel in (("SMS", "sms"), ("Push", "mobile_push"))
            if word in metric.name
        ),
        "email",
    )


# A function of its arguments alone, and a third of what a small account costs.
@lru_cache(maxsize=32)
def build_event_pools(seed: int, sent: tuple[SentMessage, ...]) -> EventPools:
    """`EVENT_POOL_SIZE` objects for each metric, about the messages that were sent."""
    pools = EventPools([], [])
    for index, kind in enumerate(METRIC_TEMPLATES):
        family = PROPERTY_BUILDERS[kind.property_family]
        is_of_message = kind.property_family in _MESSAGE_FAMILIES
        candidates = [each for each in sent if each.channel == message_channel(kind)]
        texts: list[bytes] = []
        messages: list[SentMessage | None] = []
        for k in range(EVENT_POOL_SIZE):
            about = (
                random_source(seed, "message", k).choice(candidates)
                if is_of_message and candidates
                else None
            )
            found = family(random_source(seed, f"properties:{index}", k))
            texts.append(dump_json({**(about.properties() if about else {}), **found})[:-1])
            messages.append(about)
        pools.properties.append(texts)
        pools.messages.append(messages)
    return pools
