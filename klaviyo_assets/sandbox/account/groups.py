"""Lists and segments, and who is in them.

Membership is a function of (seed, group, profile), stored as arrays once a group is read; what
tests add or take lies on top. Joining does not move a list's `updated`.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from klaviyo_assets.sandbox.account.profiles import ProfileCollection
from klaviyo_assets.sandbox.account.records import (
    ApiRecord,
    FieldValue,
    Linkage,
    RecordCollection,
    build_lifetime,
)
from klaviyo_assets.sandbox.account.seeds import OCCASIONS, mix_bits, random_source, short_id
from klaviyo_assets.sandbox.clock import SECOND_MICROS, SECONDS_PER_DAY, format_iso_seconds
from klaviyo_assets.sandbox.json_types import Json, JsonObject


def build_lists(seed: int, *, count: int, base: int, days: int) -> RecordCollection:
    """Lists; one has no name."""
    records: list[ApiRecord] = []
    for index in range(count):
        source = random_source(seed, "list", index)
        name: Json = None if index == 2 else f"{OCCASIONS[index % len(OCCASIONS)]} list {index}"
        attributes: JsonObject = {
            "name": name,
            **build_lifetime(source, base=base, days=days),
            "opt_in_process": source.choice(("double_opt_in", "single_opt_in")),
        }
        record_id = short_id(seed, "list", index)
        records.append(ApiRecord(id=record_id, attributes=attributes, links=build_group_links()))
    return RecordCollection("list", records)


def build_segments(seed: int, *, count: int, base: int, days: int) -> RecordCollection:
    """Segments with a nested definition."""
    records: list[ApiRecord] = []
    for index in range(count):
        attributes: JsonObject = {
            "name": f"Segment {index} – engaged {30 * (index + 1)} days",
            "definition": _segment_definition(index),
            **build_lifetime(random_source(seed, "segment", index), base=base, days=days),
            "is_active": index % 5 != 4,
            "is_processing": index % 7 == 6,
            "is_starred": index % 3 == 0,
        }
        record_id = short_id(seed, "segment", index)
        records.append(ApiRecord(id=record_id, attributes=attributes, links=build_group_links()))
    return RecordCollection("segment", records)


def _segment_definition(index: int) -> Json:
    condition: JsonObject = {
        "type": "profile-property",
        "property": f"properties['{OCCASIONS[index % len(OCCASIONS)]}']",
        "filter": {"type": "numeric", "operator": "greater-than", "value": index},
    }
    return {"condition_groups": [{"conditions": [condition, condition]}]}


def build_group_links() -> dict[str, Linkage]:
    """The relationships that lists and segments share, with nothing tied to them yet."""
    return {"profiles": ("profile", ()), "tags": ("tag", ()), "flow-triggers": ("flow", ())}


class MemberStay(NamedTuple):
    """A past membership of a profile: when it joined and when it left, seconds since 1970."""

    ordinal: int
    joined: int
    left: int


class GroupMembers:
    """The members of one group as a collection of profiles with `joined_group_at`."""

    kind = "profile"

    def __init__(self, *, seed: int, index: int, profiles: ProfileCollection) -> None:
        """Choose members: a share that differs by group, none in every eleventh."""
        self.profiles = profiles
        self.seed = seed ^ (0x6E00 + index)
        share = 0 if index % 11 == 10 else 40 + mix_bits(self.seed, 1) % 400
        chosen = [
            k for k in range(len(profiles.alive_flags)) if mix_bits(self.seed, k) % 1000 < share
        ]
        self.join_changes: dict[int, int] = {}
        self.written_stays: list[MemberStay] = []
        self.initial_members = array("q", chosen)
        self.cached_members: tuple[int, list[int]] = (-1, [])

    def member_ordinals(self) -> list[int]:
        """Living members by joining time; kept until a profile or the group changes."""
        if self.cached_members[0] != self.profiles.version:
            alive_flags = self.profiles.alive_flags
            found = [
                k for k in self.initial_members if alive_flags[k] and k not in self.join_changes
            ]
            found += [k for k, at in self.join_changes.items() if at >= 0 and alive_flags[k]]
            found.sort(key=lambda k: (self.joined_at(k), k))
            self.cached_members = (self.profiles.version, found)
        return self.cached_members[1]

    def has_member(self, ordinal: int) -> bool:
        """Whether the profile is a member now."""
        return ordinal in self.member_ordinals()

    def joined_at(self, ordinal: int) -> int:
        """Seconds since 1970 when the profile joined."""
        written = self.join_changes.get(ordinal)
        if written is not None:
            return written
        return self.initial_joining(ordinal)

    def initial_joining(self, ordinal: int) -> int:
        """Seconds since 1970 when a profile joined that no test has added."""
        created = self.profiles.created[ordinal]
        return created + mix_bits(self.seed ^ 1, ordinal) % max(1, self.profiles.base - created)

    def past_stays(self) -> list["MemberStay"]:
        """Who was a member and is not now, or was before: one in sixteen profiles, and by tests."""
        return [*self.initial_stays(), *self.written_stays]

    def initial_stays(self) -> Iterator["MemberStay"]:
        """Yield the stays that ended before the account's first moment."""
        members = set(self.initial_members)
        for ordinal, is_alive in enumerate(self.profiles.alive_flags):
            bits = mix_bits(self.seed ^ 2, ordinal)
            if not is_alive or bits & 15:
                continue
            created = self.profiles.created[ordinal]
            end = self.initial_joining(ordinal) if ordinal in members else self.profiles.base
            if end - created > SECONDS_PER_DAY:
                joined = created + (bits >> 4 & 0xFFFF) * (end - created) // 0x20000
                left = joined + 1 + (bits >> 20 & 0xFFFF) * (end - joined - 1) // 0x10000
                yield MemberStay(ordinal, joined, left)

    def add_member(self, ordinal: int, seconds: int) -> None:
        """Add a profile, or renew its joining."""
        self.join_changes[ordinal] = seconds
        self.cached_members = (-1, [])

    def remove_member(self, ordinal: int, seconds: int) -> None:
        """Take a profile out; but for the number in the segment reports nothing tells of it."""
        if self.has_member(ordinal):
            self.written_stays.append(MemberStay(ordinal, self.joined_at(ordinal), seconds))
        self.join_changes[ordinal] = -1
        self.cached_members = (-1, [])

    def ordinal_of(self, record_id: str) -> int | None:
        """The profile's ordinal."""
        return self.profiles.ordinal_of(record_id)

    def id_of(self, ordinal: int) -> str:
        """The profile's id."""
        return self.profiles.id_of(ordinal)

    def is_alive(self, ordinal: int) -> bool:
        """Whether it is a member still."""
        return self.profiles.is_alive(ordinal) and self.join_changes.get(ordinal, 0) >= 0

    def field_values(self, ordinal: int, name: str) -> Sequence[FieldValue]:
        """The joining time, or a field of the profile."""
        if name == "joined_group_at":
            return (self.joined_at(ordinal) * SECOND_MICROS,)
        return self.profiles.field_values(ordinal, "id" if name == "profile_id" else name)

    def sorted_ordinals(self, name: str) -> Sequence[int]:
        """Members by joining time; no other order is offered."""
        _ = name
        return self.member_ordinals()

    def attributes(self, ordinal: int) -> JsonObject:
        """The profile with its joining time."""
        joined = format_iso_seconds(self.joined_at(ordinal))
        return {**self.profiles.attributes(ordinal), "joined_group_at": joined}

    def links(self, ordinal: int) -> dict[str, Linkage]:
        """The profile's relationships without conversations."""
        found = dict(self.profiles.links(ordinal))
        del found["conversations"]
        return found
