"""The metrics of the shop, native, of integrations and custom, with the mapped ones.

Two metrics share one name on purpose (Placed Order of Shopify and of the own API): names are no
keys. The share is out of 1,024 events. Times in seconds since 1970.
"""

from dataclasses import dataclass

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.moments import DAY_SECONDS, seconds_text
from klaviyo_assets.sandbox.shop.record import Record, RecordShelf
from klaviyo_assets.sandbox.shop.seeds import draw, short_id


@dataclass(frozen=True, slots=True)
class MetricKind:
    """A metric: its name, its integration, its share, and the family of its properties."""

    name: str
    integration: str
    share: int
    family: str
    converts: bool = False


SHOPIFY = "Shopify"
KLAVIYO = "Klaviyo"
API = "API"
METRICS: tuple[MetricKind, ...] = (
    MetricKind("Active on Site", API, 190, "browse"),
    MetricKind("Received Email", KLAVIYO, 210, "message"),
    MetricKind("Opened Email", KLAVIYO, 150, "message"),
    MetricKind("Viewed Product", API, 130, "product"),
    MetricKind("Clicked Email", KLAVIYO, 50, "click"),
    MetricKind("Placed Order", SHOPIFY, 50, "order", converts=True),
    MetricKind("Ordered Product", SHOPIFY, 80, "product", converts=True),
    MetricKind("Checkout Started", SHOPIFY, 40, "order", converts=True),
    MetricKind("Fulfilled Order", SHOPIFY, 30, "order", converts=True),
    MetricKind("Cancelled Order", SHOPIFY, 4, "order", converts=True),
    MetricKind("Refunded Order", SHOPIFY, 4, "order", converts=True),
    MetricKind("Placed Order", API, 10, "order", converts=True),
    MetricKind("Received SMS", KLAVIYO, 20, "text"),
    MetricKind("Clicked SMS", KLAVIYO, 6, "text"),
    MetricKind("Consented to Receive SMS", KLAVIYO, 3, "consent"),
    MetricKind("Subscribed to List", KLAVIYO, 15, "list"),
    MetricKind("Unsubscribed from List", KLAVIYO, 4, "list"),
    MetricKind("Bounced Email", KLAVIYO, 5, "message"),
    MetricKind("Marked Email as Spam", KLAVIYO, 1, "message"),
    MetricKind("Received Push", KLAVIYO, 8, "text"),
    MetricKind("Loyalty 🎁 Points", API, 13, "odd", converts=True),
)
UNRESOLVED = 255


def metric_table() -> bytes:
    """1,024 slots, each the index of a metric; the last slot is an event without a metric."""
    table = bytearray()
    for index, kind in enumerate(METRICS):
        table += bytes([index]) * kind.share
    return bytes(table[:1023].ljust(1023, b"\0") + bytes([UNRESOLVED]))


def integration(name: str) -> Json:
    """The free object that a metric carries, by the name of its integration."""
    key = name.lower()
    category = {SHOPIFY: "eCommerce", KLAVIYO: "Internal", API: "API"}[name]
    return {
        "object": "integration",
        "id": {SHOPIFY: "0eMvjm", KLAVIYO: "7FtS4J", API: "4vsZpW"}[name],
        "key": key,
        "name": name,
        "category": {"id": {SHOPIFY: 3, KLAVIYO: 0, API: 9}[name], "category": category},
    }


def metric_shelf(seed: int, *, base: int, days: int) -> RecordShelf:
    """One record per metric, created in the first week of the history."""
    records: list[Record] = []
    for index, kind in enumerate(METRICS):
        created = base - days * DAY_SECONDS - draw(seed, "metric", index).randrange(7 * DAY_SECONDS)
        attributes: JsonObject = {
            "name": kind.name,
            "created": seconds_text(created),
            "updated": seconds_text(created + 3600 * index),
            "integration": integration(kind.integration),
        }
        hidden = {"integration.name": kind.integration}
        record_id = short_id(seed, "metric", index)
        records.append(
            Record(
                id=record_id,
                attributes=attributes,
                links={"flow-triggers": ("flow", ())},
                hidden={**hidden, "integration.category": None},
            )
        )
    return RecordShelf("metric", records)


def custom_metric_shelf(seed: int, *, base: int, metrics: RecordShelf) -> RecordShelf:
    """Two custom metrics, one counting and one summing; ids are 32 hexadecimal digits."""
    records: list[Record] = []
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
            "created": seconds_text(base - 90 * DAY_SECONDS),
            "updated": seconds_text(base - 30 * DAY_SECONDS),
            "definition": {"aggregation_method": method, "metric_groups": [group]},
        }
        record_id = f"{draw(seed, 'custom', index).getrandbits(128):032x}"
        links = {"metrics": ("metric", (metrics.id_of(5),))}
        records.append(Record(id=record_id, attributes=attributes, links={**links}))
    return RecordShelf("custom-metric", records)


def mapped_metric_shelf(*, base: int, metrics: RecordShelf, custom: RecordShelf) -> RecordShelf:
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
    records: list[Record] = []
    for name, place in places.items():
        metric = None if place is None else metrics.id_of(place)
        customised = custom.id_of(1) if name == "refunded_sales" else None
        attributes: JsonObject = {"updated": seconds_text(base - 60 * DAY_SECONDS)}
        links = {"metric": ("metric", metric), "custom-metric": ("custom-metric", customised)}
        records.append(Record(id=name, attributes=attributes, links={**links}))
    return RecordShelf("mapped-metric", records)
