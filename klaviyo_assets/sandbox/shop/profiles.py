"""The shelf of profiles: arrays for the sort keys, everything else from (seed, index).

What a test changes lies in `changes`, merged over the made record; deletions and merges clear
`lives`. Times in seconds since 1970 inside, in microseconds in answers to filters.
"""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object
from klaviyo_assets.sandbox.moments import DAY_SECONDS, SECOND, moment, seconds_text
from klaviyo_assets.sandbox.shop import consents, people
from klaviyo_assets.sandbox.shop.goods import FIRST_NAMES, LAST_NAMES
from klaviyo_assets.sandbox.shop.record import Linked, Value, reach, sort_key
from klaviyo_assets.sandbox.shop.seeds import mix, ulid, ulid_ordinal

_CHANGES_PER_SIGN_UP = 3
# Which of a profile's 64 bits choose its entry of each pool.
POOL_SHIFTS = {
    "location": 34,
    "properties": 40,
    "subscriptions": 8,
    "predictive_analytics": 46,
}


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
        self.coming: deque[int] = deque()
        self.pools: dict[str, list[JsonObject]] = {
            "location": people.location_pool(seed),
            "properties": people.property_pool(seed),
            "subscriptions": consents.consent_pool(seed, base=base, days=days, list_ids=list_ids),
            "predictive_analytics": people.prediction_pool(seed, base=base),
        }
        self.changes: dict[int, JsonObject] = {}
        self.orders: dict[str, list[int]] = {}
        self.version = 0

    def add(self, seconds: int) -> int:
        """A new profile, created then; its ordinal."""
        self.created.append(seconds)
        self.updated.append(seconds)
        self.lives.append(1)
        self.changed()
        return len(self.lives) - 1

    def take_moments(self, moments: Iterable[int]) -> None:
        """Let these be the seconds in which all profiles were made; later ones are still to come.

        There must be as many up to the base as there are profiles.
        """
        moments = sorted(moments)
        now = bisect_right(moments, self.base)
        self.created = array("q", moments[:now])
        self.updated = array("q", moments[:now])
        self.coming.extend(moments[now:])
        self.grown = -1
        self.changed()

    def grow(self, now: int) -> None:
        """What happened since at the history's pace: with each sign-up, three others change.

        Nothing happens in a shop that began without people, and in one of bursts only those.
        """
        while self.coming and self.coming[0] <= now:
            self.add(self.coming.popleft())
        while self.grown >= 0 and self.base + (self.grown + 1) * self.pace <= now:
            self.grown += 1
            at = self.base + self.grown * self.pace
            self.add(at)
            for turn in range(_CHANGES_PER_SIGN_UP):
                touched = mix(self.seed ^ 0x70, self.grown * 4 + turn) % len(self.lives)
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

    def alive(self, ordinal: int) -> bool:
        """Whether it was neither deleted nor merged into another."""
        return bool(self.lives[ordinal])

    def texts(self, ordinal: int) -> JsonObject:
        """The identifiers; some are null."""
        bits = mix(self.seed, ordinal)
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

    def pooled(self, ordinal: int, name: str) -> JsonObject:
        """The profile's entry of a pool, or its own if a test changed it."""
        changed = self.changes.get(ordinal, {})
        if name in changed:
            return as_object(changed[name])
        pool = self.pools[name]
        return pool[(mix(self.seed, ordinal) >> POOL_SHIFTS[name]) % len(pool)]

    def values(self, ordinal: int, name: str) -> Sequence[Value]:
        """Values for filters and sorts; suppressions can have many."""
        if name == "id":
            return (self.id_of(ordinal),)
        if name == "created":
            return (self.created[ordinal] * SECOND,)
        if name == "updated":
            return (self.updated[ordinal] * SECOND,)
        if name in {"email", "phone_number", "external_id"}:
            text = self.texts(ordinal)[name]
            return (text,) if isinstance(text, str) else ()
        if name.startswith("subscriptions."):
            return self.suppression_values(ordinal, name.removeprefix("subscriptions."))
        return ()

    def suppression_values(self, ordinal: int, path: str) -> Sequence[Value]:
        """The values of one member of all suppressions, times in microseconds."""
        place, _, member = path.rpartition(".")
        found: list[Value] = []
        for each in as_list(reach(self.pooled(ordinal, "subscriptions"), place)):
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

    def own_attributes(self, ordinal: int) -> JsonObject:
        """What no pool holds, as made: changes of tests are not in it, but those of identifiers."""
        bits = mix(self.seed, ordinal)
        return {
            **self.texts(ordinal),
            "first_name": None if bits >> 16 & 15 == 0 else FIRST_NAMES[(bits >> 16) % 20],
            "last_name": LAST_NAMES[(bits >> 24) % 16],
            "organization": None,
            "locale": ("en-US", "de-DE", None, "fr")[bits >> 30 & 3],
            "title": (None, "Regional Manager", "", "CEO")[bits >> 32 & 3],
            "image": None,
            "created": seconds_text(self.created[ordinal]),
            "updated": seconds_text(self.updated[ordinal]),
            "last_event_date": self.last_event(ordinal),
        }

    def attributes(self, ordinal: int) -> JsonObject:
        """All attributes; `subscriptions` and `predictive_analytics` included."""
        pooled: JsonObject = {name: self.pooled(ordinal, name) for name in self.pools}
        return {**self.own_attributes(ordinal), **pooled, **self.changes.get(ordinal, {})}

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
        """Forget the orders after any change; `version` tells those who keep their own."""
        self.orders = {}
        self.version += 1
