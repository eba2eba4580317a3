"""The parts of a profile that many share: places, custom properties, predictions, as pools.

The hazards of real profiles are here: integers beyond 64 bits, mixed types under one name, names
that differ only in case, `$`-keys, latitudes that are texts, emoji.
"""

import random

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.moments import DAY_SECONDS, seconds_text
from klaviyo_assets.sandbox.shop.goods import OCCASIONS, PLACES, PRODUCTS, STREETS
from klaviyo_assets.sandbox.shop.seeds import draw

POOL = 64


def location_pool(seed: int) -> list[JsonObject]:
    """Addresses; one in eight has nothing but nulls."""
    return [_location(draw(seed, "location", k)) for k in range(POOL)]


def _location(source: random.Random) -> JsonObject:
    city, region, country, code, latitude, longitude, zone = source.choice(PLACES)
    if source.random() < 0.125:
        names = "address1 address2 city country latitude longitude region zip timezone ip"
        return dict.fromkeys(names.split())
    return {
        "address1": f"{source.randint(1, 400)} {source.choice(STREETS)}",
        "address2": source.choice((None, "", "Apt 3")),
        "city": city,
        "country": country,
        "latitude": latitude,
        "longitude": longitude,
        "region": region,
        "zip": code,
        "timezone": zone,
        "ip": f"203.0.113.{source.randint(1, 254)}",
    }


def property_pool(seed: int) -> list[JsonObject]:
    """Custom properties, about 1.3 kB each."""
    return [_properties(draw(seed, "person", k)) for k in range(POOL)]


def _properties(source: random.Random) -> JsonObject:
    quantities: tuple[Json, ...] = (1, 2.5, "3", None, True, ["4"])
    favourites: list[Json] = [name for name, _, _, _ in source.sample(PRODUCTS, 4)]
    visits: list[Json] = [
        {"at": f"2026-0{source.randint(1, 9)}-11", "seen": [source.choice(OCCASIONS), None]}
        for _ in range(6)
    ]
    found: JsonObject = {
        "Accepts Marketing": source.choice((True, False, "yes", None)),
        "Name": source.choice(OCCASIONS),
        "name": source.randrange(10),
        "loyalty_id": 2**70 + source.getrandbits(69),
        "quantity": source.choice(quantities),
        "$source": -6,
        "$consent_method": "Klaviyo Form",
        "Shopify Tags": ["vip", "wholesale", "DE"] if source.random() < 0.3 else [],
        "favourites": favourites,
        "visits": visits,
        "mood": source.choice(("😀", "🤷🏽‍♀️", "", "مرحبا")),
        "dots.and spaces": {"a.b": {"c d": [[1], [2, [3]]]}},
        "note": 'line one\nline "two"\t\\ end',
        "Initial Source Referrer": f"https://www.example.com/?q={source.getrandbits(200):x}",
    }
    return found


def prediction_pool(seed: int, *, base: int) -> list[JsonObject]:
    """Predictive analytics; the newest customers have nulls."""
    return [_prediction(draw(seed, "prediction", k), base) for k in range(POOL)]


def _prediction(source: random.Random, base: int) -> JsonObject:
    names = (
        "historic_clv predicted_clv total_clv historic_number_of_orders predicted_number_of_orders "
        "average_days_between_orders average_order_value churn_probability "
        "expected_date_of_next_order"
    )
    if source.random() < 0.3:
        empty: JsonObject = dict.fromkeys(names.split())
        return {**empty, "ranked_channel_affinity": None}
    orders = source.randint(1, 30)
    historic = round(orders * source.uniform(20, 120), 2)
    predicted = round(source.uniform(0, 200), 2)
    channels: list[Json] = ["email", "sms", "push"]
    due = base + source.randrange(200) * DAY_SECONDS
    return {
        "historic_clv": historic,
        "predicted_clv": predicted,
        "total_clv": round(historic + predicted, 2),
        "historic_number_of_orders": orders,
        "predicted_number_of_orders": round(source.uniform(0, 5), 3),
        "average_days_between_orders": round(source.uniform(5, 120), 2),
        "average_order_value": round(historic / orders, 4),
        "churn_probability": round(source.random(), 4),
        "expected_date_of_next_order": seconds_text(due).replace("+00:00", "Z"),
        "ranked_channel_affinity": channels,
    }
