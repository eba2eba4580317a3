"""The whole shop, put together from an account's numbers.

The one place that knows which shelves there are. Everything is made from the seed; nothing is read
from the clock, which is an argument.
"""

from bisect import bisect_right
from dataclasses import replace
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.account import Account
from klaviyo_assets.sandbox.moments import DAY_SECONDS
from klaviyo_assets.sandbox.shop import campaigns, event_properties, groups, journeys, metrics
from klaviyo_assets.sandbox.shop.bursts import BurstRhythm, burst_moments
from klaviyo_assets.sandbox.shop.events import EventBook, WrittenEvent
from klaviyo_assets.sandbox.shop.profiles import ProfileShelf
from klaviyo_assets.sandbox.shop.record import Linked, RecordShelf, Shelf
from klaviyo_assets.sandbox.shop.rhythm import Rhythm


class Shop:
    """All collections of one account; `base` is the sandbox's first moment in seconds."""

    def __init__(self, account: Account, base: int) -> None:
        """Make every shelf; two million events cost nothing here, they are functions."""
        seed = account.seed
        born = burst_moments(account.profile_bursts, base=base)
        if born:
            account = replace(account, profiles=bisect_right(born, base))
        self.account = account
        self.base = base
        history = {"base": base, "days": account.days}
        self.lists = groups.list_shelf(seed, count=account.lists, **history)
        self.segments = groups.segment_shelf(seed, count=account.segments, **history)
        self.profiles = ProfileShelf(
            seed=seed, count=account.profiles, list_ids=ids_of(self.lists), **history
        )
        if born:
            self.profiles.take_moments(born)
        self.metrics = metrics.metric_shelf(seed, **history)
        self.custom_metrics = metrics.custom_metric_shelf(seed, base=base, metrics=self.metrics)
        self.templates = journeys.template_shelf(seed, count=account.templates, **history)
        self.campaigns = self.planned()
        self.messages = campaigns.message_shelf(self.campaigns, ids_of(self.templates))
        self.flows = journeys.flow_shelf(seed, count=account.flows, **history)
        self.tags = journeys.tag_shelf(seed)
        self.tie()
        self.shelves = self.named()
        self.memberships: dict[str, groups.Membership] = {}
        self.pools = event_properties.pools(seed)
        self.events = self.book()

    def planned(self) -> RecordShelf:
        """The campaigns, to the lists and segments."""
        account = self.account
        outline = campaigns.Outline(
            seed=account.seed,
            base=self.base,
            zone=ZoneInfo(account.timezone),
            spread_share=account.spread_share,
            group_ids=[*ids_of(self.lists), *ids_of(self.segments)],
        )
        return campaigns.campaign_shelf(outline, count=account.campaigns, days=account.days)

    def tie(self) -> None:
        """Tags to what they tag, flows to what triggers them."""
        for shelf, every in (
            (self.campaigns, 3),
            (self.flows, 2),
            (self.lists, 4),
            (self.segments, 3),
        ):
            journeys.tag_some(shelf, self.tags, every)
        journeys.trigger_flows(self.flows, metrics=self.metrics, lists=self.lists)

    def named(self) -> dict[str, Shelf]:
        """Shelves by resource type."""
        base, seed = self.base, self.account.seed
        small: list[RecordShelf] = [
            journeys.account_shelf(seed, self.account.timezone),
            self.metrics,
            self.custom_metrics,
            metrics.mapped_metric_shelf(
                base=base, metrics=self.metrics, custom=self.custom_metrics
            ),
            self.campaigns,
            self.messages,
            campaigns.estimation_shelf(seed, self.campaigns, self.account.profiles),
            self.flows,
            journeys.action_shelf(self.flows),
            self.lists,
            self.segments,
            self.templates,
            self.tags,
            journeys.tag_group_shelf(seed),
        ]
        return {"profile": self.profiles, **{shelf.kind: shelf for shelf in small}}

    def book(self) -> EventBook:
        """The events, with the few that senders dated 300 days ahead."""
        account = self.account
        book = EventBook(seed=account.seed, rhythm=self.rhythm(), people=account.profiles)
        for place in range(account.future_events):
            ahead = self.base + 300 * DAY_SECONDS + place
            book.write(
                WrittenEvent(
                    seconds=ahead,
                    visible_at=self.base - DAY_SECONDS,
                    metric=0,
                    profile=0 if account.profiles else None,
                    properties={"clock": "wrong", "$value": None},
                )
            )
        return book

    def rhythm(self) -> Rhythm | BurstRhythm:
        """When the events happen."""
        account = self.account
        if account.event_bursts:
            return BurstRhythm(account.event_bursts, base=self.base)
        return Rhythm(
            seed=account.seed,
            # The future-dated ones are among the events asked for.
            count=max(0, account.events - account.future_events),
            days=account.days,
            # No regular event falls on the first moment itself.
            base=self.base + 1,
            zone=account.timezone,
        )

    def groups_of(self, profile: int) -> dict[str, Linked]:
        """The lists and segments that a profile is in, as relationships."""
        found: dict[str, Linked] = {}
        for kind, shelf in (("list", self.lists), ("segment", self.segments)):
            groups = ((each.id, self.members(kind, each.id)) for each in shelf.records)
            mine = tuple(k for k, group in groups if group is not None and group.has(profile))
            found[f"{kind}s"] = (kind, mine)
        return found

    def members(self, kind: str, record_id: str) -> groups.Membership | None:
        """The members of a living list or segment; None when there is no such group."""
        shelf = self.lists if kind == "list" else self.segments
        ordinal = shelf.ordinal_of(record_id)
        if ordinal is None or not shelf.alive(ordinal):
            return None
        if record_id not in self.memberships:
            offset = 0 if kind == "list" else 5_000
            self.memberships[record_id] = groups.Membership(
                seed=self.account.seed, index=ordinal + offset, people=self.profiles
            )
        return self.memberships[record_id]


def ids_of(shelf: RecordShelf) -> list[str]:
    """The ids of all records of a shelf."""
    return [record.id for record in shelf.records]
