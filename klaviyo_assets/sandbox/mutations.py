"""Changes by tests: fields, deletions, merges, memberships, suppressions, new records.

Events can be kept back as well. A change moves `updated` to the sandbox's time unless it sets it.
`ValueError` says what is wrong with a mutation; nothing is changed then.
"""

from collections.abc import Mapping
from copy import deepcopy

from klaviyo_assets.sandbox.account.events import FIRST_WRITTEN_ORDINAL, HiddenEvents, WrittenEvent
from klaviyo_assets.sandbox.account.groups import GroupMembers
from klaviyo_assets.sandbox.account.records import ApiRecord, RecordCollection
from klaviyo_assets.sandbox.account.seeds import short_id
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.clock import (
    SECOND_MICROS,
    format_iso_micros,
    format_iso_seconds,
    parse_micros,
)
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object

_MICROSECOND_KINDS = frozenset({"campaign", "campaign-message"})


class AccountMutations:
    """Changes of one account; `now` is sandbox seconds since 1970."""

    def __init__(self, store: AccountStore) -> None:
        self.store = store

    def apply(self, change: JsonObject, now: float) -> Json:
        """One change: `{"<type>": id, ...}` or `{"create": "<type>", "set": {...}}`.

        Events: `{"hide_events": {start, end, metric, every, counted}}`, `{"show_events": true}`,
        and `{"redate_event": id, "datetime": ...}` for one that a test wrote.
        """
        if "redate_event" in change:
            return self.redate_event(str(change["redate_event"]), str(change["datetime"]))
        if "hide_events" in change or "show_events" in change:
            return self.hide_events(change)
        if "create" in change:
            return self.create_record(str(change["create"]), as_object(change.get("set")), now)
        kinds = [kind for kind in self.store.collections if kind in change]
        if len(kinds) != 1:
            raise ValueError(f"name one of {', '.join(sorted(self.store.collections))}")
        kind, record_id = kinds[0], str(change[kinds[0]])
        collection = self.store.collections[kind]
        ordinal = collection.ordinal_of(record_id)
        if ordinal is None:
            raise ValueError(f"no {kind} {record_id}")
        if isinstance(collection, RecordCollection):
            self.change_record(collection, ordinal, change=change, now=now)
        else:
            self.change_profile(ordinal, change, now)
        return {"id": record_id}

    def change_record(
        self, collection: RecordCollection, ordinal: int, *, change: JsonObject, now: float
    ) -> None:
        """Set fields, delete, or change the members of a group."""
        record = collection.records[ordinal]
        if change.get("delete"):
            record.is_alive = False
        if "set" in change:
            record.attributes = merge_objects(record.attributes, as_object(change["set"]))
            touch_updated(collection.kind, record.attributes, as_object(change["set"]), now)
        group = (
            self.store.group_members(collection.kind, record.id)
            if collection.kind in GROUP_KINDS
            else None
        )
        if group is not None:
            self.change_members(group, change, now)
        collection.invalidate_orders()

    def change_members(self, group: GroupMembers, change: JsonObject, now: float) -> None:
        """`"add"` and `"remove"` are lists of profile ids; both are dated now."""
        for record_id in as_list(change.get("add")):
            group.add_member(self.find_profile(str(record_id)), int(now))
        for record_id in as_list(change.get("remove")):
            group.remove_member(self.find_profile(str(record_id)), int(now))

    def find_profile_or_first(self, record_id: str) -> int | None:
        """That profile; without an id the first that is not deleted; None without profiles."""
        if record_id:
            return self.find_profile(record_id)
        return next(
            (k for k, is_alive in enumerate(self.store.profiles.alive_flags) if is_alive), None
        )

    def find_profile(self, record_id: str) -> int:
        """The ordinal of a profile; `ValueError` when there is none."""
        ordinal = self.store.profiles.ordinal_of(record_id)
        if ordinal is None:
            raise ValueError(f"no profile {record_id}")
        return ordinal

    def change_profile(self, ordinal: int, change: JsonObject, now: float) -> None:
        """Set, delete, merge away, suppress or lift a suppression."""
        collection = self.store.profiles
        if "merge_into" in change:
            target = self.find_profile(str(change["merge_into"]))
            taken = collection.identifiers(ordinal)
            missing = [
                name for name, text in collection.identifiers(target).items() if text is None
            ]
            self.remove_profile(ordinal, target)
            # The destination keeps what it has and takes over what it lacks.
            self.update_profile(target, {name: taken[name] for name in missing}, now)
        elif change.get("delete"):
            self.remove_profile(ordinal, None)
        elif "suppress" in change or change.get("lift_suppression"):
            listed = [change["suppress"]] if "suppress" in change else []
            marketing: JsonObject = {"suppression": listed}
            self.update_profile(
                ordinal, {"subscriptions": {"email": {"marketing": marketing}}}, now
            )
        elif "set" in change:
            self.update_profile(ordinal, as_object(change["set"]), now)
        else:
            raise ValueError("set, delete, merge_into, suppress or lift_suppression")
        collection.invalidate_orders()

    def remove_profile(self, ordinal: int, target: int | None) -> None:
        """Take a profile away; its events go to the target, or lose their profile."""
        alive_flags = self.store.profiles.alive_flags
        if (
            not alive_flags[ordinal]
            or target == ordinal
            or (target is not None and not alive_flags[target])
        ):
            raise ValueError("both profiles must exist and differ")
        alive_flags[ordinal] = 0
        self.store.events.moved_profiles[ordinal] = target

    def update_profile(self, ordinal: int, values: JsonObject, now: float) -> None:
        """Merge values over a profile's attributes."""
        collection = self.store.profiles
        whole = collection.attributes(ordinal)
        changed = dict(collection.changes.get(ordinal, {}))
        for name, value in values.items():
            old = whole.get(name)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            changed[name] = merge_objects(as_object(old), as_object(value)) if both else value
        updated = values.get("updated")
        seconds = int(now) if updated is None else parse_micros(str(updated)) // SECOND_MICROS
        collection.updated[ordinal] = seconds
        changed.pop("updated", None)
        if "created" in values:
            raise ValueError("the id holds the creation time; it cannot be set")
        collection.changes[ordinal] = changed

    def create_record(self, kind: str, values: JsonObject, now: float) -> Json:
        """A new record like the last one of its kind, with these values, created now.

        `id` may be among the values, for ids that Klaviyo would not generate.
        """
        if kind == "profile":
            ordinal = self.store.profiles.add(int(now))
            self.update_profile(ordinal, values, now)
            self.store.profiles.invalidate_orders()
            return {"id": self.store.profiles.id_of(ordinal)}
        collection = self.store.collections.get(kind)
        if not isinstance(collection, RecordCollection) or not collection.records:
            raise ValueError(f"cannot create a {kind} here")
        pattern = collection.records[-1]
        values = dict(values)
        chosen = values.pop("id", None)
        made = short_id(self.store.config.seed, f"new:{kind}", len(collection.records))
        record = ApiRecord(
            id=made if chosen is None else str(chosen),
            attributes=merge_objects(deepcopy(pattern.attributes), values),
            links=dict(pattern.links),
            filter_only_values=dict(pattern.filter_only_values),
        )
        for name in ("created", "created_at"):
            if name in record.attributes and name not in values:
                record.attributes[name] = format_kind_time(kind, now)
        touch_updated(kind, record.attributes, values, now)
        collection.add(record)
        return {"id": record.id}

    def redate_event(self, record_id: str, when: str) -> Json:
        """Let a written event have happened at another time."""
        ordinal = self.store.events.ordinal_of(record_id)
        if ordinal is None or ordinal < FIRST_WRITTEN_ORDINAL:
            raise ValueError(f"no test wrote an event {record_id}")
        self.store.events.change_time(ordinal, parse_micros(when) // SECOND_MICROS)
        return {"id": record_id}

    def hide_events(self, change: JsonObject) -> Json:
        """Hide events of [start, end); `counted` false: from counts too. Or show all again."""
        events = self.store.events
        if "show_events" in change:
            events.hidden_events.clear()
            return {"id": ""}
        description = as_object(change["hide_events"])
        metric = description.get("metric")
        ordinal = None if metric is None else self.store.metrics.ordinal_of(str(metric))
        if metric is not None and ordinal is None:
            raise ValueError(f"no metric {metric}")
        events.hidden_events.append(
            HiddenEvents(
                start=parse_micros(str(description["start"])) // SECOND_MICROS,
                end=-(-parse_micros(str(description["end"])) // SECOND_MICROS),
                metric=ordinal,
                every_nth=int(str(description.get("every", 1))),
                is_counted=bool(description.get("counted", True)),
            )
        )
        return {"id": ""}

    def write_events(self, descriptions: list[Json], now: float) -> Json:
        """Add events `{datetime, metric, profile, properties, visible_at, count}`; their ids."""
        found: list[Json] = []
        for description in map(as_object, descriptions):
            event = self.build_event(description, now)
            count = int(str(description.get("count", 1)))
            events = self.store.events
            found.extend(events.id_of(events.add(event)) for _ in range(count))
        return {"ids": found}

    def build_event(self, description: JsonObject, now: float) -> WrittenEvent:
        """The event a test describes; by default visible now, of the first metric and profile."""
        metric, profile = (
            description.get("metric", self.store.metrics.id_of(0)),
            description.get("profile", ""),
        )
        metric_ordinal = None if metric is None else self.store.metrics.ordinal_of(str(metric))
        if metric is not None and metric_ordinal is None:
            raise ValueError(f"no metric {metric}")
        visible = description.get("visible_at")
        return WrittenEvent(
            seconds=int(now)
            if "datetime" not in description
            else parse_micros(str(description["datetime"])) // SECOND_MICROS,
            visible_at=now if visible is None else parse_micros(str(visible)) / SECOND_MICROS,
            metric=metric_ordinal,
            profile=None if profile is None else self.find_profile_or_first(str(profile)),
            properties=as_object(description.get("properties")),
        )


GROUP_KINDS = frozenset({"list", "segment"})


def merge_objects(old: JsonObject, new: Mapping[str, Json]) -> JsonObject:
    """The old object with the new values over it, objects within objects too."""
    found = dict(old)
    for name, value in new.items():
        before = found.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            found[name] = merge_objects(dict(before), value)
        else:
            found[name] = value
    return found


def format_kind_time(kind: str, now: float) -> str:
    """The time as that type of record writes it."""
    return (
        format_iso_micros(int(now * SECOND_MICROS))
        if kind in _MICROSECOND_KINDS
        else format_iso_seconds(int(now))
    )


def touch_updated(kind: str, attributes: JsonObject, given: JsonObject, now: float) -> None:
    """Move `updated` or `updated_at` to now unless it was given."""
    for name in ("updated", "updated_at"):
        if name in attributes and name not in given:
            attributes[name] = format_kind_time(kind, now)
