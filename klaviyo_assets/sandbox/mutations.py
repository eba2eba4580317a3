"""What tests change in the shop: fields, deletions, merges, memberships, suppressions, new records.

Events can be kept back as well. A change moves `updated` to the sandbox's time unless it sets it.
`ValueError` says what was wrong with a wish; nothing is changed then.
"""

from collections.abc import Mapping
from copy import deepcopy

from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object
from klaviyo_assets.sandbox.moments import SECOND, micro_text, moment, seconds_text
from klaviyo_assets.sandbox.shop.events import WRITTEN, WrittenEvent
from klaviyo_assets.sandbox.shop.groups import Membership
from klaviyo_assets.sandbox.shop.hidden import Hidden
from klaviyo_assets.sandbox.shop.record import Record, RecordShelf
from klaviyo_assets.sandbox.shop.seeds import short_id
from klaviyo_assets.sandbox.shop.store import Shop

_MICRO_KINDS = frozenset({"campaign", "campaign-message"})


class Mutations:
    """Changes of one shop; `now` is sandbox seconds since 1970."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def apply(self, wish: JsonObject, now: float) -> Json:
        """One change: `{"<type>": id, ...}` or `{"create": "<type>", "set": {...}}`.

        Events: `{"hide_events": {start, end, metric, every, counted}}`, `{"show_events": true}`,
        and `{"redate_event": id, "datetime": ...}` for one that a test wrote.
        """
        if "redate_event" in wish:
            return self.redate_event(str(wish["redate_event"]), str(wish["datetime"]))
        if "hide_events" in wish or "show_events" in wish:
            return self.hide_events(wish)
        if "create" in wish:
            return self.create(str(wish["create"]), as_object(wish.get("set")), now)
        kinds = [kind for kind in self.shop.shelves if kind in wish]
        if len(kinds) != 1:
            raise ValueError(f"name one of {', '.join(sorted(self.shop.shelves))}")
        kind, record_id = kinds[0], str(wish[kinds[0]])
        shelf = self.shop.shelves[kind]
        ordinal = shelf.ordinal_of(record_id)
        if ordinal is None:
            raise ValueError(f"no {kind} {record_id}")
        if isinstance(shelf, RecordShelf):
            self.change_record(shelf, ordinal, wish=wish, now=now)
        else:
            self.change_profile(ordinal, wish, now)
        return {"id": record_id}

    def change_record(
        self, shelf: RecordShelf, ordinal: int, *, wish: JsonObject, now: float
    ) -> None:
        """Set fields, delete, or change the members of a group."""
        record = shelf.records[ordinal]
        if wish.get("delete"):
            record.alive = False
        if "set" in wish:
            record.attributes = merged(record.attributes, as_object(wish["set"]))
            touch(shelf.kind, record.attributes, as_object(wish["set"]), now)
        group = self.shop.members(shelf.kind, record.id) if shelf.kind in GROUPS else None
        if group is not None:
            self.change_members(group, wish, now)
        shelf.changed()

    def change_members(self, group: Membership, wish: JsonObject, now: float) -> None:
        """`"add"` and `"remove"` are lists of profile ids; joining is dated now."""
        for record_id in as_list(wish.get("add")):
            group.join(self.profile(str(record_id)), int(now))
        for record_id in as_list(wish.get("remove")):
            group.leave(self.profile(str(record_id)))

    def someone_or(self, record_id: str) -> int | None:
        """That profile; without an id the first living one, None in a shop without people."""
        if record_id:
            return self.profile(record_id)
        return next((k for k, lives in enumerate(self.shop.profiles.lives) if lives), None)

    def profile(self, record_id: str) -> int:
        """The ordinal of a profile; `ValueError` when there is none."""
        ordinal = self.shop.profiles.ordinal_of(record_id)
        if ordinal is None:
            raise ValueError(f"no profile {record_id}")
        return ordinal

    def change_profile(self, ordinal: int, wish: JsonObject, now: float) -> None:
        """Set, delete, merge away, suppress or lift a suppression."""
        shelf = self.shop.profiles
        if "merge_into" in wish:
            target = self.profile(str(wish["merge_into"]))
            taken = shelf.texts(ordinal)
            missing = [name for name, text in shelf.texts(target).items() if text is None]
            self.vanish(ordinal, target)
            # The destination keeps what it has and takes over what it lacks.
            self.set_profile(target, {name: taken[name] for name in missing}, now)
        elif wish.get("delete"):
            self.vanish(ordinal, None)
        elif "suppress" in wish or wish.get("lift_suppression"):
            listed = [wish["suppress"]] if "suppress" in wish else []
            marketing: JsonObject = {"suppression": listed}
            self.set_profile(ordinal, {"subscriptions": {"email": {"marketing": marketing}}}, now)
        elif "set" in wish:
            self.set_profile(ordinal, as_object(wish["set"]), now)
        else:
            raise ValueError("set, delete, merge_into, suppress or lift_suppression")
        shelf.changed()

    def vanish(self, ordinal: int, target: int | None) -> None:
        """Take a profile away; its events go to the target, or lose their profile."""
        lives = self.shop.profiles.lives
        if not lives[ordinal] or target == ordinal or (target is not None and not lives[target]):
            raise ValueError("both profiles must exist and differ")
        lives[ordinal] = 0
        self.shop.events.moved[ordinal] = target

    def set_profile(self, ordinal: int, wanted: JsonObject, now: float) -> None:
        """Merge values over a profile's attributes."""
        shelf = self.shop.profiles
        whole = shelf.attributes(ordinal)
        changed = dict(shelf.changes.get(ordinal, {}))
        for name, value in wanted.items():
            old = whole.get(name)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            changed[name] = merged(as_object(old), as_object(value)) if both else value
        updated = wanted.get("updated")
        seconds = int(now) if updated is None else moment(str(updated)) // SECOND
        shelf.updated[ordinal] = seconds
        changed.pop("updated", None)
        if "created" in wanted:
            raise ValueError("the id holds the creation time; it cannot be set")
        shelf.changes[ordinal] = changed

    def create(self, kind: str, wanted: JsonObject, now: float) -> Json:
        """A new record like the last one of its kind, with these values, born now.

        `id` may be among the values, for ids that no shop would make.
        """
        if kind == "profile":
            ordinal = self.shop.profiles.add(int(now))
            self.set_profile(ordinal, wanted, now)
            self.shop.profiles.changed()
            return {"id": self.shop.profiles.id_of(ordinal)}
        shelf = self.shop.shelves.get(kind)
        if not isinstance(shelf, RecordShelf) or not shelf.records:
            raise ValueError(f"cannot create a {kind} here")
        pattern = shelf.records[-1]
        wanted = dict(wanted)
        chosen = wanted.pop("id", None)
        made = short_id(self.shop.account.seed, f"new:{kind}", len(shelf.records))
        record = Record(
            id=made if chosen is None else str(chosen),
            attributes=merged(deepcopy(pattern.attributes), wanted),
            links=dict(pattern.links),
            hidden=dict(pattern.hidden),
        )
        for name in ("created", "created_at"):
            if name in record.attributes and name not in wanted:
                record.attributes[name] = stamp(kind, now)
        touch(kind, record.attributes, wanted, now)
        shelf.add(record)
        return {"id": record.id}

    def redate_event(self, record_id: str, when: str) -> Json:
        """Let a written event have happened at another time."""
        ordinal = self.shop.events.known(record_id)
        if ordinal is None or ordinal < WRITTEN:
            raise ValueError(f"no test wrote an event {record_id}")
        self.shop.events.redate(ordinal, moment(when) // SECOND)
        return {"id": record_id}

    def hide_events(self, wish: JsonObject) -> Json:
        """Keep events of [start, end) back, counted all the same unless told; or show all again."""
        book = self.shop.events
        if "show_events" in wish:
            book.hidden.clear()
            return {"id": ""}
        asked = as_object(wish["hide_events"])
        metric = asked.get("metric")
        ordinal = None if metric is None else self.shop.metrics.ordinal_of(str(metric))
        if metric is not None and ordinal is None:
            raise ValueError(f"no metric {metric}")
        book.hidden.append(
            Hidden(
                start=moment(str(asked["start"])) // SECOND,
                end=-(-moment(str(asked["end"])) // SECOND),
                metric=ordinal,
                every=int(str(asked.get("every", 1))),
                is_counted=bool(asked.get("counted", True)),
            )
        )
        return {"id": ""}

    def write_events(self, listed: list[Json], now: float) -> Json:
        """Add events `{datetime, metric, profile, properties, visible_at, count}`; their ids."""
        found: list[Json] = []
        for wish in map(as_object, listed):
            event = self.event_of(wish, now)
            count = int(str(wish.get("count", 1)))
            book = self.shop.events
            found.extend(book.id_of(book.write(event)) for _ in range(count))
        return {"ids": found}

    def event_of(self, wish: JsonObject, now: float) -> WrittenEvent:
        """The event a test describes; at once, of the first metric and profile unless told."""
        metric, profile = wish.get("metric", self.shop.metrics.id_of(0)), wish.get("profile", "")
        metric_ordinal = None if metric is None else self.shop.metrics.ordinal_of(str(metric))
        if metric is not None and metric_ordinal is None:
            raise ValueError(f"no metric {metric}")
        visible = wish.get("visible_at")
        return WrittenEvent(
            seconds=int(now) if "datetime" not in wish else moment(str(wish["datetime"])) // SECOND,
            visible_at=now if visible is None else moment(str(visible)) / SECOND,
            metric=metric_ordinal,
            profile=None if profile is None else self.someone_or(str(profile)),
            properties=as_object(wish.get("properties")),
        )


GROUPS = frozenset({"list", "segment"})


def merged(old: JsonObject, new: Mapping[str, Json]) -> JsonObject:
    """The old object with the new values over it, objects within objects too."""
    found = dict(old)
    for name, value in new.items():
        before = found.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            found[name] = merged(dict(before), value)
        else:
            found[name] = value
    return found


def stamp(kind: str, now: float) -> str:
    """The time as that type of record writes it."""
    return micro_text(int(now * SECOND)) if kind in _MICRO_KINDS else seconds_text(int(now))


def touch(kind: str, attributes: JsonObject, given: JsonObject, now: float) -> None:
    """Move `updated` or `updated_at` to now unless it was given."""
    for name in ("updated", "updated_at"):
        if name in attributes and name not in given:
            attributes[name] = stamp(kind, now)
