"""Records as bytes, serialized before the first request: an id and a moment between fixed texts."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TEMPLATE_COUNT = 2000
"""Different records of a collection, more than a compressor looks back on; all others are these
with another id and moment."""

WORDS = ["order", "shop", "blue", "summer", "linen", "shirt", "size", "gift", "express", "parcel"]

HUGE_BYTES = 5_000_000
"""The largest event that Klaviyo takes."""


NO_IDS: list[str] = []


@dataclass(frozen=True, slots=True)
class RecordTemplate:
    """A record around its id and the value of its cursor."""

    head: bytes
    middle: bytes
    tail: bytes


def build_template(kind: str, attributes: Mapping[str, object], **beside: object) -> RecordTemplate:
    """Return a record of a resource type; `beside` stands beside its attributes."""
    cursor = "datetime" if kind == "event" else "updated_at" if kind == "campaign" else "updated"
    named = {name: value for name, value in attributes.items() if name != cursor}
    link = f"https://a.klaviyo.com/api/{kind}s/x/"
    rest = json.dumps({**beside, "links": {"self": link}})[1:]
    middle = f'","attributes":{json.dumps(named)[:-1]},"{cursor}":"'
    return RecordTemplate(
        f'{{"type":"{kind}","id":"'.encode(), middle.encode(), f'"}},{rest}'.encode()
    )


def random_text(rng: random.Random, length: int) -> str:
    """Return text of some length that is packed to about a third, as people's text is."""
    words: list[str] = []
    size = 0
    while size < min(length, 100_000):
        words.append(rng.choice(WORDS) + rng.choice("abcdefgh") * rng.randrange(2))
        size += len(words[-1]) + 1
    text = " ".join(words)
    return (text * (length // len(text) + 1))[:length]


def event_template(rng: random.Random, *, padding: int = 640) -> RecordTemplate:
    """Return an event of about 1.8 kB, or more with more `padding`."""
    items = [
        {"ProductID": rng.randrange(10**6), "Name": f"Thing {number}", "Price": 12.5 * number}
        for number in range(6)
    ]
    properties = {
        "$value": rng.random() * 100,
        "$event_id": str(rng.random()),
        "Items": items,
        "$extra": {"note": random_text(rng, padding), "items": items},
    }
    relationships = {
        "profile": {"data": {"type": "profile", "id": f"01{rng.randrange(10**20):020d}ABCD"}},
        "metric": {"data": {"type": "metric", "id": f"M{rng.randrange(20):05d}"}},
        "attributions": {"data": NO_IDS},
    }
    uuid = f"{rng.randrange(10**30):030d}"
    attributes = {"timestamp": 1_760_000_000, "event_properties": properties, "uuid": uuid}
    return build_template("event", attributes, relationships=relationships)


def profile_template(rng: random.Random) -> RecordTemplate:
    """Return a profile of about 3.4 kB."""
    consent = {
        "can_receive_email_marketing": True,
        "consent": "SUBSCRIBED",
        "consent_timestamp": "2025-01-01 10:00:00+00:00",
        "method": "FORM",
        "suppression": NO_IDS,
        "list_suppressions": NO_IDS,
    }
    sms = {"consent": "NEVER_SUBSCRIBED", "can_receive_sms_marketing": False}
    attributes = {
        "email": f"{rng.randrange(10**9)}@example.com",
        "first_name": "Ada",
        "location": {"city": "Copenhagen", "country": "Denmark", "latitude": 55.6},
        "properties": {f"property {number}": random_text(rng, 40) for number in range(46)},
        "subscriptions": {"email": {"marketing": consent}, "sms": {"marketing": sms}},
        "predictive_analytics": {"historic_clv": 10.5, "churn_probability": 0.25},
        "created": "2025-01-01T00:00:00+00:00",
    }
    return build_template("profile", attributes, relationships={})


def small_template_maker(kind: str) -> Callable[[random.Random], RecordTemplate]:
    """Return what makes a record of a small collection: a name and two times."""

    def made(chance: random.Random) -> RecordTemplate:
        attributes = {"name": f"{kind} {chance.random()}", "created": "2025-01-01T00:00:00+00:00"}
        return build_template(kind, attributes)

    return made


TEMPLATE_MAKERS: Mapping[str, Callable[[random.Random], RecordTemplate]] = {
    "events": event_template,
    "profiles": profile_template,
    **{
        f"{kind}s": small_template_maker(kind)
        for kind in ("list", "segment", "campaign", "template", "flow")
    },
    "metrics": small_template_maker("metric"),
}


def build_templates(collection: str, *, huge_every: int = 0) -> list[RecordTemplate]:
    """Return the templates of a collection; of `huge_every` events one has 5 MB (0: none)."""
    chance = random.Random(7)
    made = [TEMPLATE_MAKERS[collection](chance) for _ in range(TEMPLATE_COUNT)]
    if huge_every:
        huge = event_template(chance, padding=HUGE_BYTES)
        made = [huge if not at % huge_every else one for at, one in enumerate(made)]
    return made
