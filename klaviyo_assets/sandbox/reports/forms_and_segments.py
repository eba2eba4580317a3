"""Reports of forms and segments: what visitors did with each form, who joined and left a segment.

A form counts by hour, a function of the seed. A segment counts the memberships of the account, so
that its total now is the number of its members.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from klaviyo_assets.sandbox.account.groups import GroupMembers
from klaviyo_assets.sandbox.account.records import RecordCollection
from klaviyo_assets.sandbox.account.seeds import mix_bits
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.clock import parse_micros

InstantRange = tuple[int, int]
Statistics = dict[str, float]
SECONDS_PER_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class ReportedObject:
    """A form version or a segment: its groupings, and its counts over some days.

    `count` takes the days as instants [start, end), without gaps.
    """

    groupings: Mapping[str, str | None]
    count: Callable[[Sequence[InstantRange]], Statistics]


def list_reported_objects(store: AccountStore, kind: str, now: float) -> Iterator[ReportedObject]:
    """Yield what a report of that type can show at a time (sandbox seconds)."""
    yield from (
        _list_form_versions(store, now)
        if kind.startswith("form")
        else _list_segments(store, int(now) + 1)
    )


def _list_form_versions(store: AccountStore, now: float) -> Iterator[ReportedObject]:
    """Yield each version of each form; visitors see a version from its creation on."""
    versions = store.collections["form-version"]
    if not isinstance(versions, RecordCollection):
        return
    for index, version in enumerate(versions.records):
        _, form = version.links["form"]
        created = parse_micros(str(version.attributes["created_at"])) // 1_000_000
        visitors = FormVisitors(store.config.seed ^ (0xF0A3 + index), created, int(now) + 1)
        groupings = {
            "form_id": form if isinstance(form, str) else None,
            "form_version_id": version.id,
        }
        yield ReportedObject(groupings, visitors.count_days)


@dataclass(frozen=True, slots=True)
class FormVisitors:
    """The visitors of one version of a form, in [start, end) of sandbox seconds."""

    seed: int
    start: int
    end: int

    def count_days(self, days: Sequence[InstantRange]) -> Statistics:
        """Return the counts of some days; who comes on two of them is one unique."""
        each_day = [self._count_hours(low, high) for low, high in days]
        return add_form_counts(each_day, unique_over=True)

    def _count_hours(self, low: int, high: int) -> Statistics:
        first = -(-max(low, self.start) // SECONDS_PER_HOUR) * SECONDS_PER_HOUR
        hours = range(first, min(high, self.end), SECONDS_PER_HOUR)
        return add_form_counts([_count_form_hour(mix_bits(self.seed, hour)) for hour in hours])


def _count_form_hour(bits: int) -> Statistics:
    """Return what the visitors of one hour did: whole numbers, each step at most the one before."""
    qualified = bits & 31
    viewed = qualified * (8 + (bits >> 5 & 7)) // 16
    viewed_step = viewed + viewed * (bits >> 8 & 3) // 4
    submitted_step = viewed_step * (bits >> 10 & 15) // 32
    submits = min(submitted_step, viewed) * 3 // 4
    counts = {
        "closed_form": (viewed - submits) * (bits >> 14 & 3) // 4,
        "qualified_form": qualified,
        "submitted_form_step": submitted_step,
        "viewed_form": viewed,
        "viewed_form_step": viewed_step,
    }
    uniques = {f"{name}_uniques": count - count // 8 for name, count in counts.items()}
    return {**counts, **uniques, "submits": submits}


def add_form_counts(parts: Sequence[Statistics], *, unique_over: bool = False) -> Statistics:
    """Return the sum of counts with its rate; uniques over several days are below their sum.

    The reference gives no formula of the rate: here it is submits of views, 0 without views.
    """
    names = _count_form_hour(0)
    total = {name: sum(part[name] for part in parts) for name in names}
    if unique_over:
        for name in names:
            if name.endswith("_uniques"):
                total[name] -= (total[name] - max((p[name] for p in parts), default=0)) // 20
    viewed = total["viewed_form"]
    return {**total, "submit_rate": total["submits"] / viewed if viewed else 0.0}


def _list_segments(store: AccountStore, end: int) -> Iterator[ReportedObject]:
    """Yield each living segment."""
    for segment in store.segments.records:
        group = store.group_members("segment", segment.id)
        if group is not None:
            changes = SegmentChanges.of_group(group, end)
            yield ReportedObject({"segment_id": segment.id}, changes.count_days)


@dataclass(frozen=True, slots=True)
class SegmentChanges:
    """When profiles joined and left a segment, ascending in sandbox seconds."""

    joined: Sequence[int]
    left: Sequence[int]

    @classmethod
    def of_group(cls, group: GroupMembers, end: int) -> "SegmentChanges":
        """Return the changes of a group before `end`."""
        stays = group.past_stays()
        joined = [group.joined_at(ordinal) for ordinal in group.member_ordinals()]
        joined += [stay.joined for stay in stays]
        left = [stay.left for stay in stays]
        return cls(*(sorted(each for each in times if each < end) for times in (joined, left)))

    def count_days(self, days: Sequence[InstantRange]) -> Statistics:
        """Return who came and left on the days, and how many there are at their end."""
        start, end = days[0][0], days[-1][1]
        added = bisect_left(self.joined, end) - bisect_left(self.joined, start)
        removed = bisect_left(self.left, end) - bisect_left(self.left, start)
        return {
            "members_added": added,
            "members_removed": removed,
            "net_members_changed": added - removed,
            "total_members": bisect_left(self.joined, end) - bisect_left(self.left, end),
        }
