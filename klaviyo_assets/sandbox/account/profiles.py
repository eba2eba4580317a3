"""The profiles of an account: sort keys in arrays, everything else made from a seed.

What a test changes lies in `changes`, merged over the made record; deletions and merges clear
`alive_flags`. Times in seconds since 1970 inside, in microseconds in answers to filters.

Timestamps here carry a blank instead of `T`, as recorded ones do. A pool entry belongs to many
profiles; a profile that a test changed gets a copy of its own.

The hazards of real profiles are here: integers beyond 64 bits, mixed types under one name, names
that differ only in case, `$`-keys, latitudes that are texts, emoji.
"""

import random
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from klaviyo_assets.sandbox.account.records import FieldValue, Linkage, sort_key, value_at_path
from klaviyo_assets.sandbox.account.seeds import (
    FIRST_NAMES,
    LAST_NAMES,
    OCCASIONS,
    PLACES,
    PRODUCTS,
    STREETS,
    mix_bits,
    random_source,
    ulid,
    ulid_ordinal,
)
from klaviyo_assets.sandbox.clock import (
    SECOND_MICROS,
    SECONDS_PER_DAY,
    format_iso_seconds,
    format_spaced_seconds,
    parse_micros,
)
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object, dump_json

CONSENT_POOL_SIZE = 96
SUPPRESSION_REASONS = (
    "HARD_BOUNCE",
    "INVALID_EMAIL",
    "SPAM_COMPLAINT",
    "UNSUBSCRIBE",
    "USER_SUPPRESSED",
)
_CONSENT_STATES = ("SUBSCRIBED", "UNSUBSCRIBED", "NEVER_SUBSCRIBED")


def build_consent_pool(
    seed: int, *, base: int, days: int, list_ids: Sequence[str]
) -> list[JsonObject]:
    """`CONSENT_POOL_SIZE` subscriptions objects; about one in eight is suppressed, some twice."""
    start = base - days * SECONDS_PER_DAY
    return [
        _subscriptions(random_source(seed, "consent", k), start=start, end=base, list_ids=list_ids)
        for k in range(CONSENT_POOL_SIZE)
    ]


def _random_second(source: random.Random, start: int, end: int) -> int:
    return source.randrange(start, max(start + 1, end))


def _suppressions(source: random.Random, start: int, end: int) -> list[Json]:
    if source.random() > 0.125:
        return []
    return [
        {
            "reason": source.choice(SUPPRESSION_REASONS),
            "timestamp": format_iso_seconds(_random_second(source, start, end)),
        }
        for _ in range(source.choice((1, 1, 1, 2)))
    ]


def _list_suppressions(
    source: random.Random, *, start: int, end: int, list_ids: Sequence[str]
) -> list[Json]:
    if not list_ids or source.random() > 0.1:
        return []
    return [
        {
            "list_id": source.choice(list_ids),
            "reason": source.choice(("UNSUBSCRIBE", "USER_SUPPRESSED")),
            "timestamp": format_iso_seconds(_random_second(source, start, end)),
        }
    ]


def _subscriptions(
    source: random.Random, *, start: int, end: int, list_ids: Sequence[str]
) -> JsonObject:
    suppressions = _suppressions(source, start, end)
    consent = source.choice(_CONSENT_STATES)
    at: Json = (
        None
        if consent == "NEVER_SUBSCRIBED"
        else format_spaced_seconds(_random_second(source, start, end))
    )
    email: JsonObject = {
        "can_receive_email_marketing": consent != "UNSUBSCRIBED" and not suppressions,
        "consent": consent,
        "consent_timestamp": at,
        "last_updated": at,
        "method": source.choice(("FORM_METHOD", "MANUAL_IMPORT", "API", None)),
        "method_detail": source.choice(("", "Klaviyo Sign-Up Form", "XVEvBP", None)),
        "custom_method_detail": source.choice((None, "Popup “10 % off”")),
        "double_optin": source.choice((True, False, None)),
        "suppression": suppressions,
        "list_suppressions": _list_suppressions(source, start=start, end=end, list_ids=list_ids),
    }
    return {
        "email": {
            "marketing": email,
            "open_tracking": _tracking(at),
            "click_tracking": _tracking(at),
        },
        "sms": _sms_consent(source, start, end),
        "mobile_push": _push_consent(source, at),
        "whatsapp": _whatsapp_consent(source, at),
    }


