"""Lists and segments, and who is in them.

Membership is a function of (seed, group, profile), kept as arrays once a group is asked for; what
tests add or take lies on top. Joining does not move a list's `updated`.
"""

from array import array
from collections.abc import Sequence

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.moments import SECOND, seconds_text
from klaviyo_assets.sandbox.shop.goods import OCCASIONS
from klaviyo_assets.sandbox.shop.profiles import ProfileShelf
from klaviyo_assets.sandbox.shop.record import Linked, Record, RecordShelf, Value, lifetime
from klaviyo_assets.sandbox.shop.seeds import draw, mix, short_id


def list_shelf(seed: int, *, count: int, base: int, days: int) -> RecordShelf:
    """Lists; one has no name."""
    records: list[Record] = []
    for index in range(count):
        source = draw(seed, "list", index)
        name: Json = None if index == 2 else f"{OCCASIONS[index % len(OCCASIONS)]} list {index}"
        attributes: JsonObject = {
            "name": name,
            **lifetime(source, base=base, days=days),
            "opt_in_process": source.choice(("double_opt_in", "single_opt_in")),
        }
        record_id = short_id(seed, "list", index)
        records.append(Record(id=record_id, attributes=attributes, links=group_links()))
    return RecordShelf("list", records)


def segment_shelf(seed: int, *, count: int, base: int, days: int) -> RecordShelf:
    """Segments with a nested definition."""
    records: list[Record] = []
    for index in range(count):
        attributes: JsonObject = {
            "name": f"Segment {index} – engaged {30 * (index + 1)} days",
            "definition": _definition(index),
            **lifetime(draw(seed, "segment", index), base=base, days=days),
            "is_active": index % 5 != 4,
            "is_processing": index % 7 == 6,
            "is_starred": index % 3 == 0,
        }
        record_id = short_id(seed, "segment", index)
        records.append(Record(id=record_id, attributes=attributes, links=group_links()))
    return RecordShelf("segment", records)


def _definition(index: int) -> Json:
    condition: JsonObject = {
        "type": "profile-property",
        "property": f"properties['{OCCASIONS[index % len(OCCASIONS)]}']",
        "filter": {"type": "numeric", "operator": "greater-than", "value": index},
    }
    return {"condition_groups": [{"conditions": [condition, condition]}]}


def group_links() -> dict[str, Linked]:
    """The relationships that lists and segments share, with nothing tied to them yet."""
    return {"profiles": ("profile", ()), "tags": ("tag", ()), "flow-triggers": ("flow", ())}


class Membership:
    """The members of one group as a shelf of profiles with `joined_group_at`."""

    kind = "profile"

    def __init__(self, *, seed: int, index: int, people: ProfileShelf) -> None:
        """Choose members: a share that differs by group, none in every eleventh."""
        self.people = people
        self.seed = seed ^ (0x6E00 + index)
        share = 0 if index % 11 == 10 else 40 + mix(self.seed, 1) % 400
        chosen = [k for k in range(len(people.lives)) if mix(self.seed, k) % 1000 < share]
        self.joined: dict[int, int] = {}
        self.base = array("q", chosen)
        self.kept: tuple[int, list[int]] = (-1, [])

    def members(self) -> list[int]:
        """Living members by joining time; kept until a profile or the group changes."""
        if self.kept[0] != self.people.version:
            lives = self.people.lives
            found = [k for k in self.base if lives[k] and k not in self.joined]
            found += [k for k, at in self.joined.items() if at >= 0 and lives[k]]
            found.sort(key=lambda k: (self.joined_at(k), k))
            self.kept = (self.people.version, found)
        return self.kept[1]

    def has(self, ordinal: int) -> bool:
        """Whether the profile is a member now."""
        return ordinal in self.members()

    def joined_at(self, ordinal: int) -> int:
        """Seconds since 1970 when the profile joined."""
        written = self.joined.get(ordinal)
        if written is not None:
            return written
        created = self.people.created[ordinal]
        return created + mix(self.seed ^ 1, ordinal) % max(1, self.people.base - created)

    def join(self, ordinal: int, seconds: int) -> None:
        """Add a profile, or renew its joining."""
        self.joined[ordinal] = seconds
        self.kept = (-1, [])

    def leave(self, ordinal: int) -> None:
        """Take a profile out; nothing in the API reports it."""
        self.joined[ordinal] = -1
        self.kept = (-1, [])

    def ordinal_of(self, record_id: str) -> int | None:
        """The profile's ordinal."""
        return self.people.ordinal_of(record_id)

    def id_of(self, ordinal: int) -> str:
        """The profile's id."""
        return self.people.id_of(ordinal)

    def alive(self, ordinal: int) -> bool:
        """Whether it is a member still."""
        return self.people.alive(ordinal) and self.joined.get(ordinal, 0) >= 0

    def values(self, ordinal: int, name: str) -> Sequence[Value]:
        """The joining time, or a field of the profile."""
        if name == "joined_group_at":
            return (self.joined_at(ordinal) * SECOND,)
        return self.people.values(ordinal, "id" if name == "profile_id" else name)

    def order(self, name: str) -> Sequence[int]:
        """Members by joining time; no other order is offered."""
        _ = name
        return self.members()

    def attributes(self, ordinal: int) -> JsonObject:
        """The profile with its joining time."""
        joined = seconds_text(self.joined_at(ordinal))
        return {**self.people.attributes(ordinal), "joined_group_at": joined}

    def links(self, ordinal: int) -> dict[str, Linked]:
        """The profile's relationships without conversations."""
        found = dict(self.people.links(ordinal))
        del found["conversations"]
        return found
