"""The account's sends: which message went to how many in which hour.

A campaign goes out by its send strategy: at once, or over hours and days (smart send time,
recipients' local time, throttled, A/B test and winner). Flows go out every hour. Hours are UTC; a
send is known from the hour's beginning on. Also here: campaigns that only reports know, deleted
ones and WhatsApp.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from klaviyo_assets.sandbox.account.omni_campaigns import unlisted_campaigns
from klaviyo_assets.sandbox.account.records import ApiRecord, Linkage
from klaviyo_assets.sandbox.account.seeds import mix_bits
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.clock import SECONDS_PER_DAY, parse_micros
from klaviyo_assets.sandbox.json_types import as_object

SECONDS_PER_HOUR = 3600
REPORT_CHANNEL_NAMES = {"email": "email", "sms": "sms", "mobile_push": "push-notification"}
_HOURLY_FLOW_WEIGHTS = (2, 1, 1, 1, 2, 4, 7, 9, 10, 9, 9, 9, 8, 8, 8, 9, 10, 11, 12, 11, 9, 7, 5, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedMessage:
    """A message as reports see it.

    `hourly_sends` are the sends of a campaign as (hour, recipients).
    """

    groupings: dict[str, str | None]
    tags: tuple[str, ...]
    channel: str
    seed: int
    hourly_sends: tuple[tuple[int, int], ...] = ()
    starts_at: int = 0
    ends_at: int | None = None
    hourly_mean: int = 0

    @property
    def is_flow(self) -> bool:
        """Whether it goes out every hour."""
        return self.hourly_mean > 0

    def sends_between(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(hour, recipients) of sends in [start, end), seconds since 1970."""
        if not self.is_flow:
            yield from ((hour, count) for hour, count in self.hourly_sends if start <= hour < end)
            return
        low = max(start, self.starts_at)
        high = end if self.ends_at is None else min(end, self.ends_at)
        for hour in range(-(-low // SECONDS_PER_HOUR) * SECONDS_PER_HOUR, high, SECONDS_PER_HOUR):
            count = (
                self.hourly_mean
                * _HOURLY_FLOW_WEIGHTS[hour // SECONDS_PER_HOUR % 24]
                * (mix_bits(self.seed, hour) & 127)
                // 512
            )
            if count:
                yield hour, count


class MessageSends:
    """All messages of an account that reports can show."""

    def __init__(self, store: AccountStore) -> None:
        self.store = store
        self.campaign_messages = [
            *self.iterate_listed_campaigns(),
            *self.iterate_unlisted_campaigns(),
        ]

    def slow_campaign_ids(self) -> set[str]:
        """The newest campaigns that say they went out at once, and did not."""
        claim = [
            (str(each.attributes["send_time"]), each.id)
            for each in self.store.campaigns.records
            if each.attributes["status"] == "Sent" and each.links["campaign-messages"][1]
            if as_object(each.attributes["send_strategy"])["method"] == "immediate"
        ]
        count = self.store.config.slow_campaigns
        return {campaign for _, campaign in sorted(claim)[-count:]} if count else set()

    def iterate_listed_campaigns(self) -> Iterator[ReportedMessage]:
        """The messages of campaigns that were sent; deleting one later does not unsend it."""
        slow = self.slow_campaign_ids()
        for index, campaign in enumerate(self.store.campaigns.records):
            _, ids = campaign.links["campaign-messages"]
            if campaign.attributes["status"] != "Sent" or not isinstance(ids, tuple):
                continue
            for position, record_id in enumerate(ids):
                message = self.build_campaign_message(
                    index, campaign, record_id=record_id, position=position
                )
                yield (
                    replace(message, hourly_sends=spread_over_days(message))
                    if campaign.id in slow
                    else message
                )

    def build_campaign_message(
        self, index: int, campaign: ApiRecord, *, record_id: str, position: int
    ) -> ReportedMessage:
        """One message of a campaign; the second of an A/B test only goes to its test group."""
        seed = self.store.config.seed ^ (0xC0DE + index * 2 + position)
        channel = REPORT_CHANNEL_NAMES[str(campaign.filter_only_values["messages.channel"])]
        strategy = as_object(campaign.attributes["send_strategy"])
        local = as_object(strategy.get("options")).get("is_local") is True
        method = "local" if local else str(strategy["method"])
        recipients = audience_size(seed, self.store.config.profiles)
        sent_at = parse_micros(str(campaign.attributes["send_time"])) // 1_000_000
        name = str(campaign.attributes["name"])
        is_test = method == "ab_test_campaign"
        return ReportedMessage(
            groupings={
                "campaign_id": campaign.id,
                "campaign_message_id": record_id,
                "campaign_message_name": name,
                "group": campaign.id,
                "group_name": name,
                "send_channel": channel,
                "text_message_format": "sms" if channel == "sms" else None,
                "variation": record_id if is_test else None,
                "variation_name": f"Variation {'AB'[position]}" if is_test else None,
            },
            tags=tag_ids(campaign),
            channel=channel,
            seed=seed,
            hourly_sends=schedule_sends(method, sent_at, recipients, position=position),
        )

    def iterate_unlisted_campaigns(self) -> Iterator[ReportedMessage]:
        """Campaigns that only reports show: WhatsApp ones and ones deleted long ago."""
        store, seed = self.store, self.store.config.seed
        for each in unlisted_campaigns(store.config, store.base):
            yield ReportedMessage(
                groupings={
                    "campaign_id": each.campaign_id,
                    "campaign_message_id": each.message_id,
                    "campaign_message_name": each.name,
                    "group": None,
                    "group_name": None,
                    "send_channel": each.channel,
                    "text_message_format": None,
                    "variation": None,
                    "variation_name": None,
                },
                tags=(),
                channel=each.channel,
                seed=seed ^ (0xBADE + each.index),
                hourly_sends=schedule_sends(
                    "immediate",
                    each.sent_at,
                    audience_size(seed ^ each.index, store.config.profiles),
                ),
            )

    def list_flow_messages(self) -> list[ReportedMessage]:
        """The messages of live flows; an archived one sent until it was archived."""
        found: list[ReportedMessage] = []
        for index, flow in enumerate(self.store.flows.records):
            if flow.attributes["status"] == "live" and flow.attributes["trigger_type"]:
                found += [
                    self.build_flow_message(index, flow, position, message)
                    for position, message in enumerate(self.messages_of_flow(flow))
                ]
        return found

    def messages_of_flow(self, flow: ApiRecord) -> Iterator[int]:
        """The ordinals of the messages that a flow sends; deleting one does not unsend it."""
        actions = self.store.collections["flow-action"]
        messages = self.store.collections["flow-message"]
        for action_id in linked_ids(flow.links, "flow-actions"):
            action = actions.ordinal_of(action_id)
            links = {} if action is None else actions.links(action)
            for message_id in linked_ids(links, "flow-messages"):
                message = messages.ordinal_of(message_id)
                if message is not None:
                    yield message

    def build_flow_message(
        self, index: int, flow: ApiRecord, position: int, message: int
    ) -> ReportedMessage:
        """One message of a flow by its ordinal; `position` counts those of the flow from 0."""
        seed = self.store.config.seed ^ (0xF10 + index * 8 + position)
        messages = self.store.collections["flow-message"]
        attributes = messages.attributes(message)
        channel = str(attributes["channel"])
        updated = parse_micros(str(flow.attributes["updated"])) // 1_000_000
        oldest = self.store.base - self.store.config.days * SECONDS_PER_DAY
        return ReportedMessage(
            groupings={
                "flow_id": flow.id,
                "flow_message_id": messages.id_of(message),
                "flow_name": str(flow.attributes["name"]),
                "flow_message_name": str(as_object(attributes["definition"])["name"]),
                "send_channel": channel,
                "text_message_format": "sms" if channel == "sms" else None,
                "variation": None,
                "variation_name": None,
            },
            tags=tag_ids(flow),
            channel=channel,
            seed=seed,
            starts_at=max(oldest, parse_micros(str(flow.attributes["created"])) // 1_000_000),
            ends_at=updated if flow.attributes["archived"] else None,
            hourly_mean=3 + mix_bits(seed, 0) % 12,
        )


def tag_ids(record: ApiRecord) -> tuple[str, ...]:
    """The tag ids of a campaign or flow."""
    return linked_ids(record.links, "tags")


def linked_ids(links: Mapping[str, Linkage], name: str) -> tuple[str, ...]:
    """The ids of a relationship to many; none where there is no such relationship."""
    _, ids = links.get(name, ("", ()))
    return ids if isinstance(ids, tuple) else ()


def audience_size(seed: int, profile_count: int) -> int:
    """How many a campaign goes to: a good part of the profiles, some hundreds at least."""
    return 200 + mix_bits(seed, 77) % max(1, profile_count)


def spread_over_days(message: ReportedMessage) -> tuple[tuple[int, int], ...]:
    """The sends of a message that takes three days, a third of it on each."""
    return tuple(
        (hour + number * SECONDS_PER_DAY, recipients // 3 + (number < recipients % 3))
        for hour, recipients in message.hourly_sends
        for number in range(3)
    )


def schedule_sends(
    method: str, sent_at: int, recipients: int, *, position: int = 0
) -> tuple[tuple[int, int], ...]:
    """When a campaign's recipients were sent to, as (hour, recipients)."""
    hour = sent_at // SECONDS_PER_HOUR * SECONDS_PER_HOUR
    match method:
        case "smart_send_time":
            offsets = list(range(30))
        case "local":
            # From the first zones of the day to the last.
            offsets = [-14, -9, -6, -5, -1, 0, 1, 2, 3, 9]
        case "throttled":
            offsets = list(range(5))
        case "ab_test_campaign":
            tested = recipients // 10
            test = (hour, tested)
            return (
                (test, (hour + 20 * SECONDS_PER_HOUR, recipients - 2 * tested))
                if position == 0
                else (test,)
            )
        case _:
            offsets = [0]
    share, rest = divmod(recipients, len(offsets))
    counts = [share + (k < rest) for k in range(len(offsets))]
    pairs = zip(offsets, counts, strict=True)
    return tuple((hour + offset * SECONDS_PER_HOUR, count) for offset, count in pairs if count)