def _tracking(at: Json) -> JsonObject:
    return {
        "consent": "SUBSCRIBED" if at else None,
        "consent_timestamp": at,
        "last_updated": at,
        "created_timestamp": at,
        "metadata": {},
        "can_receive": True,
        "valid_until": None,
    }


def _sms_consent(source: random.Random, start: int, end: int) -> Json:
    consent = source.choice((*_CONSENT_STATES, None))
    if consent is None:
        return None
    at = format_spaced_seconds(_random_second(source, start, end))
    shared: JsonObject = {
        "consent": consent,
        "consent_timestamp": at,
        "method": "FORM_METHOD",
        "method_detail": source.choice(("XVEvBP", None)),
        "last_updated": at,
    }
    marketing: JsonObject = {"can_receive_sms_marketing": consent == "SUBSCRIBED", **shared}
    transactional: JsonObject = {"can_receive_sms_transactional": True, **shared}
    return {"marketing": marketing, "transactional": transactional}


def _push_consent(source: random.Random, at: Json) -> JsonObject:
    consent = source.choice(("SUBSCRIBED", "NEVER_SUBSCRIBED"))
    subscribed = consent == "SUBSCRIBED"
    marketing: JsonObject = {
        "can_receive_push_marketing": subscribed,
        "consent": consent,
        "consent_timestamp": at if subscribed else None,
    }
    return {"marketing": marketing}


def _whatsapp_consent(source: random.Random, at: Json) -> Json:
    if source.random() < 0.5:
        return None
    one: JsonObject = {
        "consent": source.choice(_CONSENT_STATES),
        "consent_timestamp": at,
        "last_updated": at,
        "created_timestamp": at,
        "metadata": {"vendor": "meta", "template": [1, None, "a"]},
        "can_receive": source.choice((True, False)),
        "valid_until": None,
        "phone_number": "+15550123",
    }
    return {"marketing": one, "transactional": one, "conversational": one}


PROFILE_POOL_SIZE = 64


def build_location_pool(seed: int) -> list[JsonObject]:
    """Addresses; one in eight has nothing but nulls."""
    return [_location(random_source(seed, "location", k)) for k in range(PROFILE_POOL_SIZE)]


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


def build_custom_property_pool(seed: int) -> list[JsonObject]:
    """Custom properties, about 1.3 kB each."""
    return [_custom_properties(random_source(seed, "person", k)) for k in range(PROFILE_POOL_SIZE)]


def _custom_properties(source: random.Random) -> JsonObject:
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


def build_prediction_pool(seed: int, *, base: int) -> list[JsonObject]:
    """Predictive analytics; the newest customers have nulls."""
    return [
        _prediction(random_source(seed, "prediction", k), base) for k in range(PROFILE_POOL_SIZE)
    ]


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
    due = base + source.randrange(200) * SECONDS_PER_DAY
    return {
        "historic_clv": historic,
        "predicted_clv": predicted,
        "total_clv": round(historic + predicted, 2),
        "historic_number_of_orders": orders,
        "predicted_number_of_orders": round(source.uniform(0, 5), 3),
        "average_days_between_orders": round(source.uniform(5, 120), 2),
        "average_order_value": round(historic / orders, 4),
        "churn_probability": round(source.random(), 4),
        "expected_date_of_next_order": format_iso_seconds(due).replace("+00:00", "Z"),
        "ranked_channel_affinity": channels,
    }


