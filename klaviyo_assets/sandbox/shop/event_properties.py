"""What an event carries: pools of ready JSON per metric, with the hazards that real senders bring.

A pool entry is the object's text without its closing brace; the event adds its own `$event_id`.
Hazards: integers beyond 64 bits, one key with many types, `$`-keys, nested arrays, emoji, nulls.
"""

import random
from collections.abc import Callable

from klaviyo_assets.sandbox.json_types import Json, JsonObject, dumps
from klaviyo_assets.sandbox.shop.goods import OCCASIONS, PRODUCTS
from klaviyo_assets.sandbox.shop.metrics import METRICS
from klaviyo_assets.sandbox.shop.seeds import draw

POOL = 64


def item(source: random.Random) -> JsonObject:
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


def order(source: random.Random) -> JsonObject:
    """A placed order: items, totals, addresses in `$extra`."""
    items = [item(source) for _ in range(source.randint(1, 2))]
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


def product(source: random.Random) -> JsonObject:
    """A product seen or ordered."""
    found = item(source)
    value: Json = found["ItemPrice"]
    return {"$value": value, "$value_currency": "USD", **found, "$extra": {"referrer": BROWSER}}


BROWSER: Json = {
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


def browse(source: random.Random) -> JsonObject:
    """A visit to the site."""
    found: JsonObject = {
        "page": f"https://shop.example.com/{source.choice(('', 'sale', 'new', 'about'))}",
        "browser": source.choice(("Chrome", "Safari", "Firefox")),
        "os": source.choice(("macOS", "iOS", "Android", "Windows")),
        "$use_ip": True,
        "$is_session_activity": True,
        "utm": {"source": "klaviyo", "campaign": source.choice(OCCASIONS), "term": None},
        "$extra": BROWSER,
    }
    return found


def message(source: random.Random) -> JsonObject:
    """An email received, opened, bounced."""
    found: JsonObject = {
        "Campaign Name": source.choice(OCCASIONS),
        "Subject": f"{source.choice(OCCASIONS)} — just for you ✨",
        "$message": f"01{source.getrandbits(60):016X}SBX",
        "Email Domain": source.choice(("gmail.com", "outlook.com", "example.org")),
        "$internal": {"Message Type": "campaign", "Transmission ID": f"{source.getrandbits(64):x}"},
        "machine_open": source.choice((True, False, None, "unknown")),
        "Client Canonical": source.choice(("Apple Mail", "Gmail", "Outlook")),
        "$extra": BROWSER,
    }
    return found


def click(source: random.Random) -> JsonObject:
    """A click in an email."""
    return {**message(source), "URL": f"https://shop.example.com/p/{source.randrange(10**5)}?a=1&b"}


def text(source: random.Random) -> JsonObject:
    """A text message or push."""
    found: JsonObject = {
        "Message Name": source.choice(OCCASIONS),
        "Message Body": "Hi {{ first_name }}! 20% off today 🎉 Reply STOP to opt out",
        "$flow": f"{source.getrandbits(30):06X}"[:6],
        "From Number": "+15550100",
        "segments": source.randint(1, 3),
        "$extra": BROWSER,
    }
    return found


def consent(source: random.Random) -> JsonObject:
    """A consent given."""
    return {"$consent": ["sms"], "$source": -6, "Method": source.choice(("Form", "Keyword"))}


def listed(source: random.Random) -> JsonObject:
    """A list joined or left."""
    return {"List": source.choice(OCCASIONS), "$source": "form", "$extra": None}


def odd(source: random.Random) -> JsonObject:
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


FAMILIES: dict[str, Callable[[random.Random], JsonObject]] = {
    "order": order,
    "product": product,
    "browse": browse,
    "message": message,
    "click": click,
    "text": text,
    "consent": consent,
    "list": listed,
    "odd": odd,
}


def pools(seed: int) -> list[list[bytes]]:
    """Per metric, `POOL` objects in JSON, each open for one more member (`,"$event_id":...}`)."""
    found: list[list[bytes]] = []
    for index, kind in enumerate(METRICS):
        family = FAMILIES[kind.family]
        made = (family(draw(seed, f"properties:{index}", k)) for k in range(POOL))
        found.append([dumps(each)[:-1] for each in made])
    return found
