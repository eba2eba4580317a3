"""The whole account, generated from its numbers.

The one place that lists all collections. Everything is made from the seed; nothing is read
from the clock, which is an argument.
"""

from bisect import bisect_right
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.account import content, groups, metrics
from klaviyo_assets.sandbox.account.campaign_family import CampaignFamilyView
from klaviyo_assets.sandbox.account.config import AccountConfig
from klaviyo_assets.sandbox.account.events import (
    BurstTimeline,
    DailyTimeline,
    EventStore,
    WrittenEvent,
    burst_times,
)
from klaviyo_assets.sandbox.account.generated import GeneratedCollections, GeneratorContext
from klaviyo_assets.sandbox.account.omni_campaigns import build_omni_family
from klaviyo_assets.sandbox.account.profiles import ProfileCollection
from klaviyo_assets.sandbox.account.records import Linkage, RecordCollection, ResourceCollection
from klaviyo_assets.sandbox.account.seeds import short_id
from klaviyo_assets.sandbox.clock import SECONDS_PER_DAY
from klaviyo_assets.sandbox.facts.operations import OCTOBER, facts_for
from klaviyo_assets.sandbox.json_types import as_object


class AccountStore:
    """All collections of one account; `base` is the sandbox's first moment in seconds."""

    def __init__(self, config: AccountConfig, base: int) -> None:
        """Make every collection; two million events cost nothing here, they are functions."""
        seed = config.seed
        creation_times = burst_times(config.profile_bursts, base=base)
        if creation_times:
            config = replace(config, profiles=bisect_right(creation_times, base))
        self.config = config
        self.base = base
        history = {"base": base, "days": config.days}
        self.lists = groups.build_lists(seed, count=config.lists, **history)
        self.segments = groups.build_segments(seed, count=config.segments, **history)
        self.profiles = ProfileCollection(
            seed=seed, count=config.profiles, list_ids=record_ids(self.lists), **history
        )
        if creation_times:
            self.profiles.set_creation_times(creation_times)
        self.metrics = metrics.build_metrics(seed, **history)
        self.custom_metrics = metrics.build_custom_metrics(seed, base=base, metrics=self.metrics)
        self.templates = content.build_templates(seed, count=config.templates, **history)
        self.campaigns = self.build_campaign_collection()
        self.messages = content.build_campaign_messages(self.campaigns, record_ids(self.templates))
        self.flows = content.build_flows(seed, count=config.flows, **history)
        self.tags = content.build_tags(seed)
        self.link_records()
        self.collections = AccountCollections(self.build_collections(), self.generator_context())
        group_ids = [*record_ids(self.lists), *record_ids(self.segments)]
        self.campaign_family = CampaignFamilyView(
            self.campaigns,
            self.messages,
            build_omni_family(config, base, group_ids) if config.omni_campaigns else None,
        )
        self.memberships: dict[str, groups.GroupMembers] = {}
        self.event_pools = metrics.build_event_pools(seed, self.sent_messages())
        self.events = self.build_events()

    def build_campaign_collection(self) -> RecordCollection:
        """The campaigns, to the lists and segments."""
        account = self.config
        outline = content.CampaignContext(
            seed=account.seed,
            base=self.base,
            zone=ZoneInfo(account.timezone),
            spread_share=account.spread_share,
            group_ids=[*record_ids(self.lists), *record_ids(self.segments)],
        )
        return content.build_campaigns(outline, count=account.campaigns, days=account.days)

    def link_records(self) -> None:
        """Tags to what they tag, flows to what triggers them."""
        for collection, every in (
            (self.campaigns, 3),
            (self.flows, 2),
            (self.lists, 4),
            (self.segments, 3),
        ):
            content.assign_tags(collection, self.tags, every)
        content.link_flow_triggers(self.flows, metrics=self.metrics, lists=self.lists)

    def collections_of(self, revision: str) -> Mapping[str, ResourceCollection]:
        """All collections by type, as a revision shows them."""
        if revision < OCTOBER:
            return self.collections
        return ChainMap(
            dict[str, ResourceCollection](self.campaign_family.current().by_kind()),
            # A ChainMap writes to its first mapping only, and nobody writes here.
            cast("dict[str, ResourceCollection]", self.collections),
        )

    def generator_context(self) -> GeneratorContext:
        """What the generated collections are made of."""
        return GeneratorContext(
            seed=self.config.seed,
            base=self.base,
            days=self.config.days,
            count=self.config.objects,
            account_id=short_id(self.config.seed, "account", 0),
        )

    def build_collections(self) -> dict[str, ResourceCollection]:
        """The collections that have a story of their own, by type."""
        base, seed = self.base, self.config.seed
        flow_actions = content.build_flow_actions(self.flows, seed)
        small: list[RecordCollection] = [
            content.build_accounts(seed, self.config.timezone),
            self.metrics,
            self.custom_metrics,
            metrics.build_mapped_metrics(
                base=base, metrics=self.metrics, custom=self.custom_metrics
            ),
            self.campaigns,
            self.messages,
            content.build_recipient_estimations(seed, self.campaigns, self.config.profiles),
            self.flows,
            flow_actions,
            content.build_flow_messages(seed, flow_actions, record_ids(self.templates)),
            self.lists,
            self.segments,
            self.templates,
            self.tags,
            content.build_tag_groups(seed),
        ]
        return {"profile": self.profiles, **{collection.kind: collection for collection in small}}

    def sent_messages(self) -> tuple[metrics.SentMessage, ...]:
        """The messages of campaigns that were sent, and of flows: what events are about."""
        found: list[metrics.SentMessage] = []
        for campaign in self.campaigns.records:
            _, ids = campaign.links["campaign-messages"]
            if campaign.attributes["status"] == "Sent" and isinstance(ids, tuple):
                found += [
                    metrics.SentMessage(
                        owner_kind="campaign",
                        owner_id=campaign.id,
                        message_id=each,
                        name=str(campaign.attributes["name"]),
                        channel=str(campaign.filter_only_values["messages.channel"]),
                    )
                    for each in ids
                ]
        actions, messages = (self.collections[each] for each in ("flow-action", "flow-message"))
        for ordinal in messages.sorted_ordinals("id"):
            _, action = messages.links(ordinal)["flow-action"]
            _, flow = actions.links(actions.ordinal_of(str(action)) or 0)["flow"]
            definition = as_object(messages.attributes(ordinal)["definition"])
            found.append(
                metrics.SentMessage(
                    owner_kind="flow",
                    owner_id=str(flow),
                    message_id=messages.id_of(ordinal),
                    name=str(definition["name"]),
                    channel=str(messages.attributes(ordinal)["channel"]),
                )
            )
        return tuple(found)

    def build_events(self) -> EventStore:
        """The events, with the few that senders dated 300 days ahead."""
        account = self.config
        events = EventStore(
            seed=account.seed, rhythm=self.build_timeline(), profile_count=account.profiles
        )
        for position in range(account.future_events):
            ahead = self.base + 300 * SECONDS_PER_DAY + position
            events.add(
                WrittenEvent(
                    seconds=ahead,
                    visible_at=self.base - SECONDS_PER_DAY,
                    metric=0,
                    profile=0 if account.profiles else None,
                    properties={"clock": "wrong", "$value": None},
                )
            )
        return events

    def build_timeline(self) -> DailyTimeline | BurstTimeline:
        """When the events happen."""
        account = self.config
        if account.event_bursts:
            return BurstTimeline(account.event_bursts, base=self.base)
        return DailyTimeline(
            seed=account.seed,
            # The future-dated ones are among the configured events.
            count=max(0, account.events - account.future_events),
            days=account.days,
            # No regular event falls on the first moment itself.
            base=self.base + 1,
            zone=account.timezone,
        )

    def group_links(self, profile: int) -> dict[str, Linkage]:
        """The lists and segments that a profile is in, as relationships."""
        found: dict[str, Linkage] = {}
        for kind, collection in (("list", self.lists), ("segment", self.segments)):
            groups = ((each.id, self.group_members(kind, each.id)) for each in collection.records)
            ids = tuple(k for k, group in groups if group is not None and group.has_member(profile))
            found[f"{kind}s"] = (kind, ids)
        return found

    def group_members(self, kind: str, record_id: str) -> groups.GroupMembers | None:
        """The members of a living list or segment; None when there is no such group."""
        collection = self.lists if kind == "list" else self.segments
        ordinal = collection.ordinal_of(record_id)
        if ordinal is None or not collection.is_alive(ordinal):
            return None
        if record_id not in self.memberships:
            offset = 0 if kind == "list" else 5_000
            self.memberships[record_id] = groups.GroupMembers(
                seed=self.config.seed, index=ordinal + offset, profiles=self.profiles
            )
        return self.memberships[record_id]


class AccountCollections(Mapping[str, ResourceCollection]):
    """All collections by type; those that are generated are made when they are first read."""

    def __init__(
        self, written: Mapping[str, ResourceCollection], context: GeneratorContext
    ) -> None:
        self.written = written
        kinds = facts_for(OCTOBER).kinds
        hidden = {"campaign-audience", "campaign-variation", "event"}
        generated = {name: each for name, each in kinds.items() if name not in hidden}
        self.generated = GeneratedCollections(context, generated, written)

    def __getitem__(self, kind: str) -> ResourceCollection:
        """The collection of a type; `KeyError` for a type that the account does not have."""
        if kind in self.written:
            return self.written[kind]
        return self.generated.collection(kind)

    def __iter__(self) -> Iterator[str]:
        """The types."""
        yield from self.written
        yield from self.generated.kinds

    def __len__(self) -> int:
        """How many types there are."""
        return len(self.written) + len(self.generated.kinds)


def record_ids(collection: RecordCollection) -> list[str]:
    """The ids of all records of a collection."""
    return [record.id for record in collection.records]
