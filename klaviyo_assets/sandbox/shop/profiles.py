"""The shelf of profiles: arrays for the sort keys, everything else from (seed, index).

What a test changes lies in `changes`, merged over the made record; deletions and merges clear `lives`.
Times in seconds since 1970 inside, in microseconds in answers to filters.
"""

from array import array
from collections.abc import Sequence

from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object
from klaviyo_assets.sandbox.moments import DAY_SECONDS, SECOND, moment, seconds_text
from klaviyo_assets.sandbox.shop import consents, people
from klaviyo_assets.sandbox.shop.goods import FIRST_NAMES, LAST_NAMES
from klaviyo_assets.sandbox.shop.record import Linked, Value, reach, sort_key
from klaviyo_assets.sandbox.shop.seeds import mix, ulid, ulid_ordinal

_TEXTS = frozenset({"email", "phone_number", "external_id"})


class ProfileShelf:
    """All profiles; ordinals never change their meaning, whatever is deleted."""

    kind = "profile"

    def __init__(self, *, seed: int, count: int, base: int, days: int, list_ids: list[str]) -> None:
        """Make the keys of `count` profiles; a twentieth came in by one import in one second."""
        self.seed = seed ^ 0xA11CE
        self.base = base
        self.lives = bytearray(b"\1") * count
        self.created = array("q")
        self.updated = array("q")
        span = days * DAY_SECONDS
        imported = base - span // 2
        self.pace = max(1, span // max(1, count))
        self.grown = 0 if count else -1
        for k in range(count):
            bits = mix(self.seed, k)
            created = base - span + span * k // max(1, count)
            quiet = bits % max(1, base - created)
            updated = max(imported, created) if bits >> 40 & 31 == 0 else created + quiet
            self.created.append(created)
            self.updated.append(min(updated, base - 1))
        self.consents = consents.consent_pool(seed, base=base, days=days, list_ids=list_ids)
        self.locations = people.location_pool(seed)
        self.properties = people.property_pool(seed)
        self.predictions = people.prediction_pool(seed, base=base)
        self.changes: dict[int, JsonObject] = {}
        self.orders: dict[str, list[int]] = {}

    def add(self, seconds: int) -> int:
        """A new profile, created then; its ordinal."""
        self.created.append(seconds)
        self.updated.append(seconds)
        self.lives.append(1)
        self.changed()
        return len(self.lives) - 1

    def grow(self, now: int) -> None:
        """Add the profiles that signed up since, at the pace of the history; none to an empty shop."""
        while self.grown >= 0 and self.base + (self.grown + 1) * self.pace <= now:
            self.grown += 1
            self.add(self.base + self.grown * self.pace)

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id ever given out."""
        ordinal = ulid_ordinal(record_id)
        if ordinal is None or ordinal >= len(self.created) or self.id_of(ordinal) != record_id:
            return None
        return ordinal

    def id_of(self, ordinal: int) -> str:
        """Its id, 26 characters."""
        return ulid(self.seed, ordinal, self.created[ordinal])

    def alive(self, ordinal: int) -> bool:
        """Whether it was neither deleted nor merged into another."""
        return bool(self.lives[ordinal])

    def text(self, ordinal: int, name: str) -> str | None:
        """One of the identifiers; some are null."""
        changed = self.changes.get(ordinal, {})
        if name in changed:
            value = changed[name]
            return value if isinstance(value, str) else None
        bits = mix(self.seed, ordinal)
        if name == "email":
            return None if bits % 50 == 0 else f"person{ordinal}.{bits & 0xFFFF:x}@example.com"
        if name == "phone_number":
            return f"+1555{bits % 10_000_000:07d}" if bits & 3 == 0 else None
        return f"ext-{bits & 0xFFFFFF:06x}/{ordinal}" if bits & 4 else None

    def subscriptions(self, ordinal: int) -> JsonObject:
        """Its consents and suppressions."""
        changed = self.changes.get(ordinal, {})
        if "subscriptions" in changed:
            return as_object(changed["subscriptions"])
        return self.consents[self.part(ordinal, 8, consents.POOL)]

    def part(self, ordinal: int, shift: int, size: int) -> int:
        """Which entry of a pool the profile uses."""
        return (mix(self.seed, ordinal) >> shift) % size

    def values(self, ordinal: int, name: str) -> Sequence[Value]:
        """Values for filters and sorts; suppressions can have many."""
        if name == "id":
            return (self.id_of(ordinal),)
        if name == "created":
            return (self.created[ordinal] * SECOND,)
        if name == "updated":
            return (self.updated[ordinal] * SECOND,)
        if name in _TEXTS:
            text = self.text(ordinal, name)
            return () if text is None else (text,)
        if name.startswith("subscriptions."):
            return self.suppression_values(ordinal, name.removeprefix("subscriptions."))
        return ()

    def suppression_values(self, ordinal: int, path: str) -> Sequence[Value]:
        """The values of one member of all suppressions, times in microseconds."""
        place, _, member = path.rpartition(".")
        found: list[Value] = []
        for each in as_list(reach(self.subscriptions(ordinal), place)):
            value = as_object(each).get(member)
            if isinstance(value, str):
                found.append(moment(value) if member == "timestamp" else value)
        return found

    def order(self, name: str) -> Sequence[int]:
        """Living ordinals by the field."""
        kept = self.orders.get(name)
        if kept is None:
            living = [k for k in range(len(self.lives)) if self.lives[k]]
            if name in {"created", "updated"}:
                column = self.created if name == "created" else self.updated
                kept = sorted(living, key=column.__getitem__)
            else:
                kept = sorted(living, key=lambda k: sort_key(self.values(k, name)))
            self.orders[name] = kept
        return kept

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes; `subscriptions` and `predictive_analytics` included."""
        bits = mix(self.seed, ordinal)
        found: JsonObject = {name: self.text(ordinal, name) for name in sorted(_TEXTS)}
        found |= {
            "first_name": None if bits >> 16 & 15 == 0 else FIRST_NAMES[(bits >> 16) % 20],
            "last_name": LAST_NAMES[(bits >> 24) % 16],
            "organization": None,
            "locale": ("en-US", "de-DE", None, "fr")[bits >> 30 & 3],
            "title": (None, "Regional Manager", "", "CEO")[bits >> 32 & 3],
            "image": None,
            "created": seconds_text(self.created[ordinal]),
            "updated": seconds_text(self.updated[ordinal]),
            "last_event_date": self.last_event(ordinal),
            "location": self.locations[self.part(ordinal, 34, people.POOL)],
            "properties": self.properties[self.part(ordinal, 40, people.POOL)],
            "subscriptions": self.subscriptions(ordinal),
            "predictive_analytics": self.predictions[self.part(ordinal, 46, people.POOL)],
        }
        changed = self.changes.get(ordinal)
        return found if changed is None else {**found, **changed}

    def last_event(self, ordinal: int) -> Json:
        """The date of its last event, null for some."""
        return seconds_text(self.updated[ordinal]) if ordinal % 7 else None

    def links(self, ordinal: int) -> dict[str, Linked]:
        """Relationships; only push tokens and conversations can be included, and there are none."""
        _ = ordinal
        return {
            "lists": ("list", ()),
            "segments": ("segment", ()),
            "push-tokens": ("push-token", ()),
            "conversations": ("conversation", ()),
        }

    def changed(self) -> None:
        """Forget the orders after any change."""
        self.orders = {}
