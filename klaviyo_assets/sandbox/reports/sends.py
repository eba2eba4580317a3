"""The shop's sends: which message went to how many in which hour.

A campaign goes out by its send strategy: at once, or over hours and days (smart send time,
recipients' local time, throttled, A/B test and winner). Flows go out every hour. Hours are UTC; a
send is known from the hour's beginning on. Also here: campaigns that only reports know, deleted
ones and WhatsApp.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from klaviyo_assets.sandbox.json_types import as_object
from klaviyo_assets.sandbox.moments import DAY_SECONDS, moment
from klaviyo_assets.sandbox.shop.record import Record
from klaviyo_assets.sandbox.shop.seeds import draw, mix, ulid
from klaviyo_assets.sandbox.shop.store import Shop

HOUR = 3600
CHANNELS = {"email": "email", "sms": "sms", "mobile_push": "push-notification"}
_DAILY = (2, 1, 1, 1, 2, 4, 7, 9, 10, 9, 9, 9, 8, 8, 8, 9, 10, 11, 12, 11, 9, 7, 5, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as reports see it; `hours` are the sends of a campaign as (hour, recipients)."""

    groupings: dict[str, str | None]
    tags: tuple[str, ...]
    channel: str
    seed: int
    hours: tuple[tuple[int, int], ...] = ()
    first: int = 0
    last: int | None = None
    mean: int = 0

    @property
    def is_flow(self) -> bool:
        """Whether it goes out every hour."""
        return self.mean > 0

    def sent(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(hour, recipients) of sends in [start, end), seconds since 1970."""
        if not self.is_flow:
            yield from ((hour, count) for hour, count in self.hours if start <= hour < end)
            return
        low = max(start, self.first)
        high = end if self.last is None else min(end, self.last)
        for hour in range(-(-low // HOUR) * HOUR, high, HOUR):
            count = self.mean * _DAILY[hour // HOUR % 24] * (mix(self.seed, hour) & 127) // 512
            if count:
                yield hour, count


class Sends:
    """All messages of a shop that reports can show."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.campaigns = [*self.listed(), *self.unlisted()]

    def slow(self) -> set[str]:
        """The newest campaigns that say they went out at once, and did not."""
        claim = [
            (str(each.attributes["send_time"]), each.id)
            for each in self.shop.campaigns.records
            if each.attributes["status"] == "Sent" and each.links["campaign-messages"][1]
            if as_object(each.attributes["send_strategy"])["method"] == "immediate"
        ]
        count = self.shop.account.slow_campaigns
        return {campaign for _, campaign in sorted(claim)[-count:]} if count else set()

    def listed(self) -> Iterator[Message]:
        """The messages of campaigns that were sent; deleting one later does not unsend it."""
        slow = self.slow()
        for index, campaign in enumerate(self.shop.campaigns.records):
            _, ids = campaign.links["campaign-messages"]
            if campaign.attributes["status"] != "Sent" or not isinstance(ids, tuple):
                continue
            for place, record_id in enumerate(ids):
                message = self.campaign_message(index, campaign, record_id=record_id, place=place)
                yield replace(message, hours=slowed(message)) if campaign.id in slow else message

    def campaign_message(
        self, index: int, campaign: Record, *, record_id: str, place: int
    ) -> Message:
        """One message of a campaign; the second of an A/B test only goes to its test group."""
        seed = self.shop.account.seed ^ (0xC0DE + index * 2 + place)
        channel = CHANNELS[str(campaign.hidden["messages.channel"])]
        strategy = as_object(campaign.attributes["send_strategy"])
        local = as_object(strategy.get("options")).get("is_local") is True
        method = "local" if local else str(strategy["method"])
        people = audience(seed, self.shop.account.profiles)
        sent_at = moment(str(campaign.attributes["send_time"])) // 1_000_000
        name = str(campaign.attributes["name"])
        is_test = method == "ab_test_campaign"
        return Message(
            groupings={
                "campaign_id": campaign.id,
                "campaign_message_id": record_id,
                "campaign_message_name": name,
                "group": campaign.id,
                "group_name": name,
                "send_channel": channel,
                "text_message_format": "sms" if channel == "sms" else None,
                "variation": record_id if is_test else None,
                "variation_name": f"Variation {'AB'[place]}" if is_test else None,
            },
            tags=tags_of(campaign),
            channel=channel,
            seed=seed,
            hours=hours_of(method, sent_at, people, place=place),
        )

    def unlisted(self) -> Iterator[Message]:
        """Campaigns that only reports show: WhatsApp ones and ones deleted long ago."""
        shop, seed = self.shop, self.shop.account.seed
        count = -(-shop.account.campaigns // 12)
        for index in range(count):
            channel = ("whatsapp", "email")[index % 2]
            span = shop.account.days * DAY_SECONDS
            sent_at = shop.base - span + (2 * index + 1) * span // (2 * count)
            name = f"{('WhatsApp', 'Deleted')[index % 2]} campaign {index}"
            message_id = ulid(seed ^ 0xFADE, index, sent_at)
            yield Message(
                groupings={
                    "campaign_id": ulid(seed ^ 0xDEAD, index, sent_at),
                    "campaign_message_id": message_id,
                    "campaign_message_name": name,
                    "group": None,
                    "group_name": None,
                    "send_channel": channel,
                    "text_message_format": None,
                    "variation": None,
                    "variation_name": None,
                },
                tags=(),
                channel=channel,
                seed=seed ^ (0xBADE + index),
                hours=hours_of("immediate", sent_at, audience(seed ^ index, shop.account.profiles)),
            )

    def flows(self) -> list[Message]:
        """The messages of live flows; an archived one sent until it was archived."""
        found: list[Message] = []
        for index, flow in enumerate(self.shop.flows.records):
            if flow.attributes["status"] == "live" and flow.attributes["trigger_type"]:
                found += [self.flow_message(index, flow, place) for place in range(3)]
        return found

    def flow_message(self, index: int, flow: Record, place: int) -> Message:
        """One message of a flow: two e-mails and a text message."""
        seed = self.shop.account.seed ^ (0xF10 + index * 8 + place)
        channel = ("email", "email", "sms")[place]
        updated = moment(str(flow.attributes["updated"])) // 1_000_000
        oldest = self.shop.base - self.shop.account.days * DAY_SECONDS
        name = str(flow.attributes["name"])
        return Message(
            groupings={
                "flow_id": flow.id,
                "flow_message_id": flow_message_id(self.shop.account.seed, index, place),
                "flow_name": name,
                "flow_message_name": f"{name}: message {place + 1}",
                "send_channel": channel,
                "text_message_format": "sms" if channel == "sms" else None,
                "variation": None,
                "variation_name": None,
            },
            tags=tags_of(flow),
            channel=channel,
            seed=seed,
            first=max(oldest, moment(str(flow.attributes["created"])) // 1_000_000),
            last=updated if flow.attributes["archived"] else None,
            mean=3 + mix(seed, 0) % 12,
        )


def tags_of(record: Record) -> tuple[str, ...]:
    """The tag ids of a campaign or flow."""
    _, ids = record.links["tags"]
    return ids if isinstance(ids, tuple) else ()


@lru_cache(maxsize=4096)
def flow_message_id(seed: int, index: int, place: int) -> str:
    """The six characters of a flow's message."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789"
    return "".join(draw(seed, "flow-message", index * 8 + place).choices(letters, k=6))


def audience(seed: int, people: int) -> int:
    """How many a campaign goes to: a good part of the people, some hundreds at least."""
    return 200 + mix(seed, 77) % max(1, people)


def slowed(message: Message) -> tuple[tuple[int, int], ...]:
    """The sends of a message that takes three days, a third of it on each."""
    return tuple(
        (hour + number * DAY_SECONDS, people // 3 + (number < people % 3))
        for hour, people in message.hours
        for number in range(3)
    )


def hours_of(
    method: str, sent_at: int, people: int, *, place: int = 0
) -> tuple[tuple[int, int], ...]:
    """When a campaign's recipients were sent to, as (hour, recipients)."""
    hour = sent_at // HOUR * HOUR
    match method:
        case "smart_send_time":
            offsets = list(range(30))
        case "local":
            # From the first zones of the day to the last.
            offsets = [-14, -9, -6, -5, -1, 0, 1, 2, 3, 9]
        case "throttled":
            offsets = list(range(5))
        case "ab_test_campaign":
            tested = people // 10
            test = (hour, tested)
            return (test, (hour + 20 * HOUR, people - 2 * tested)) if place == 0 else (test,)
        case _:
            offsets = [0]
    share, rest = divmod(people, len(offsets))
    counts = [share + (k < rest) for k in range(len(offsets))]
    pairs = zip(offsets, counts, strict=True)
    return tuple((hour + offset * HOUR, count) for offset, count in pairs if count)