_CHANGES_PER_SIGN_UP = 3
# Which of a profile's 64 bits choose its entry of each pool.
POOL_SHIFTS = {
    "location": 34,
    "properties": 40,
    "subscriptions": 8,
    "predictive_analytics": 46,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfilePools:
    """What the profiles of an account are made of: by attribute, the entries that they share."""

    entries: Mapping[str, Sequence[JsonObject]]

    @cached_property
    def texts(self) -> Mapping[str, Sequence[bytes]]:
        """The entries as `"name":{...}`."""
        return {
            name: [b'"' + name.encode() + b'":' + dump_json(each) for each in pool]
            for name, pool in self.entries.items()
        }


# Functions of their arguments alone; making them is half of what a small account costs.
@lru_cache(maxsize=32)
def build_profile_pools(
    seed: int, *, base: int, days: int, list_ids: tuple[str, ...]
) -> ProfilePools:
    """The pools of an account; those of one seed and age share them, and nobody writes to them."""
    return ProfilePools(
        entries={
            "location": build_location_pool(seed),
            "properties": build_custom_property_pool(seed),
            "subscriptions": build_consent_pool(seed, base=base, days=days, list_ids=list_ids),
            "predictive_analytics": build_prediction_pool(seed, base=base),
        }
    )


class ProfileCollection:
    """All profiles; ordinals never change their meaning, whatever is deleted."""

    kind = "profile"

    def __init__(self, *, seed: int, count: int, base: int, days: int, list_ids: list[str]) -> None:
        """Make the keys of `count` profiles; a twentieth came in by one import in one second."""
        self.seed = seed ^ 0xA11CE
        self.base = base
        self.alive_flags = bytearray(b"\1") * count
        self.created = array("q")
        self.updated = array("q")
        span = days * SECONDS_PER_DAY
        imported = base - span // 2
        self.sign_up_interval = max(1, span // max(1, count))
        self.sign_ups = 0 if count else -1
        for k in range(count):
            bits = mix_bits(self.seed, k)
            created = base - span + span * k // max(1, count)
            quiet = bits % max(1, base - created)
            updated = max(imported, created) if bits >> 40 & 31 == 0 else created + quiet
            self.created.append(created)
            self.updated.append(min(updated, base - 1))
        self.future_times: deque[int] = deque()
        self.pools = build_profile_pools(seed, base=base, days=days, list_ids=tuple(list_ids))
        self.changes: dict[int, JsonObject] = {}
        self.orders: dict[str, list[int]] = {}
        self.version = 0

    def add(self, seconds: int) -> int:
        """A new profile, created then; its ordinal."""
        self.created.append(seconds)
        self.updated.append(seconds)
        self.alive_flags.append(1)
        self.invalidate_orders()
        return len(self.alive_flags) - 1

    def set_creation_times(self, times: Iterable[int]) -> None:
        """Let these be the seconds in which all profiles were made; later ones are still to come.

        There must be as many up to the base as there are profiles.
        """
        times = sorted(times)
        now = bisect_right(times, self.base)
        self.created = array("q", times[:now])
        self.updated = array("q", times[:now])
        self.future_times.extend(times[now:])
        self.sign_ups = -1
        self.invalidate_orders()

    def advance_to(self, now: int) -> None:
        """What happened since at the history's pace: with each sign-up, three others change.

        Nobody signs up in an account that began without profiles; in one of bursts only those do.
        """
        while self.future_times and self.future_times[0] <= now:
            self.add(self.future_times.popleft())
        while self.sign_ups >= 0 and self.base + (self.sign_ups + 1) * self.sign_up_interval <= now:
            self.sign_ups += 1
            at = self.base + self.sign_ups * self.sign_up_interval
            self.add(at)
            for turn in range(_CHANGES_PER_SIGN_UP):
                touched = mix_bits(self.seed ^ 0x70, self.sign_ups * 4 + turn) % len(
                    self.alive_flags
                )
                self.updated[touched] = max(at, self.updated[touched])

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id ever given out."""
        ordinal = ulid_ordinal(record_id)
        if ordinal is None or ordinal >= len(self.created) or self.id_of(ordinal) != record_id:
            return None
        return ordinal

    def id_of(self, ordinal: int) -> str:
        """Its id, 26 characters."""
        return ulid(self.seed, ordinal, self.created[ordinal])

    def is_alive(self, ordinal: int) -> bool:
        """Whether it was neither deleted nor merged into another."""
        return bool(self.alive_flags[ordinal])

    def identifiers(self, ordinal: int) -> JsonObject:
        """The identifiers; some are null."""
        bits = mix_bits(self.seed, ordinal)
        email = None if bits % 50 == 0 else f"person{ordinal}.{bits & 0xFFFF:x}@example.com"
        found: JsonObject = {
            "email": email,
            "phone_number": f"+1555{bits % 10_000_000:07d}" if bits & 3 == 0 else None,
            "external_id": f"ext-{bits & 0xFFFFFF:06x}/{ordinal}" if bits & 4 else None,
        }
        changed = self.changes.get(ordinal)
        if changed is not None:
            found |= {name: changed[name] for name in found if name in changed}
        return found

    def pool_entry(self, ordinal: int, name: str) -> JsonObject:
        """The profile's entry of a pool, or its own if a test changed it."""
        changed = self.changes.get(ordinal, {})
        if name in changed:
            return as_object(changed[name])
        pool = self.pools.entries[name]
        return pool[(mix_bits(self.seed, ordinal) >> POOL_SHIFTS[name]) % len(pool)]

    def field_values(self, ordinal: int, name: str) -> Sequence[FieldValue]:
        """Values for filters and sorts; suppressions can have many."""
        if name == "id":
            return (self.id_of(ordinal),)
        if name == "created":
            return (self.created[ordinal] * SECOND_MICROS,)
        if name == "updated":
            return (self.updated[ordinal] * SECOND_MICROS,)
        if name in {"email", "phone_number", "external_id"}:
            text = self.identifiers(ordinal)[name]
            return (text,) if isinstance(text, str) else ()
        if name.startswith("subscriptions."):
            return self.suppression_values(ordinal, name.removeprefix("subscriptions."))
        return ()

    def suppression_values(self, ordinal: int, path: str) -> Sequence[FieldValue]:
        """The values of one member of all suppressions, times in microseconds."""
        position, _, member = path.rpartition(".")
        found: list[FieldValue] = []
        for each in as_list(value_at_path(self.pool_entry(ordinal, "subscriptions"), position)):
            value = as_object(each).get(member)
            if isinstance(value, str):
                found.append(parse_micros(value) if member == "timestamp" else value)
        return found

    def sorted_ordinals(self, name: str) -> Sequence[int]:
        """Living ordinals by the field."""
        cached = self.orders.get(name)
        if cached is None:
            living = [k for k in range(len(self.alive_flags)) if self.alive_flags[k]]
            if name in {"created", "updated"}:
                column = self.created if name == "created" else self.updated
                cached = sorted(living, key=column.__getitem__)
            else:
                cached = sorted(living, key=lambda k: sort_key(self.field_values(k, name)))
            self.orders[name] = cached
        return cached

    def own_attributes(self, ordinal: int) -> JsonObject:
        """What no pool holds, as made: changes of tests are not in it, but those of identifiers."""
        bits = mix_bits(self.seed, ordinal)
        return {
            **self.identifiers(ordinal),
            "first_name": None if bits >> 16 & 15 == 0 else FIRST_NAMES[(bits >> 16) % 20],
            "last_name": LAST_NAMES[(bits >> 24) % 16],
            "organization": None,
            "locale": ("en-US", "de-DE", None, "fr")[bits >> 30 & 3],
            "title": (None, "Regional Manager", "", "CEO")[bits >> 32 & 3],
            "image": None,
            "created": format_iso_seconds(self.created[ordinal]),
            "updated": format_iso_seconds(self.updated[ordinal]),
            "last_event_date": self.last_event_date(ordinal),
        }

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes; `subscriptions` and `predictive_analytics` included."""
        pooled: JsonObject = {name: self.pool_entry(ordinal, name) for name in self.pools.entries}
        return {**self.own_attributes(ordinal), **pooled, **self.changes.get(ordinal, {})}

    def last_event_date(self, ordinal: int) -> Json:
        """The date of its last event, null for some."""
        return format_iso_seconds(self.updated[ordinal]) if ordinal % 7 else None

    def links(self, ordinal: int) -> dict[str, Linkage]:
        """Relationships; only push tokens and conversations can be included, and there are none."""
        _ = ordinal
        return {
            "lists": ("list", ()),
            "segments": ("segment", ()),
            "push-tokens": ("push-token", ()),
            "conversations": ("conversation", ()),
        }

    def invalidate_orders(self) -> None:
        """Drop the cached orders after any change; `version` invalidates those cached elsewhere."""
        self.orders = {}
        self.version += 1
